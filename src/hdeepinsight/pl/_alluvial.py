"""From given labels or clusters down the taxonomy to where each cell stops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hdeepinsight.pl._groups import check_any, groups_of, node_groups
from hdeepinsight.pl._style import INK, MISSING, axes_or_new, bare, halo, node_colors
from hdeepinsight.pl._text import plain, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hdeepinsight.annotation import Annotation

__all__ = ["alluvial"]

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
        A label or cluster a cell, ``(n_cells,)``: those of a reference, of another tool, of a
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
        If there is no cell, or not one group a cell.

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
    columns = [_given(result, groups, heading), *_levels(result)]
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


def _given(result: Annotation, groups: Any, heading: str) -> _Column:
    codes, names = groups_of(groups, result.obs_names)
    colors = node_colors(result.taxonomy)
    nodes = {label: node for node, label in enumerate(result.taxonomy.labels)}
    ink = [colors[nodes[name]] if name in nodes else MISSING for name in names]
    return _Column(heading, names, ink, [False] * len(names), codes)


def _levels(result: Annotation) -> list[_Column]:
    """Columns of the levels: the cell's path as far as it goes, then its end."""
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
        ink = [colors[node] for node in nodes]
        columns.append(_Column(level, names, ink, ended, groups.codes))
    return columns


def _places(columns: list[_Column]) -> list[float]:
    """Left edge of every column: names of the first stand before it, of others after them."""
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
