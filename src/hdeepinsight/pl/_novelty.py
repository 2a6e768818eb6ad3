"""How strange the cells of each label are to the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from hdeepinsight.pl._groups import Groups, groups_of, node_groups
from hdeepinsight.pl._style import FAINT, INK, MARK, PALETTE, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hdeepinsight.annotation import Annotation

__all__ = ["novelty"]

Measure = Literal["score", "p_value", "lineage_p_value"]
_NAMES: Final = {
    "score": "novelty score (stranger cells to the right)",
    "p_value": "novelty p-value (stranger cells to the left)",
    "lineage_p_value": "p-value of not being of any lineage",
}
_POINTS: Final = 400
#: Height of the tallest ridge, in rows.
_TALLEST: Final = 1.5


def novelty(
    result: Annotation,
    groups: Any = None,
    *,
    measure: Measure = "score",
    alpha: float = 0.05,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw, label by label, how strange cells are to the reference, as a ridge each.

    Parameters
    ----------
    result
        An annotation that knows novelty: of a model that held cells out in training.
    groups
        A label or cluster a cell, ``(n_cells,)``; by default the labels where cells stop.
    measure
        ``"score"``, or one of the p-values, which are spread evenly over 0 to 1 for cells like
        the reference.
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
        If the annotation knows no novelty or has no cell, there is not one group a cell, or
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
    ...     novelty=pd.DataFrame({"score": [0.1, 2.0], "p_value": [0.6, 0.01]}),
    ... )
    >>> ax = hdi.pl.novelty(result, measure="p_value")
    >>> [text.get_text() for text in ax.texts]
    ['0% ≤ 0.05', '100% ≤ 0.05']
    """
    values = _values(result, measure, alpha)
    if groups is None:
        rows, _ = node_groups(result.taxonomy, result.stop_nodes)
    else:
        rows = groups_of(groups, result.obs_names)
    grid, density = _ridges(values, rows, (0.0, 1.0) if measure != "score" else None)
    ax = axes_or_new(ax, (5.6, 0.36 * len(rows.names) + 1.5))
    scale = _TALLEST / density.max()
    for row in range(len(rows.names)):
        own = values[rows.codes == row]
        _draw_ridge(ax, row, grid, density[row] * scale, float(np.median(own)))
        if measure != "score":
            share = f"{np.mean(own <= alpha):.0%} ≤ {alpha:g}"
            ax.text(1.02, row, share, va="bottom", size=8, c=FAINT, clip_on=False)
    if measure != "score":
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
    if measure not in get_args(Measure) or not 0.0 <= alpha <= 1.0:
        raise ValueError(
            f"Found measure={measure!r}, alpha={alpha}. Valid are {get_args(Measure)} and a share "
            "from 0 to 1. Use 'score' to begin with."
        )
    if result.novelty is None or not len(result):
        found = "has no cell" if result.novelty is not None else "knows nothing about novelty"
        raise ValueError(
            f"The annotation {found}. Valid are annotations of cells by a model that held cells "
            "out in training (validation_size > 0). Train it so, and annotate again."
        )
    return np.asarray(result.novelty[measure], dtype=np.float64)


def _ridges(
    values: np.ndarray, rows: Groups, bounds: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Grid ``(n_points,)`` and density of every group on it, ``(n_groups, n_points)``."""
    from scipy.ndimage import gaussian_filter1d

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
    """Silverman's rule on the spread within groups, for a group of median size."""
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
