"""How far labels can be trusted: reliability, label sets, and novelty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from scipy.ndimage import gaussian_filter1d

from hdeepinsight._errors import check_choice, check_number
from hdeepinsight.annotation import check_confidence, expected_calibration_error
from hdeepinsight.pl._style import (
    FAINT,
    INK,
    MARK,
    PALETTE,
    Groups,
    axes_or_new,
    groups_of,
    node_groups,
)

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    from hdeepinsight.annotation import Annotation, LabelSets


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
    The axes: one dot per bin at (mean confidence, share right), with its distance to the diagonal
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
    """Return the 95 % interval of a share of `n` cells."""
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return centre - half, centre + half


#: Up to this many bars carry their share in percent.
_MAX_NUMBERED = 12


#: Sizes up to this are on the axis in any case, so that pictures compare.
_LEAST_SHOWN = 5


def label_set_sizes(
    sets: LabelSets,
    holds: npt.ArrayLike | None = None,
    *,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how many types the label sets hold, and which of them hold the truth.

    Parameters
    ----------
    sets
        Conformal label sets, as ``result.label_sets(alpha=0.1)`` gives them.
    holds
        Whether each set holds the cell's true type, ``(n_cells,)``: ``sets.holds(true_nodes)``.
        Then the part of each bar that misses it is drawn in another colour on top.
    title
        Heading; by default the mean size, and the coverage promised and observed.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The axes: one bar per size, its height the share of cells.

    Raises
    ------
    ValueError
        If there is no set, or `holds` has another length.

    Examples
    --------
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> tax = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> p = np.array([[1, 0.9, 0.1, 0.5, 0.4], [1, 0.1, 0.9, 0.1, 0.0]])
    >>> result = hdi.Annotation(taxonomy=tax, obs_names=["a", "b"], node_probabilities=p)
    >>> truth = tax.encode(["CD8", "B"])
    >>> labelled = hdi.annotation.calibrate(result, truth)
    >>> sets = result.label_sets(alpha=0.4, calibration=labelled)
    >>> ax = hdi.pl.label_set_sizes(sets, sets.holds(truth))
    >>> ax.get_title().splitlines()
    ['1.50 types per set', 'coverage promised 60.0%, observed 100.0%']
    """
    size = sets.size.to_numpy()
    if not len(size):
        raise ValueError("There is no label set. At least one is needed. Annotate cells first.")
    widest = max(size.max(), min(_LEAST_SHOWN, sets.taxonomy.n_leaves))
    shown = np.arange(min(size.min(), 1), widest + 1)
    right, every = (
        np.bincount(some - shown[0], minlength=len(shown)) / len(size)
        for some in (size if holds is None else size[_checked(holds, len(size))], size)
    )
    wrong = every - right
    ax = axes_or_new(ax, (min(3.0 + 0.35 * len(shown), 10.0), 3.6))
    ax.bar(shown, right, color=PALETTE[0], label="holds the truth")
    if holds is not None:
        ax.bar(shown, wrong, bottom=right, color=MARK, label="misses it", hatch="///", ec="white")
        ax.legend(frameon=False, fontsize=8.5, loc="upper right")
    if len(shown) <= _MAX_NUMBERED:
        for at, share in zip(shown, right + wrong, strict=True):
            percent = f"{100 * share:.0f}%" if share == 0 or share >= 0.005 else "<1%"
            ax.text(at, share, percent, ha="center", va="bottom", size=8, c=FAINT)
        ax.set_xticks(shown)
    ax.set(xlabel="types in the set", ylabel="share of cells")
    ax.margins(y=0.1)
    ax.spines[["top", "right"]].set_visible(False)
    found = "" if holds is None else f", observed {right.sum():.1%}"
    promised = f"coverage promised {sets.promised_coverage:.1%}{found}"
    heading = f"{size.mean():.2f} types per set\n{promised}" if title is None else title
    ax.set_title(heading, fontsize=10)
    return ax


def _checked(holds: npt.ArrayLike, n_cells: int) -> np.ndarray:
    held = np.asarray(holds)
    if held.shape != (n_cells,) or held.dtype != np.bool_:
        raise ValueError(
            f"`holds` has the shape {held.shape} and the type {held.dtype}. One true or false per "
            f"set is needed: ({n_cells},). Use sets.holds(true_nodes) with the true nodes of the "
            "same cells."
        )
    return held


Measure = Literal["lineage_p_value", "type_p_value", "doublet_score", "ambient_score"]


_NAMES: Final = {
    "lineage_p_value": "p-value of belonging to a known lineage (novel cells to the left)",
    "type_p_value": "p-value of belonging to a known type (novel cells to the left)",
    "doublet_score": "doublet score (two lineages at once to the right)",
    "ambient_score": "ambient score (like the background to the right)",
}


_POINTS: Final = 400


#: Height of the tallest ridge, in rows.
_TALLEST: Final = 1.5


def novelty(
    result: Annotation,
    groups: Any = None,
    *,
    measure: Measure = "lineage_p_value",
    alpha: float = 0.05,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw, label by label, how novel cells are to the reference, as a ridge each.

    Parameters
    ----------
    result
        An annotation that knows novelty: of a model that held cells out in training.
    groups
        A label or cluster per cell, ``(n_cells,)``; by default the labels where cells stop.
    measure
        Column of ``result.novelty``: one of the p-values, which are spread evenly over 0 to 1 for
        cells like the reference, or one of the scores.
    alpha
        Of p-values: the share of each label at or below this is written at its right, and a line
        drawn there.
    title
        Heading.
    ax
        Axes to draw on; by default those of a new figure that is large enough to read every name.

    Returns
    -------
    The axes. Every ridge has the same area; one bandwidth serves all, and a bar marks the median.

    Raises
    ------
    ValueError
        If the annotation knows no novelty or has no cell, there is not one group per cell, or
        `measure` or `alpha` is not valid.

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
    values = _values(result, measure, alpha)
    if groups is None:
        rows, _ = node_groups(result.taxonomy, result.stop_nodes)
    else:
        rows = groups_of(groups, result.obs_names)
    is_p_value = measure.endswith("p_value")
    grid, density = _ridges(values, rows, (0.0, 1.0) if is_p_value else None)
    ax = axes_or_new(ax, (5.6, 0.36 * len(rows.names) + 1.5))
    scale = _TALLEST / density.max()
    for row in range(len(rows.names)):
        own = values[rows.codes == row]
        _draw_ridge(ax, row, grid, density[row] * scale, float(np.median(own)))
        if is_p_value:
            share = f"{np.mean(own <= alpha):.0%} ≤ {alpha:g}"
            ax.text(1.02, row, share, va="bottom", size=8, c=FAINT, clip_on=False)
    if is_p_value:
        ax.axvline(alpha, color=MARK, lw=1, ls="--", zorder=0)
    ax.set_yticks(range(len(rows.names)), rows.titles)
    step = grid[1] - grid[0]
    ax.set(
        xlim=(grid[0] - step / 2, grid[-1] + step / 2),
        ylim=(len(rows.names) - 0.7, -_TALLEST - 0.1),
    )
    ax.set_xlabel(_NAMES[measure])
    ax.tick_params(axis="y", length=0, labelsize=8.5)
    ax.spines[["left", "top", "right"]].set_visible(False)
    ax.set_title(title or "", fontsize=10)
    return ax


def _values(result: Annotation, measure: str, alpha: float) -> np.ndarray:
    check_choice("measure", measure, get_args(Measure), "Omit it to use 'lineage_p_value'.")
    check_number("alpha", alpha, 0, 1, hint="Omit it to use 0.05.")
    if result.novelty is None or not len(result) or measure not in result.novelty:
        found = "has no cell" if not len(result) else f"knows no {measure.replace('_', ' ')}"
        raise ValueError(
            f"The annotation {found}. It must be of cells, by a model that held cells out in "
            "training (validation_size > 0). Train it so, and annotate again."
        )
    return np.asarray(result.novelty[measure], dtype=np.float64)


def _ridges(
    values: np.ndarray, rows: Groups, bounds: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return a grid ``(n_points,)`` and each group's density on it, ``(n_groups, n_points)``."""
    bandwidth = _bandwidth(values, rows)
    low, high = bounds or (values.min() - 4 * bandwidth, values.max() + 4 * bandwidth)
    edges = np.linspace(low, high, _POINTS + 1)
    counts = np.stack(
        [np.histogram(values[rows.codes == row], edges)[0] for row in range(len(rows.names))]
    )
    # Reflected at the ends, so that p-values keep their mass near 0 and 1.
    smooth = gaussian_filter1d(
        counts.astype(np.float64), bandwidth / (edges[1] - edges[0]), axis=1, mode="reflect"
    )
    return (edges[:-1] + edges[1:]) / 2, smooth / counts.sum(axis=1, keepdims=True)


def _bandwidth(values: np.ndarray, rows: Groups) -> float:
    """Apply Silverman's rule to the spread within groups, for a group of median size."""
    medians = np.array([np.median(values[rows.codes == row]) for row in range(len(rows.names))])
    within = values - medians[rows.codes]
    spread = min(within.std(), np.subtract(*np.percentile(within, [75, 25])) / 1.34)
    widest = float(np.ptp(values)) or 1.0
    return float(max(0.9 * spread * np.median(rows.sizes) ** -0.2, 0.01 * widest))


def _draw_ridge(ax: Axes, row: int, grid: np.ndarray, height: np.ndarray, median: float) -> None:
    # Lower rows come in front, so that a ridge stands before the one behind it.
    order = 2 + 2 * row
    base = np.full(len(grid), float(row))
    ax.fill_between(grid, base, row - height, color=PALETTE[0], alpha=0.75, lw=0, zorder=order)
    ax.plot(grid, row - height, color="white", lw=0.8, zorder=order + 1)
    at = float(np.interp(median, grid, height))
    ax.plot([median, median], [row, row - at], color=INK, lw=1.4, zorder=order + 1)
