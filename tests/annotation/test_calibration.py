"""Expected calibration error, and powers that change the confidence but not the labels."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hdeepinsight as hdi
from hdeepinsight.annotation import (
    expected_calibration_error,
    match_mean_confidence,
    mean_confidence,
    sharpen,
)


def naive_error(confidence, correct, n_bins=15):
    """Bins of equal numbers of cells; ties go to the bin in which the first of them falls."""
    ranked = sorted(zip(confidence, correct, strict=True))
    n = len(ranked)
    n_bins = min(n_bins, n)
    bins = {}
    for c, right in ranked:
        rank = next(i for i, (other, _) in enumerate(ranked) if other == c)
        bins.setdefault(rank * n_bins // n, []).append((c, right))
    return sum(abs(sum(c for c, _ in b) - sum(right for _, right in b)) for b in bins.values()) / n


def test_values_equal_a_plain_loop():
    for decimals in [
        1,
        12,
    ]:
        for n_bins in [
            1,
            4,
            15,
        ]:
            for n_cells in [
                1,
                7,
                15,
                16,
                100,
            ]:
                rng = np.random.default_rng(n_cells)
                confidence = rng.uniform(0, 1, n_cells).round(decimals)
                correct = rng.random(n_cells) < 0.5
                got = expected_calibration_error(confidence, correct, n_bins=n_bins)
                assert got == pytest.approx(naive_error(confidence, correct, n_bins), abs=1e-9)


def test_bins_hold_equal_numbers_of_cells():
    confidence = np.linspace(0.1, 0.9, 12)
    correct = np.array([0, 0, 0, 1] * 3)
    gaps = [abs(confidence[i : i + 4].mean() - 0.25) for i in (0, 4, 8)]
    error = expected_calibration_error(confidence, correct, n_bins=3)
    assert error == pytest.approx(np.mean(gaps))


def test_calibrated_confidence_has_almost_no_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1.0, 200_000)
    correct = rng.random(200_000) < confidence
    assert expected_calibration_error(confidence, correct) < 0.006
    shifted = np.clip(confidence + 0.1, 0, 1)
    assert expected_calibration_error(shifted, correct) == pytest.approx(0.095, abs=0.006)


@pytest.mark.parametrize(("confidence", "right", "error"), [(1.0, 0, 1.0), (1.0, 1, 0.0)])
def test_certainty(confidence, right, error):
    assert expected_calibration_error(np.full(40, confidence), np.full(40, right)) == error


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), decimals=st.sampled_from([1, 2, 10]))
def test_order_does_not_matter_and_the_error_is_bounded(seed, decimals):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.random(50).round(decimals), rng.random(50) < 0.7
    order = rng.permutation(50)
    error = expected_calibration_error(confidence, correct)
    assert expected_calibration_error(confidence[order], correct[order]) == error
    overall = abs(confidence.mean() - correct.mean())
    assert overall - 1e-9 <= error <= 1.0


def test_no_cells_have_no_error():
    assert math.isnan(expected_calibration_error(np.array([]), np.array([])))


def test_invalid_confidence_raises():
    for confidence, correct, n_bins, says in [
        ([0.5] * 2, [1, 0, 1], 15, r"\(2,\), \(3,\)"),
        ([95.0, 50.0], [1, 0], 15, "not logits or percent"),
        ([0.5, 0.5], [1, 5], 15, "correct must be boolean"),
        ([0.5, 0.5], [1, 0], 0, "n_bins must be an integer >= 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=says):
            expected_calibration_error(confidence, correct, n_bins=n_bins)


@pytest.fixture
def annotation():
    tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    leaves = np.random.default_rng(0).dirichlet(np.ones(3), size=50)
    table = {name: leaves[:, i] for i, name in enumerate(["CD4", "CD8", "B"])}
    nodes = np.zeros((50, tree.n_nodes))
    for name, values in table.items():
        nodes[:, tree.encode([name])[0]] = values
    return hdi.Annotation(
        taxonomy=tree,
        obs_names=[f"c{i}" for i in range(50)],
        node_probabilities=nodes @ _to_ancestors(tree),
        threshold=None,
    )


def _to_ancestors(tree):
    matrix = np.eye(tree.n_nodes)
    matrix[np.ix_(tree.leaves, np.arange(tree.n_nodes))] = tree.ancestor_matrix
    return matrix


def test_the_power_of_one_changes_nothing(annotation):
    np.testing.assert_allclose(
        sharpen(annotation, 1.0).node_probabilities, annotation.node_probabilities, atol=1e-12
    )


@pytest.mark.parametrize("power", [0.3, 2.0, 15.0])
def test_a_power_keeps_labels_and_adds_up_the_tree(annotation, power):
    found = sharpen(annotation, power)
    np.testing.assert_array_equal(found.leaf_nodes, annotation.leaf_nodes)
    p, tree = found.node_probabilities, found.taxonomy
    np.testing.assert_allclose(p[:, tree.leaves].sum(axis=1), 1.0)
    parent = tree.encode(["T"])[0]
    children = tree.encode(["CD4", "CD8"])
    np.testing.assert_allclose(p[:, parent], p[:, children].sum(axis=1))
    before = annotation.node_probabilities[:, children]
    np.testing.assert_allclose(
        p[:, children[0]] / p[:, children[1]], (before[:, 0] / before[:, 1]) ** power
    )


@pytest.mark.parametrize("target", [0.4, 0.62, 0.95])
def test_mean_confidence_equals_the_target(annotation, target):
    assert mean_confidence(match_mean_confidence(annotation, target)) == pytest.approx(
        target, abs=1e-5
    )


def test_the_own_certainty_is_a_fixed_point(annotation):
    same = match_mean_confidence(annotation, mean_confidence(annotation))
    np.testing.assert_allclose(same.node_probabilities, annotation.node_probabilities, atol=1e-5)


@pytest.mark.parametrize(("target", "power"), [(0.0, 0.05), (1.0, 20.0)])
def test_a_target_out_of_reach_ends_at_the_outermost_power(annotation, target, power):
    np.testing.assert_allclose(
        match_mean_confidence(annotation, target).node_probabilities,
        sharpen(annotation, power).node_probabilities,
    )


def test_tiny_probabilities_survive_a_high_power(annotation):
    tiny = sharpen(annotation, 20.0)
    assert np.isfinite(sharpen(tiny, 20.0).node_probabilities).all()
