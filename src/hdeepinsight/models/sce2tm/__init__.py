"""SCE2TM, an embedded topic model guided by a second view of the cells."""

from hdeepinsight.models.sce2tm._model import SCE2TM as SCE2TM
from hdeepinsight.models.sce2tm._topics import TopicPerturbation as TopicPerturbation
