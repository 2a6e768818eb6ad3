"""Further modalities on the gene image: each protein at the pixel of its gene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hdeepinsight.image._assign import assign_pixels
from hdeepinsight.image._fit import rim_first
from hdeepinsight.image._layout import GeneLayout
from hdeepinsight.image._validate import checked_genes


def protein_layout(layout: GeneLayout, genes: Mapping[str, Sequence[str]]) -> GeneLayout:
    """Place proteins on the image of a gene layout.

    Parameters
    ----------
    layout
        Where the genes are.
    genes
        Genes of every protein, by its name; a protein without any, or with none on the layout, is
        unplaced.

    Returns
    -------
    Layout of the proteins, sorted by name so that their order does not matter, on an image of the
    same side. Each has a pixel of its own among proteins: that of its gene, the one nearest to the
    centre of several genes, or a neighbouring one where proteins share a gene (least sum of
    squared distances). Unplaced proteins take pixels that hold neither gene nor protein, from the
    rim inwards, then any that hold no protein. The report counts both kinds.

    Raises
    ------
    ValueError
        If there are no proteins, or more than pixels.

    Examples
    --------
    >>> from hdeepinsight.image import GeneLayout, protein_layout
    >>> layout = GeneLayout(("CD3D", "CD3E", "CD4", "CD3G"), [0, 1, 15, 2], 4)
    >>> genes = {"IgG1": (), "CD3": ("CD3D", "CD3E", "CD3G"), "CD4": ("CD4",)}
    >>> placed = protein_layout(layout, genes)
    >>> placed.genes, placed.pixel.tolist()
    (('CD3', 'CD4', 'IgG1'), [1, 15, 3])
    """
    names = checked_genes(sorted(genes))
    if len(names) > layout.side**2:
        msg = (
            f"There are {len(names)} proteins and {layout.side} × {layout.side} pixels. Each "
            "protein has a pixel of its own. Pass a larger side."
        )
        raise ValueError(msg)
    where = dict(zip(layout.genes, layout.coordinates, strict=True))
    centres = {
        name: np.mean([where[gene] for gene in genes[name] if gene in where], axis=0) + 0.5
        for name in names
        if any(gene in where for gene in genes[name])
    }
    pixel = np.empty(len(names), dtype=np.int64)
    placed = np.array([name in centres for name in names])
    if centres:
        pixel[placed] = assign_pixels(np.stack(list(centres.values())), layout.side)
    pixel[~placed] = _free_pixels(layout, pixel[placed])[: int((~placed).sum())]
    report = {"placed": float(placed.sum()), "unplaced": float((~placed).sum())}
    return GeneLayout(names, pixel, layout.side, "genes", report)


def _free_pixels(layout: GeneLayout, taken: np.ndarray) -> np.ndarray:
    """Pixels without a protein: first those without a gene, from the rim inwards."""
    free = np.setdiff1d(np.arange(layout.side**2), taken)
    empty = ~np.isin(free, layout.pixel)
    return np.concatenate([rim_first(part, layout.side) for part in (free[empty], free[~empty])])
