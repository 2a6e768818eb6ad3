"""The main model."""

from hdeepinsight.models._adapt import (
    AdaptationFigures,
    AdaptationReport,
)
from hdeepinsight.models.schdeepinsight._model import SCHDeepInsight
from hdeepinsight.models.schdeepinsight._surgery_model import AdaptedSCHDeepInsight

__all__ = [
    "AdaptationFigures",
    "AdaptationReport",
    "AdaptedSCHDeepInsight",
    "SCHDeepInsight",
]
