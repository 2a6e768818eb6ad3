"""Labels against labels: streams, confusions, and dots of clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hdeepinsight._errors import counted
from hdeepinsight.annotation import Annotation, depth_of_level
from hdeepinsight.pl._style import (
    FAINT,
    INK,
    MISSING,
    SEQUENTIAL,
    add_sizes,
    axes_or_new,
    bare,
    check_any,
    groups_of,
    halo,
    node_colors,
    node_groups,
    plain,
    shortened,
    unique_names,
)
from hdeepinsight.taxonomy import Taxonomy, check_nodes

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes


#: Inches: all cells together, the least room of one name, the gap between two, a block's width,
#: the least width of the stream between two columns, and one character.
_CELLS, _NAME, _GAP, _BLOCK, _STREAM, _CHARACTER = 3.2, 0.165, 0.03, 0.12, 1.1, 0.068


_FONT: Final = 8.0


_LONGEST: Final = 30


@dataclass(frozen=True)
class _Column:
    """Blocks of one column from the top; `codes` says in which block each cell is."""

    heading: str
    names: list[str]
    colors: list[str]
    open: list[bool]
    codes: np.ndarray

    @property
    def heights(self) -> np.ndarray:
        n_cells = np.bincount(self.codes, minlength=len(self.names))
        return np.asarray(_CELLS * n_cells / len(self.codes))

    @property
    def tops(self) -> np.ndarray:
        """Upper edge of every block, in slots that have room for a name; the middle is 0."""
        slots = np.maximum(self.heights, _NAME) + _GAP
        middles = np.cumsum(slots) - slots / 2 - slots.sum() / 2
        return np.asarray(middles - self.heights / 2)

    @property
    def texts(self) -> list[str]:
        n_cells = np.bincount(self.codes, minlength=len(self.names)).tolist()
        named = zip(self.names, n_cells, strict=True)
        return [f"{shortened(name, _LONGEST)}  {n:,}" for name, n in named]

    @property
    def text_width(self) -> float:
        return _CHARACTER * max(map(len, self.texts)) + 0.1


def alluvial(
    result: Annotation,
    groups: Any,
    *,
    heading: str = "given",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how cells of given labels or clusters stream down the taxonomy to where they stop.

    Parameters
    ----------
    result
        The annotation.
    groups
        A label or cluster per cell, ``(n_cells,)``: those of a reference, of another tool, of a
        clustering. Missing ones are a block of their own.
    heading
        Name of the column of groups.
    title
        Heading of the picture.
    ax
        Axes to draw on; by default those of a new figure that is large enough to read every name.

    Returns
    -------
    The axes. The first column holds the groups, each further one a level. A cell follows its path
    as far as its label goes: where that stops above a type, it goes on in a hollow block, so that
    the last column shows every label as it was given. Streams have the colour of the label that
    they lead to, as in :func:`taxonomy`; groups named like a label have its colour, others are
    grey.

    Raises
    ------
    ValueError
        If there is no cell, or not one group per cell.

    Examples
    --------
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> tax = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> p = np.array([[1, 0.9, 0.1, 0.8, 0.1], [1, 0.9, 0.1, 0.5, 0.4], [1, 0.1, 0.9, 0.1, 0]])
    >>> result = hdi.Annotation(
    ...     taxonomy=tax, obs_names=["a", "b", "c"], node_probabilities=p, threshold=0.6
    ... )
    >>> ax = hdi.pl.alluvial(result, ["x", "x", "y"], heading="cluster")
    >>> [text.get_text() for text in ax.texts][-5:]
    ['level_1', 'T (stopped)  1', 'CD4  1', 'B  1', 'level_2']
    """
    check_any(result)
    codes, names = groups_of(groups, result.obs_names)
    ink = [result.colors.get(name, MISSING) for name in names]
    given = _Column(heading, names, ink, [False] * len(names), codes)
    columns = [given, *_levels(result)]
    x = _places(columns)
    top = min(column.tops[0] for column in columns) - 0.3
    bottom = max(column.tops[-1] + max(column.heights[-1], _NAME) for column in columns) + 0.1
    ax = axes_or_new(ax, (x[-1] + columns[-1].text_width + 0.4, bottom - top + 0.5))
    bare(ax)
    for left, right, a, b in zip(columns, columns[1:], x, x[1:], strict=False):
        _draw_streams(ax, left, right, a + _BLOCK, b)
    for i, (column, at) in enumerate(zip(columns, x, strict=True)):
        _draw_blocks(ax, column, at)
        _write_names(ax, column, at, top, first=i == 0)
    ax.set(xlim=(0, x[-1] + _BLOCK + columns[-1].text_width), ylim=(bottom, top - 0.1))
    ax.set_title(title or "", fontsize=10)
    return ax


def _levels(result: Annotation) -> list[_Column]:
    """Return the columns of the levels: the cell's path as far as it goes, then its end."""
    taxonomy, stop = result.taxonomy, result.stop_nodes
    colors, here, columns = node_colors(taxonomy), np.zeros_like(stop), []
    for depth, level in enumerate(taxonomy.level_names, start=1):
        at_level = taxonomy.node_at_level[stop, depth - 1]
        here = np.where(at_level >= 0, at_level, here)
        groups, nodes = node_groups(taxonomy, here)
        ended = [taxonomy.depth[node] < depth and not taxonomy.is_leaf(node) for node in nodes]
        names = [
            f"{name} (stopped)" if over and node else name
            for name, node, over in zip(groups.names, nodes, ended, strict=True)
        ]
        columns.append(_Column(level, names, [colors[node] for node in nodes], ended, groups.codes))
    return columns


def _places(columns: list[_Column]) -> list[float]:
    """Return the left edge of every column: names of the first stand before it, others after."""
    places = [columns[0].text_width]
    for i, _ in enumerate(columns[1:]):
        names = columns[i].text_width if i else 0.0
        places.append(places[-1] + _BLOCK + _STREAM + names)
    return places


def _draw_streams(ax: Axes, left: _Column, right: _Column, start: float, end: float) -> None:
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path

    n_cells = np.zeros((len(left.names), len(right.names)))
    np.add.at(n_cells, (left.codes, right.codes), 1)
    width = _CELLS * n_cells / len(left.codes)
    out = left.tops[:, None] + np.cumsum(width, axis=1) - width
    into = right.tops[None, :] + np.cumsum(width, axis=0) - width
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3]
    middle, paths, inks = (start + end) / 2, [], []
    for i, j in zip(*np.nonzero(n_cells), strict=True):
        a, b, w = out[i, j], into[i, j], width[i, j]
        there = [(start, a), (middle, a), (middle, b), (end, b)]
        back = [(end, b + w), (middle, b + w), (middle, a + w), (start, a + w)]
        paths.append(Path([*there, *back], codes))
        inks.append(right.colors[j])
    ax.add_collection(
        PathCollection(paths, facecolors=inks, edgecolors="none", alpha=0.4, zorder=1)
    )


def _draw_blocks(ax: Axes, column: _Column, x: float) -> None:
    from matplotlib.patches import Rectangle

    blocks = zip(column.tops, column.heights, column.colors, column.open, strict=True)
    for top, height, color, hollow in blocks:
        fill = "white" if hollow else color
        ax.add_patch(Rectangle((x, top), _BLOCK, height, fc=fill, ec=color, lw=1.0, zorder=2))


def _write_names(ax: Axes, column: _Column, x: float, top: float, *, first: bool) -> None:
    at, align = (x - 0.06, "right") if first else (x + _BLOCK + 0.06, "left")
    for middle, text in zip(column.tops + column.heights / 2, column.texts, strict=True):
        written = ax.text(at, middle, text, ha=align, va="center", fontsize=_FONT, c=INK, zorder=3)
        written.set_path_effects(halo(2.0))
    ax.text(
        x + _BLOCK / 2, top, plain(column.heading), ha="center", va="center", weight="bold", size=9
    )


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
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.005 and len(columns) <= _MAX_NUMBERED:
            color = "white" if value > 0.55 else INK
            ax.text(column, row, f"{100 * value:.0f}", ha="center", va="center", c=color, size=7.5)
    ax.figure.colorbar(drawn, ax=ax, label="share of the true type", shrink=0.8)
    if title is None:
        right, n = int((truth == predicted).sum()), counted(len(truth), "cell")
        depth = 0 if level is None else depth_of_level(taxonomy, level)
        where = f"{taxonomy.level_names[depth - 1]}: " if depth else ""
        title = f"{where}{right:,} of {n} right ({right / len(truth):.1%})"
    ax.set_title(title)
    return ax


def _at_level(
    taxonomy: Taxonomy, y_true: npt.ArrayLike, y_pred: npt.ArrayLike, level: int | str | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return nodes to compare, ``(n_kept,)``; a prediction that ends above the level is -1."""
    truth, predicted = check_nodes(taxonomy, y_true, y_pred)
    if level is not None:
        table = taxonomy.node_at_level[:, depth_of_level(taxonomy, level) - 1]
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
        A cluster or given label per cell, ``(n_cells,)``; missing ones are a row of their own.
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
        If there is no cell, not one group per cell, or no such level.

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
    nodes, sure = result.stop_nodes, result.confidence.to_numpy()
    if level is not None:
        at_level = result.taxonomy.node_at_level[:, depth_of_level(result.taxonomy, level) - 1]
        nodes = np.where(at_level >= 0, at_level, np.arange(len(at_level)))[result.leaf_nodes]
        sure = result.node_probabilities[np.arange(len(nodes)), nodes]
    columns, _ = node_groups(result.taxonomy, nodes)
    count, total = np.zeros((2, len(rows.names), len(columns.names)))
    np.add.at(count, (rows.codes, columns.codes), 1)
    np.add.at(total, (rows.codes, columns.codes), sure)
    height = max(_SQUARE * len(rows.names), 1.6) + 1.6
    ax = axes_or_new(ax, (_SQUARE * len(columns.names) + 3.6, height))
    row, column = np.nonzero(count)
    share = count / rows.sizes[:, None]
    look: dict[str, Any] = {"edgecolors": INK, "linewidths": 0.5, "zorder": 2}
    area, sure = _WHOLE * share[row, column], total[row, column] / count[row, column]
    drawn = ax.scatter(column, row, area, sure, cmap=cmap, vmin=0.0, vmax=1.0, **look)
    names = [shortened(name) for name in columns.names]
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(rows.names)), rows.titles)
    ax.set(xlim=(-0.6, len(columns.names) - 0.4), ylim=(len(rows.names) - 0.4, -0.6))
    add_sizes(ax, _WHOLE, "share of cells", bbox_to_anchor=(1.0, 1.02), labelspacing=0.9)
    ax.grid(color="#EEEEEE", lw=0.7, zorder=0)
    ax.set_axisbelow(True)
    ax.set_xlabel("predicted", color=FAINT)
    ax.set_title(title or "", fontsize=10)
    ax.figure.colorbar(
        drawn, ax=ax, label="mean confidence", shrink=0.55, aspect=10, anchor=(0.0, 0.0)
    )
    return ax
