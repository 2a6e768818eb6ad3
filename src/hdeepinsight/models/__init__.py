"""Models, one folder each."""

from hdeepinsight.models._model_file import ModelFileError
from hdeepinsight.models.schdeepinsight import (
    AdaptationFigures,
    AdaptationReport,
    AdaptedSCHDeepInsight,
    SCHDeepInsight,
    convert_model,
)

__all__ = [
    "AdaptationFigures",
    "AdaptationReport",
    "AdaptedSCHDeepInsight",
    "ModelFileError",
    "SCHDeepInsight",
    "convert_model",
]
