"""How sure an annotation is: whether 0.9 is right nine times in ten, and how to make it so."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from hdeepinsight._errors import check_integer

if TYPE_CHECKING:
    from hdeepinsight.annotation._annotation import Annotation

#: Powers between which one is looked for.
_POWERS = (0.05, 20.0)
#: What sums of probabilities may lie above 1 by rounding, in half precision.
PROBABILITY_TOLERANCE = 1e-2


def expected_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, *, n_bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over bins of equal numbers of cells.

    Parameters
    ----------
    confidence
        Probability of the predicted label, shape ``(n_cells,)``.
    correct
        Whether the label is right, shape ``(n_cells,)``.
    n_bins
        Number of bins; fewer are used where there are fewer cells. Cells of equal confidence share
        a bin, so that the order of the cells does not matter.

    Returns
    -------
    A number from 0 (perfect) to 1; ``nan`` without cells.

    Raises
    ------
    ValueError
        If the arrays differ in length, a confidence lies outside [0, 1], `correct` is not true or
        false throughout, or `n_bins` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> expected_calibration_error(np.full(10, 0.9), np.arange(10) < 9)
    0.0
    >>> round(expected_calibration_error(np.full(10, 1.0), np.arange(10) < 7), 6)
    0.3

    References
    ----------
    Naeini, Cooper and Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian
    binning; with equal-mass instead of equal-width bins.
    """
    said, right = check_confidence(confidence, correct, n_bins)
    if not len(said):
        return float("nan")
    order = np.argsort(said)
    ranked, n_cells = said[order], len(said)
    bins = np.searchsorted(ranked, ranked, side="left") * min(n_bins, n_cells) // n_cells
    gaps = np.bincount(bins, weights=ranked - right[order])
    return float(round(np.abs(gaps).sum() / n_cells, 12))


def check_confidence(
    confidence: ArrayLike, correct: ArrayLike, n_bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64 ``(n_cells,)``.

    Raises
    ------
    ValueError
        Unless they fit each other, confidence is a probability and correctness true or false.

    Examples
    --------
    >>> check_confidence([0.9, 0.4], [True, False], n_bins=15)
    (array([0.9, 0.4]), array([1., 0.]))
    """
    said, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if said.shape != right.shape or said.ndim != 1:
        raise ValueError(
            f"Confidence and correctness have the shapes {said.shape} and {right.shape}. Both must "
            "be (n_cells,). Select the same cells of both."
        )
    if not ((said >= 0) & (said <= 1 + PROBABILITY_TOLERANCE)).all():
        raise ValueError(
            f"Confidence runs from {said.min():.3g} to {said.max():.3g}. It is a probability, "
            "finite and in [0, 1]. Pass probabilities, not logits or percent."
        )
    if not np.isin(right, (0, 1)).all():
        raise ValueError(
            f"Correctness runs from {right.min():.3g} to {right.max():.3g}. A label is right (1) "
            "or not (0). Compare labels with the known ones, and leave out cells without one."
        )
    check_integer("n_bins", n_bins, hint="Use 15 to begin with.")
    return said.clip(max=1.0), right


def mean_confidence(annotation: Annotation) -> float:
    """Return the mean over cells of the probability of the most probable leaf.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> table = pd.DataFrame({"CD4": [0.5], "CD8": [0.25], "B": [0.25]}, index=["a"])
    >>> result = hdi.Annotation.from_probabilities(table, tree)
    >>> mean_confidence(result)
    0.5
    """
    return float(_leaves(annotation).max(axis=1).mean())


def sharpen(annotation: Annotation, power: float) -> Annotation:
    """Raise leaf probabilities to a power, and add up the tree what they become.

    The most probable leaf of every cell stays. A power below 1 makes an annotation less sure, one
    above 1 surer.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> table = pd.DataFrame({"CD4": [0.5], "CD8": [0.25], "B": [0.25]}, index=["a"])
    >>> result = hdi.Annotation.from_probabilities(table, tree)
    >>> round(mean_confidence(sharpen(result, 2.0)), 3)
    0.667
    """
    leaves = _powered(_leaves(annotation), power)
    matrix = annotation.taxonomy.ancestor_matrix.astype(np.float64)
    return replace(annotation, node_probabilities=leaves @ matrix)


def match_mean_confidence(annotation: Annotation, target: float) -> Annotation:
    """Raise leaf probabilities to the one power that makes the :func:`mean_confidence` the target.

    Where no power between 0.05 and 20 does, the nearest of these is taken.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> table = pd.DataFrame({"CD4": [0.5], "CD8": [0.25], "B": [0.25]}, index=["a"])
    >>> result = hdi.Annotation.from_probabilities(table, tree)
    >>> round(mean_confidence(match_mean_confidence(result, 0.8)), 3)
    0.8
    """
    leaves = _leaves(annotation)

    def excess(log_power: float) -> float:
        return float(_powered(leaves, np.exp(log_power)).max(axis=1).mean()) - target

    low, high = np.log(_POWERS)
    if excess(low) >= 0 or excess(high) <= 0:
        return sharpen(annotation, _POWERS[excess(high) <= 0])
    return sharpen(annotation, float(np.exp(brentq(excess, low, high, xtol=1e-6))))


def _leaves(annotation: Annotation) -> np.ndarray:
    return annotation.node_probabilities[:, annotation.taxonomy.leaves].astype(np.float64)


def _powered(leaves: np.ndarray, power: float) -> np.ndarray:
    relative = leaves / leaves.max(axis=1, keepdims=True)  # a high power of all would be 0
    powered: np.ndarray = relative**power
    powered /= powered.sum(axis=1, keepdims=True)
    return powered
