"""Gene layouts, and conversion of expression to gene images."""

from hdeepinsight.image._fit import MIN_DISTINCT as MIN_DISTINCT
from hdeepinsight.image._fit import LayoutMethod as LayoutMethod
from hdeepinsight.image._fit import global_seeds as global_seeds
from hdeepinsight.image._fit import preserve_neighbors as preserve_neighbors
from hdeepinsight.image._fit import principal_plane as principal_plane
from hdeepinsight.image._layout import Channels as Channels
from hdeepinsight.image._layout import GeneLayout as GeneLayout
from hdeepinsight.image._layout import Raster as Raster
from hdeepinsight.image._layout import protein_layout as protein_layout
