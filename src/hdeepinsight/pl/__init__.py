"""Plots of results. Functions return axes or a figure and never show or close it."""

from hdeepinsight.pl._confidence import novelty, reliability
from hdeepinsight.pl._embedding import coverage, embedding
from hdeepinsight.pl._grid import confusion, dotplot, marker_evidence, topics
from hdeepinsight.pl._layout import gene_images, gene_layout
from hdeepinsight.pl._model import (
    contrast,
    explanation,
    in_degrees,
    privacy_utility,
    training_history,
)
from hdeepinsight.pl._tree import taxonomy

__all__ = [
    "confusion",
    "contrast",
    "coverage",
    "dotplot",
    "embedding",
    "explanation",
    "gene_images",
    "gene_layout",
    "in_degrees",
    "marker_evidence",
    "novelty",
    "privacy_utility",
    "reliability",
    "taxonomy",
    "topics",
    "training_history",
]
