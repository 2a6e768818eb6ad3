"""Gene layouts and gene images, as figures and as a page."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hdeepinsight._errors import check_integer
from hdeepinsight.pl._style import EMPTY, INK, MARK, axes_or_new, bare, halo, plain, shortened

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from hdeepinsight.image import GeneLayout


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
        _draw(ax, layout, shown, "Blues", (-1.0, 1.0))
        between, side = np.arange(1, layout.side) - 0.5, layout.side
        for draw_lines in (ax.hlines, ax.vlines):  # between pixels, so that each gene shows
            draw_lines(between, -0.5, side - 0.5, color="white", lw=16 / side)
    else:
        drawn = _draw(ax, layout, shown, cmap)
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

    check_integer("ncols", ncols, hint="Omit it to use 4.")
    check_integer("n_top", n_top, 0, hint="Omit it to use 3.")
    stack = stack_of(layout, images)
    columns = min(ncols, len(stack))
    rows = math.ceil(len(stack) / columns)
    size = (2.7 * columns + 0.9, 2.9 * rows + (0.4 if title else 0.0))
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    bounds = bounds_of(stack)
    for ax, heading, values, top in zip(
        grid.flat, images, stack, _specific(stack, n_top), strict=False
    ):
        drawn = _draw(ax, layout, values, cmap, bounds)
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
    cmap: str,
    bounds: tuple[float, float] | None = None,
) -> AxesImage:
    import matplotlib as mpl

    colors = mpl.colormaps[cmap].with_extremes(bad=EMPTY)
    bare(ax)
    low, high = bounds or (None, None)
    image = image_of(layout, values)
    return ax.imshow(image, cmap=colors, vmin=low, vmax=high, interpolation="nearest")


def _mark(ax: Axes, layout: GeneLayout, genes: Sequence[str], *, gap: float) -> None:
    """Frame the pixels of some genes and write their names beside them, towards the middle."""
    place = dict(zip(layout.genes, layout.coordinates.tolist(), strict=True))
    if missing := [gene for gene in genes if gene not in place]:
        raise ValueError(
            f"The layout has no gene {missing[0]!r} ({len(missing)} in all are missing). Choose "
            "from layout.genes."
        )
    left = [gene for gene in genes if place[gene][1] < layout.side / 2]
    right = [gene for gene in genes if place[gene][1] >= layout.side / 2]
    for group, inward in ((left, 1), (right, -1)):
        rows, lowest = [place[gene][0] for gene in group], layout.side * (1 - gap / 2) - 1
        heights = spread(rows, gap * layout.side, low=0.0, high=lowest)
        for gene, height in zip(group, heights, strict=True):
            row, column = place[gene]
            beside = column + inward * (1 + 0.03 * layout.side)
            _name(ax, gene, (column, row), (beside, height), "left" if inward > 0 else "right")


def _name(ax: Axes, gene: str, pixel: tuple[int, int], at: tuple[float, float], align: str) -> None:
    from matplotlib.patches import Rectangle

    corner = (pixel[0] - 0.5, pixel[1] - 0.5)
    ax.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=MARK, linewidth=0.9))
    line = {"arrowstyle": "-", "color": MARK, "lw": 0.8, "shrinkB": 2}
    text = ax.annotate(
        plain(gene), pixel, at, ha=align, va="center", fontsize=8, color=INK, arrowprops=line
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


def spread(
    places: Sequence[float] | np.ndarray, gap: float, *, low: float, high: float
) -> np.ndarray:
    """Move places apart by at least a gap, within bounds.

    Parameters
    ----------
    places
        Where names would stand, ``(n,)``.
    gap
        Distance that a name needs; less, where `n` of them do not fit.
    low, high
        Bounds.

    Returns
    -------
    Places ``(n,)`` in the same order, moved up from the lowest, then down from the upper bound.
    """
    order = np.argsort(places, kind="stable")
    moved = np.asarray(places, dtype=np.float64)[order]
    gap = min(gap, (high - low) / max(1, len(moved) - 1))
    for i in range(len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap if i else low)
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], moved[i + 1] - gap if i < len(moved) - 1 else high)
    return np.asarray(moved[np.argsort(order)])


#: Colour of genes without values, and pixels of the screen that a panel may fill, of which each
#: gene has a whole number, so that all genes are of one size.
_PLAIN: Final = "#4292C6"


_SCREEN: Final = 1_000


def gene_layout_html(
    layout: GeneLayout,
    images: Mapping[str, npt.ArrayLike] | None = None,
    *,
    cmap: str = "viridis",
    label: str = "mean expression",
    title: str | None = None,
) -> str:
    """Draw a gene layout as a web page that names the gene under the mouse, and finds genes.

    Parameters
    ----------
    layout
        The layout.
    images
        As for :func:`gene_images`: heading of each image, of a cell type or a cell, and its value
        for each gene. The gene under the mouse is marked in all of them, with its values. By
        default one image in which all genes look alike.
    cmap
        Name of the colour map; all images share one scale.
    label
        What the values are, written beside the scale.
    title
        Heading; by default the size of the layout and, where known, how well it keeps neighbours.

    Returns
    -------
    The page. It needs nothing but a browser: no network, no further file. Write it to a file with
    ``Path("genes.html").write_text(page, encoding="utf-8")``, or show it in a notebook with
    ``IPython.display.HTML(page)``.

    Raises
    ------
    ValueError
        If an image has not one value a gene.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> layout = hdi.GeneLayout.random(["CD3E", "MS4A1", "LYZ"])
    >>> page = hdi.pl.gene_layout_html(layout, {"T": [2.0, 0.1, 0.2], "B": [0.1, 1.8, 0.2]})
    >>> page.count("<figure>"), "MS4A1" in page
    (2, True)
    """
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap, to_hex

    stack = np.empty((0, layout.n_genes)) if images is None else stack_of(layout, images)
    headings = ["genes"] if images is None else [str(name) for name in images]
    colors = mpl.colormaps[cmap] if images is not None else ListedColormap([_PLAIN])
    colors = colors.with_extremes(bad=EMPTY)
    bounds = bounds_of(stack) if len(stack) else (0.0, 1.0)
    drawn = stack if len(stack) else np.ones((1, layout.n_genes))
    panels = [
        _panel(heading, _png(layout, values, bounds, colors), layout)
        for heading, values in zip(headings, drawn, strict=True)
    ]
    text = layout_title(layout) if title is None else title
    folder = resources.files("hdeepinsight.pl")
    template = folder.joinpath("gene_layout.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=html.escape(text.replace("\n", "; ")),
        width=layout.side * max(2, _SCREEN // min(max(len(panels), 2), 3) // layout.side),
        gradient=", ".join(to_hex(colors(step)) for step in np.linspace(0, 1, 12)),
        panels="\n".join(panels),
        scale=_scale(bounds, label) if len(stack) else "",
        data=_data(layout, stack),
    )


def _png(
    layout: GeneLayout, values: np.ndarray, bounds: tuple[float, float], colors: Colormap
) -> str:
    """Draw one pixel a gene; the browser enlarges it. As text for a data address."""
    from matplotlib.colors import Normalize
    from matplotlib.image import imsave

    scaled = Normalize(*bounds)(np.ma.masked_invalid(image_of(layout, values)))
    file = io.BytesIO()
    imsave(file, colors(scaled, bytes=True), format="png")
    return base64.b64encode(file.getvalue()).decode("ascii")


def _panel(heading: str, png: str, layout: GeneLayout) -> str:
    name = html.escape(heading)
    about = f"{name}: {layout.n_genes} genes on {layout.side} by {layout.side} pixels"
    picture = f'<img alt="{about}" src="data:image/png;base64,{png}">'
    return f'<figure><figcaption>{name}</figcaption><div class="panel">{picture}</div></figure>'


def _scale(bounds: tuple[float, float], label: str) -> str:
    low, high = (f"<span>{bound:.3g}</span>" for bound in bounds)
    return f'<p class="scale">{html.escape(label)} {low}<span class="bar"></span>{high}</p>'


def _data(layout: GeneLayout, stack: np.ndarray) -> str:
    """Names, pixels and values as JSON, in which nothing can end the script that holds it."""
    values = [
        [float(f"{value:.3g}") if np.isfinite(value) else None for value in row]
        for row in stack.tolist()
    ]
    content = {
        "side": layout.side,
        "genes": list(layout.genes),
        "pixel": layout.pixel.tolist(),
        "values": values,
    }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("&", "\\u0026")


def per_gene(layout: GeneLayout, values: Any, what: str) -> np.ndarray:
    """Check values, and put those of a Series named by genes in the order of the layout.

    Parameters
    ----------
    layout
        The layout.
    values
        A number per gene, ``(n_genes,)``; or a Series whose index names genes, matched by name:
        genes of the layout that it lacks are NaN, further ones are left out.
    what
        Name of the values, for the error.

    Returns
    -------
    Values, float64 ``(n_genes,)``.
    """
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


def stack_of(layout: GeneLayout, images: Mapping[str, npt.ArrayLike]) -> np.ndarray:
    """Check images and stack them, ``(n_images, n_genes)``."""
    if not len(images):
        raise ValueError(
            "There is no image. Pass at least one heading with a value for each gene, "
            "for example the mean of each cell type."
        )
    return np.stack([per_gene(layout, v, f"image {k!r}") for k, v in images.items()])


def bounds_of(stack: np.ndarray) -> tuple[float, float]:
    """Return the ends of the scale that all images share; zero is on it."""
    known = stack[np.isfinite(stack)]
    return (min(0.0, float(known.min())), float(known.max())) if known.size else (0.0, 1.0)


def image_of(layout: GeneLayout, values: np.ndarray) -> np.ndarray:
    """Put values at the pixels of their genes, ``(side, side)``; NaN elsewhere."""
    image = np.full(layout.side**2, np.nan)
    image[layout.pixel] = values
    return image.reshape(layout.side, layout.side)


def layout_title(layout: GeneLayout) -> str:
    """Size of a layout and, where known, how well it keeps neighbours."""
    size = f"{layout.n_genes:,} genes on {layout.side} × {layout.side} pixels ({layout.method})"
    if "neighbors_kept" not in layout.report:
        return size
    kept, chance = (layout.report[k] for k in ("neighbors_kept", "neighbors_kept_random"))
    return f"{size}\n{kept:.1%} of each gene's 10 neighbours kept, {chance:.1%} by chance"
