"""Whether a confidence of 0.9 is right nine times in ten."""

from __future__ import annotations

import numpy as np


def expected_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, *, n_bins: int = 15
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
