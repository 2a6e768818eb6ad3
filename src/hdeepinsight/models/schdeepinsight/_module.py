"""scvi-tools module of the classifier of gene images."""

from __future__ import annotations

from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import auto_move_data
from torch import Tensor

from hdeepinsight._keys import FIELD_KEYS
from hdeepinsight.models._base._classifier import TreeModule
from hdeepinsight.nn import GeneImageClassifier


class GeneImageModule(GeneImageClassifier, TreeModule):
    """Trainable classifier of gene images, with augmentation for ensemble members and proteins."""

    inference = auto_move_data(GeneImageClassifier.inference)

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs: Any) -> dict[str, Any]:
        return {
            **super()._get_inference_input(tensors),
            "proteins": tensors.get(FIELD_KEYS.PROTEINS),
            "proteins_measured": tensors.get("proteins_measured"),
        }

    def augment(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Thin counts and mask genes and proteins, separately for each ensemble member.

        Parameters
        ----------
        tensors
            Mini-batch with raw counts, shape ``(n_cells, n_genes)``; ``measured`` (optional, same
            shape) is 1 for genes that may stay visible.

        Returns
        -------
        The mini-batch, repeated for each member, with thinned counts and masks. The label of a cell
        is withheld from the member given in ``unseen_by``.
        """
        if self.n_members > 1:
            tensors = {name: torch.cat([each] * self.n_members) for name, each in tensors.items()}
        if "unseen_by" in tensors:
            labels, unseen_by = tensors[REGISTRY_KEYS.LABELS_KEY], tensors["unseen_by"]
            member = torch.arange(self.n_members, device=labels.device)
            seen = unseen_by != member.repeat_interleave(len(labels) // self.n_members)
            tensors[REGISTRY_KEYS.LABELS_KEY] = labels * seen
        tensors = super().augment(tensors)
        if self.proteins is None:
            return tensors
        thinned = self.thinning.sample_dense(tensors[FIELD_KEYS.PROTEINS])
        return self.proteins.hide({**tensors, FIELD_KEYS.PROTEINS: thinned})
