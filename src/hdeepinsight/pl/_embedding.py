"""Cells in two dimensions, coloured by what they are called or by a number."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype

from hdeepinsight._errors import check_choice
from hdeepinsight.pl import _style

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    from hdeepinsight.annotation import Annotation


LegendLoc = Literal["auto", "on data", "right margin", "none"]


#: More names than this crowd the picture and move to a legend at its side.
_MAX_ON_DATA = 12


#: From here on dots are drawn as one bitmap, also in PDF and SVG files.
_RASTERIZED = 5_000


def embedding(
    coords: npt.ArrayLike,
    color: Any,
    *,
    palette: Mapping[str, str] | None = None,
    legend_loc: LegendLoc = "auto",
    cmap: str = _style.SEQUENTIAL,
    vmin: float | None = None,
    vmax: float | None = None,
    colorbar_label: str | None = None,
    size: float | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw cells as dots in the colours of their labels, or of a number.

    Cells are drawn in mixed order, so that no label and no value hides another because it comes
    later; those without one are grey and lie below the others.

    Parameters
    ----------
    coords
        Two coordinates per cell, ``(n_cells, 2)``, for example ``adata.obsm["X_umap"]`` or what
        :func:`hdeepinsight.tl.mde` returns.
    color
        A label or a number per cell, ``(n_cells,)``. Floating-point numbers are drawn on a scale,
        all else (text, categories, whole numbers of clusters) are labels; categories keep their
        order.
    palette
        Colour of each label, such as ``result.colors``, which gives a label the same colour in
        every picture; by default colours that stay apart with colour vision deficiency.
    legend_loc
        Names ``"on data"`` at the middle of their cells, at the ``"right margin"`` with numbers
        of cells, or ``"none"``. ``"auto"`` writes up to 12 names on the data.
    cmap
        Name of the colour map for numbers.
    vmin, vmax
        Ends of the scale for numbers; by default the smallest and the largest.
    colorbar_label
        What the numbers are, written along the colour bar; by default the name of `color`, where
        it has one, as ``result.confidence`` does.
    size
        Area of a dot in square points; by default it falls with the number of cells.
    title
        Heading; by default the name of `color`, where it has one.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If shapes do not fit, the palette lacks a label, or `legend_loc` is not valid.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> ax = hdi.pl.embedding([[0, 0], [1, 1], [2, 0]], ["T", "T", "B"])
    >>> [text.get_text() for text in ax.texts]
    ['B', 'T']
    >>> ax = hdi.pl.embedding([[0, 0], [1, 1], [2, 0]], [0.2, 0.9, 0.5], vmin=0, vmax=1)
    """
    check_choice("legend_loc", legend_loc, get_args(LegendLoc), "Use 'auto' to begin with.")
    points = np.asarray(coords, dtype=np.float64)
    if points.shape != (len(color), 2):
        raise ValueError(
            f"There are {len(color)} labels and coordinates of shape {points.shape}. "
            "The coordinates must be (n_cells, 2), one row per label. Select two columns, and the "
            "same cells."
        )
    area = size if size is not None else float(np.clip(40_000 / max(1, len(points)), 0.5, 30))
    name = str(getattr(color, "name", None) or "").replace("_", " ")
    if is_float_dtype(color.dtype if hasattr(color, "dtype") else np.asarray(color).dtype):
        values = np.asarray(color, dtype=np.float64)
        ax = _style.axes_or_new(ax, (6.6, 5.4))
        label = name if colorbar_label is None else colorbar_label
        _draw_values(ax, points, values, area, cmap, (vmin, vmax), label)
    else:
        ax = _draw_labels(points, color, area, palette, legend_loc, ax)
    ax.set_title(_style.shortened(name, 60) if title is None else title)
    _style.bare(ax)
    return ax


def probability(
    coords: npt.ArrayLike,
    result: Annotation,
    node: str | Sequence[str] | int,
    *,
    cmap: str = _style.SEQUENTIAL,
    size: float | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the probability of one node of the taxonomy for every cell.

    Parameters
    ----------
    coords
        Two coordinates per cell, ``(n_cells, 2)``.
    result
        The annotation of these cells.
    node
        A name, a path (``"T > CD4 T"`` or a tuple) or a node index: a type, or a level above.
    cmap
        Name of the colour map; the scale goes from 0 to 1, so that pictures compare.
    size
        Area of a dot in square points; by default it falls with the number of cells.
    title
        Heading; by default the path of the node.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If shapes do not fit, or the taxonomy has no such node.

    Examples
    --------
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> tax = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> result = hdi.Annotation(
    ...     taxonomy=tax, obs_names=["a"], node_probabilities=np.array([[1, 0.9, 0.1, 0.7, 0.2]])
    ... )
    >>> hdi.pl.probability([[0, 0]], result, "CD4").get_title()
    'T > CD4'
    """
    taxonomy = result.taxonomy
    index = taxonomy.resolve(node) if isinstance(node, str | Sequence) else operator.index(node)
    path = taxonomy.path_name(index)
    return embedding(
        coords,
        result.node_probabilities[:, index].astype(np.float64),
        cmap=cmap,
        vmin=0.0,
        vmax=1.0,
        colorbar_label="probability",
        size=size,
        title=_style.shortened(path, 60) if title is None else title,
        ax=ax,
    )


def _below_first(missing: np.ndarray) -> np.ndarray:
    """Mixed order of drawing, cells without a colour first."""
    order = np.random.default_rng(0).permutation(len(missing))
    return np.asarray(order[np.argsort(~missing[order], kind="stable")])


def _draw_values(
    ax: Axes,
    points: np.ndarray,
    values: np.ndarray,
    area: float,
    cmap: str,
    bounds: tuple[float | None, float | None],
    label: str,
) -> None:
    import matplotlib as mpl

    known = np.isfinite(values)
    ends = (values[known].min(), values[known].max()) if known.any() else (0.0, 1.0)
    low, high = (end if given is None else given for given, end in zip(bounds, ends, strict=True))
    order = _below_first(~known)
    x, y = points[order].T
    drawn = ax.scatter(
        x,
        y,
        s=area,
        c=values[order],
        cmap=mpl.colormaps[cmap].with_extremes(bad=_style.MISSING),
        vmin=low,
        vmax=high,
        plotnonfinite=True,
        linewidths=0,
        rasterized=len(values) > _RASTERIZED,
    )
    ax.figure.colorbar(drawn, ax=ax, shrink=0.6, aspect=18, pad=0.01, label=label)


def _draw_labels(
    points: np.ndarray,
    labels: Any,
    area: float,
    palette: Mapping[str, str] | None,
    legend_loc: str,
    ax: Axes | None,
) -> Axes:
    categories: pd.Categorical = pd.Categorical(labels).remove_unused_categories()
    codes, names = np.asarray(categories.codes), [str(name) for name in categories.categories]
    colors = _style.categorical_colors(len(names))
    if palette is not None:
        if missing := [name for name in names if name not in palette]:
            raise ValueError(
                f"The palette has no colour for {missing[:5]} ({len(missing)} in all). Each label "
                "needs one. Add them, or leave the palette out."
            )
        colors = [palette[name] for name in names]
    if legend_loc == "auto":
        legend_loc = "on data" if len(names) <= _MAX_ON_DATA else "right margin"
    beside = 0.0
    if legend_loc == "right margin":
        longest = min(max(map(len, names), default=0), _LONGEST) + len(" (1,000)")
        beside = -(-len(names) // _LEGEND_ROWS) * (0.075 * longest + 0.45)
    ax = _style.axes_or_new(ax, (6.0 + beside, 5.4))
    order = _below_first(codes < 0)
    ink = np.array([*colors, _style.MISSING])[codes[order]]  # code -1 takes the last colour
    (x, y), bitmap = points[order].T, len(codes) > _RASTERIZED
    ax.scatter(x, y, s=area, c=ink, linewidths=0, rasterized=bitmap)
    if legend_loc == "on data":
        _name_on_data(ax, points, codes, names)
    elif legend_loc == "right margin":
        _add_legend(ax, codes, names, colors)
    return ax


_LEGEND_ROWS = 24


_LONGEST = 32


def _name_on_data(ax: Axes, points: np.ndarray, codes: np.ndarray, names: list[str]) -> None:
    middles = np.empty((len(names), 2))
    for code in range(len(names)):
        own = points[codes == code]
        # The cell nearest to the medians: a name never floats between two clouds of its type.
        middles[code] = own[np.square(own - np.median(own, axis=0)).sum(axis=1).argmin()]
    for (x, y), name in zip(_apart(ax, middles, names), names, strict=True):
        written = _style.shortened(name, _LONGEST)
        text = ax.text(
            x, y, written, ha="center", va="center", color=_style.INK, fontsize=9, weight="bold"
        )
        text.set_path_effects(_style.halo(3.0))


def _apart(ax: Axes, middles: np.ndarray, names: list[str]) -> np.ndarray:
    """Lift names that would cover another one below them."""
    box = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
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


def _add_legend(ax: Axes, codes: np.ndarray, names: list[str], colors: list[str]) -> None:
    from matplotlib.lines import Line2D

    n_cells = np.bincount(codes + 1, minlength=len(names) + 1).tolist()  # code -1 is no label
    entries = [*zip(names, colors, n_cells[1:], strict=True)]
    if n_cells[0]:
        entries.append((_style.NO_LABEL, _style.MISSING, n_cells[0]))
    handles = [
        Line2D(
            [], [], ls="", marker="o", c=color, label=f"{_style.shortened(name, _LONGEST)} ({n:,})"
        )
        for name, color, n in entries
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
