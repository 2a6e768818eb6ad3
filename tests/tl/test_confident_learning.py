"""Confident learning along a tree, on probabilities written by hand."""

import numpy as np
import pytest

from hdeepinsight.taxonomy import Taxonomy
from hdeepinsight.tl._audit import assign_folds, out_of_fold_probabilities
from hdeepinsight.tl._confident_learning import (
    SiblingJoint,
    batch_information,
    class_batches,
    confident_classes,
    find_contradictions,
    most_probable_below,
    recognised_shares,
    transition_rates,
    within_share,
)

TREE = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": ["naive", "memory"]})
T, B, CD4, CD8, NAIVE, MEMORY = range(1, 7)


def node_probabilities(leaves: list[list[float]]) -> np.ndarray:
    """Roll leaf probabilities up the tree."""
    return np.asarray(leaves) @ TREE.ancestor_matrix.astype(float)


SURE = {
    CD4: [0.9, 0.1, 0.0, 0.0],
    CD8: [0.1, 0.9, 0.0, 0.0],
    NAIVE: [0.0, 0.0, 0.9, 0.1],
    MEMORY: [0.0, 0.0, 0.1, 0.9],
}


def labelled(extra: list[tuple[int, list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Five clear cells of every leaf, then the extra ones."""
    cells = [(node, row) for node, row in SURE.items() for _ in range(5)] + extra
    return np.array([node for node, _ in cells]), node_probabilities([row for _, row in cells])


@pytest.mark.parametrize(
    ("node", "row", "rival"),
    [
        pytest.param(CD4, [0.0, 0.0, 0.9, 0.1], B, id="another_lineage_is_named_first"),
        pytest.param(CD4, [0.1, 0.9, 0.0, 0.0], CD8, id="a_sibling"),
        pytest.param(CD4, [0.2, 0.8, 0.0, 0.0], -1, id="a_lead_below_the_margin"),
        pytest.param(T, [0.1, 0.9, 0.0, 0.0], -1, id="not_judged_below_an_inner_label"),
        pytest.param(T, [0.0, 0.1, 0.0, 0.9], B, id="inner_label_contradicted"),
        pytest.param(CD4, [0.9, 0.1, 0.0, 0.0], -1, id="right"),
    ],
)
def test_rival(node: int, row: list[float], rival: int) -> None:
    nodes, probabilities = labelled([(node, row)])
    found = find_contradictions(
        TREE, nodes, probabilities, np.ones(len(nodes), bool), least_margin=0.7
    )
    assert found.rival[-1] == rival
    assert (found.rival[:-1] == -1).all()


def test_margin_and_weight_are_those_of_the_contradicted_level() -> None:
    nodes, probabilities = labelled([(CD4, [0.1, 0.1, 0.8, 0.0]), (CD4, [0.1, 0.85, 0.05, 0.0])])
    found = find_contradictions(
        TREE, nodes, probabilities, np.ones(len(nodes), bool), least_margin=0.5
    )
    assert found.margin[-2:] == pytest.approx([0.2 - 0.8, 0.1 - 0.85])
    assert found.weight[-2:] == pytest.approx([0.2 / 0.8, 0.1 / 0.85])
    assert (found.weight[:-2] == 1).all()


def test_cells_that_are_not_judged_have_no_margin_and_no_say() -> None:
    nodes, probabilities = labelled([(CD4, [0.0, 1.0, 0.0, 0.0])])
    judged = np.arange(len(nodes)) < len(nodes) - 1
    found = find_contradictions(TREE, nodes, probabilities, judged, least_margin=0.5)
    assert found.rival[-1] == -1
    assert np.isnan(found.margin[-1])
    assert sum(joint.counts.sum() for joint in found.joints) == 40  # 20 cells at two levels


def test_class_that_is_not_recognised_is_never_contradicted() -> None:
    hidden = [(MEMORY, [0.0, 0.0, 1.0, 0.0])] * 6
    nodes, probabilities = labelled(hidden)  # 5 of 11 memory cells are recognised
    found = find_contradictions(
        TREE, nodes, probabilities, np.ones(len(nodes), bool), least_margin=0.5
    )
    assert (found.rival == -1).all()
    nodes, probabilities = labelled(hidden[:5])  # 5 of 10
    found = find_contradictions(
        TREE, nodes, probabilities, np.ones(len(nodes), bool), least_margin=0.5
    )
    assert (found.rival[-5:] == NAIVE).all()


def test_confident_classes_reach_their_own_thresholds() -> None:
    values = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.2, 0.8], [0.1, 0.9]])
    codes = np.array([0, 0, 1, 1, 0])  # thresholds 0.6 and 0.7
    assert confident_classes(values, codes).tolist() == [0, 0, -1, 1, 1]
    assert recognised_shares(values, codes).tolist() == pytest.approx([2 / 3, 1.0])


def test_transition_rates_sum_to_one_and_trust_labels_without_confident_cells() -> None:
    joint = SiblingJoint(np.array([1, 2]), np.array([[3, 1], [0, 0]]), np.array([0.7, 0.0]))
    assert transition_rates(joint).tolist() == [[0.75, 0.25], [0.0, 1.0]]


def test_share_keeps_the_most_contradicted_cells() -> None:
    nodes = np.array([CD4] * 10 + [CD8] * 4)
    margin = np.linspace(-1, 0, 14)
    kept = within_share(margin, nodes, np.ones(14, bool), 0.25)
    assert np.flatnonzero(kept).tolist() == [0, 1, 10]
    assert not within_share(margin, nodes, np.ones(14, bool), 0.0).any()


def test_most_probable_below_stops_where_nothing_was_learnt() -> None:
    probabilities = np.zeros((2, TREE.n_nodes))
    probabilities[:, [0, T, B]] = [1.0, 0.3, 0.7]
    probabilities[1, [NAIVE, MEMORY]] = [0.5, 0.2]
    assert most_probable_below(TREE, probabilities, np.zeros(2, int)).tolist() == [B, NAIVE]


def test_out_of_fold_probabilities_sum_along_the_tree() -> None:
    rng = np.random.default_rng(0)
    nodes = np.repeat([CD4, CD8, NAIVE], 20)
    features = rng.normal(size=(60, 3)) + 3 * np.eye(3)[np.repeat([0, 1, 2], 20)]
    folds = assign_folds(nodes, None, 4, rng)
    p = out_of_fold_probabilities(features, TREE, nodes, folds)
    assert p[:, 0] == pytest.approx(1.0)
    assert p[:, T] == pytest.approx(p[:, CD4] + p[:, CD8])
    assert p[:, [T, B]].sum(axis=1) == pytest.approx(1.0)
    assert (p[:, MEMORY] == 0).all()
    # The cell's own label plays no part: another one leaves its probabilities as they are.
    other = nodes.copy()
    other[0] = NAIVE
    np.testing.assert_array_equal(p[0], out_of_fold_probabilities(features, TREE, other, folds)[0])


def test_folds_hold_equal_parts_of_every_label() -> None:
    nodes = np.repeat([CD4, CD8], [50, 15])
    folds = assign_folds(nodes, None, 5, np.random.default_rng(0))
    assert np.bincount(folds[:50]).tolist() == [10] * 5
    assert np.bincount(folds[50:]).tolist() == [3] * 5


def test_folds_follow_batches_where_a_label_is_in_enough_of_them() -> None:
    nodes = np.repeat([CD4, CD8], [60, 20])
    batches = np.concatenate([np.tile(list("abcd"), 15), ["a"] * 20])
    folds = assign_folds(nodes, batches, 4, np.random.default_rng(0))
    assert all(len(set(folds[:60][batches[:60] == name])) == 1 for name in "abcd")
    assert np.bincount(folds[60:]).tolist() == [5] * 4  # all in one batch: dealt by cell


def test_confounding_of_classes_and_batches() -> None:
    nodes = np.array([CD4] * 4 + [CD8] * 4 + [NAIVE] * 4)
    batches = np.array(["a"] * 4 + ["b", "c"] * 2 + ["b"] * 4)
    table = class_batches(TREE, nodes, np.array([T, CD4, CD8, NAIVE]), batches)
    assert table["confounding"].tolist() == ["", "same as a batch", "", "in one batch only"]
    assert table["batch_overlap"].tolist() == pytest.approx([4 / 8, 1.0, 2 / 4, 4 / 6])
    same = batch_information(TREE, nodes, nodes.astype(str))
    assert same["level_2"] == pytest.approx(1.0)
    assert batch_information(TREE, nodes, None).isna().all()
