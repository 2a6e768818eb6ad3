"""Scores against loops that follow the definitions, and against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from harness.scoring import (
    auroc,
    calibration_error,
    hierarchical_f1,
    level_confidence,
    macro_f1,
    score,
    scored_cells,
)
from harness.tree import LabelTree
from sklearn.metrics import f1_score, roc_auc_score


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def test_macro_f1_is_that_of_scikit_learn_over_the_true_classes(rng):
    truth = rng.choice(["a", "b", "c"], 200, p=[0.7, 0.2, 0.1]).astype(object)
    predicted = rng.choice(["a", "b", "c", "elsewhere", ""], 200).astype(object)
    expected = f1_score(truth, predicted, average="macro", labels=["a", "b", "c"])
    assert macro_f1(truth, predicted) == pytest.approx(expected, abs=1e-12)


def test_macro_f1_gives_a_class_that_is_never_found_zero():
    truth, predicted = np.array(["a", "b"], object), np.array(["a", "a"], object)
    assert macro_f1(truth, predicted) == pytest.approx((2 / 3 + 0) / 2)


def test_hierarchical_f1_equals_a_loop_over_ancestor_sets(rng):
    paths = [("T", "CD4"), ("T", "CD8"), ("B", ""), ("B", "memory"), ("", "")]
    truth = [paths[i] for i in rng.integers(4, size=60)]
    predicted = [paths[i] for i in rng.integers(5, size=60)]
    shared = called = real = 0
    for t, p in zip(truth, predicted, strict=True):
        t_set, p_set = (
            {t[: d + 1] for d in range(2) if t[d]},
            {p[: d + 1] for d in range(2) if p[d]},
        )
        shared, called, real = shared + len(t_set & p_set), called + len(p_set), real + len(t_set)
    precision, recall = shared / called, shared / real
    found = hierarchical_f1(np.array(truth, object), np.array(predicted, object))
    assert found == pytest.approx(2 * precision * recall / (precision + recall))


def test_hierarchical_f1_does_not_punish_stopping_early_twice():
    truth = np.array([["T", "CD4"]], object)
    assert hierarchical_f1(truth, np.array([["T", ""]], object)) == pytest.approx(2 / 3)
    assert hierarchical_f1(truth, np.array([["T", "CD8"]], object)) == pytest.approx(1 / 2)


def test_calibration_error_equals_a_loop_over_equal_mass_bins(rng):
    confidence, correct = rng.random(150), rng.random(150) < 0.4
    pairs = sorted(zip(confidence, correct, strict=True))
    expected = 0.0
    for start in range(0, 150, 10):
        chunk = pairs[start : start + 10]
        gap = sum(c for c, _ in chunk) / 10 - sum(bool(k) for _, k in chunk) / 10
        expected += abs(gap) * 10 / 150
    assert calibration_error(confidence, correct) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("correct", "expected"),
    [pytest.param(True, 0.0, id="sure_and_right"), pytest.param(False, 1.0, id="sure_and_wrong")],
)
def test_calibration_error_at_its_limits(correct, expected):
    assert calibration_error(np.ones(40), np.full(40, correct)) == expected


def test_calibration_error_with_fewer_cells_than_bins():
    assert calibration_error(np.array([0.8, 0.6]), np.array([True, False])) == pytest.approx(0.4)


def test_auroc_is_that_of_scikit_learn_with_ties(rng):
    negative, positive = rng.integers(5, size=40), rng.integers(2, 7, size=30)
    truth = np.r_[np.zeros(40), np.ones(30)]
    expected = roc_auc_score(truth, np.r_[negative, positive])
    assert auroc(negative, positive) == pytest.approx(expected)


def test_confidence_of_a_coarse_label_is_the_sum_over_its_classes():
    labels = pd.DataFrame({"l": ["B", "T", "T"], "c": ["", "CD4", "CD8"]})
    tree = LabelTree.from_labels(labels)
    probabilities = np.array([[0.1, 0.4, 0.5], [0.7, 0.2, 0.1]])
    coarse = level_confidence(probabilities, tree, np.array(["T", "B"], object), 0)
    fine = level_confidence(probabilities, tree, np.array(["CD8", "CD4"], object), 1)
    assert coarse == pytest.approx([0.9, 0.7])
    assert fine == pytest.approx([0.5, 0.2])


def test_rare_new_ignored_and_missing_labels_are_not_scored():
    reference = np.array(["a"] * 5 + ["rare"] * 4, object)
    truth = np.array(["a", "rare", "rare", "new", "unknown", ""], object)
    cells = scored_cells(truth, reference, ignore=("unknown",), minimum=5)
    assert cells.mask.tolist() == [True, False, False, False, False, False]
    assert cells.novel.tolist() == [False, False, False, True, False, False]
    assert cells.excluded == {"new": 1, "rare": 2}


def test_a_cell_whose_fine_class_is_new_still_counts_at_the_coarse_level():
    reference = pd.DataFrame({"l": ["T", "T", "B"], "c": ["CD4", "CD8", "B"]})
    truth = pd.DataFrame({"l": ["T", "T"], "c": ["CD4", "gd"]})
    predicted = np.array([["T", "CD4"], ["T", "CD8"]], object)
    coarse, fine = score(truth, reference, predicted, None)
    assert (coarse["n_cells"], coarse["accuracy"]) == (2, 1.0)
    assert (fine["n_cells"], fine["n_novel"], fine["accuracy"]) == (1, 1, 1.0)
    assert fine["not_scored"] == {"gd": 1}


def test_scores_are_none_where_nothing_can_be_scored():
    labels = pd.DataFrame({"l": ["T"], "c": [""]})
    _, fine = score(labels, labels, np.array([["T", ""]], object), None)
    assert [fine[key] for key in ("accuracy", "macro_f1", "h_f1", "ece")] == [None] * 4


def test_novel_cells_with_low_confidence_are_told_apart():
    reference = pd.DataFrame({"c": ["a", "b"]})
    truth = pd.DataFrame({"c": ["a", "b", "new"]})
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    predicted = np.array([["a"], ["b"], ["a"]], object)
    (record,) = score(truth, reference, predicted, probabilities)
    assert record["novelty_auroc"] == 1.0
    assert record["ece"] == pytest.approx(0.15)


def test_a_gap_in_a_label_path_is_an_error():
    with pytest.raises(ValueError, match="below a missing coarser one"):
        LabelTree.from_labels(pd.DataFrame({"l": [""], "c": ["CD4"]}))
