"""Figures on the page, each with a text that says what is seen on it."""

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
from hdeepinsight._io import escape_controls
from hdeepinsight.annotation import Annotation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hdeepinsight.tl import MarkerEvidence

#: A tree with more leaves, or longer names, gives a figure that no screen holds.
_MOST_LEAVES, _LONGEST_NAME = 150, 60
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
    result: Annotation, evidence: MarkerEvidence | None, true_nodes: np.ndarray | None
) -> dict[str, Figure]:
    """Draw what can be drawn, by name.

    Parameters
    ----------
    result
        The annotation.
    evidence
        Markers of its labels.
    true_nodes
        Known node of every cell, shape ``(n_cells,)``.
    """
    tree, found = result.taxonomy, dict[str, Figure]()
    longest = max(map(len, (*tree.labels, *tree.level_names)))
    has_room = tree.n_leaves <= _MOST_LEAVES and longest <= _LONGEST_NAME
    if evidence is not None and has_room and evidence.means.notna().to_numpy().any():
        found["evidence"] = markers(evidence)
    if true_nodes is not None:
        known = np.flatnonzero(np.isin(true_nodes, tree.leaves))
        if known.size:
            found["reliability"] = reliability(result, known, true_nodes[known])
        if known.size and has_room:
            found["confusion"] = confusion(result, known, true_nodes[known])
    return found


def markers(evidence: MarkerEvidence) -> Figure:
    """Draw the expression of the markers of every label."""
    supported = int((evidence.labels["verdict"] == "supported").sum())
    judged = supported + len(evidence.contradicted)
    return _figure(
        lambda: pl.marker_evidence(evidence),
        alt=f"Dot plot of {evidence.means.shape[1]} marker genes in the cells of "
        f"{len(evidence.labels)} labels; {supported} of {judged} labels that could be judged are "
        "supported by their markers. The table below has the numbers.",
        caption="Markers of every label in the cells of all labels: size is the share of cells "
        "that express the gene, colour the mean expression; the label's own markers have a dark "
        "rim.",
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


def _figure(draw: Callable[[], Axes], *, alt: str, caption: str) -> Figure:
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    with mpl.rc_context(_SETTINGS), plt.ioff(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure: Any = draw().figure
        content = BytesIO()
        # Without a date the same result gives the same page.
        figure.savefig(content, format="svg", metadata={"Date": None})
        width, height = (round(_PIXELS_AN_INCH * inches) for inches in figure.get_size_inches())
        plt.close(figure)
    svg = _NOT_XML.sub("\ufffd", escape_controls(content.getvalue().decode()))
    source = f"data:image/svg+xml,{quote(svg, safe=_KEPT)}"
    return Figure(source=source, alt=alt, caption=caption, width=width, height=height)
