"""Scores against naive loops and scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score, recall_score

from hdeepinsight.taxonomy import (
    HierarchicalScores,
    Taxonomy,
    hierarchical_scores,
    level_scores,
    path_distance,
)


@pytest.fixture(params=range(4))
def case(request, random_tree):
    """A tree with 300 true nodes at any depth, and predictions that are half right."""
    tree = random_tree(request.param)
    rng = np.random.default_rng(request.param)
    true = rng.integers(0, tree.n_nodes, 300)
    pred = np.where(rng.random(300) < 0.5, true, rng.integers(0, tree.n_nodes, 300))
    return tree, true, pred


def test_level_scores_equal_scikit_learn(case):
    tree, true, pred = case
    scores = level_scores(tree, true, pred)
    assert scores.index.tolist() == list(tree.level_names)
    for level, name in enumerate(tree.level_names, start=1):
        pairs = [(tree.at_level(t, level), tree.at_level(p, level)) for t, p in zip(true, pred)]  # noqa: B905
        t = np.array([a for a, _ in pairs if a is not None])
        p = np.array([-1 if b is None else b for a, b in pairs if a is not None])
        here = scores.loc[name]
        kept = {"labels": np.unique(t), "average": "macro", "zero_division": 0}
        assert here["n_cells"] == len(t)
        assert here["n_classes"] == len(np.unique(t))
        assert here["accuracy"] == pytest.approx(accuracy_score(t, p))
        assert here["macro_f1"] == pytest.approx(f1_score(t, p, **kept))
        assert here["balanced_accuracy"] == pytest.approx(recall_score(t, p, **kept))


def test_hierarchical_scores_equal_sets_of_ancestors(case):
    tree, true, pred = case
    shared = n_true = n_pred = 0
    for t, p in zip(true, pred, strict=True):
        if t > 0:
            above_t, above_p = set(tree.ancestors(t)), set(tree.ancestors(p))
            shared += len(above_t & above_p)
            n_true += len(above_t)
            n_pred += len(above_p)
    precision, recall = shared / n_pred, shared / n_true
    scores = hierarchical_scores(tree, true, pred)
    assert scores.precision == pytest.approx(precision)
    assert scores.recall == pytest.approx(recall)
    assert scores.f1 == pytest.approx(2 * precision * recall / (precision + recall))
    assert scores.n_cells == int((true > 0).sum())


def test_path_distance_equals_a_walk_and_is_a_metric(case):
    tree, true, pred = case
    distance = path_distance(tree, true, pred)
    for t, p, d in zip(true, pred, distance, strict=True):
        assert d == len(set(tree.ancestors(t)) ^ set(tree.ancestors(p)))
    np.testing.assert_array_equal(distance, path_distance(tree, pred, true))
    np.testing.assert_array_equal(distance == 0, true == pred)
    other = np.roll(pred, 1)
    assert (distance <= path_distance(tree, true, other) + path_distance(tree, other, pred)).all()


def test_a_flat_tree_gives_plain_accuracy():
    tree = Taxonomy.from_nested(["a", "b", "c"])
    true, pred = np.array([1, 1, 2, 3]), np.array([1, 2, 2, 3])
    assert level_scores(tree, true, pred).loc["level_1", "accuracy"] == 0.75
    assert hierarchical_scores(tree, true, pred) == HierarchicalScores(0.75, 0.75, 0.75, 4)
    assert path_distance(tree, true, pred).tolist() == [0, 2, 0, 0]


def test_a_prediction_above_the_true_node_lowers_only_recall(immune):
    true, pred = immune.encode(["B_naive"] * 2), immune.encode(["B_naive", "B"])
    scores = level_scores(immune, true, pred)
    assert scores["accuracy"].tolist() == [1.0, 0.5]
    assert scores.loc["subtype", "macro_f1"] == pytest.approx(2 / 3)
    hierarchical = hierarchical_scores(immune, true, pred)
    assert (hierarchical.precision, hierarchical.recall) == (1.0, 0.75)


def test_a_longer_prediction_counts_by_its_ancestor(immune):
    true, pred = immune.encode(["B", "NK"]), immune.encode(["B_naive", "NK_CD16+"])
    scores = level_scores(immune, true, pred)
    assert scores["n_cells"].tolist() == [2, 0]
    assert scores.loc["base_type", "accuracy"] == 1.0
    assert scores.loc["subtype", ["accuracy", "macro_f1", "balanced_accuracy"]].isna().all()


def test_unlabelled_cells_are_ignored(immune):
    scores = hierarchical_scores(immune, [0, 0], [3, 4])
    assert scores.n_cells == 0
    assert np.isnan([scores.precision, scores.recall, scores.f1]).all()
    assert level_scores(immune, [0], [3])["n_cells"].tolist() == [0, 0]


def test_scores_are_zero_without_predictions(immune):
    assert hierarchical_scores(immune, [5, 20], [0, 0]) == HierarchicalScores(0.0, 0.0, 0.0, 2)


def test_no_cells_give_empty_results(immune):
    empty = np.empty(0, dtype=np.int64)
    assert path_distance(immune, empty, empty).shape == (0,)
    assert level_scores(immune, empty, empty)["n_cells"].sum() == 0


def test_inputs_may_be_series(immune):
    series = pd.Series([1, 2], index=["c1", "c2"])
    assert path_distance(immune, series, series).tolist() == [0, 0]


def test_invalid_nodes_are_refused(immune):
    for score in [level_scores, hierarchical_scores, path_distance]:
        for true, pred, message in [
            ([1, 2], [1], "shape"),
            ([[1]], [[1]], "shape"),
            ([1, 66], [1, 2], "y_true .* from 0 to 65"),
            ([1, 2], [-1, 2], "y_pred .* from 0 to 65"),
            ([1.0], [1.0], "type float64"),
            (["B"], ["B"], "taxonomy.encode"),
        ]:
            with pytest.raises(ValueError, match=message):
                score(immune, true, pred)
