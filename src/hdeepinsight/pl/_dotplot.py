"""What the cells of each cluster are called, and how surely."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hdeepinsight.annotation import depth_of_level
from hdeepinsight.pl._groups import check_any, groups_of, node_groups
from hdeepinsight.pl._style import FAINT, INK, SEQUENTIAL, axes_or_new
from hdeepinsight.pl._text import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hdeepinsight.annotation import Annotation

__all__ = ["dotplot"]

#: Area of the dot of a whole cluster, in square points, and side of its square, in inches.
_WHOLE: Final = 170.0
_SQUARE: Final = 0.27


def dotplot(
    result: Annotation,
    groups: Any,
    *,
    level: int | str | None = None,
    cmap: str = SEQUENTIAL,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw which labels the cells of each cluster got: size is their share, colour confidence.

    Parameters
    ----------
    result
        The annotation.
    groups
        A cluster or given label a cell, ``(n_cells,)``; missing ones are a row of their own.
    level
        Level of the labels, by depth or name, and the probability there; by default the labels
        where cells stop, and their confidence. Leaves above the level stand for themselves.
    cmap
        Name of the colour map; the scale goes from 0 to 1.
    title
        Heading.
    ax
        Axes to draw on; by default those of a new figure that is large enough to read every name.

    Returns
    -------
    The axes. Rows are clusters with their numbers of cells; columns are labels in the order of the
    tree, ``"Unknown"`` last. Shares of a row add up to one.

    Raises
    ------
    ValueError
        If there is no cell, not one group a cell, or no such level.

    Examples
    --------
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> tax = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> p = np.array([[1, 0.9, 0.1, 0.8, 0.1], [1, 0.9, 0.1, 0.1, 0.8], [1, 0.1, 0.9, 0.1, 0]])
    >>> result = hdi.Annotation(taxonomy=tax, obs_names=["a", "b", "c"], node_probabilities=p)
    >>> ax = hdi.pl.dotplot(result, ["0", "0", "1"])
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['CD4', 'CD8', 'B']
    """
    rows = groups_of(groups, result.obs_names)
    check_any(result)
    nodes, sure = _called(result, level)
    columns, _ = node_groups(result.taxonomy, nodes)
    count, mean = _shares(rows.codes, columns.codes, sure)
    height = max(_SQUARE * len(rows.names), 1.6) + 1.6
    ax = axes_or_new(ax, (_SQUARE * len(columns.names) + 3.6, height))
    row, column = np.nonzero(count)
    share = count / rows.sizes[:, None]
    drawn = ax.scatter(
        column,
        row,
        s=_WHOLE * share[row, column],
        c=mean[row, column],
        cmap=cmap,
        vmin=0.0,
        vmax=1.0,
        edgecolors=INK,
        linewidths=0.5,
        zorder=2,
    )
    names = [shortened(name) for name in columns.names]
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows.names)), rows.titles)
    ax.set(xlim=(-0.6, len(columns.names) - 0.4), ylim=(len(rows.names) - 0.4, -0.6))
    _finish(ax, title)
    ax.figure.colorbar(
        drawn, ax=ax, label="mean confidence", shrink=0.55, aspect=10, anchor=(0.0, 0.0)
    )
    return ax


def _called(result: Annotation, level: int | str | None) -> tuple[np.ndarray, np.ndarray]:
    """Node and confidence of every cell, ``(n_cells,)``."""
    if level is None:
        return result.stop_nodes, result.confidence.to_numpy()
    at_level = result.taxonomy.node_at_level[:, depth_of_level(result.taxonomy, level) - 1]
    nodes = np.where(at_level >= 0, at_level, np.arange(len(at_level)))[result.leaf_nodes]
    return nodes, result.node_probabilities[np.arange(len(nodes)), nodes]


def _shares(row: np.ndarray, column: np.ndarray, sure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells and mean confidence of every dot, ``(n_groups, n_labels)``."""
    shape = (int(row.max()) + 1, int(column.max()) + 1)
    count, total = np.zeros(shape), np.zeros(shape)
    np.add.at(count, (row, column), 1)
    np.add.at(total, (row, column), sure)
    return count, total / np.maximum(count, 1)


def _finish(ax: Axes, title: str | None) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], ls="", marker="o", mfc="white", mec=INK, mew=0.5, label=f"{share:.0%}")
        for share in (0.1, 0.5, 1.0)
    ]
    for handle, share in zip(handles, (0.1, 0.5, 1.0), strict=True):
        handle.set_markersize(float(np.sqrt(_WHOLE * share)))
    ax.legend(
        handles=handles,
        title="share of cells",
        loc="upper left",
        bbox_to_anchor=(1.0, 1.02),
        frameon=False,
        fontsize=8,
        title_fontsize=8,
        labelspacing=0.9,
        alignment="left",
    )
    ax.grid(color="#EEEEEE", lw=0.7, zorder=0)
    ax.set_axisbelow(True)
    ax.tick_params(length=0, labelsize=8.5)
    ax.spines[:].set_color("#CCCCCC")
    ax.set_xlabel("predicted", color=FAINT)
    ax.set_title(title or "", fontsize=10)
