"""Plot taxonomies with numbers of cells and confidence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hdeepinsight._errors import refuse_unused
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
    unused = cmap != "magma_r" and confidence is None and not isinstance(taxonomy, Annotation)
    refuse_unused({"cmap": unused}, "without confidence")
    if isinstance(taxonomy, Annotation):
        stops, n_nodes = taxonomy.stop_nodes, taxonomy.taxonomy.n_nodes
        counts = np.bincount(stops, minlength=n_nodes) if counts is None else counts
        confidence = _mean_probability(taxonomy) if confidence is None else confidence
    tree: Any = getattr(taxonomy, "taxonomy", taxonomy)
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
