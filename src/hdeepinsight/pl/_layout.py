"""Gene layouts and gene images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hdeepinsight._errors import check_integer
from hdeepinsight.pl._style import EMPTY, INK, MARK, add_halo, axes_or_new, plain, shortened

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hdeepinsight.image import GeneLayout

#: Characters of a heading that are as wide as an image.
_LONGEST: Final = 28


def gene_layout(
    layout: GeneLayout,
    values: npt.ArrayLike | None = None,
    *,
    highlight: Sequence[str] = (),
    cmap: str = "viridis",
    label: str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw where each gene lives on the image.

    Parameters
    ----------
    layout
        The layout.
    values
        A number for each gene, ``(n_genes,)``, for its colour; by default all genes look alike.
        A Series with gene names as its index is matched by name. NaN leaves a gene in the colour
        of an empty pixel.
    highlight
        Genes to mark and name.
    cmap
        Name of the colour map for `values`.
    label
        What the values are, written along the colour bar.
    title
        Heading; by default the size of the layout and, where known, how well it keeps neighbours.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The axes.

    Raises
    ------
    ValueError
        If there is not one value per gene, or if a gene to mark is not in the layout.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> layout = hdi.GeneLayout.random(["CD3E", "MS4A1", "LYZ"])
    >>> ax = hdi.pl.gene_layout(layout, [3.0, 1.0, 2.0], highlight=["LYZ"])
    >>> ax.get_title()
    '3 genes on 8 × 8 pixels (random)'
    """
    size = 5.0 if values is None else 5.6, 5.2
    ax = axes_or_new(ax, size, "bare", _title_of(layout) if title is None else title)
    if values is None:
        _draw(ax, layout, np.zeros(layout.n_genes), "Blues", -1.0, 1.0)
        between, side = np.arange(1, layout.side) - 0.5, layout.side
        for draw_lines in (ax.hlines, ax.vlines):  # between pixels, so that each gene shows
            draw_lines(between, -0.5, side - 0.5, color="white", lw=16 / side)
    else:
        drawn = _draw(ax, layout, _per_gene(layout, values, "values"), cmap)
        ax.figure.colorbar(drawn, ax=ax, shrink=0.7, label=label or "")
    _mark(ax, layout, highlight, gap=0.042)
    return ax


def gene_images(
    layout: GeneLayout,
    images: Mapping[str, npt.ArrayLike],
    *,
    n_top: int = 3,
    ncols: int = 4,
    cmap: str = "viridis",
    label: str = "mean expression",
    title: str | None = None,
) -> Figure:
    """Draw cell types, or single cells, as gene images side by side on one colour scale.

    Parameters
    ----------
    layout
        The layout.
    images
        Heading of each image, and its value for each gene, ``(n_genes,)``; or a DataFrame, genes
        × images, matched by gene name. Genes without a value have the colour of an empty pixel.
    n_top
        Genes to name in each image: those that are highest above the mean of the other images.
    ncols
        Images in a row.
    cmap
        Name of the colour map.
    label
        What the values are, written along the colour bar.
    title
        Heading of the figure.

    Returns
    -------
    The figure, with one axes per image and one for the colour bar.

    Raises
    ------
    ValueError
        If there is no image, or one without exactly one value per gene, or `n_top` or `ncols` is
        not valid.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> layout = hdi.GeneLayout.random(["CD3E", "MS4A1", "LYZ"])
    >>> figure = hdi.pl.gene_images(layout, {"T": [2.0, 0.1, 0.2], "B": [0.1, 1.8, 0.2]}, n_top=1)
    >>> [ax.get_title() for ax in figure.axes[:2]]
    ['T', 'B']
    """
    import matplotlib.pyplot as plt

    check_integer("ncols", ncols, hint="Omit it to use 4.")
    check_integer("n_top", n_top, 0, hint="Omit it to use 3.")
    stack, bounds = _stack(layout, images)
    columns = min(ncols, len(stack))
    rows = -(-len(stack) // columns)
    size = (2.7 * columns + 0.9, 2.9 * rows + (0.4 if title else 0.0))
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    others = (np.nansum(stack, axis=0) - stack) / max(1, len(stack) - 1)
    for ax, heading, values, rest in zip(grid.flat, images, stack, others, strict=False):
        heading = "\n".join(shortened(line, _LONGEST) for line in str(heading).splitlines())
        ax = axes_or_new(ax, size, "bare", heading)
        drawn = _draw(ax, layout, values, cmap, *bounds)
        ranked = np.argsort(rest - values, kind="stable")  # highest above the other images first
        top = ranked[np.isfinite(values[ranked])][:n_top]
        _mark(ax, layout, [layout.genes[gene] for gene in top], gap=0.075)
    for ax in grid.flat[len(stack) :]:
        ax.remove()
    figure.colorbar(drawn, ax=list(grid.flat[: len(stack)]), shrink=0.7, label=label)
    figure.suptitle(title or "")
    return figure


def _draw(ax: Axes, layout: GeneLayout, values: np.ndarray, cmap: str, *bounds: float) -> Any:
    import matplotlib as mpl

    colors, (low, high) = mpl.colormaps[cmap].with_extremes(bad=EMPTY), bounds or (None, None)
    pixels = _image(layout, values)
    return ax.imshow(pixels, cmap=colors, vmin=low, vmax=high, interpolation="nearest")


def _mark(ax: Axes, layout: GeneLayout, genes: Sequence[str], *, gap: float) -> None:
    """Frame the pixels of some genes and write their names beside them, towards the middle."""
    from matplotlib.patches import Rectangle

    place = dict(zip(layout.genes, layout.coordinates.tolist(), strict=True))
    if missing := [gene for gene in genes if gene not in place]:
        raise ValueError(
            f"The layout has no gene {missing[0]!r} ({len(missing)} in all are missing). Choose "
            "from layout.genes."
        )
    look: dict[str, Any] = {"va": "center", "fontsize": 8, "color": INK}
    look["arrowprops"] = {"arrowstyle": "-", "color": MARK, "lw": 0.8, "shrinkB": 2}
    for align, inward in (("left", 1), ("right", -1)):
        own = [g for g in genes if (place[g][1] < layout.side / 2) == (inward > 0)]
        rows = np.array([place[gene][0] for gene in own], dtype=np.float64)
        highest = layout.side * (1 - gap / 2) - 1
        heights = _spread(rows, gap * layout.side, highest)
        for gene, height in zip(own, heights, strict=True):
            row, column = place[gene]
            corner = column - 0.5, row - 0.5
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, ec=MARK, lw=0.9))
            at = column + inward * (1 + 0.03 * layout.side), height
            add_halo(ax.annotate(plain(gene), (column, row), at, ha=align, **look))


def _spread(places: np.ndarray, gap: float, high: float) -> np.ndarray:
    """Move places from 0 to `high` apart by at least a gap, or less where they do not all fit."""
    n, order = len(places), np.argsort(places, kind="stable")
    steps = np.arange(n) * min(gap, high / max(1, n - 1))
    moved = np.maximum.accumulate(places[order] - steps)
    moved = np.minimum.accumulate(np.minimum(moved, high - steps[-1:])[::-1])[::-1] + steps
    return np.asarray(moved[np.argsort(order)])


def _per_gene(layout: GeneLayout, values: Any, what: str) -> np.ndarray:
    """Return a number per gene, ``(n_genes,)``, where a Series is matched by gene name."""
    if hasattr(values, "reindex") and values.index.isin(layout.genes).any():
        values = values.reindex(list(layout.genes))
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (layout.n_genes,):
        raise ValueError(
            f"The {what} have the shape {array.shape}. One number per gene is needed: "
            f"({layout.n_genes},). Put them in the order of layout.genes, or pass a Series with "
            "gene names."
        )
    return array


def _stack(
    layout: GeneLayout, images: Mapping[str, npt.ArrayLike]
) -> tuple[np.ndarray, tuple[float, float]]:
    """Return images, ``(n_images, n_genes)``, and the ends of their scale, with 0 on it."""
    if not len(images):
        raise ValueError(
            "There is no image. Pass at least one heading with a value for each gene, "
            "for example the mean of each cell type."
        )
    stack = np.stack([_per_gene(layout, v, f"image {k!r}") for k, v in images.items()])
    known = stack[np.isfinite(stack)]
    return stack, (min(0.0, float(known.min())), float(known.max())) if known.size else (0.0, 1.0)


def _image(layout: GeneLayout, values: np.ndarray) -> np.ndarray:
    """Put values at the pixels of their genes, ``(side, side)``; NaN elsewhere."""
    image = np.full(layout.side**2, np.nan)
    image[layout.pixel] = values
    return image.reshape(layout.side, layout.side)


def _title_of(layout: GeneLayout) -> str:
    """Return the size of a layout and, where known, how well it keeps neighbours."""
    size = f"{layout.n_genes:,} genes on {layout.side} × {layout.side} pixels ({layout.method})"
    if "neighbors_kept" not in layout.report:
        return size
    kept, chance = (layout.report[k] for k in ("neighbors_kept", "neighbors_kept_random"))
    return f"{size}\n{kept:.1%} of each gene's 10 neighbours kept, {chance:.1%} by chance"
