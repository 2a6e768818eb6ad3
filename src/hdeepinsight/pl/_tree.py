"""Plot taxonomies, and alluvial diagrams of cells along a taxonomy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hdeepinsight._palette import MISSING, tree_colors
from hdeepinsight.annotation import PROBABILITY_TOLERANCE, Annotation
from hdeepinsight.pl import _style
from hdeepinsight.taxonomy import Taxonomy

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

#: Height of a row and width of a character in inches, and font size.
_ROW, _CHARACTER, _FONT = 0.2, 0.07, 8.5
#: Width of a dot, and distance between columns, in characters.
_DOT, _GAP = 1.2, 4.0
#: Alluvial diagram, in inches: total height of the cells, minimum height of a name, distance
#: between blocks, width of a block, and minimum width of the streams between two columns.
_CELLS, _NAME, _SPACE, _BLOCK, _STREAM = 3.2, 0.165, 0.03, 0.12, 1.1


def taxonomy(
    taxonomy: Taxonomy | Annotation | Any,
    counts: Mapping[Any, int] | npt.ArrayLike | None = None,
    *,
    confidence: Mapping[Any, float] | npt.ArrayLike | None = None,
    cmap: str = _style.SEQUENTIAL,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot a taxonomy from coarse (left) to fine (right), with numbers of cells and confidence.

    Parameters
    ----------
    taxonomy
        Taxonomy, a model with a taxonomy, or an annotation, whose counts and confidence are then
        shown by default.
    counts
        Number of cells labelled exactly at each node: an array ``(n_nodes,)``, or a mapping (or
        Series) from names, paths or node indices. Sums at or below each node are shown as text and
        as the size of the dot.
    confidence
        Number from 0 to 1 for each node, in the same forms, shown as text and as the colour of the
        dot; NaN if unknown. The default for an annotation is the mean probability of each node over
        the cells labelled at or below it.
    cmap
        Name of the colour map for `confidence`.
    title
        Title.
    ax
        Axes to draw on; by default those of a new figure of sufficient size for all names.

    Returns
    -------
    matplotlib.axes.Axes
        The axes; the text of node ``v`` is ``ax.texts[v - 1]``.

    Raises
    ------
    TypeError
        If `taxonomy` neither is nor has a taxonomy.
    ValueError
        If `counts` or `confidence` has the wrong length or unknown names, a count is not an integer
        >= 0, or a confidence is outside [0, 1].

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> tax = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> ax = hdi.pl.taxonomy(tax, {"CD4": 1200, "B": 7}, confidence={"T": 0.98, "CD4": 0.9})
    >>> [text.get_text() for text in ax.texts]
    ['T  1,200  0.98', 'B  7', 'CD4  1,200  0.90', 'CD8  0']
    """
    if isinstance(taxonomy, Annotation):
        stops, n_nodes = taxonomy.stop_nodes, taxonomy.taxonomy.n_nodes
        counts = np.bincount(stops, minlength=n_nodes) if counts is None else counts
        confidence = _mean_probability(taxonomy) if confidence is None else confidence
    tree = getattr(taxonomy, "taxonomy", taxonomy)
    if not isinstance(tree, Taxonomy):
        found = f"{type(tree).__name__}. Pass result or model.taxonomy."
        raise TypeError(f"taxonomy must be a Taxonomy, an Annotation or a model, got {found}")
    by_label = tree_colors(tree.labels, tree.parent)
    colors = [MISSING, *(by_label[label] for label in tree.labels[1:])]
    texts, ink = pd.Series(map(_style.plain, tree.labels)), [_style.INK] * tree.n_nodes
    area = np.full(tree.n_nodes, 30.0)
    dots: dict[str, Any] = {"c": colors, "linewidths": 0}
    if counts is not None:
        exact = tree.per_node(counts, "counts")
        if not (np.isfinite(exact) & (exact >= 0) & (exact == np.rint(exact))).all():
            found = f"numbers from {exact.min():.3g} to {exact.max():.3g}"
            hint = "Pass value_counts(), not fractions of cells."
            raise ValueError(f"counts must be integers >= 0, got {found}. {hint}")
        totals = tree.roll_up(exact.astype(np.int64))  # cells at or below each node
        texts += [f"  {n:,}" for n in totals]
        ink = [_style.INK if n else _style.FAINT for n in totals]
        # The square root of the count keeps rare types visible.
        area = 8 + 70 * np.sqrt(totals / max(1, totals[0]))
    if confidence is not None:
        sure = tree.per_node(confidence, "confidence", otherwise=np.nan)
        if (sure < 0).any() or (sure > 1 + PROBABILITY_TOLERANCE).any():
            found = f"numbers from {np.nanmin(sure):.3g} to {np.nanmax(sure):.3g}"
            hint = "Pass probabilities, not logits or percentages."
            raise ValueError(f"confidence must be from 0 to 1, or NaN, got {found}. {hint}")
        texts += [f"  {value:.2f}" if np.isfinite(value) else "" for value in sure]
        dots = _style.color_scale(sure, cmap) | {"linewidths": 0.5, "edgecolors": _style.INK}
    # Left edges of the columns of the root and of each level, and the right edge of the last.
    longest = texts.str.len().groupby(tree.depth).max()[1:]
    starts = np.cumsum([0.0, _GAP, *(longest + _DOT + _GAP)])
    x, y = starts[tree.depth], np.zeros(tree.n_nodes)
    y[_style.in_tree_order(tree, tree.leaves.tolist())] = np.arange(tree.n_leaves)
    for node in reversed(tree.inner_nodes):
        y[node] = y[tree.children(node)[[0, -1]]].mean()  # in the middle of its children
    width = max(starts[-1] * _CHARACTER, 2.0) + (0.4 if confidence is None else 1.3)
    ax = _style.axes_or_new(ax, (width, tree.n_leaves * _ROW + 0.7), "bare", title)
    _draw_edges(ax, tree, x, y, colors)
    drawn = ax.scatter(x, y, s=area, zorder=3, **dots)
    if confidence is not None:
        bar: dict[str, Any] = {"shrink": 0.8, "aspect": 15, "pad": 0.02}
        ax.figure.colorbar(drawn, ax=ax, label="mean confidence", **bar)
    look: dict[str, Any] = {"va": "center", "size": _FONT}
    look["bbox"] = {"boxstyle": "square,pad=0.15", "fc": "white", "ec": "none"}
    for node in range(1, tree.n_nodes):
        ax.text(x[node] + _DOT, y[node], texts[node], color=ink[node], **look)
    ax.xaxis.tick_top()
    names = list(map(_style.plain, tree.level_names))
    ax.set_xticks(starts[1:-1] + _DOT, names, ha="left", fontsize=_FONT)
    ax.tick_params(length=0, labelcolor=_style.FAINT)
    ax.set(xlim=(-1.5, starts[-1]), ylim=(tree.n_leaves - 0.4, -0.8))
    return ax


def _mean_probability(annotation: Annotation) -> np.ndarray:
    """Compute the mean probability of each node over the cells at or below it, ``(n_nodes,)``."""
    n_nodes = annotation.taxonomy.n_nodes
    path = annotation.taxonomy.node_at_level[annotation.stop_nodes]
    rows, levels = np.nonzero(path >= 0)
    nodes = path[rows, levels]
    total = np.bincount(nodes, annotation.node_probabilities[rows, nodes], minlength=n_nodes)
    n_cells = np.bincount(nodes, minlength=n_nodes)
    return np.where(n_cells > 0, total / np.maximum(n_cells, 1), np.nan)


def _draw_edges(ax: Axes, tree: Taxonomy, x: np.ndarray, y: np.ndarray, colors: list[str]) -> None:
    """Draw each edge as a horizontal line from the parent, followed by a curve to the child."""
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path

    codes = [Path.MOVETO, Path.LINETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    paths = []
    for node in range(1, tree.n_nodes):
        parent = tree.parent[node]
        bend, middle = x[node] - _GAP, x[node] - _GAP / 2
        corners = [(x[parent], y[parent]), (bend, y[parent]), (middle, y[parent])]
        paths.append(Path([*corners, (middle, y[node]), (x[node], y[node])], codes))
    look: dict[str, Any] = {"facecolors": "none", "edgecolors": colors[1:], "linewidths": 1.0}
    ax.add_collection(PathCollection(paths, zorder=1, **look))
    inner = tree.inner_nodes  # the common part of sibling edges has the colour of the parent
    bends = x[[tree.children(node)[0] for node in inner]] - _GAP
    ax.hlines(y[inner], x[inner], bends, colors=[colors[v] for v in inner], lw=1.2, zorder=1.5)


class _Column:
    """Column of an alluvial diagram, from top to bottom; `codes` are the blocks of the cells."""

    def __init__(
        self, heading: str, names: list[str], colors: list[str], hollow: list[bool], codes: Any
    ) -> None:
        n_cells = np.bincount(codes, minlength=len(names))
        self.heading, self.colors, self.hollow, self.codes = heading, colors, hollow, codes
        self.heights = _CELLS * n_cells / len(codes)
        # Each block has a slot that is high enough for its name; the column is centred at 0.
        slots = np.maximum(self.heights, _NAME) + _SPACE
        self.tops = np.cumsum(slots) - slots / 2 - slots.sum() / 2 - self.heights / 2
        named = zip(names, n_cells.tolist(), strict=True)
        self.texts = [f"{_style.shortened(name, 30)}  {n:,}" for name, n in named]
        self.text_width = _CHARACTER * max(map(len, self.texts)) + 0.1

    def draw(self, ax: Axes, x: float, top: float, *, names_before: bool) -> None:
        """Draw the blocks with their left edges at `x`, their names, and the title at the top."""
        from matplotlib.patches import Rectangle

        at, align = (x - 0.06, "right") if names_before else (x + _BLOCK + 0.06, "left")
        blocks = zip(self.tops, self.heights, self.colors, self.hollow, self.texts, strict=True)
        for start, height, color, hollow, text in blocks:
            fill = "white" if hollow else color
            ax.add_patch(Rectangle((x, start), _BLOCK, height, fc=fill, ec=color, lw=1, zorder=2))
            look: dict[str, Any] = {"va": "center", "fontsize": 8, "c": _style.INK, "zorder": 3}
            _style.add_halo(ax.text(at, start + height / 2, text, ha=align, **look), 2.0)
        look = {"ha": "center", "va": "center", "weight": "bold", "size": 9}
        ax.text(x + _BLOCK / 2, top, _style.plain(self.heading), **look)


def alluvial(
    result: Annotation,
    groups: Any,
    *,
    heading: str = "given",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot an alluvial diagram from given labels or clusters to the levels of an annotation.

    Parameters
    ----------
    result
        Annotation.
    groups
        Label or cluster per cell, ``(n_cells,)``, such as reference labels, labels of another tool,
        or clusters. Missing ones form a separate block.
    heading
        Name of the column of groups.
    title
        Title of the figure.
    ax
        Axes to draw on; by default those of a new figure of sufficient size for all names.

    Returns
    -------
    matplotlib.axes.Axes
        The first column contains the groups, and each further column a level. Cells labelled at an
        inner node continue in a hollow block, so that the last column shows all labels. Streams
        have the colour of the label that they lead to, as in :func:`taxonomy`. Groups with the name
        of a label have its colour, other groups are grey.

    Raises
    ------
    ValueError
        If there are no cells, or groups do not match the cells.

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
    codes, names = _style.groups_of(groups, result.obs_names)
    colors = [result.colors.get(name, MISSING) for name in names]
    columns = [_Column(heading, names, colors, [False] * len(names), codes)]
    tree, here = result.taxonomy, np.zeros_like(result.stop_nodes)
    for depth, level in enumerate(tree.level_names, start=1):
        at_level = tree.node_at_level[result.stop_nodes, depth - 1]
        here = np.where(at_level >= 0, at_level, here)  # the node at this level, else the last one
        (codes, names), nodes = _style.node_groups(tree, here)
        ended = [tree.depth[node] < depth and not tree.is_leaf(node) for node in nodes]
        colors = [result.colors.get(tree.label(node), MISSING) for node in nodes]
        blocks = zip(names, nodes, ended, strict=True)
        names = [f"{name} (stopped)" if over and node else name for name, node, over in blocks]
        columns.append(_Column(level, names, colors, ended, codes))
    # Names are on the left of the first column, and on the right of the others.
    room = [0.0, *(column.text_width for column in columns[1:-1])]
    x = columns[0].text_width + np.cumsum([0.0, *(_BLOCK + _STREAM + width for width in room)])
    top = min(column.tops[0] for column in columns) - 0.3
    bottom = max(column.tops[-1] + max(column.heights[-1], _NAME) for column in columns) + 0.1
    right = x[-1] + columns[-1].text_width
    ax = _style.axes_or_new(ax, (right + 0.4, bottom - top + 0.5), "bare", title)
    for left, column, a, b in zip(columns, columns[1:], x, x[1:], strict=False):
        _draw_streams(ax, left, column, a + _BLOCK, b)
    for i, column in enumerate(columns):
        column.draw(ax, x[i], top, names_before=i == 0)
    ax.set(xlim=(0, right + _BLOCK), ylim=(bottom, top - 0.1))
    return ax


def _draw_streams(ax: Axes, left: _Column, right: _Column, start: float, end: float) -> None:
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path

    n_cells = np.zeros((len(left.texts), len(right.texts)))
    np.add.at(n_cells, (left.codes, right.codes), 1)
    width = _CELLS * n_cells / len(left.codes)
    out = left.tops[:, None] + np.cumsum(width, axis=1) - width
    into = right.tops[None, :] + np.cumsum(width, axis=0) - width
    codes = [Path.MOVETO, *[Path.CURVE4] * 3, Path.LINETO, *[Path.CURVE4] * 3]
    middle, paths, fill = (start + end) / 2, [], []
    for i, j in zip(*np.nonzero(n_cells), strict=True):
        a, b, w = out[i, j], into[i, j], width[i, j]
        there = [(start, a), (middle, a), (middle, b), (end, b)]
        back = [(end, b + w), (middle, b + w), (middle, a + w), (start, a + w)]
        paths.append(Path([*there, *back], codes))
        fill.append(right.colors[j])
    ax.add_collection(
        PathCollection(paths, facecolors=fill, edgecolors="none", alpha=0.4, zorder=1)
    )
