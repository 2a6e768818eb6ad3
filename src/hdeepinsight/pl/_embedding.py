"""Plot cells in two dimensions, coloured by labels or numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype

from hdeepinsight._errors import check_choice, check_integer, examples, invalid, refuse_unused
from hdeepinsight._palette import MISSING, PALETTE, categorical_colors
from hdeepinsight.annotation import check_same_cells
from hdeepinsight.pl import _style

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    from hdeepinsight.pp import CorrectedPCA

LegendLoc = Literal["auto", "on data", "right margin", "none"]
#: Maximum number of names on the data (otherwise in a legend), rows of a legend, and length of a
#: name, beyond which it is shortened.
_MAX_ON_DATA, _LEGEND_ROWS, _LONGEST = 12, 24, 32
#: Number of cells above which dots are rasterised in PDF and SVG files.
_RASTERIZED: Final = 5_000


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
    """Plot an embedding of cells, coloured by labels or by numbers.

    Cells are drawn in random order, so that no label systematically hides another. Cells without a
    label or number are grey and drawn below the others.

    Parameters
    ----------
    coords
        Two coordinates per cell, ``(n_cells, 2)``, such as ``adata.obsm["X_umap"]`` or the output
        of :func:`hdeepinsight.tl.mde`.
    color
        Label or number per cell, ``(n_cells,)``. Floating-point numbers are drawn on a colour
        scale. All other values (text, categories, integers such as clusters) are labels, in the
        order of the categories.
    palette
        Colour of each label, such as ``result.colors``, which are the same in all figures; by
        default colours that can be distinguished with colour vision deficiency.
    legend_loc
        Position of the names: ``"on data"``, at the ``"right margin"`` with numbers of cells, or
        ``"none"``. ``"auto"`` means on the data for up to 12 names.
    cmap
        Name of the colour map for numbers.
    vmin, vmax
        Limits of the scale for numbers; by default their range.
    colorbar_label
        Label of the colour bar; by default the name of `color`, such as that of
        ``result.confidence``.
    size
        Area of a dot in square points; by default it decreases with the number of cells.
    title
        Title; by default the name of `color`, if it has one.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ValueError
        If shapes do not match, the palette does not have a label, or `legend_loc` is invalid.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> ax = hdi.pl.embedding([[0, 0], [1, 1], [2, 0]], ["T", "T", "B"])
    >>> [text.get_text() for text in ax.texts]
    ['B', 'T']
    >>> ax = hdi.pl.embedding([[0, 0], [1, 1], [2, 0]], [0.2, 0.9, 0.5], vmin=0, vmax=1)
    """
    check_choice("legend_loc", legend_loc, get_args(LegendLoc), "Omit it to use 'auto'.")
    points = np.asarray(coords, dtype=np.float64)
    if points.shape != (len(color), 2):
        found = f"{points.shape} and {len(color)} labels"
        hint = "Select two columns and the same cells."
        raise ValueError(f"coords must have shape (n_cells, 2), got shape {found}. {hint}")
    name = str(getattr(color, "name", None) or "").replace("_", " ")
    title = _style.shortened(name, 60) if title is None else title
    is_number = is_float_dtype(color.dtype if hasattr(color, "dtype") else np.asarray(color).dtype)
    own: dict[str, Any] = {"palette": palette, "legend_loc": legend_loc != "auto"}
    if not is_number:
        own = {"vmin": vmin is not None, "vmax": vmax is not None, "cmap": cmap != "magma_r"}
        own["colorbar_label"] = colorbar_label
    refuse_unused(own, "with numbers" if is_number else "with labels")
    if is_number:
        ink, beside = np.asarray(color, dtype=np.float64), 0.6
        is_known = np.isfinite(ink)
        low, high = (ink[is_known].min(), ink[is_known].max()) if is_known.any() else (0.0, 1.0)
        scale = cmap, low if vmin is None else vmin, high if vmax is None else vmax
    else:
        codes, names, colors = _labels(color, palette)
        if legend_loc == "auto":
            legend_loc = "on data" if len(names) <= _MAX_ON_DATA else "right margin"
        columns = -(-len(names) // _LEGEND_ROWS) if legend_loc == "right margin" else 0
        beside = columns * (0.075 * max(map(len, [*names, ""])) + 1.1)
        ink, is_known = np.array([*colors, MISSING])[codes], codes >= 0  # -1: the last colour
    ax = _style.axes_or_new(ax, (6.0 + beside, 5.4), "bare", title)
    order = np.random.default_rng(0).permutation(len(points))
    order = order[np.argsort(is_known[order], kind="stable")]
    dots: dict[str, Any] = {"linewidths": 0, "rasterized": len(points) > _RASTERIZED}
    dots["s"] = float(np.clip(40_000 / max(1, len(points)), 0.5, 30)) if size is None else size
    dots |= _style.color_scale(ink[order], *scale) if is_number else {"c": ink[order]}
    drawn = ax.scatter(*points[order].T, **dots)
    if is_number:
        label = name if colorbar_label is None else colorbar_label
        ax.figure.colorbar(drawn, ax=ax, shrink=0.6, aspect=18, pad=0.01, label=label)
    elif legend_loc == "on data":
        _name_on_data(ax, points, codes, names)
    elif legend_loc == "right margin":
        _add_legend(ax, codes, names, colors)
    return ax


def coverage(
    result: CorrectedPCA,
    groups: Any = None,
    *,
    component: int = 1,
    size: float | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot a component against the fraction of genes observed in each cell.

    Parameters
    ----------
    result
        Output of :func:`hdeepinsight.pp.corrected_gram_pca`.
    groups
        Label per cell, ``(n_cells,)``, for colours. Cell types show whether a component that
        correlates with coverage also separates them.
    component
        Component, starting at 1.
    size
        Area of a dot in square points; by default it decreases with the number of cells.
    title
        Title; by default the fractions of the variance of the component, and of its absolute value,
        that the logarithm of coverage explains. The latter is large if cells with low coverage are
        shrunk towards 0.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes. Cells of panels, with a few distinct values of coverage, are jittered.

    Raises
    ------
    ValueError
        If there is no such component, or groups do not match the cells.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> rng = np.random.default_rng(0)
    >>> cells = ad.AnnData(rng.normal(size=(30, 20)))
    >>> result = hdi.pp.corrected_gram_pca(cells, mask=rng.random((30, 20)) < 0.8, n_comps=2)
    >>> hdi.pl.coverage(result).get_ylabel()
    'component 1'
    """
    check_integer("component", component, hint="Omit it to use the first.")
    share, heights = result.coverage.to_numpy(dtype=float), result.embedding[:, component - 1]
    varies = np.ptp(share) > 0
    pairs = np.stack([np.log(share), heights, np.abs(heights)])
    r = np.corrcoef(pairs)[0, 1:] if varies else np.zeros(2)
    if title is None:
        title = f"coverage explains {r[0] ** 2:.0%} of component {component}, "
        title += f"{r[1] ** 2:.0%} of its absolute value"
    ax = _style.axes_or_new(ax, (5.2 if groups is None else 7.0, 4.2), title=title)
    values, rng = np.unique(share), np.random.default_rng(0)
    few = len(values) <= _MAX_ON_DATA
    gap = np.diff(values).min() if few and varies else 0.02
    at = share + few * 0.3 * gap * rng.uniform(-1, 1, len(share))
    colors = np.full(len(share), PALETTE[0])
    if groups is not None:
        check_same_cells(result.obs_names, groups, "groups")
        codes, names, inks = _labels(groups, None)
        _add_legend(ax, codes, names, inks)
        colors = np.array([*inks, MISSING])[codes]
    area = float(np.clip(20_000 / len(share), 0.5, 14)) if size is None else size
    order = rng.permutation(len(share))
    look: dict[str, Any] = {"linewidths": 0, "rasterized": len(share) > _RASTERIZED, "s": area}
    ax.scatter(at[order], heights[order], c=colors[order], alpha=0.8, **look)
    ax.set(xlabel="share of genes observed", ylabel=f"component {component}")
    return ax


def _labels(
    labels: Any, palette: Mapping[str, str] | None
) -> tuple[np.ndarray, list[str], list[str]]:
    """Return the codes of labels (-1 for missing ones), and their names and colours."""
    categories: pd.Categorical = pd.Categorical(labels).remove_unused_categories()
    names = list(map(str, categories.categories))
    if lacking := [name for name in names if palette and name not in palette]:
        raise invalid("palette", palette, f"a colour for each label, also {examples(lacking)}")
    colors = [palette[x] for x in names] if palette else categorical_colors(len(names))
    shown = [_style.shortened(name, _LONGEST) for name in names]
    return np.asarray(categories.codes), shown, colors


def _name_on_data(ax: Axes, points: np.ndarray, codes: np.ndarray, names: list[str]) -> None:
    """Write each name on its cells, moved up if it overlaps another name below it."""
    if not names:
        return
    own = [points[codes == code] for code in range(len(names))]
    # Write names at the cell closest to the medians, never between two clusters of a type.
    at = np.array([p[np.square(p - np.median(p, axis=0)).sum(axis=1).argmin()] for p in own])
    box = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
    inch = [np.ptp(ax.get_xlim()) / box.width, np.ptp(ax.get_ylim()) / box.height]
    width, height = 0.085 * inch[0] * np.array(list(map(len, names))), 0.16 * inch[1]
    order = np.argsort(at[:, 1], kind="stable")
    for rank, code in enumerate(order):
        for below in order[:rank]:  # from bottom to top
            near = abs(at[code, 0] - at[below, 0]) < (width[code] + width[below]) / 2
            if near and abs(at[code, 1] - at[below, 1]) < height:
                at[code, 1] = at[below, 1] + height
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "weight": "bold"}
    for (x, y), name in zip(at, names, strict=True):
        _style.add_halo(ax.text(x, y, name, color=_style.INK, **look), 3.0)


def _add_legend(ax: Axes, codes: np.ndarray, names: list[str], colors: list[str]) -> None:
    """Add a legend with the number of cells per name on the right."""
    n_cells = np.bincount(codes + 1, minlength=len(names) + 1).tolist()  # code -1: no label
    entries = [*zip(names, colors, n_cells[1:], strict=True)]
    entries += [(_style.NO_LABEL, MISSING, n_cells[0])] * bool(n_cells[0])
    for name, color, n in entries:
        ax.plot([], [], "o", c=color, label=f"{name} ({n:,})")
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}
    place["ncols"] = -(-len(entries) // _LEGEND_ROWS)
    ax.legend(fontsize=8.5, handletextpad=0.2, columnspacing=1.0, **place)
