"""Topics of genes that are clusters of cells, guided by an embedding."""

from hdeepinsight.models.sce2tm._model import SCE2TM
from hdeepinsight.models.sce2tm._topics import TopicPerturbation

__all__ = ["SCE2TM", "TopicPerturbation"]
