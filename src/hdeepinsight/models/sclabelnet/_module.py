"""scvi-tools module of the classifier of gene tokens."""

from __future__ import annotations

from scvi.module.base import auto_move_data

from hdeepinsight.models._base._module import TreeModule
from hdeepinsight.nn import GeneTokenClassifier


class GeneTokenModule(GeneTokenClassifier, TreeModule):
    """Trainable classifier of gene tokens."""

    inference = auto_move_data(GeneTokenClassifier.inference)
