"""The main model."""

from hdeepinsight.models.schdeepinsight._model import SCHDeepInsight
from hdeepinsight.nn import ModuleConfig

__all__ = ["ModuleConfig", "SCHDeepInsight"]
