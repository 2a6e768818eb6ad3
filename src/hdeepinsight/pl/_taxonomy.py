"""The tree of cell types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hdeepinsight.annotation import PROBABILITY_TOLERANCE, Annotation
from hdeepinsight.pl import _style
from hdeepinsight.taxonomy import Taxonomy

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

#: Inches of one row, and of one character at the font size used.
_ROW, _CHARACTER = 0.2, 0.07
#: Room for a dot and between two columns, in characters.
_DOT, _GAP = 1.2, 4.0
_FONT = 8.5


def taxonomy(
    taxonomy: Taxonomy | Annotation | Any,
    counts: Mapping[Any, int] | npt.ArrayLike | None = None,
    *,
    confidence: Mapping[Any, float] | npt.ArrayLike | None = None,
    cmap: str = _style.SEQUENTIAL,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a taxonomy from left to right, coarse to fine, each node in the colour of its label.

    Parameters
    ----------
    taxonomy
        The tree; an annotation, for its tree with the cells that it labels and how sure it is; or
        a model, for its tree.
    counts
        Cells labelled exactly at each node: an array ``(n_nodes,)``, or a mapping (also a Series)
        of names, paths or node indices. Shown are the cells at or under each node, as text and as
        the size of the dot. Of an annotation, by default, the cells that stop at each node.
    confidence
        A number from 0 to 1 for each node, in the same forms, for the colour of its dot and as
        text; NaN where there is none. Of an annotation, by default, the mean probability of each
        node over the cells that stop at or under it.
    cmap
        Name of the colour map for `confidence`.
    title
        Heading.
    ax
        Axes to draw on; by default those of a new figure that is large enough to read every name.

    Returns
    -------
    The axes; node ``v`` is drawn by the text ``ax.texts[v - 1]``.

    Raises
    ------
    TypeError
        If it is neither a taxonomy nor something that has one.
    ValueError
        If `counts` or `confidence` has another length than the tree has nodes, or a name that it
        does not have, if a count is no whole number from 0, or a confidence lies outside [0, 1].

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> tax = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> ax = hdi.pl.taxonomy(tax, {"CD4": 1200, "B": 7}, confidence={"T": 0.98, "CD4": 0.9})
    >>> [text.get_text() for text in ax.texts]
    ['T  1,200  0.98', 'B  7', 'CD4  1,200  0.90', 'CD8  0']
    """
    if isinstance(taxonomy, Annotation):
        annotation, taxonomy = taxonomy, taxonomy.taxonomy
        if counts is None:
            counts = np.bincount(annotation.stop_nodes, minlength=taxonomy.n_nodes)
        confidence = _mean_probability(annotation) if confidence is None else confidence
    taxonomy = getattr(taxonomy, "taxonomy", taxonomy)
    if not isinstance(taxonomy, Taxonomy):
        raise TypeError(
            "taxonomy must be a Taxonomy, an Annotation or a model, got "
            f"{type(taxonomy).__name__}. Pass result or model.taxonomy."
        )
    totals = None if counts is None else _totals(taxonomy, counts)
    sure = None if confidence is None else _confidences(taxonomy, confidence)
    texts = list(map(_style.plain, taxonomy.labels[1:]))
    if totals is not None:
        texts = [f"{text}  {n:,}" for text, n in zip(texts, totals[1:], strict=True)]
    if sure is not None:
        shown = [f"  {share:.2f}" if np.isfinite(share) else "" for share in sure[1:]]
        texts = [text + share for text, share in zip(texts, shown, strict=True)]
    starts = _columns(taxonomy, texts)
    x, y = starts[taxonomy.depth], _rows(taxonomy)
    height = taxonomy.n_leaves * _ROW + 0.7
    beside = 0.0 if sure is None else 0.9
    ax = _style.axes_or_new(ax, (max(starts[-1] * _CHARACTER, 2.0) + 0.4 + beside, height))
    _style.bare(ax)
    colors = _style.node_colors(taxonomy)
    _draw_edges(ax, taxonomy, x, y, colors)
    if sure is None:
        ax.scatter(x, y, s=_areas(len(x), totals), c=colors, zorder=3, linewidths=0)
    else:
        _color_dots(ax, x, y, sure, totals, cmap)
    box = {"boxstyle": "square,pad=0.15", "fc": "white", "ec": "none"}
    for node, text in enumerate(texts, start=1):
        color = _style.FAINT if totals is not None and totals[node] == 0 else _style.INK
        ax.text(x[node] + _DOT, y[node], text, va="center", size=_FONT, color=color, bbox=box)
    ax.xaxis.tick_top()
    names = [_style.plain(name) for name in taxonomy.level_names]
    ax.set_xticks(starts[1:-1] + _DOT, names, ha="left", fontsize=_FONT)
    ax.tick_params(length=0, labelcolor=_style.FAINT)
    ax.set(xlim=(-1.5, starts[-1]), ylim=(taxonomy.n_leaves - 0.4, -0.8))
    ax.set_title(title or "", loc="left")
    return ax


def _mean_probability(annotation: Annotation) -> np.ndarray:
    """Average each node's probability over the cells that stop at or under it, ``(n_nodes,)``."""
    n_nodes = annotation.taxonomy.n_nodes
    path = annotation.taxonomy.node_at_level[annotation.stop_nodes]
    rows, levels = np.nonzero(path >= 0)
    nodes = path[rows, levels]
    total = np.bincount(nodes, annotation.node_probabilities[rows, nodes], minlength=n_nodes)
    n_cells = np.bincount(nodes, minlength=n_nodes)
    return np.where(n_cells > 0, total / np.maximum(n_cells, 1), np.nan)


def _totals(taxonomy: Taxonomy, counts: Mapping[Any, int] | npt.ArrayLike) -> np.ndarray:
    """Count the cells at or under each node, int64 ``(n_nodes,)``."""
    exact = _per_node(taxonomy, counts, "counts", otherwise=0)
    if not (np.isfinite(exact) & (exact >= 0) & (exact == np.rint(exact))).all():
        raise ValueError(
            f"The counts run from {exact.min():.3g} to {exact.max():.3g}. They must be whole "
            "numbers of cells >= 0. Pass value_counts(), not shares of cells."
        )
    return taxonomy.roll_up(exact.astype(np.int64))


def _confidences(taxonomy: Taxonomy, confidence: Mapping[Any, float] | npt.ArrayLike) -> np.ndarray:
    values = _per_node(taxonomy, confidence, "confidence", otherwise=np.nan)
    if (values < 0).any() or (values > 1 + PROBABILITY_TOLERANCE).any():
        raise ValueError(
            f"The confidence runs from {np.nanmin(values):.3g} to {np.nanmax(values):.3g}. It is a "
            "probability from 0 to 1, or NaN. Pass probabilities, not logits or percent."
        )
    return values


def _per_node(
    taxonomy: Taxonomy, given: Mapping[Any, float] | npt.ArrayLike, what: str, *, otherwise: float
) -> np.ndarray:
    """Return numbers of all nodes from numbers of some, float64 ``(n_nodes,)``."""
    if isinstance(given, Mapping) or hasattr(given, "items"):
        values = np.full(taxonomy.n_nodes, otherwise, dtype=np.float64)
        for name, value in given.items():
            node = taxonomy.resolve(name) if isinstance(name, str | tuple) else int(name)
            if not 0 <= node < taxonomy.n_nodes:
                raise ValueError(
                    f"The {what} name the node {name!r}. It must be 0 to {taxonomy.n_nodes - 1}, "
                    "a name or a path. Use taxonomy.resolve(name) to get the node of a name."
                )
            values[node] = float(value) + np.nan_to_num(values[node])
        return values
    values = np.array(given, dtype=np.float64)
    if values.shape != (taxonomy.n_nodes,):
        raise ValueError(
            f"The {what} have the shape {values.shape}. One number per node is needed: "
            f"({taxonomy.n_nodes},). Use np.bincount(nodes, minlength=taxonomy.n_nodes)."
        )
    return values


def _columns(taxonomy: Taxonomy, texts: list[str]) -> np.ndarray:
    """Return the left edge of the root's and every level's column, and the right edge."""
    widths = [len(text) for text in texts]
    longest = [
        max(widths[node - 1] for node in np.flatnonzero(taxonomy.depth == depth))
        for depth in range(1, taxonomy.max_depth + 1)
    ]
    return np.cumsum([0.0, _GAP, *(width + _DOT + _GAP for width in longest)])


def _rows(taxonomy: Taxonomy) -> np.ndarray:
    """Return the height of each node: leaves in tree order, a parent amid its children."""
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
    inner = taxonomy.inner_nodes  # what siblings share has the colour of their parent
    bends = x[[taxonomy.children(node)[0] for node in inner]] - _GAP
    ax.hlines(y[inner], x[inner], bends, colors=[colors[v] for v in inner], lw=1.2, zorder=1.5)


def _color_dots(
    ax: Axes, x: np.ndarray, y: np.ndarray, sure: np.ndarray, totals: np.ndarray | None, cmap: str
) -> None:
    """Draw confidence as colour, with a rim, since low confidence is nearly white."""
    import matplotlib as mpl

    rim: dict[str, Any] = {"zorder": 3, "linewidths": 0.5, "edgecolors": _style.INK}
    colors = mpl.colormaps[cmap].with_extremes(bad=_style.MISSING)
    area = _areas(len(x), totals)
    drawn = ax.scatter(x, y, area, sure, cmap=colors, vmin=0.0, vmax=1.0, plotnonfinite=True, **rim)
    ax.figure.colorbar(drawn, ax=ax, label="mean confidence", shrink=0.8, aspect=15, pad=0.02)


def _areas(n_nodes: int, totals: np.ndarray | None) -> np.ndarray:
    """Grow with the square root of the count, so that rare types stay visible."""
    share = np.full(n_nodes, 0.1) if totals is None else totals / max(1, totals[0])
    return np.asarray(8 + 70 * np.sqrt(share))
