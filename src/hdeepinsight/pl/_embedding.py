"""Cells in two dimensions, coloured by what they are called or by a number."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype

from hdeepinsight._errors import check_choice, check_integer, invalid
from hdeepinsight._palette import MISSING, PALETTE, categorical_colors
from hdeepinsight.annotation import check_same_cells
from hdeepinsight.pl import _style

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    from hdeepinsight.annotation import Annotation
    from hdeepinsight.pp import CorrectedPCA

LegendLoc = Literal["auto", "on data", "right margin", "none"]
#: More names than this crowd the picture and move to a legend at its side, in columns of the
#: second length; names longer than the third are cut.
_MAX_ON_DATA, _LEGEND_ROWS, _LONGEST = 12, 24, 32
#: From here on dots are drawn as one bitmap, also in PDF and SVG files.
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
    name = str(getattr(color, "name", None) or "").replace("_", " ")
    title = _style.shortened(name, 60) if title is None else title
    is_number = is_float_dtype(color.dtype if hasattr(color, "dtype") else np.asarray(color).dtype)
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
        ink, is_known = np.array([*colors, MISSING])[codes], codes >= 0  # -1 takes the last colour
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
    title = _style.shortened(taxonomy.path_name(index), 60) if title is None else title
    values, scale = result.node_probabilities[:, index].astype(float), {"vmin": 0.0, "vmax": 1.0}
    look: dict[str, Any] = {"cmap": cmap, "size": size, "title": title, "ax": ax, **scale}
    return embedding(coords, values, colorbar_label="probability", **look)


def coverage(
    result: CorrectedPCA,
    groups: Any = None,
    *,
    component: int = 1,
    size: float | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a component against the share of genes that was observed in each cell.

    Parameters
    ----------
    result
        From :func:`hdeepinsight.pp.corrected_gram_pca`.
    groups
        A label per cell, ``(n_cells,)``, for colours: cell types show whether a component that
        follows coverage separates them.
    component
        Which component, from 1 on.
    size
        Area of a dot in square points; by default it falls with the number of cells.
    title
        Heading; by default how much the logarithm of coverage explains of the variance of the
        component, and of its absolute value: cells that are drawn to the middle have a small one.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The axes. Cells of panels, which share a few values of coverage, are spread around them.

    Raises
    ------
    ValueError
        If there is no such component, or not one group per cell.

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
    n_comps = result.embedding.shape[1]
    check_integer("component", component, hint="Omit it to use the first.")
    if component > n_comps:
        raise invalid("component", component, f"at most {n_comps}", "Compute more of them.")
    share, heights = result.coverage.to_numpy(dtype=float), result.embedding[:, component - 1]
    varies = np.ptp(share) > 0
    pairs = np.stack([np.log(share), heights, np.abs(heights)])
    r = np.corrcoef(pairs)[0, 1:] if varies else np.zeros(2)
    by_default = (
        f"coverage explains {r[0] ** 2:.0%} of component {component}, {r[1] ** 2:.0%} of its size"
    )
    new_size = 5.2 if groups is None else 7.0, 4.2
    ax = _style.axes_or_new(ax, new_size, title=by_default if title is None else title)
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
    """Return the label of every cell (-1 for none), and their names and colours."""
    categories: pd.Categorical = pd.Categorical(labels).remove_unused_categories()
    names = list(map(str, categories.categories))
    if palette is None:
        colors = categorical_colors(len(names))
    elif missing := [name for name in names if name not in palette]:
        raise ValueError(
            f"The palette has no colour for {missing[:5]} ({len(missing)} in all). Each label "
            "needs one. Add them, or leave the palette out."
        )
    else:
        colors = [palette[name] for name in names]
    return (
        np.asarray(categories.codes),
        [_style.shortened(name, _LONGEST) for name in names],
        colors,
    )


def _name_on_data(ax: Axes, points: np.ndarray, codes: np.ndarray, names: list[str]) -> None:
    """Write each name on its cells, lifted where it would cover another one below it."""
    if not names:
        return
    own = [points[codes == code] for code in range(len(names))]
    # The cell nearest to the medians: a name never floats between two clouds of its type.
    at = np.array([p[np.square(p - np.median(p, axis=0)).sum(axis=1).argmin()] for p in own])
    box = ax.get_window_extent().transformed(ax.figure.dpi_scale_trans.inverted())
    inch = [np.ptp(ax.get_xlim()) / box.width, np.ptp(ax.get_ylim()) / box.height]
    width, height = 0.085 * inch[0] * np.array(list(map(len, names))), 0.16 * inch[1]
    order = np.argsort(at[:, 1], kind="stable")
    for rank, code in enumerate(order):
        for below in order[:rank]:  # from the lowest up
            near = abs(at[code, 0] - at[below, 0]) < (width[code] + width[below]) / 2
            if near and abs(at[code, 1] - at[below, 1]) < height:
                at[code, 1] = at[below, 1] + height
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "weight": "bold"}
    for (x, y), name in zip(at, names, strict=True):
        _style.add_halo(ax.text(x, y, name, color=_style.INK, **look), 3.0)


def _add_legend(ax: Axes, codes: np.ndarray, names: list[str], colors: list[str]) -> None:
    """Write names with their numbers of cells at the right."""
    n_cells = np.bincount(codes + 1, minlength=len(names) + 1).tolist()  # code -1 is no label
    entries = [*zip(names, colors, n_cells[1:], strict=True)]
    entries += [(_style.NO_LABEL, MISSING, n_cells[0])] * bool(n_cells[0])
    for name, color, n in entries:
        ax.plot([], [], "o", c=color, label=f"{name} ({n:,})")
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5), "frameon": False}
    place["ncols"] = -(-len(entries) // _LEGEND_ROWS)
    ax.legend(fontsize=8.5, handletextpad=0.2, columnspacing=1.0, **place)
