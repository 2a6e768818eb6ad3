"""Pictures of results. Every function returns its axes or figure; none shows or closes it."""

from hdeepinsight.pl._confusion import confusion
from hdeepinsight.pl._embedding import embedding
from hdeepinsight.pl._layout import gene_images, gene_layout
from hdeepinsight.pl._reliability import reliability
from hdeepinsight.pl._taxonomy import taxonomy

__all__ = [
    "confusion",
    "embedding",
    "gene_images",
    "gene_layout",
    "reliability",
    "taxonomy",
]
