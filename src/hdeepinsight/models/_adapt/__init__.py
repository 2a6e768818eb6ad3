"""Adaptation of a trained network to one query, and the label-free check of it."""

from hdeepinsight.models._adapt._adapter import Adapter
from hdeepinsight.models._adapt._guard import AdaptationFigures, AdaptationOptions, AdaptationReport
from hdeepinsight.models._adapt._profiles import QueryCells, reference_sums

__all__ = [
    "AdaptationFigures",
    "AdaptationOptions",
    "AdaptationReport",
    "Adapter",
    "QueryCells",
    "reference_sums",
]
