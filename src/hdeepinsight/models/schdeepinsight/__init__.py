"""The main model."""

from hdeepinsight.models.schdeepinsight._model import SCHDeepInsight
from hdeepinsight.models.schdeepinsight._module import ModuleConfig

__all__ = ["ModuleConfig", "SCHDeepInsight"]
