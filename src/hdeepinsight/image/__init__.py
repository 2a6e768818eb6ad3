"""Genes to pixels: the layout that places every gene once, and the raster that draws cells."""

from hdeepinsight.image._fit import MIN_DISTINCT, LayoutMethod, global_seeds, principal_plane
from hdeepinsight.image._layout import GeneLayout, protein_layout
from hdeepinsight.image._raster import Channels, Raster

__all__ = [
    "MIN_DISTINCT",
    "Channels",
    "GeneLayout",
    "LayoutMethod",
    "Raster",
    "global_seeds",
    "principal_plane",
    "protein_layout",
]
