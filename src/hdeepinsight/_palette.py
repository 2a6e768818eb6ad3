"""Colours of categories and of trees, for figures and for what is written beside them."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import numpy as np

__all__ = ["MISSING", "PALETTE", "categorical_colors", "label_colors", "tree_colors"]

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


def tree_colors(labels: Sequence[str], parents: Iterable[int]) -> dict[str, str]:
    """Return a colour for every label of a tree, those of a branch all alike.

    Parameters
    ----------
    labels
        Label of every node, the root first, parents before their children.
    parents
        Number of the node above each one; -1 for the root.

    Returns
    -------
    Colours by label, without the root. Labels of the first level have those of the palette.
    Every further one has a hue near that of its parent, and of such colours the one that is
    farthest from all others so far, with full colour vision and with red or green deficiency.

    Examples
    --------
    >>> colors = tree_colors(["root", "T", "B", "CD4", "CD8"], [-1, 0, 0, 1, 1])
    >>> colors["T"], colors["B"], len(set(colors.values()))
    ('#0072B2', '#E69F00', 4)
    """
    return dict(_tree_colors(tuple(labels), tuple(int(parent) for parent in parents)))


@lru_cache(maxsize=8)
def _tree_colors(labels: tuple[str, ...], parents: tuple[int, ...]) -> dict[str, str]:
    top = [label for label, parent in zip(labels, parents, strict=True) if parent == 0]
    colors = label_colors(top)
    taken = _seen([MISSING, "#FFFFFF", *colors.values()])
    for label, parent in zip(labels[1:], parents[1:], strict=True):
        if label in colors:
            continue
        _, a, b = _lab(_rgb([colors[labels[parent]]]))[0]
        hue = np.arctan2(b, a) + np.deg2rad(_HUES)
        light, strength, angle = (
            grid.ravel() for grid in np.meshgrid(_LIGHT, _STRENGTH, hue, indexing="ij")
        )
        lab = np.stack([light, strength * np.cos(angle), strength * np.sin(angle)], axis=1)
        rgb = _linear(lab)
        shown = [_hex(color) for color in rgb[((rgb >= 0) & (rgb <= 1)).all(axis=1)]]
        distance = np.linalg.norm(_seen(shown)[:, None] - taken, axis=2).min(axis=1)
        colors[label] = shown[int(distance.argmax())]
        taken = np.concatenate([taken, _seen([colors[label]])])
    return colors


#: Steps of hue in degrees, of lightness and of chroma (OKLab) among which a colour is chosen.
_HUES: Final = (-20, -10, 0, 10, 20)
_LIGHT: Final = np.linspace(0.36, 0.88, 9)
_STRENGTH: Final = (0.08, 0.11, 0.14, 0.17)
#: Linear light of who lacks red, or green, cones (Vienot et al. 1999), and OKLab (Ottosson 2020).
_VISION: Final = (
    np.eye(3),
    np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]),
    np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]]),
)
_TO_CONES: Final = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB: Final = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def _rgb(colors: Sequence[str]) -> np.ndarray:
    """Return linear light from 0 to 1, ``(n, 3)``."""
    values = [[int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)] for color in colors]
    gamma = np.array(values).reshape(-1, 3)
    return np.where(gamma <= 0.04045, gamma / 12.92, ((gamma + 0.055) / 1.055) ** 2.4)


def _hex(linear: np.ndarray) -> str:
    gamma = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clip(0) ** (1 / 2.4) - 0.055
    )
    return "#" + "".join(f"{round(255 * value):02X}" for value in gamma.tolist())


def _lab(linear: np.ndarray) -> np.ndarray:
    return np.asarray(np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T)


def _linear(lab: np.ndarray) -> np.ndarray:
    return np.asarray((lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_CONES).T)


def _seen(colors: Sequence[str]) -> np.ndarray:
    """Return colours as they are seen with each kind of vision, side by side, ``(n, 9)``."""
    linear = _rgb(colors)
    return np.concatenate([_lab((linear @ kind.T).clip(0)) for kind in _VISION], axis=1)
