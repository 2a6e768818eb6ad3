"""Gene images as a page that names the gene under the mouse."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Final

import numpy as np

from hdeepinsight.pl._images import bounds_of, image_of, layout_title, stack_of
from hdeepinsight.pl._style import EMPTY

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.colors import Colormap

    from hdeepinsight.image import GeneLayout

__all__ = ["gene_layout_html"]

#: Colour of genes without values, and pixels of the screen that a panel may fill.
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
    stack = np.empty((0, layout.n_genes)) if images is None else stack_of(layout, images)
    headings = ["genes"] if images is None else [str(name) for name in images]
    colors = _colors(cmap, plain=images is None)
    bounds = bounds_of(stack) if len(stack) else (0.0, 1.0)
    drawn = stack if len(stack) else np.ones((1, layout.n_genes))
    panels = [
        _panel(heading, _png(layout, values, bounds, colors), layout)
        for heading, values in zip(headings, drawn, strict=True)
    ]
    text = layout_title(layout) if title is None else title
    return Template(_template()).substitute(
        title=html.escape(text.replace("\n", "; ")),
        width=_width(layout.side, len(panels)),
        gradient=", ".join(_hex(colors(step)) for step in np.linspace(0, 1, 12)),
        panels="\n".join(panels),
        scale=_scale(bounds, label) if len(stack) else "",
        data=_data(layout, stack),
    )


def _template() -> str:
    folder = resources.files("hdeepinsight.pl")
    return folder.joinpath("gene_layout.html").read_text(encoding="utf-8")


def _colors(cmap: str, *, plain: bool) -> Colormap:
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap

    colors = ListedColormap([_PLAIN]) if plain else mpl.colormaps[cmap]
    return colors.with_extremes(bad=EMPTY)


def _hex(color: tuple[float, float, float, float]) -> str:
    from matplotlib.colors import to_hex

    return to_hex(color)


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


def _width(side: int, n_panels: int) -> int:
    """Whole screen pixels a gene, so that all genes are of one size."""
    return side * max(2, _SCREEN // min(max(n_panels, 2), 3) // side)


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
