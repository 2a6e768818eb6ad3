"""Scores of the controls of batch correction, where the answer is known."""

import numpy as np
import pytest
from stacas import agreement, mixing_within_types


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    types = np.repeat(["a", "b"], 400)
    batch = rng.random(800) < 0.3
    space = rng.normal(size=(800, 3)) + 20 * (types == "b")[:, None]
    return space, types, batch


def test_mixing_goes_from_apart_to_mixed(cells):
    space, types, batch = cells
    assert mixing_within_types(space, types, batch) == pytest.approx(1.0, abs=0.06)
    apart = space + 50 * batch[:, None] * np.array([0, 1, 0])
    assert mixing_within_types(apart, types, batch) == pytest.approx(0.0, abs=1e-6)


def test_mixing_does_not_ask_for_equal_composition(cells):
    space, types, _ = cells
    batch = np.random.default_rng(1).random(800) < np.where(types == "a", 0.15, 0.8)
    assert mixing_within_types(space, types, batch) == pytest.approx(1.0, abs=0.06)


def test_types_with_few_cells_in_a_batch_do_not_count(cells):
    space, types, batch = cells
    batch = batch & (types == "a")
    only_a = mixing_within_types(space[:400], types[:400], batch[:400])
    assert mixing_within_types(space, types, batch) == pytest.approx(only_a)
    assert np.isnan(mixing_within_types(space, types, batch & False))


def test_agreement_averages_over_types():
    truth, found = np.array(list("aaab")), np.array(list("aaaa"))
    scores = agreement(truth, found, np.ones(4, bool), "x")
    assert scores == {"x_accuracy": 0.75, "x_macro_f1": pytest.approx((6 / 7) / 2)}
