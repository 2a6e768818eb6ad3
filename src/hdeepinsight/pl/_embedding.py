"""Cells in two dimensions, coloured by what they are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hdeepinsight.pl._style import INK, MISSING, axes_or_new, bare, categorical_colors, halo

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["embedding"]

#: More names than this crowd the picture and move to a legend at its side.
_MAX_ON_DATA = 12
_LEGEND_ROWS = 24
_NO_LABEL = "no label"


def embedding(
    coords: npt.ArrayLike,
    labels: Any,
    *,
    palette: Mapping[str, str] | None = None,
    legend: Literal["auto", "on data", "right", "none"] = "auto",
    size: float | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw cells as dots in the colours of their labels.

    Parameters
    ----------
    coords
        Two coordinates a cell, ``(n_cells, 2)``, for example ``adata.obsm["X_umap"]``.
    labels
        A label a cell, ``(n_cells,)``; categories keep their order, missing labels are grey and
        lie below the others. Cells of different labels are drawn in mixed order, so that no label
        hides another because it comes later.
    palette
        Colour of each label; by default colours that stay apart with colour vision deficiency.
    legend
        Names ``"on data"`` at the middle of their cells, at the ``"right"`` with numbers of cells,
        or ``"none"``. ``"auto"`` writes up to 12 names on the data.
    size
        Area of a dot in square points; by default it falls with the number of cells.
    title
        Heading.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If shapes do not fit, or the palette lacks a label.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> ax = hdi.pl.embedding([[0, 0], [1, 1], [2, 0]], ["T", "T", "B"])
    >>> [text.get_text() for text in ax.texts]
    ['B', 'T']
    """
    points, codes, names = _checked(coords, labels)
    colors = _palette(names, palette)
    shown = legend if legend != "auto" else "on data" if len(names) <= _MAX_ON_DATA else "right"
    beside = _legend_inches(names) if shown == "right" else 0.0
    ax = axes_or_new(ax, (6.0 + beside, 5.4))
    order = np.random.default_rng(0).permutation(len(codes))
    order = order[np.argsort(codes[order] >= 0, kind="stable")]  # cells without a label first
    area = size if size is not None else float(np.clip(40_000 / max(1, len(codes)), 0.5, 30))
    ink = np.array([*colors, MISSING])[codes[order]]  # code -1 takes the last colour
    ax.scatter(
        points[order, 0],
        points[order, 1],
        s=area,
        c=ink,
        linewidths=0,
        rasterized=len(codes) > 5_000,
    )
    if shown == "on data":
        _name_on_data(ax, points, codes, names)
    elif shown == "right":
        _add_legend(ax, codes, names, colors)
    ax.set_title(title or "")
    bare(ax)
    return ax


def _checked(coords: npt.ArrayLike, labels: Any) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return points, the index of each cell's label (-1: none), and the names that occur."""
    import pandas as pd

    points = np.asarray(coords, dtype=np.float64)
    categories: pd.Categorical = pd.Categorical(labels).remove_unused_categories()
    if points.shape != (len(categories), 2):
        raise ValueError(
            f"There are {len(categories)} labels and coordinates of shape {points.shape}. "
            "The coordinates must be (n_cells, 2), one row a label. Select two columns, and the "
            "same cells."
        )
    return points, np.asarray(categories.codes), [str(name) for name in categories.categories]


def _palette(names: list[str], palette: Mapping[str, str] | None) -> list[str]:
    if palette is None:
        return categorical_colors(len(names))
    missing = [name for name in names if name not in palette]
    if missing:
        raise ValueError(
            f"The palette has no colour for {missing[:5]} ({len(missing)} in all). Each label "
            "needs one. Add them, or leave the palette out."
        )
    return [palette[name] for name in names]


def _name_on_data(ax: Axes, points: np.ndarray, codes: np.ndarray, names: list[str]) -> None:
    middles = np.empty((len(names), 2))
    for code in range(len(names)):
        own = points[codes == code]
        # The cell nearest to the medians: a name never floats between two clouds of its type.
        middles[code] = own[np.square(own - np.median(own, axis=0)).sum(axis=1).argmin()]
    for (x, y), name in zip(_apart(ax, middles, names), names, strict=True):
        text = ax.text(x, y, name, ha="center", va="center", color=INK, fontsize=9, weight="bold")
        text.set_path_effects(halo(3.0))


def _apart(ax: Axes, middles: np.ndarray, names: list[str]) -> np.ndarray:
    """Lift names that would cover another one below them."""
    to_inches = ax.figure.dpi_scale_trans.inverted()
    box = ax.get_window_extent().transformed(to_inches)
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    width = 0.085 * (right - left) / box.width * np.array([len(name) for name in names])
    height = 0.16 * (top - bottom) / box.height
    placed = middles.copy()
    order = np.argsort(middles[:, 1], kind="stable")
    for rank, code in enumerate(order):
        for below in order[:rank]:  # from the lowest up
            near = abs(placed[code, 0] - placed[below, 0]) < (width[code] + width[below]) / 2
            if near and abs(placed[code, 1] - placed[below, 1]) < height:
                placed[code, 1] = placed[below, 1] + height
    return placed


def _legend_inches(names: list[str]) -> float:
    longest = max((len(name) for name in names), default=0) + len(" (1,000)")
    return -(-len(names) // _LEGEND_ROWS) * (0.075 * longest + 0.45)


def _add_legend(ax: Axes, codes: np.ndarray, names: list[str], colors: list[str]) -> None:
    from matplotlib.lines import Line2D

    entries = [*zip(range(len(names)), names, colors, strict=True)]
    if (codes < 0).any():
        entries.append((-1, _NO_LABEL, MISSING))
    handles = [
        Line2D([], [], ls="", marker="o", c=color, label=f"{name} ({int((codes == code).sum()):,})")
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
