"""Plot calibration and novelty scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter1d
from scipy.stats import binomtest

from hdeepinsight._errors import check_choice, check_number
from hdeepinsight._palette import PALETTE
from hdeepinsight.annotation import check_confidence, expected_calibration_error
from hdeepinsight.pl._style import FAINT, INK, MARK, Groups, axes_or_new, groups_of, node_groups

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    from hdeepinsight.annotation import Annotation

Measure = Literal["lineage_p_value", "type_p_value", "doublet_score", "ambient_score"]
_NAMES: Final[dict[str, str]] = {
    "lineage_p_value": "p-value of belonging to a known lineage (novel cells to the left)",
    "type_p_value": "p-value of belonging to a known type (novel cells to the left)",
    "doublet_score": "doublet score (two lineages at once to the right)",
    "ambient_score": "ambient score (background-like cells to the right)",
}
#: Number of points of a ridge, and height of the tallest ridge in rows.
_POINTS, _TALLEST = 400, 1.5


def reliability(
    confidence: npt.ArrayLike,
    correct: npt.ArrayLike,
    *,
    n_bins: int = 15,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot a reliability diagram: the accuracy of labels against their confidence.

    Parameters
    ----------
    confidence
        Probability of the predicted label, ``(n_cells,)``.
    correct
        Whether the label is correct, ``(n_cells,)``.
    n_bins
        Maximum number of bins, which have equal numbers of cells.
    title
        Title; by default the expected calibration error with the same bins.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        One dot per bin at (mean confidence, accuracy), with its distance to the diagonal and a 95 %
        confidence interval (Wilson), over a grey histogram of confidence.

    Raises
    ------
    ValueError
        If there are no cells, or as in
        :func:`~hdeepinsight.annotation.expected_calibration_error`.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> ax = hdi.pl.reliability([0.8] * 10, [True] * 7 + [False] * 3)
    >>> ax.get_title()
    'expected calibration error 0.100 (10 cells)'
    """
    confidence, correct = check_confidence(confidence, correct, n_bins)
    if not len(confidence):
        raise ValueError("There must be at least one cell, got none. Select labelled cells.")
    error = expected_calibration_error(confidence, correct, n_bins=n_bins)
    by_default = f"expected calibration error {error:.3f} ({len(correct):,} cells)"
    ax = axes_or_new(ax, (4.4, 4.2), title=by_default if title is None else title)
    ax.plot([0, 1], [0, 1], color=FAINT, lw=1, ls="--", zorder=1)
    height, edges = np.histogram(confidence, bins=20, range=(0, 1))
    ax.bar(edges[:-1], 0.2 * height / height.max(), 0.05, align="edge", color="#DDDDDD", zorder=0)
    cells = pd.DataFrame({"confidence": confidence, "correct": correct})
    # Cells of equal confidence share a bin, as in the expected calibration error.
    rank = (cells["confidence"].rank(method="min") - 1).astype(int)
    bins = cells.groupby(rank * min(n_bins, len(cells)) // len(cells))
    mean, share = bins.mean().to_numpy().T
    counts = zip(bins["correct"].sum().astype(int), bins.size(), strict=True)
    intervals = [binomtest(k, n).proportion_ci(method="wilson") for k, n in counts]
    ax.vlines(mean, *zip(*intervals, strict=True), color=PALETTE[0], lw=1.2, alpha=0.6, zorder=2)
    ax.vlines(mean, mean, share, color=MARK, lw=2.5, alpha=0.5, zorder=2)
    ax.plot(mean, share, "o", color=PALETTE[0], ms=5, mec="white", mew=0.6, zorder=3)
    ax.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="share of correct labels")
    ax.set_aspect("equal")
    return ax


def novelty(
    result: Annotation,
    groups: Any = None,
    *,
    measure: Measure = "lineage_p_value",
    alpha: float = 0.05,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot the distribution of a novelty score per label as ridges.

    Parameters
    ----------
    result
        Annotation with novelty scores, by a model that was trained with held-out cells.
    groups
        Label or cluster per cell, ``(n_cells,)``; by default the deepest confident labels.
    measure
        Column of ``result.novelty``: one of the p-values, which are uniformly distributed for cells
        that resemble the reference, or one of the scores.
    alpha
        Threshold of p-values, drawn as a line. The fraction of cells at or below it is written on
        the right.
    title
        Title.
    ax
        Axes to draw on; by default those of a new figure of sufficient size for all names.

    Returns
    -------
    matplotlib.axes.Axes
        Ridges of equal area and bandwidth, with bars at the medians.

    Raises
    ------
    ValueError
        If the annotation has no novelty scores or no cells, groups do not match the cells, or
        `measure` or `alpha` is invalid.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> result = hdi.Annotation(
    ...     taxonomy=hdi.Taxonomy.from_nested({"T": [], "B": []}),
    ...     obs_names=["a", "b"],
    ...     node_probabilities=np.array([[1, 0.9, 0.1], [1, 0.2, 0.8]]),
    ...     novelty=pd.DataFrame({"lineage_p_value": [0.6, 0.01]}),
    ... )
    >>> ax = hdi.pl.novelty(result)
    >>> [text.get_text() for text in ax.texts]
    ['0% ≤ 0.05', '100% ≤ 0.05']
    """
    check_choice("measure", measure, _NAMES, "Omit it to use 'lineage_p_value'.")
    check_number("alpha", alpha, 0, 1, hint="Omit it to use 0.05.")
    if result.novelty is None or not len(result) or measure not in result.novelty:
        found = f"no {measure.replace('_', ' ')}" if len(result) else "no cells"
        hint = "Train the model with held-out cells (validation_size > 0), and annotate again."
        raise ValueError(f"The annotation must have novelty scores, got {found}. {hint}")
    values = result.novelty[measure].to_numpy(dtype=np.float64)
    by_label, _ = node_groups(result.taxonomy, result.stop_nodes)
    rows = by_label if groups is None else groups_of(groups, result.obs_names)
    if not (known := np.isfinite(values)).all():  # cells without counts have no scores
        kept, codes = np.unique(rows.codes[known], return_inverse=True)
        rows, values = Groups(codes, [rows.names[code] for code in kept]), values[known]
    is_p_value, n_rows = measure.endswith("p_value"), len(rows.names)
    medians = pd.Series(values).groupby(rows.codes).median().to_numpy()
    edges, density = _ridges(values, rows, medians, (0.0, 1.0) if is_p_value else None)
    grid, height = (edges[:-1] + edges[1:]) / 2, density * _TALLEST / density.max()
    ax = axes_or_new(ax, (5.6, 0.36 * n_rows + 1.5), "rows", title)
    for row, median in enumerate(medians):
        order = 2 + 2 * row  # lower rows are drawn in front
        top = row - height[row]
        ax.fill_between(grid, row, top, color=PALETTE[0], alpha=0.75, lw=0, zorder=order)
        ax.plot(grid, top, color="white", lw=0.8, zorder=order + 1)
        at = float(np.interp(median, grid, top))
        ax.plot([median, median], [row, at], color=INK, lw=1.4, zorder=order + 1)
        if is_p_value:
            share = f"{np.mean(values[rows.codes == row] <= alpha):.0%} ≤ {alpha:g}"
            ax.text(1.02, row, share, va="bottom", size=8, c=FAINT, clip_on=False)
    if is_p_value:
        ax.axvline(alpha, color=MARK, lw=1, ls="--", zorder=0)
    ax.set_yticks(range(n_rows), rows.titles)
    ax.set(xlim=(edges[0], edges[-1]), ylim=(n_rows - 0.7, -_TALLEST - 0.1))
    ax.set_xlabel(_NAMES[measure])
    return ax


def _ridges(
    values: np.ndarray, rows: Groups, medians: np.ndarray, bounds: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges of a grid and the density of each group on it, ``(n_groups, n_points)``."""
    # Silverman's rule with the spread within groups and the median group size.
    within, widest = values - medians[rows.codes], float(np.ptp(values)) or 1.0
    spread = min(within.std(), np.subtract(*np.percentile(within, [75, 25])) / 1.34)
    bandwidth = max(0.9 * spread * np.median(rows.sizes) ** -0.2, 0.01 * widest)
    low, high = bounds or (values.min() - 4 * bandwidth, values.max() + 4 * bandwidth)
    edges = np.linspace(low, high, _POINTS + 1)
    bins = np.arange(len(rows.names) + 1) - 0.5, edges
    counts, *_ = np.histogram2d(rows.codes, values, bins)
    # Reflection at the ends preserves the mass of p-values near 0 and 1.
    smooth = gaussian_filter1d(counts, bandwidth / (edges[1] - edges[0]), axis=1, mode="reflect")
    return edges, smooth / counts.sum(axis=1, keepdims=True)
