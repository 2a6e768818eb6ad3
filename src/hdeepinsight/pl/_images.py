"""Numbers of genes, and their pictures as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from hdeepinsight.image import GeneLayout

__all__ = ["bounds_of", "image_of", "layout_title", "per_gene", "stack_of"]


def per_gene(layout: GeneLayout, values: Any, what: str) -> np.ndarray:
    """Check values, and put those of a Series named by genes in the order of the layout.

    Parameters
    ----------
    layout
        The layout.
    values
        A number a gene, ``(n_genes,)``; or a Series whose index names genes, matched by name:
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
            f"The {what} have the shape {array.shape}. One number a gene is needed: "
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
