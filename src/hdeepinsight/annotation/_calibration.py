"""Whether a confidence of 0.9 is right nine times in ten."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hdeepinsight._errors import check_integer

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
    return binned_error(*check_confidence(confidence, correct, n_bins), n_bins)


def binned_error(confidence: np.ndarray, correct: np.ndarray, n_bins: int = 15) -> float:
    """Do as `expected_calibration_error`, without a look at what is passed."""
    confidence = np.asarray(confidence, dtype=np.float64)
    correct = np.asarray(correct, dtype=np.float64)
    if len(confidence) == 0:
        return float("nan")
    order = np.argsort(confidence)
    ranked = confidence[order]
    n_cells = len(ranked)
    lowest_rank = np.searchsorted(ranked, ranked, side="left")
    bins = lowest_rank * min(n_bins, n_cells) // n_cells
    gaps = np.bincount(bins, weights=ranked - correct[order])
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
