"""Weights of levels and of nodes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from hdeepinsight.nn import (
    AdaptiveHierarchicalFocalLoss,
    inverse_frequency_weights,
    project_with_floor,
)
from hdeepinsight.taxonomy import TreeAlgebra

weights_of_levels = st.lists(st.floats(0.0, 10.0), min_size=1, max_size=8).filter(
    lambda values: sum(values) > 1e-3
)


def as_shares(values):
    return torch.tensor(values, dtype=torch.float64) / sum(values)


@given(share=st.floats(0.0, 1.0))
def test_two_levels_are_clipped_as_published(share):
    pair = torch.tensor([share, 1 - share], dtype=torch.float64)
    torch.testing.assert_close(project_with_floor(pair), pair.clamp(0.1, 0.9))


@given(values=weights_of_levels)
def test_projection_sums_to_one_above_the_floor(values):
    projected = project_with_floor(as_shares(values))
    assert projected.sum().item() == pytest.approx(1.0, abs=1e-9)
    assert projected.min().item() >= 0.2 / len(values) - 1e-12
    torch.testing.assert_close(project_with_floor(projected), projected)


@given(values=weights_of_levels)
def test_projection_keeps_the_order_and_what_is_allowed(values):
    weights = as_shares(values)
    projected = project_with_floor(weights)
    order = weights.argsort()
    assert (projected[order].diff() >= -1e-12).all()
    if weights.min() >= 0.2 / len(values):
        torch.testing.assert_close(projected, weights)


@pytest.mark.parametrize("seed", range(3))
def test_projection_is_the_nearest_allowed_point(seed):
    weights = np.random.default_rng(seed).dirichlet([0.3] * 4)
    nearest = minimize(
        lambda a: ((a - weights) ** 2).sum(),
        np.full(4, 0.25),
        bounds=[(0.05, 1)] * 4,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
        tol=1e-12,
    ).x
    np.testing.assert_allclose(project_with_floor(torch.from_numpy(weights)), nearest, atol=1e-5)


def test_another_floor_may_be_given():
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(
        project_with_floor(weights, floor=0.4), torch.tensor([0.7, 0.1, 0.1, 0.1])
    )
    torch.testing.assert_close(project_with_floor(weights, floor=1.0), torch.full((4,), 0.25))


def test_level_weights_follow_the_losses_step_by_step(two_levels):
    loss = AdaptiveHierarchicalFocalLoss(TreeAlgebra(two_levels))
    assert loss.level_weights.tolist() == [0.5, 0.5]
    a = 0.5
    for upper, lower in [(1.0, 3.0), (0.2, 1.8), (3.0, 1.0)] * 10 + [(0.0, 1.0)] * 30:
        loss.update_level_weights(torch.tensor([upper, lower]))
        a = min(max(0.9 * a + 0.1 * upper / (upper + lower), 0.1), 0.9)
        assert loss.level_weights.tolist() == pytest.approx([a, 1 - a], abs=1e-6)
    assert a == 0.1  # the floor was reached


@settings(max_examples=20, deadline=None)
@given(losses=st.lists(st.floats(0.0, 100.0), min_size=3, max_size=3))
def test_level_weights_stay_shares(losses):
    loss = AdaptiveHierarchicalFocalLoss(_three_levels())
    for _ in range(5):
        loss.update_level_weights(torch.tensor(losses))
    assert loss.level_weights.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert loss.level_weights.min().item() >= 0.2 / 3 - 1e-6


def _three_levels():
    from hdeepinsight.taxonomy import Taxonomy

    return TreeAlgebra(Taxonomy.from_nested({"T": {"CD4": ["a", "b"], "CD8": []}, "B": []}))


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param([float("nan"), 1.0, 1.0], id="a_level_is_nan"),
        pytest.param([float("inf"), 1.0, 1.0], id="a_level_diverged"),
        pytest.param([0.0, 0.0, 0.0], id="nothing_left_to_learn"),
    ],
)
def test_losses_that_say_nothing_leave_the_weights(losses):
    loss = AdaptiveHierarchicalFocalLoss(_three_levels())
    loss.update_level_weights(torch.tensor([1.0, 2.0, 5.0]))
    before = loss.level_weights.clone()
    loss.update_level_weights(torch.tensor(losses))
    assert torch.equal(loss.level_weights, before)
    loss.update_level_weights(torch.tensor([9.0, 1.0, 1.0]))
    assert not torch.equal(loss.level_weights, before)


def test_given_weights_stay_fixed(two_levels):
    given_weights = torch.tensor([0.3, 0.7])
    loss = AdaptiveHierarchicalFocalLoss(TreeAlgebra(two_levels), level_weights=given_weights)
    loss.update_level_weights(torch.tensor([5.0, 1.0]))
    assert torch.equal(loss.level_weights, torch.tensor([0.3, 0.7]))


def test_a_resumed_run_continues_with_its_weights(two_levels):
    loss = AdaptiveHierarchicalFocalLoss(TreeAlgebra(two_levels))
    loss.update_level_weights(torch.tensor([5.0, 1.0]))
    other = AdaptiveHierarchicalFocalLoss(TreeAlgebra(two_levels))
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.level_weights, loss.level_weights)
    assert set(loss.state_dict()) == {"level_weights", "node_weights"}


@pytest.mark.parametrize("exponent", [0.0, 0.3, 0.5, 1.0])
def test_node_weights_average_one_over_the_cells_of_a_group(taxonomy, tree, exponent):
    nodes = np.random.default_rng(0).choice(taxonomy.n_nodes, 500)
    nodes = np.concatenate([nodes, np.full(300, taxonomy.leaves[0])])
    weights = inverse_frequency_weights(tree, torch.from_numpy(nodes), exponent).numpy()
    table = taxonomy.node_at_level
    n_cells = np.array([(table[nodes] == node).sum() for node in range(taxonomy.n_nodes)])
    for group in taxonomy.groups:
        own = n_cells[group]
        assert (own * weights[group - 1]).sum() == pytest.approx(own.sum(), rel=1e-5)
        ratio = (own / own[0]) ** -exponent
        np.testing.assert_allclose(weights[group - 1] / weights[group[0] - 1], ratio, rtol=1e-5)


def test_full_exponent_gives_every_sibling_the_same_total(two_levels):
    tree = TreeAlgebra(two_levels)
    nodes = torch.tensor([two_levels.resolve(n) for n in ["CD4"] * 90 + ["CD8"] * 9 + ["gd"]])
    weights = inverse_frequency_weights(tree, nodes, 1.0)
    below_t = weights[torch.tensor([two_levels.resolve(n) - 1 for n in ("CD4", "CD8", "gd")])]
    torch.testing.assert_close(below_t * torch.tensor([90.0, 9.0, 1.0]), torch.full((3,), 100 / 3))


def test_nodes_without_cells_and_single_children_weigh_one(ragged):
    tree = TreeAlgebra(ragged)
    nodes = torch.tensor([ragged.resolve("MAIT > MAIT")] * 7 + [0] * 5)
    weights = inverse_frequency_weights(tree, nodes, 0.5)
    torch.testing.assert_close(weights, torch.ones(ragged.n_edges))
    nothing = inverse_frequency_weights(tree, torch.zeros(0, dtype=torch.int64), 0.5)
    assert torch.equal(nothing, torch.ones(ragged.n_edges))
