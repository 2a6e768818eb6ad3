"""Models, one folder each."""

from hdeepinsight.models._model_file import ModelFileError
from hdeepinsight.models.schdeepinsight import SCHDeepInsight

__all__ = ["ModelFileError", "SCHDeepInsight"]
