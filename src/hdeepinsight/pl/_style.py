"""Colours, inks and axes that every picture shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patheffects import AbstractPathEffect

__all__ = [
    "EMPTY",
    "FAINT",
    "INK",
    "MARK",
    "MISSING",
    "PALETTE",
    "axes_or_new",
    "bare",
    "categorical_colors",
    "halo",
]

INK: Final = "#222222"
FAINT: Final = "#777777"
EMPTY: Final = "#F1F1F1"
MISSING: Final = "#BFBFBF"
MARK: Final = "#D55E00"

#: Six colours of Okabe and Ito, then those that stay farthest from all earlier ones, from white and
#: from grey, in CIELAB as seen with full colour vision and with protanopia and deuteranopia.
# fmt: off
PALETTE: Final = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#870F1E", "#69E178",
    "#870069", "#F05A69", "#0078F0", "#006900", "#005A4B", "#A52D5A", "#4B2D96", "#A5964B",
    "#FFB496", "#00E1A5", "#FF87F0", "#009696", "#A52D00", "#3CE1F0", "#2D4B1E", "#005A78",
    "#A5D24B", "#5A9600", "#87694B", "#B43CA5", "#5A96F0", "#FFC378", "#FFA5E1", "#E18796",
    "#3CB469", "#FF694B", "#A55AD2", "#A54B87", "#0087A5", "#00C3A5", "#87692D", "#87A5C3",
)
# fmt: on


def categorical_colors(n: int) -> list[str]:
    """Return `n` colours, the most distinct first; beyond forty they repeat."""
    return [PALETTE[i % len(PALETTE)] for i in range(n)]


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
