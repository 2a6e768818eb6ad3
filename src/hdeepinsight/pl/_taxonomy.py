"""The tree of cell types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hdeepinsight.pl._style import FAINT, INK, MISSING, axes_or_new, bare, categorical_colors

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    from hdeepinsight.taxonomy import Taxonomy

__all__ = ["taxonomy"]

#: Inches of one row, and of one character at the font size used.
_ROW, _CHARACTER = 0.2, 0.07
#: Room for a dot and between two columns, in characters.
_DOT, _GAP = 1.2, 4.0
_FONT = 8.5


def taxonomy(
    taxonomy: Taxonomy,
    counts: Mapping[Any, int] | npt.ArrayLike | None = None,
    *,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a taxonomy from left to right, coarse to fine, in the colours of its top level.

    Parameters
    ----------
    taxonomy
        The tree.
    counts
        Cells labelled exactly at each node: an array ``(n_nodes,)``, or a mapping (also a Series)
        of names, paths or node indices. Shown are the cells at or under each node, as text and as
        the size of the dot.
    title
        Heading.
    ax
        Axes to draw on; by default those of a new figure that is large enough to read every name.

    Returns
    -------
    The axes; node ``v`` is drawn by the text ``ax.texts[v - 1]``.

    Raises
    ------
    ValueError
        If `counts` has another length than the tree has nodes, or a name that it does not have.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> tax = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> ax = hdi.pl.taxonomy(tax, {"CD4": 1200, "B": 7})
    >>> [text.get_text() for text in ax.texts]
    ['T  1,200', 'B  7', 'CD4  1,200', 'CD8  0']
    """
    totals = None if counts is None else _totals(taxonomy, counts)
    texts = [_text(taxonomy, totals, node) for node in range(1, taxonomy.n_nodes)]
    starts = _columns(taxonomy, texts)
    x, y = starts[taxonomy.depth], _rows(taxonomy)
    height = taxonomy.n_leaves * _ROW + 0.7
    ax = axes_or_new(ax, (max(starts[-1] * _CHARACTER, 2.0) + 0.4, height))
    bare(ax)
    colors = _colors(taxonomy)
    _draw_edges(ax, taxonomy, x, y, colors)
    _draw_dots(ax, x, y, colors, totals)
    for node, text in enumerate(texts, start=1):
        unseen = totals is not None and totals[node] == 0
        ax.text(
            x[node] + _DOT,
            y[node],
            text,
            va="center",
            fontsize=_FONT,
            color=FAINT if unseen else INK,
            bbox={"boxstyle": "square,pad=0.15", "fc": "white", "ec": "none"},
        )
    ax.xaxis.tick_top()
    ax.set_xticks(starts[1:-1] + _DOT, taxonomy.level_names, ha="left", fontsize=_FONT)
    ax.tick_params(length=0, labelcolor=FAINT)
    ax.set(xlim=(-1.5, starts[-1]), ylim=(taxonomy.n_leaves - 0.4, -0.8))
    ax.set_title(title or "", loc="left")
    return ax


def _totals(taxonomy: Taxonomy, counts: Mapping[Any, int] | npt.ArrayLike) -> np.ndarray:
    """Cells at or under each node, int64 ``(n_nodes,)``."""
    if isinstance(counts, Mapping) or hasattr(counts, "items"):
        totals = np.zeros(taxonomy.n_nodes, dtype=np.int64)
        for name, count in counts.items():
            node = taxonomy.resolve(name) if isinstance(name, str | tuple) else int(name)
            totals[node] += int(count)
    else:
        totals = np.array(counts, dtype=np.int64)
    if totals.shape != (taxonomy.n_nodes,):
        raise ValueError(
            f"The counts have the shape {totals.shape}. One number a node is needed: "
            f"({taxonomy.n_nodes},). Use np.bincount(nodes, minlength=taxonomy.n_nodes)."
        )
    return taxonomy.roll_up(totals)


def _text(taxonomy: Taxonomy, totals: np.ndarray | None, node: int) -> str:
    return taxonomy.label(node) + ("" if totals is None else f"  {totals[node]:,}")


def _columns(taxonomy: Taxonomy, texts: list[str]) -> np.ndarray:
    """Left edge of the root's and every level's column, and the right edge, in characters."""
    widths = [len(text) for text in texts]
    longest = [
        max(widths[node - 1] for node in np.flatnonzero(taxonomy.depth == depth))
        for depth in range(1, taxonomy.max_depth + 1)
    ]
    return np.cumsum([0.0, _GAP, *(width + _DOT + _GAP for width in longest)])


def _rows(taxonomy: Taxonomy) -> np.ndarray:
    """Height of each node: leaves in tree order, a parent in the middle of its children."""
    y = np.zeros(taxonomy.n_nodes)
    row = 0
    stack = [0]
    while stack:
        node = stack.pop()
        if taxonomy.is_leaf(node):
            y[node], row = row, row + 1
        stack.extend(reversed(taxonomy.children(node).tolist()))
    for node in range(taxonomy.n_nodes - 1, -1, -1):
        if not taxonomy.is_leaf(node):
            children = taxonomy.children(node)
            y[node] = (y[children[0]] + y[children[-1]]) / 2
    return y


def _colors(taxonomy: Taxonomy) -> list[str]:
    """Each node in the colour of its ancestor at the top level; the root grey."""
    top = taxonomy.children(0).tolist()
    palette = dict(zip(top, categorical_colors(len(top)), strict=True))
    return [MISSING, *(palette[taxonomy.at_level(v, 1)] for v in range(1, taxonomy.n_nodes))]


def _draw_edges(
    ax: Axes, taxonomy: Taxonomy, x: np.ndarray, y: np.ndarray, colors: list[str]
) -> None:
    """Draw each edge flat under the parent's name, then as an S to the child."""
    from matplotlib.collections import PathCollection
    from matplotlib.path import Path

    codes = [Path.MOVETO, Path.LINETO, Path.CURVE4, Path.CURVE4, Path.CURVE4]
    paths = []
    for node in range(1, taxonomy.n_nodes):
        parent = taxonomy.parent[node]
        bend, middle = x[node] - _GAP, x[node] - _GAP / 2
        corners = [(x[parent], y[parent]), (bend, y[parent]), (middle, y[parent])]
        paths.append(Path([*corners, (middle, y[node]), (x[node], y[node])], codes))
    ax.add_collection(
        PathCollection(paths, facecolors="none", edgecolors=colors[1:], linewidths=1.0, zorder=1)
    )


def _draw_dots(
    ax: Axes, x: np.ndarray, y: np.ndarray, colors: list[str], totals: np.ndarray | None
) -> None:
    """Area grows with the square root of the count, so that rare types stay visible."""
    share = np.full(len(x), 0.1) if totals is None else totals / max(1, totals[0])
    ax.scatter(x, y, s=8 + 70 * np.sqrt(share), c=colors, zorder=3, linewidths=0)
