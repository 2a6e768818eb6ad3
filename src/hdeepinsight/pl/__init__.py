"""Plots of results. Functions return axes or a figure and never show or close it."""

from hdeepinsight.pl._confidence import novelty as novelty
from hdeepinsight.pl._confidence import reliability as reliability
from hdeepinsight.pl._embedding import coverage as coverage
from hdeepinsight.pl._embedding import embedding as embedding
from hdeepinsight.pl._grid import confusion as confusion
from hdeepinsight.pl._grid import dotplot as dotplot
from hdeepinsight.pl._grid import marker_evidence as marker_evidence
from hdeepinsight.pl._grid import topics as topics
from hdeepinsight.pl._layout import gene_images as gene_images
from hdeepinsight.pl._layout import gene_layout as gene_layout
from hdeepinsight.pl._model import contrast as contrast
from hdeepinsight.pl._model import explanation as explanation
from hdeepinsight.pl._model import in_degrees as in_degrees
from hdeepinsight.pl._model import privacy_utility as privacy_utility
from hdeepinsight.pl._model import training_history as training_history
from hdeepinsight.pl._tree import taxonomy as taxonomy
