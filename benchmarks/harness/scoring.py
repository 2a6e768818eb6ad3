"""Scores of one set of predictions, one record a level.

Labels are tables of strings, ``(n_cells, n_levels)``, coarse to fine, ``""`` where there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .tree import LabelTree

#: Bins of the calibration error, with equally many cells each.
N_BINS = 15


@dataclass(frozen=True)
class Scored:
    """Which query cells count at a level, and which classes do not.

    Parameters
    ----------
    mask
        Cells whose true class the reference knows well enough, ``(n_cells,)`` bool.
    novel
        Cells of classes that the reference lacks, ``(n_cells,)`` bool.
    excluded
        Query cells of every class that is not scored for either reason.
    """

    mask: np.ndarray
    novel: np.ndarray
    excluded: dict[str, int]


def scored_cells(
    truth: np.ndarray, reference: np.ndarray, *, ignore: tuple[str, ...], minimum: int
) -> Scored:
    """Decide at one level which cells are scored.

    Cells without a label or with an ignored one are neither scored nor novel. A class with fewer
    than `minimum` reference cells is not scored; one with none is novel.
    """
    available = pd.Series(reference).value_counts()
    n_reference = pd.Series(truth).map(available).fillna(0).to_numpy()
    labelled = ~np.isin(truth, ["", *ignore])
    excluded = labelled & (n_reference < minimum)
    classes, counts = np.unique(truth[excluded].astype(str), return_counts=True)
    return Scored(
        mask=labelled & (n_reference >= minimum),
        novel=labelled & (n_reference == 0),
        excluded={str(name): int(n) for name, n in zip(classes, counts, strict=True)},
    )


def macro_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean F1 over the classes of `truth`; a class never predicted rightly has F1 0."""
    scores = []
    for name in np.unique(truth.astype(str)):
        is_class, called = truth == name, predicted == name
        scores.append(2 * np.sum(is_class & called) / (np.sum(is_class) + np.sum(called)))
    return float(np.mean(scores))


def hierarchical_f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    """F1 of the sets of labels on the paths, pooled over cells (micro-average).

    Notes
    -----
    Kiritchenko et al. (2005): every cell contributes its label and the ancestors of it, the root
    aside. A prediction that stops early loses recall, not precision.
    """
    shared = np.sum((truth == predicted) & (truth != ""))
    return float(2 * shared / (np.sum(truth != "") + np.sum(predicted != "")))


def calibration_error(confidence: np.ndarray, correct: np.ndarray, n_bins: int = N_BINS) -> float:
    """Average the distance of confidence and accuracy over bins of equally many cells (ECE)."""
    order = np.argsort(confidence, kind="stable")
    bins = [b for b in np.array_split(order, n_bins) if len(b)]
    gaps = [len(b) * abs(confidence[b].mean() - correct[b].mean()) for b in bins]
    return float(np.sum(gaps) / len(confidence))


def auroc(negative: np.ndarray, positive: np.ndarray) -> float:
    """Chance that a positive scores above a negative, ties counting half."""
    ranks = pd.Series(np.concatenate([negative, positive])).rank().to_numpy()
    n, m = len(negative), len(positive)
    return float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))


def level_confidence(
    probabilities: np.ndarray, tree: LabelTree, predicted: np.ndarray, level: int
) -> np.ndarray:
    """Probability of the predicted label: the sum over the classes that carry it."""
    names = tree.table()[:, level]
    confidence = np.zeros(len(predicted))
    for name in np.unique(predicted.astype(str)):
        rows = predicted == name
        confidence[rows] = probabilities[np.ix_(rows, names == name)].sum(axis=1)
    return confidence


def score(
    truth: pd.DataFrame,
    reference: pd.DataFrame,
    predicted: np.ndarray,
    probabilities: np.ndarray | None,
    *,
    ignore: tuple[str, ...] = (),
    minimum: int = 1,
) -> list[dict]:
    """Score predictions at every level of `truth`.

    Parameters
    ----------
    truth, reference
        True labels of the query ``(n_cells, n_levels)`` and of the reference.
    predicted
        Predicted labels, ``(n_cells, n_levels)``.
    probabilities
        ``(n_cells, n_classes)`` in the order of ``LabelTree.from_labels(reference)``, or ``None``.
    ignore, minimum
        See `scored_cells`.

    Returns
    -------
    One dictionary a level. A score that cannot be computed is ``None``. ``h_f1`` at a level reads
    the paths down to that level; ``ece`` uses the probability of the label predicted there.
    """
    tree, records = LabelTree.from_labels(reference), []
    for depth, level in enumerate(truth.columns):
        true, called = truth[level].to_numpy(dtype=object), predicted[:, depth]
        cells = scored_cells(
            true, reference[level].to_numpy(dtype=object), ignore=ignore, minimum=minimum
        )
        confidence = None
        if probabilities is not None:
            confidence = level_confidence(probabilities, tree, called, depth)
        upto = truth.iloc[:, : depth + 1].to_numpy(dtype=object)
        records.append(
            {"level": level}
            | _scores(true, called, cells.mask, upto, predicted[:, : depth + 1], confidence)
            | {"n_cells": int(cells.mask.sum()), "n_novel": int(cells.novel.sum())}
            | {"novelty_auroc": _novelty(confidence, cells), "not_scored": cells.excluded}
        )
    return records


def _scores(true, called, mask, true_path, called_path, confidence) -> dict:
    if not mask.any():
        return dict.fromkeys(["accuracy", "macro_f1", "h_f1", "ece"])
    correct = (true == called)[mask]
    return {
        "accuracy": float(correct.mean()),
        "macro_f1": macro_f1(true[mask], called[mask]),
        "h_f1": hierarchical_f1(true_path[mask], called_path[mask]),
        "ece": None if confidence is None else calibration_error(confidence[mask], correct),
    }


def _novelty(confidence, cells: Scored) -> float | None:
    if confidence is None or not cells.novel.any() or not cells.mask.any():
        return None
    return auroc(1 - confidence[cells.mask], 1 - confidence[cells.novel])
