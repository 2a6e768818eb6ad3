"""Plot gene layouts and gene images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hdeepinsight._errors import check_integer, invalid, refuse_unused
from hdeepinsight.pl._style import EMPTY, INK, MARK, add_halo, axes_or_new, plain, shortened

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hdeepinsight.image import GeneLayout

#: Maximum length of a line above an image, in characters.
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
    """Plot the positions of genes on the image.

    Parameters
    ----------
    layout
        Gene layout.
    values
        Number per gene, ``(n_genes,)``, for its colour; by default all genes have the same colour.
        A Series is matched by its index of gene names. Genes with NaN look like empty pixels.
    highlight
        Genes to mark with their names.
    cmap
        Name of the colour map for `values`.
    label
        Label of the colour bar.
    title
        Title; by default the size of the layout and, if known, the fraction of neighbours that it
        preserves.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.

    Raises
    ------
    ValueError
        If there is not one value per gene, or a gene to mark is not in the layout.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> layout = hdi.GeneLayout.random(["CD3E", "MS4A1", "LYZ"])
    >>> ax = hdi.pl.gene_layout(layout, [3.0, 1.0, 2.0], highlight=["LYZ"])
    >>> ax.get_title()
    '3 genes on 8 × 8 pixels (random)'
    """
    if title is None:
        title = f"{layout.n_genes:,} genes on {layout.side} × {layout.side} pixels"
        title += f" ({layout.method})"
        if "neighbors_kept" in layout.report:
            kept, chance = (layout.report[k] for k in ("neighbors_kept", "neighbors_kept_random"))
            title += f"\n{kept:.1%} of each gene's 10 neighbours kept, {chance:.1%} by chance"
    ax = axes_or_new(ax, (5.0 if values is None else 5.6, 5.2), "bare", title)
    own = {"cmap": cmap != "viridis", "label": label}
    refuse_unused(own if values is None else {}, "without values")
    if values is None:
        _draw(ax, layout, np.zeros(layout.n_genes), "Blues", -1.0, 1.0)
        between, side = np.arange(1, layout.side) - 0.5, layout.side
        for draw_lines in (ax.hlines, ax.vlines):  # separate the pixels of individual genes
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
    """Plot gene images of cell types or individual cells on a common colour scale.

    Parameters
    ----------
    layout
        Gene layout.
    images
        Values per gene, ``(n_genes,)``, by the title of the image; or a DataFrame, genes × images,
        matched by gene name. Genes without a value look like empty pixels.
    n_top
        Number of genes to mark in each image: those with the largest difference to the mean of the
        other images.
    ncols
        Number of images per row.
    cmap
        Name of the colour map.
    label
        Label of the colour bar.
    title
        Title of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, with one axes per image and one for the colour bar.

    Raises
    ------
    ValueError
        If an image does not have one value per gene, or `n_top` or `ncols` is
        invalid.

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
    stack = np.stack([_per_gene(layout, v, f"image {k!r}") for k, v in images.items()])
    known = stack[np.isfinite(stack)]  # 0 is always on the scale
    bounds = (min(0.0, float(known.min())), float(known.max())) if known.size else (0.0, 1.0)
    columns = min(ncols, len(stack))
    rows = -(-len(stack) // columns)
    size = (2.7 * columns + 0.9, 2.9 * rows + (0.4 if title else 0.0))
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    others = (np.nansum(stack, axis=0) - stack) / max(1, len(stack) - 1)
    for ax, heading, values, rest in zip(grid.flat, images, stack, others, strict=False):
        heading = "\n".join(shortened(line, _LONGEST) for line in str(heading).splitlines())
        ax = axes_or_new(ax, size, "bare", heading)
        drawn = _draw(ax, layout, values, cmap, *bounds)
        ranked = np.argsort(rest - values, kind="stable")  # largest difference first
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
    pixels = np.full(layout.side**2, np.nan)
    pixels[layout.pixel] = values
    image = pixels.reshape(layout.side, layout.side)
    return ax.imshow(image, cmap=colors, vmin=low, vmax=high, interpolation="nearest")


def _mark(ax: Axes, layout: GeneLayout, genes: Sequence[str], *, gap: float) -> None:
    """Outline the pixels of genes and write their names next to them, towards the centre."""
    from matplotlib.patches import Rectangle

    place = dict(zip(layout.genes, layout.coordinates.tolist(), strict=True))
    if lacking := [gene for gene in genes if gene not in place]:
        raise invalid("highlight", lacking, "genes of the layout", "Omit others.")
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
    """Move positions in [0, high] apart by at least a gap, or less if they do not all fit."""
    n, order = len(places), np.argsort(places, kind="stable")
    steps = np.arange(n) * min(gap, high / max(1, n - 1))
    moved = np.maximum.accumulate(places[order] - steps)
    moved = np.minimum.accumulate(np.minimum(moved, high - steps[-1:])[::-1])[::-1] + steps
    return np.asarray(moved[np.argsort(order)])


def _per_gene(layout: GeneLayout, values: Any, what: str) -> np.ndarray:
    """Return a number per gene, ``(n_genes,)``, with a Series matched by gene name."""
    if hasattr(values, "reindex") and values.index.isin(layout.genes).any():
        values = values.reindex(list(layout.genes))
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (layout.n_genes,):
        expected = f"one number per gene, shape ({layout.n_genes},)"
        hint = "Pass them in the order of layout.genes, or a Series with gene names."
        raise ValueError(f"{what} must be {expected}, got shape {array.shape}. {hint}")
    return array
