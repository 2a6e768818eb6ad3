"""Genes to pixels: the layout that places every gene once, and the raster that draws cells."""

from hdeepinsight.image._channels import protein_layout
from hdeepinsight.image._fit import LayoutMethod
from hdeepinsight.image._layout import GeneLayout
from hdeepinsight.image._raster import Raster

__all__ = ["GeneLayout", "LayoutMethod", "Raster", "protein_layout"]
