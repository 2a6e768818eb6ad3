"""Choose colours for categories and for the nodes of a tree."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

#: Colour of missing labels.
MISSING: Final = "#BFBFBF"

#: Six colours of Okabe and Ito, followed by colours with the largest distance to all earlier ones,
#: to white and to grey in CIELAB, with normal colour vision, protanopia and deuteranopia. Colours
#: beyond the first forty are for large trees; they differ, but are hard to tell apart.
_COLORS: Final = tuple(Path(__file__).with_name("palette.txt").read_text("utf-8").split())
PALETTE: Final = _COLORS[:40]


def categorical_colors(n: int) -> list[str]:
    """Return `n` colours, the most distinct first; beyond forty they repeat."""
    return [PALETTE[i % len(PALETTE)] for i in range(n)]


def label_colors(labels: Iterable[str]) -> dict[str, str]:
    """Return a colour for each label, by order of first occurrence; beyond 104 they repeat."""
    distinct = dict.fromkeys(labels)
    return {label: _COLORS[i % len(_COLORS)] for i, label in enumerate(distinct)}


def tree_colors(labels: Sequence[str], parents: Iterable[int]) -> dict[str, str]:
    """Return a colour for each label of a tree, with similar hues in each branch.

    Parameters
    ----------
    labels
        Label of each node, the root first and parents before their children.
    parents
        Index of the parent of each node; -1 for the root.

    Returns
    -------
    Colours by label, without the root. Labels of the first level have the colours of the palette.
    Further labels have a hue similar to that of their parent, and among such colours the one with
    the largest distance to all earlier ones, with normal, red and green deficient colour vision.

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
    taken = _perceived([MISSING, "#FFFFFF", *colors.values()])
    for label, parent in zip(labels[1:], parents[1:], strict=True):
        if label in colors:
            continue
        _, a, b = _lab(_rgb([colors[labels[parent]]]))[0]
        hue = np.arctan2(b, a) + np.deg2rad(_HUES)
        light, strength, angle = (
            grid.ravel() for grid in np.meshgrid(_LIGHT, _STRENGTH, hue, indexing="ij")
        )
        lab = np.stack([light, strength * np.cos(angle), strength * np.sin(angle)], axis=1)
        rgb = (lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_CONES).T
        shown = [_hex(color) for color in rgb[((rgb >= 0) & (rgb <= 1)).all(axis=1)]]
        distance = np.linalg.norm(_perceived(shown)[:, None] - taken, axis=2).min(axis=1)
        colors[label] = shown[int(distance.argmax())]
        taken = np.concatenate([taken, _perceived([colors[label]])])
    return colors


#: Candidate steps of hue (degrees), lightness and chroma in OKLab.
_HUES: Final = (-20, -10, 0, 10, 20)
_LIGHT: Final = np.linspace(0.36, 0.88, 9)
_STRENGTH: Final = (0.08, 0.11, 0.14, 0.17)
#: Linear RGB as perceived without red or green cones (Vienot et al. 1999); OKLab (Ottosson 2020).
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
    """Return linear RGB from 0 to 1, ``(n, 3)``."""
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


def _perceived(colors: Sequence[str]) -> np.ndarray:
    """Return OKLab coordinates of colours as perceived with each type of vision, ``(n, 9)``."""
    linear = _rgb(colors)
    return np.concatenate([_lab((linear @ kind.T).clip(0)) for kind in _VISION], axis=1)
