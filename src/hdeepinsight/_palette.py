"""Colours of categories and of trees, for figures and for what is written beside them."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

#: Of what has no label.
MISSING: Final = "#BFBFBF"

#: Six colours of Okabe and Ito, then those that stay farthest from all earlier ones, from white and
#: from grey, in CIELAB as seen with full colour vision and with protanopia and deuteranopia. Those
#: past the palette are for large trees: unlike each other, but no longer told apart at sight.
_COLORS: Final = tuple(Path(__file__).with_name("palette.txt").read_text("utf-8").split())
PALETTE: Final = _COLORS[:40]


def categorical_colors(n: int) -> list[str]:
    """Return `n` colours, the most distinct first; beyond forty they repeat."""
    return [PALETTE[i % len(PALETTE)] for i in range(n)]


def label_colors(labels: Iterable[str]) -> dict[str, str]:
    """Colour of every label, in the order of their first occurrence; beyond 104 they repeat."""
    distinct = dict.fromkeys(labels)
    return {label: _COLORS[i % len(_COLORS)] for i, label in enumerate(distinct)}


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
