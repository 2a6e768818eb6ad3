"""Colours of categories, for pictures and for what is written beside them."""

from collections.abc import Iterable
from typing import Final

__all__ = ["MISSING", "PALETTE", "categorical_colors", "label_colors"]

#: Of what has no label.
MISSING: Final = "#BFBFBF"

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
#: The same search continued, for large trees: unlike each other, but no longer told apart at sight.
_FURTHER: Final = (
    "#0000FF", "#3C1EC3", "#005AFF", "#E1E100", "#693CC3", "#FFD2C3", "#3C1EE1", "#3C1EA5",
    "#690F78", "#A55A78", "#782D3C", "#C3E1E1", "#4BD287", "#0096C3", "#A51E87", "#5A4BB4",
    "#D2E14B", "#2D3C5A", "#E1E169", "#A53CE1", "#96B4C3", "#E1E196", "#00D20F", "#872D96",
    "#7887FF", "#1EA569", "#785A2D", "#782DE1", "#5AD25A", "#A500FF", "#D278D2", "#FFC3FF",
    "#96782D", "#784B3C", "#692D00", "#E1782D", "#4B6969", "#78F0C3", "#00A587", "#96784B",
    "#1E78A5", "#00F0A5", "#1E875A", "#5A2DC3", "#87B4FF", "#A55AFF", "#1E5A5A", "#964BD2",
    "#B4A587", "#C369E1", "#FFA53C", "#96C3FF", "#4B2DA5", "#E10FB4", "#1EFF1E", "#5AC35A",
    "#3C3C4B", "#B43C96", "#5AC369", "#3C3C69", "#002DFF", "#C33C1E", "#3C695A", "#FF2D87",
)
# fmt: on


def categorical_colors(n: int) -> list[str]:
    """Return `n` colours, the most distinct first; beyond forty they repeat."""
    return [PALETTE[i % len(PALETTE)] for i in range(n)]


def label_colors(labels: Iterable[str]) -> dict[str, str]:
    """Colour of every label, in the order of their first occurrence; beyond 104 they repeat."""
    colors = (*PALETTE, *_FURTHER)
    distinct = dict.fromkeys(labels)
    return {label: colors[i % len(colors)] for i, label in enumerate(distinct)}
