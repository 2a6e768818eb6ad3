"""Base scvi-tools module of networks that classify along a taxonomy."""

from __future__ import annotations

from typing import Any

from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor

from hdeepinsight.nn import TreeClassifier


class TreeModule(TreeClassifier, BaseModuleClass):  # type: ignore[misc]
    """Module that augments mini-batches and computes the loss of a hierarchical classifier."""

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs: Any) -> dict[str, Any]:
        counts = tensors[REGISTRY_KEYS.X_KEY]
        return {
            "counts": counts,
            "measured": tensors.get("measured", counts.new_ones(counts.shape[1])),
            "nodes": tensors.get(REGISTRY_KEYS.LABELS_KEY),
        }

    def augment(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Thin counts and mask genes, to simulate queries of lower depth and with fewer genes.

        Parameters
        ----------
        tensors
            Mini-batch with raw counts, shape ``(n_cells, n_genes)``; ``measured`` (optional, same
            shape) is 1 for genes that may stay visible.

        Returns
        -------
        The mini-batch with thinned counts, and ``measured`` with the genes that stay visible.
        """
        counts = self.thinning.sample_dense(tensors[REGISTRY_KEYS.X_KEY])
        measured = self.masking.sample(counts.shape[0], counts.shape[1], counts.device)
        measured = measured * tensors.get("measured", 1)
        return {**tensors, REGISTRY_KEYS.X_KEY: counts, "measured": measured}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], **kwargs: Any
    ) -> dict[str, Any]:
        return {"logits": inference_outputs["logits"]}

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Tensor],
        generative_outputs: dict[str, Tensor],
    ) -> LossOutput:
        """Compute the hierarchical loss of a mini-batch."""
        nodes = tensors[REGISTRY_KEYS.LABELS_KEY]
        loss = self.objective(generative_outputs["conditional"], nodes)
        return LossOutput(loss=loss, n_obs_minibatch=len(nodes))

    def sample(self, *args: Any, **kwargs: Any) -> None:
        """Raise an error: a classifier is not generative."""
        raise NotImplementedError(f"{type(self).__name__} is a classifier and cannot sample.")
