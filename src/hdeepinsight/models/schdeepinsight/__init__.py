"""SCHDeepInsight, the hierarchical classifier of gene images."""

from hdeepinsight.models.schdeepinsight._model import SCHDeepInsight
from hdeepinsight.nn import ModuleConfig

__all__ = ["ModuleConfig", "SCHDeepInsight"]
