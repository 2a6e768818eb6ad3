"""SCHDeepInsight, the hierarchical classifier of gene images."""

from hdeepinsight.models.schdeepinsight._model import SCHDeepInsight as SCHDeepInsight
from hdeepinsight.nn import ModuleConfig as ModuleConfig
