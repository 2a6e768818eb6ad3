"""Genes to pixels: the layout that places every gene once, and the raster that draws cells."""

from hdeepinsight.image._fit import (
    MIN_DISTINCT as MIN_DISTINCT,
    LayoutMethod as LayoutMethod,
    global_seeds as global_seeds,
    principal_plane as principal_plane,
)
from hdeepinsight.image._layout import (
    GeneLayout as GeneLayout,
    protein_layout as protein_layout,
)
from hdeepinsight.image._raster import (
    Channels as Channels,
    Raster as Raster,
)
