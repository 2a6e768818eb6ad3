"""The main model."""

from hdeepinsight.models.schdeepinsight._model import SCHDeepInsight

__all__ = ["SCHDeepInsight"]
