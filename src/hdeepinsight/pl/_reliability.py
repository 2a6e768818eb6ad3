"""Whether an annotation knows how often it is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hdeepinsight.annotation import check_confidence, expected_calibration_error
from hdeepinsight.pl._style import FAINT, MARK, PALETTE, axes_or_new

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

__all__ = ["reliability"]


def reliability(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    *,
    n_bins: int = 15,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how often labels of a given confidence are right.

    Parameters
    ----------
    confidence
        Probability of the predicted label, ``(n_cells,)``.
    correct
        Whether the label is right, ``(n_cells,)``.
    n_bins
        Bins of equal numbers of cells, at most.
    title
        Heading; by default the expected calibration error of the same bins.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The axes: one dot a bin at (mean confidence, share right), with its distance to the diagonal
    and a 95 % interval (Wilson), above a histogram of confidence in grey.

    Raises
    ------
    ValueError
        If there is no cell, or as in :func:`~hdeepinsight.annotation.expected_calibration_error`.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> ax = hdi.pl.reliability([0.8] * 10, [True] * 7 + [False] * 3)
    >>> ax.get_title()
    'expected calibration error 0.100 (10 cells)'
    """
    confidence, correct = check_confidence(confidence, correct, n_bins)
    if not len(confidence):
        raise ValueError("There is no cell. At least one is needed. Select cells with a label.")
    ax = axes_or_new(ax, (4.4, 4.2))
    ax.plot([0, 1], [0, 1], color=FAINT, lw=1, ls="--", zorder=1)
    height, edges = np.histogram(confidence, bins=20, range=(0, 1))
    ax.bar(edges[:-1], 0.2 * height / height.max(), 0.05, align="edge", color="#DDDDDD", zorder=0)
    n, said, right = _bins(confidence, correct, n_bins)
    low, high = _wilson(right, n)
    ax.vlines(said, low, high, color=PALETTE[0], lw=1.2, alpha=0.6, zorder=2)
    ax.vlines(said, said, right, color=MARK, lw=2.5, alpha=0.5, zorder=2)
    ax.plot(said, right, "o", color=PALETTE[0], ms=5, mec="white", mew=0.6, zorder=3)
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="share of right labels")
    ax.set_aspect("equal")
    error = expected_calibration_error(confidence, correct, n_bins=n_bins)
    by_default = f"expected calibration error {error:.3f} ({len(correct):,} cells)"
    ax.set_title(by_default if title is None else title, fontsize=10)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _bins(
    confidence: np.ndarray, correct: np.ndarray, n_bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count cells and average confidence and correctness in bins of equal numbers of cells."""
    ranked = np.sort(confidence)
    n_bins = min(n_bins, len(ranked))
    # Cells of equal confidence share a bin, as in the expected calibration error.
    index = np.searchsorted(ranked, confidence, side="left") * n_bins // len(ranked)
    n, said, right = (
        np.bincount(index, weights=weights, minlength=n_bins)
        for weights in (None, confidence, correct)
    )
    used = n > 0
    return n[used], said[used] / n[used], right[used] / n[used]


def _wilson(share: np.ndarray, n: np.ndarray, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of a share of `n` cells."""
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return centre - half, centre + half
