"""Scores against known labels."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from hdeepinsight.annotation import (
    evaluate_annotation,
    expected_calibration_error,
)


@pytest.fixture(params=[None, 0.5, 0.8])
def result(request, two_levels, annotated):
    return annotated(two_levels, n_cells=300, threshold=request.param)


@pytest.fixture
def truth(two_levels):
    return np.random.default_rng(5).choice(two_levels.leaves, 300)


def sets_of(taxonomy, nodes):
    return [set(taxonomy.ancestors(int(node)).tolist()) for node in nodes]


def test_level_scores_equal_scikit_learn(two_levels, result, truth):
    levels = evaluate_annotation(result, truth).levels
    assert levels.index.tolist() == ["lineage", "cell_type"]
    for depth, (_, row) in enumerate(levels.iterrows(), start=1):
        true = [two_levels.path(int(node))[:depth][-1] for node in truth]
        predicted = pd.Series([two_levels.path(leaf)[:depth][-1] for leaf in result.leaf_nodes])
        assert row["n_cells"] == 300
        assert row["accuracy"] == pytest.approx(accuracy_score(true, predicted))
        macro = f1_score(true, predicted, average="macro", labels=sorted(set(true)))
        assert row["macro_f1"] == pytest.approx(macro)
        assert row["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true, predicted))
        chosen = result.node_probabilities[
            np.arange(300), two_levels.node_at_level[result.leaf_nodes, depth - 1]
        ]
        ece = expected_calibration_error(chosen, np.array(true) == predicted.to_numpy())
        assert row["ece"] == pytest.approx(ece)


def test_hierarchical_scores_are_those_of_the_stop_nodes(two_levels, result, truth):
    evaluation = evaluate_annotation(result, truth)
    true, predicted = sets_of(two_levels, truth), sets_of(two_levels, result.stop_nodes)
    shared = sum(len(t & p) for t, p in zip(true, predicted, strict=True))
    precision = shared / sum(map(len, predicted))
    recall = shared / sum(map(len, true))
    h = evaluation.hierarchical
    assert (h.precision, h.recall) == pytest.approx((precision, recall))
    assert h.f1 == pytest.approx(2 * precision * recall / (precision + recall))
    distance = np.mean([len(t ^ p) for t, p in zip(true, predicted, strict=True)])
    assert evaluation.mean_path_distance == pytest.approx(distance)
    above = np.mean([two_levels.n_children[node] > 0 for node in result.stop_nodes])
    assert evaluation.share_stopped == pytest.approx(above)


def test_a_perfect_annotation(two_levels, annotated):
    result = annotated(two_levels, threshold=None)
    evaluation = evaluate_annotation(result, result.leaf_nodes)
    assert (evaluation.levels[["accuracy", "macro_f1", "balanced_accuracy"]] == 1.0).all(axis=None)
    assert evaluation.hierarchical.f1 == 1.0
    assert evaluation.mean_path_distance == 0.0
    # Always right, but never sure of it: the error is the missing confidence.
    assert evaluation.levels["ece"].iloc[-1] == pytest.approx(1 - result.confidence.mean())


def test_unlabelled_cells_are_left_out(two_levels, result, truth):
    some = np.where(np.arange(300) % 3 == 0, 0, truth)
    evaluation = evaluate_annotation(result, some)
    assert evaluation.n_cells == 200
    assert (evaluation.levels["n_cells"] == 200).all()
    right = two_levels.node_at_level[result.leaf_nodes, 0] == two_levels.node_at_level[some, 0]
    assert evaluation.levels["accuracy"].iloc[0] == pytest.approx(right[some > 0].mean())


def test_labels_at_inner_nodes_count_at_their_levels_alone(ragged, annotated):
    result = annotated(ragged, n_cells=4)
    nodes = [ragged.resolve(name) for name in ("T", "T > CD4", "T > CD4 > Th1", "NK")]
    levels = evaluate_annotation(result, np.array(nodes)).levels
    assert levels["n_cells"].tolist() == [4, 2, 1]


def test_calibration_uses_cells_whose_label_and_leaf_reach_the_level(ragged, annotated):
    result = annotated(ragged, n_cells=200)
    truth = np.random.default_rng(1).integers(1, ragged.n_nodes, 200)
    errors = evaluate_annotation(result, truth).levels["ece"]
    for level, error in enumerate(errors, start=1):
        confidence, correct = [], []
        for p, t, leaf in zip(result.node_probabilities, truth, result.leaf_nodes, strict=True):
            here, true = ragged.at_level(int(leaf), level), ragged.at_level(int(t), level)
            if here is not None and true is not None:
                confidence.append(p[here])
                correct.append(here == true)
        assert 0 < len(confidence) <= 200
        expected = expected_calibration_error(np.array(confidence), np.array(correct))
        assert error == pytest.approx(expected)


def test_a_level_without_cells_has_no_calibration_error(ragged, annotated):
    result = annotated(ragged, n_cells=5)
    truth = np.full(5, ragged.resolve("NK"))
    levels = evaluate_annotation(result, truth).levels
    assert levels["n_cells"].tolist() == [5, 0, 0]
    assert [math.isnan(value) for value in levels["ece"]] == [False, True, True]


def test_no_labels_at_all_are_refused(two_levels, annotated):
    with pytest.raises(ValueError, match=r"No cell has a known label.*Check the label"):
        evaluate_annotation(annotated(two_levels), np.zeros(60, dtype=np.int64))


def test_nodes_that_do_not_fit_the_cells_are_refused(two_levels, annotated):
    for nodes in [np.ones(59, dtype=np.int64), np.full(60, -1), ["B"] * 60]:
        with pytest.raises(ValueError, match=r"one for each of 60 cells"):
            evaluate_annotation(annotated(two_levels), nodes)


def test_an_evaluation_is_plain_and_readable(result, truth):
    evaluation = evaluate_annotation(result, truth)
    plain = evaluation.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert [row["level"] for row in plain["levels"]] == ["lineage", "cell_type"]
    assert plain["levels"][0]["accuracy"] == evaluation.levels["accuracy"].iloc[0]
    assert plain["hierarchical"]["f1"] == evaluation.hierarchical.f1
    text = str(evaluation)
    assert "300 cells with known labels" in text
    assert f"F1 {evaluation.hierarchical.f1:.3f}" in text
    assert f"{evaluation.levels['macro_f1'].iloc[1]:.3f}" in text
