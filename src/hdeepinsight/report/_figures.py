"""Figures inside the page, each with a text that says what is seen on it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import numpy as np

from hdeepinsight import pl
from hdeepinsight._errors import invalid
from hdeepinsight._io import escape_controls
from hdeepinsight.annotation import Annotation
from hdeepinsight.report._tables import groups_of, name_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: A tree with more leaves, or longer names, gives a figure that no screen holds.
_MOST_LEAVES, _LONGEST_NAME = 150, 60
#: Labels that an alternative text names, the most frequent first.
_MOST_NAMED = 10
_UNSURE: Final = 0.9
#: Of dots, which are stored as pixels: the page does not grow with the cells.
_DPI: Final = 150
_PIXELS_AN_INCH: Final = 96
#: Characters that an address may hold as they are: half the size of encoding them all.
_KEPT: Final = " !$&'()*+,-./:;=?@_~"
#: Text stays text, so that the browser draws the scripts that our font lacks; and the same names
#: inside give the same figure.
_SETTINGS: Final[Any] = {"svg.fonttype": "none", "svg.hashsalt": "hdeepinsight"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure as text that stands in the page.

    Parameters
    ----------
    source
        The figure as a ``data:`` address.
    alt
        What is seen, with numbers.
    caption
        What it shows.
    width, height
        Size in pixels of the page.
    """

    source: str
    alt: str
    caption: str
    width: int
    height: int


def drawn(
    result: Annotation, embedding: Any | None, true_nodes: np.ndarray | None
) -> dict[str, Figure]:
    """Draw what can be drawn, by name.

    Parameters
    ----------
    result
        The annotation.
    embedding
        Coordinates of every cell, shape ``(n_cells, n_dimensions)``.
    true_nodes
        Known node of every cell, shape ``(n_cells,)``.
    """
    tree = result.taxonomy
    longest = max(map(len, (*tree.labels, *tree.level_names)))
    has_room = tree.n_leaves <= _MOST_LEAVES and longest <= _LONGEST_NAME
    found = {}
    if len(result) and has_room:
        found["taxonomy"] = taxonomy(result)
    if embedding is not None:
        coordinates = np.asarray(embedding, dtype=np.float64)
        if coordinates.ndim != 2 or coordinates.shape[1] < 2:
            expected = "two or more columns of numbers, with one row per cell"
            hint = "Pass adata.obsm['X_umap'] or the like."
            raise invalid("embedding", coordinates.shape, expected, hint)
        placed = np.flatnonzero(np.isfinite(coordinates[:, :2]).all(axis=1))
        if placed.size and has_room:
            found["embedding"] = cells_by_label(result, placed, coordinates[placed, :2])
        if placed.size:
            found["confidence"] = cells_by_confidence(result, placed, coordinates[placed, :2])
    if true_nodes is not None:
        known = np.flatnonzero(np.isin(true_nodes, tree.leaves))
        if known.size:
            found["reliability"] = reliability(result, known, true_nodes[known])
        if known.size and has_room:
            found["confusion"] = confusion(result, known, true_nodes[known])
    return found


def taxonomy(result: Annotation) -> Figure:
    """Draw the tree with the cells that stop at or under every node."""
    tree = result.taxonomy
    counts = np.bincount(result.stop_nodes, minlength=tree.n_nodes)
    return _figure(
        lambda: pl.taxonomy(tree, counts),
        alt=f"Tree of {tree.n_leaves:,} types. Cells by label where they stop: "
        f"{_in_words(result, result.stop_nodes)}.",
        caption="The taxonomy with the number of cells that stop at or under every node.",
    )


def cells_by_label(result: Annotation, cells: np.ndarray, coordinates: np.ndarray) -> Figure:
    """Draw some cells in two dimensions, in the colours of the labels where they stop."""
    labels = result.label_column().iloc[cells]
    n_left_out = len(result) - len(cells)
    missing = f" {n_left_out:,} cells have no coordinates." if n_left_out else ""
    return _figure(
        lambda: _dots(coordinates, labels, palette=result.colors),
        alt=f"{len(cells):,} cells as dots in two dimensions, coloured by label: "
        f"{_in_words(result, result.stop_nodes[cells])}.",
        caption=f"Cells coloured by the label where they stop.{missing}",
    )


def cells_by_confidence(result: Annotation, cells: np.ndarray, coordinates: np.ndarray) -> Figure:
    """Draw the same cells in the colours of their confidence."""
    sure = result.confidence.to_numpy()[cells]
    scale = {"vmin": 0.0, "vmax": 1.0, "colorbar_label": "confidence"}
    return _figure(
        lambda: _dots(coordinates, sure, **scale),
        alt=f"{len(cells):,} cells as dots in two dimensions, coloured by confidence: "
        f"{int((sure < _UNSURE).sum()):,} of them ({(sure < _UNSURE).mean():.1%}) have a "
        f"confidence below {_UNSURE}.",
        caption="The same cells coloured by confidence.",
    )


def reliability(result: Annotation, cells: np.ndarray, truth: np.ndarray) -> Figure:
    """Draw how often types of a given probability are right, of cells whose type is known."""
    leaves = result.leaf_nodes[cells]
    said, right = result.node_probabilities[cells, leaves].clip(0, 1), leaves == truth
    return _figure(
        lambda: pl.reliability(said, right),
        alt=f"Share of right types against their probability for {len(cells):,} cells of known "
        f"type: {right.mean():.1%} are right, and the mean probability is {said.mean():.3f}.",
        caption="How often the most probable type is right. Dots on the diagonal are calibrated.",
    )


def confusion(result: Annotation, cells: np.ndarray, truth: np.ndarray) -> Figure:
    """Draw which types are taken for which, of cells whose type is known."""
    said = result.leaf_nodes[cells]
    return _figure(
        lambda: pl.confusion(result.taxonomy, truth, said),
        alt=f"Percent of each true type by predicted type for {len(cells):,} cells: "
        f"{int((truth == said).sum()):,} lie on the diagonal ({(truth == said).mean():.1%}).",
        caption="Which types are taken for which, every cell followed to a type.",
    )


def _in_words(result: Annotation, nodes: np.ndarray) -> str:
    if not len(nodes):
        return "none"
    groups = groups_of(nodes)
    named = [
        f"{name_of(result.taxonomy, node)[0]} {len(cells):,} ({len(cells) / len(nodes):.1%})"
        for node, cells in groups[:_MOST_NAMED]
    ]
    rest = len(groups) - len(named)
    return ", ".join(named) + (f" and {rest} more labels" if rest else "")


def _dots(coordinates: np.ndarray, color: Any, **options: Any) -> Axes:
    ax = pl.embedding(coordinates, color, **options)
    for dots in ax.collections:
        dots.set_rasterized(True)
    return ax


def _figure(draw: Callable[[], Axes], *, alt: str, caption: str) -> Figure:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    with mpl.rc_context(_SETTINGS), plt.ioff(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure: Any = draw().figure
        content = BytesIO()
        # Without a date the same result gives the same page.
        figure.savefig(content, format="svg", dpi=_DPI, metadata={"Date": None})
        width, height = (round(_PIXELS_AN_INCH * inches) for inches in figure.get_size_inches())
        plt.close(figure)
    svg = _NOT_XML.sub("\ufffd", escape_controls(content.getvalue().decode()))
    source = f"data:image/svg+xml,{quote(svg, safe=_KEPT)}"
    return Figure(source=source, alt=alt, caption=caption, width=width, height=height)
