"""Colours, inks and axes that every picture shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hdeepinsight._palette import MISSING, PALETTE, categorical_colors, label_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patheffects import AbstractPathEffect

    from hdeepinsight.taxonomy import Taxonomy

__all__ = [
    "EMPTY",
    "FAINT",
    "INK",
    "MARK",
    "MISSING",
    "PALETTE",
    "SEQUENTIAL",
    "axes_or_new",
    "bare",
    "categorical_colors",
    "halo",
    "node_colors",
]

INK: Final = "#222222"
FAINT: Final = "#777777"
EMPTY: Final = "#F1F1F1"
MARK: Final = "#D55E00"

#: Probabilities and other numbers of cells: perceptually uniform, and darker where there is more,
#: so that on white the high values stand out (with colour vision deficiency and in print too).
SEQUENTIAL: Final = "magma_r"


def node_colors(taxonomy: Taxonomy) -> list[str]:
    """Colour of every node, the same for the same label in every picture; the root's is grey."""
    colors = label_colors(taxonomy.labels[1:])
    return [MISSING, *(colors[label] for label in taxonomy.labels[1:])]


def axes_or_new(ax: Axes | None, figsize: tuple[float, float]) -> Axes:
    """Return the given axes, or new ones on a figure of the given size in inches."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=figsize, layout="constrained")[1]


def bare(ax: Axes) -> None:
    """Take ticks and frame away from a picture whose axes have no unit."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def halo(width: float = 2.5) -> list[AbstractPathEffect]:
    """Return a white rim that keeps text legible on any ground."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground="white")]
