"""Names of types beside or on the dots of their cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hdeepinsight.pl._style import INK, MISSING, halo
from hdeepinsight.pl._text import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["NO_LABEL", "add_legend", "legend_inches", "name_on_data"]

NO_LABEL = "no label"
_LEGEND_ROWS = 24
_LONGEST = 32


def name_on_data(ax: Axes, points: np.ndarray, codes: np.ndarray, names: list[str]) -> None:
    middles = np.empty((len(names), 2))
    for code in range(len(names)):
        own = points[codes == code]
        # The cell nearest to the medians: a name never floats between two clouds of its type.
        middles[code] = own[np.square(own - np.median(own, axis=0)).sum(axis=1).argmin()]
    for (x, y), name in zip(_apart(ax, middles, names), names, strict=True):
        text = ax.text(
            x,
            y,
            shortened(name, _LONGEST),
            ha="center",
            va="center",
            color=INK,
            fontsize=9,
            weight="bold",
        )
        text.set_path_effects(halo(3.0))


def _apart(ax: Axes, middles: np.ndarray, names: list[str]) -> np.ndarray:
    """Lift names that would cover another one below them."""
    to_inches = ax.figure.dpi_scale_trans.inverted()
    box = ax.get_window_extent().transformed(to_inches)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    width = (
        0.085 * (right - left) / box.width * np.array([min(len(name), _LONGEST) for name in names])
    )
    height = 0.16 * (top - bottom) / box.height
    placed = middles.copy()
    order = np.argsort(middles[:, 1], kind="stable")
    for rank, code in enumerate(order):
        for below in order[:rank]:  # from the lowest up
            near = abs(placed[code, 0] - placed[below, 0]) < (width[code] + width[below]) / 2
            if near and abs(placed[code, 1] - placed[below, 1]) < height:
                placed[code, 1] = placed[below, 1] + height
    return placed


def legend_inches(names: list[str]) -> float:
    longest = min(max(map(len, names), default=0), _LONGEST) + len(" (1,000)")
    return -(-len(names) // _LEGEND_ROWS) * (0.075 * longest + 0.45)


def add_legend(ax: Axes, codes: np.ndarray, names: list[str], colors: list[str]) -> None:
    from matplotlib.lines import Line2D

    entries = [*zip(range(len(names)), names, colors, strict=True)]
    if (codes < 0).any():
        entries.append((-1, NO_LABEL, MISSING))
    handles = [
        Line2D(
            [],
            [],
            ls="",
            marker="o",
            c=color,
            label=f"{shortened(name, _LONGEST)} ({int((codes == code).sum()):,})",
        )
        for code, name, color in entries
    ]
    ax.legend(
        handles=handles,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        ncols=-(-len(handles) // _LEGEND_ROWS),
        frameon=False,
        fontsize=8.5,
        handletextpad=0.2,
        columnspacing=1.0,
    )
