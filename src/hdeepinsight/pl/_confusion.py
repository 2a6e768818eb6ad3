"""Which types are taken for which."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hdeepinsight.annotation import depth_of_level
from hdeepinsight.pl._groups import unique_names
from hdeepinsight.pl._style import FAINT, INK, axes_or_new
from hdeepinsight.pl._text import shortened
from hdeepinsight.taxonomy import check_nodes

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    from hdeepinsight.taxonomy import Taxonomy

__all__ = ["confusion"]

STOPPED = "stopped above"
#: Beyond this many columns the squares are too small for numbers.
_MAX_NUMBERED = 22


def confusion(
    taxonomy: Taxonomy,
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    *,
    level: int | str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw which types are taken for which, as shares of each true type.

    Parameters
    ----------
    taxonomy
        The tree that both refer to.
    y_true, y_pred
        Nodes ``(n_cells,)``.
    level
        Level at which to compare, by depth or name. Cells whose true label ends above it are left
        out; predictions that end above it are counted in a column of their own. By default, nodes
        are compared as they are.
    title
        Heading; by default the level and the accuracy.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The axes. Rows are the true types with their numbers of cells, in the order of the tree; columns
    are the same types, then further ones that were predicted. Squares hold percent of the row.

    Raises
    ------
    ValueError
        If the arrays differ in length or hold no nodes of this taxonomy, there is no such level,
        or no cell has a true label at it.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> tax = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> truth, predicted = tax.encode(["CD4", "CD8", "B"]), tax.encode(["CD4", "CD4", "B"])
    >>> ax = hdi.pl.confusion(tax, truth, predicted, level=2)
    >>> ax.get_title()
    'level_2: 1 of 2 cells right (50.0%)'
    """
    truth, predicted = _at_level(taxonomy, y_true, y_pred, level)
    rows, columns = _shown_nodes(taxonomy, truth, predicted)
    position = {node: i for i, node in enumerate(columns)}
    counts = np.zeros((len(rows), len(columns)), dtype=np.int64)
    for true, said in zip(truth.tolist(), predicted.tolist(), strict=True):
        counts[position[true], position[said]] += 1
    share = counts / counts.sum(axis=1, keepdims=True)
    ax = axes_or_new(ax, (0.36 * len(columns) + 3.4, 0.34 * len(rows) + 2.0))
    drawn = ax.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    _name_axes(ax, taxonomy, columns, counts)
    if len(columns) <= _MAX_NUMBERED:
        _write_percent(ax, share)
    ax.figure.colorbar(drawn, ax=ax, label="share of the true type", shrink=0.8)
    ax.set_title(_heading(taxonomy, level, truth, predicted) if title is None else title)
    return ax


def _at_level(
    taxonomy: Taxonomy, y_true: npt.ArrayLike, y_pred: npt.ArrayLike, level: int | str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes to compare, ``(n_kept,)``; a prediction that ends above the level is -1."""
    truth, predicted = check_nodes(taxonomy, y_true, y_pred)
    if level is not None:
        column = depth_of_level(taxonomy, level) - 1
        table = taxonomy.node_at_level[:, column]
        truth, predicted = table[truth], table[predicted]
    keep = truth >= 0
    if not keep.any():
        raise ValueError(
            "No cell has a true label at this level. At least one is needed. "
            "Choose a level nearer to the root, or check the labels."
        )
    return truth[keep], predicted[keep]


def _shown_nodes(
    taxonomy: Taxonomy, truth: np.ndarray, predicted: np.ndarray
) -> tuple[list[int], list[int]]:
    """Put true types in tree order, and the same before other predicted ones, -1 last."""

    def in_tree_order(nodes: set[int]) -> list[int]:
        return sorted(nodes, key=lambda node: taxonomy.ancestors(node).tolist())

    rows = in_tree_order(set(truth.tolist()))
    others = in_tree_order(set(predicted.tolist()) - set(rows) - {-1})
    return rows, [*rows, *others, *([-1] if (predicted < 0).any() else [])]


def _name_axes(ax: Axes, taxonomy: Taxonomy, columns: list[int], counts: np.ndarray) -> None:
    names = [shortened(name) for name in unique_names(taxonomy, columns, {-1: STOPPED})]
    totals = counts.sum(axis=1).tolist()
    labels = [f"{name}  ({n:,})" for name, n in zip(names, totals, strict=False)]
    ax.set_yticks(range(len(totals)), labels)
    ax.set_xticks(range(len(columns)), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.tick_params(length=0, labelsize=8.5)
    ax.set(xlabel="predicted", ylabel="true (cells)")
    ax.spines[:].set_color("#CCCCCC")
    if len(columns) > len(totals):
        ax.axvline(len(totals) - 0.5, color=FAINT, lw=1)


def _write_percent(ax: Axes, share: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.005:
            color = "white" if value > 0.55 else INK
            ax.text(column, row, f"{100 * value:.0f}", ha="center", va="center", c=color, size=7.5)


def _heading(
    taxonomy: Taxonomy, level: int | str | None, truth: np.ndarray, predicted: np.ndarray
) -> str:
    right, n = int((truth == predicted).sum()), len(truth)
    where = "" if level is None else f"{taxonomy.level_names[taxonomy.level_depth(level) - 1]}: "
    return f"{where}{right:,} of {n:,} cells right ({right / n:.1%})"
