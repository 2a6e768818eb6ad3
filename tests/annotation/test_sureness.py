"""Powers of probabilities: they move the certainty, not the labels."""

import numpy as np
import pytest

import hdeepinsight as hdi
from hdeepinsight.annotation import match_mean_confidence, mean_confidence, sharpen


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
def test_the_mean_certainty_is_the_one_asked_for(annotation, target):
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
