"""The main model."""

from hdeepinsight.models.schdeepinsight._model import ModuleConfig, SCHDeepInsight

__all__ = ["ModuleConfig", "SCHDeepInsight"]
