"""Gene layouts, and cells drawn with them."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from hdeepinsight.pl._images import bounds_of, image_of, layout_title, per_gene, stack_of
from hdeepinsight.pl._style import EMPTY, INK, MARK, axes_or_new, bare, halo
from hdeepinsight.pl._text import plain, shortened, spread

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from hdeepinsight.image import GeneLayout

__all__ = ["gene_images", "gene_layout"]

#: Characters of a heading that are as wide as an image.
_LONGEST = 28


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
        If there is not one value a gene, or if a gene to mark is not in the layout.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> layout = hdi.GeneLayout.random(["CD3E", "MS4A1", "LYZ"])
    >>> ax = hdi.pl.gene_layout(layout, [3.0, 1.0, 2.0], highlight=["LYZ"])
    >>> ax.get_title()
    '3 genes on 8 × 8 pixels (random)'
    """
    ax = axes_or_new(ax, (5.6, 5.2) if values is not None else (5.0, 5.2))
    shown = per_gene(layout, np.zeros(layout.n_genes) if values is None else values, "values")
    if values is None:
        _draw(ax, layout, shown, cmap="Blues", vmin=-1.0, vmax=1.0)
        _rule(ax, layout.side)
    else:
        drawn = _draw(ax, layout, shown, cmap=cmap)
        ax.figure.colorbar(drawn, ax=ax, shrink=0.7, label=label or "")
    _mark(ax, layout, highlight, gap=0.042)
    ax.set_title(layout_title(layout) if title is None else title, fontsize=10)
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
    The figure, with one axes an image and one for the colour bar.

    Raises
    ------
    ValueError
        If there is no image, or one without exactly one value a gene, or `n_top` or `ncols` is not
        valid.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> layout = hdi.GeneLayout.random(["CD3E", "MS4A1", "LYZ"])
    >>> figure = hdi.pl.gene_images(layout, {"T": [2.0, 0.1, 0.2], "B": [0.1, 1.8, 0.2]}, n_top=1)
    >>> [ax.get_title() for ax in figure.axes[:2]]
    ['T', 'B']
    """
    import matplotlib.pyplot as plt

    if operator.index(ncols) < 1 or operator.index(n_top) < 0:
        raise ValueError(
            f"Found ncols={ncols}, n_top={n_top}. Valid are 1 or more images in a row, and 0 or "
            "more genes. Leave them out if in doubt."
        )
    stack = stack_of(layout, images)
    columns = min(ncols, len(stack))
    rows = math.ceil(len(stack) / columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(2.7 * columns + 0.9, 2.9 * rows + (0.4 if title else 0.0)),
        squeeze=False,
        layout="constrained",
    )
    bounds = bounds_of(stack)
    for ax, heading, values, top in zip(
        grid.flat, images, stack, _specific(stack, n_top), strict=False
    ):
        drawn = _draw(ax, layout, values, cmap=cmap, vmin=bounds[0], vmax=bounds[1])
        _mark(ax, layout, [layout.genes[gene] for gene in top], gap=0.075)
        lines = [shortened(line, _LONGEST) for line in str(heading).splitlines()]
        ax.set_title("\n".join(lines), fontsize=10)
    for ax in grid.flat[len(stack) :]:
        ax.remove()
    figure.colorbar(drawn, ax=list(grid.flat[: len(stack)]), shrink=0.7, label=label)
    figure.suptitle(title or "")
    return figure


def _draw(
    ax: Axes,
    layout: GeneLayout,
    values: np.ndarray,
    *,
    cmap: str,
    vmin: float | None = None,
    vmax: float | None = None,
) -> AxesImage:
    import matplotlib as mpl

    colors = mpl.colormaps[cmap].with_extremes(bad=EMPTY)
    bare(ax)
    return ax.imshow(
        image_of(layout, values),
        cmap=colors,
        vmin=vmin,
        vmax=vmax,
        interpolation="nearest",
    )


def _rule(ax: Axes, side: int) -> None:
    """Draw white lines between pixels, so that each gene shows."""
    between = np.arange(1, side) - 0.5
    ax.hlines(between, -0.5, side - 0.5, color="white", lw=16 / side)
    ax.vlines(between, -0.5, side - 0.5, color="white", lw=16 / side)


def _mark(ax: Axes, layout: GeneLayout, genes: Sequence[str], *, gap: float) -> None:
    """Frame the pixels of some genes and write their names beside them, towards the middle."""
    place = dict(zip(layout.genes, layout.coordinates.tolist(), strict=True))
    missing = [gene for gene in genes if gene not in place]
    if missing:
        raise ValueError(
            f"The layout has no gene {missing[0]!r} ({len(missing)} in all are missing). Only "
            "genes of the layout have a pixel. Choose from layout.genes."
        )
    left = [gene for gene in genes if place[gene][1] < layout.side / 2]
    right = [gene for gene in genes if place[gene][1] >= layout.side / 2]
    for group, inward in ((left, 1), (right, -1)):
        heights = spread(
            [place[gene][0] for gene in group],
            gap * layout.side,
            low=0.0,
            high=layout.side * (1 - gap / 2) - 1,
        )
        for gene, height in zip(group, heights, strict=True):
            row, column = place[gene]
            beside = column + inward * (1 + 0.03 * layout.side)
            _name(ax, gene, (column, row), (beside, height), "left" if inward > 0 else "right")


def _name(
    ax: Axes,
    gene: str,
    pixel: tuple[int, int],
    at: tuple[float, float],
    align: Literal["left", "right"],
) -> None:
    from matplotlib.patches import Rectangle

    corner = (pixel[0] - 0.5, pixel[1] - 0.5)
    ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=MARK, linewidth=0.9))
    text = ax.annotate(
        plain(gene),
        xy=pixel,
        xytext=at,
        ha=align,
        va="center",
        fontsize=8,
        color=INK,
        arrowprops={"arrowstyle": "-", "color": MARK, "lw": 0.8, "shrinkB": 2},
    )
    text.set_path_effects(halo())


def _specific(stack: np.ndarray, n_top: int) -> list[np.ndarray]:
    """Genes that are highest above the mean of the other images, for each image."""
    others = (np.nansum(stack, axis=0) - stack) / max(1, len(stack) - 1)
    ranked = [np.argsort(-excess, kind="stable") for excess in stack - others]
    return [
        genes[np.isfinite(values[genes])][:n_top]
        for genes, values in zip(ranked, stack, strict=True)
    ]
