"""What scvi-tools trains of every network that classifies along a tree."""

from __future__ import annotations

from typing import Any

from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor

from hdeepinsight.nn import TreeClassifier


class TreeModule(TreeClassifier, BaseModuleClass):  # type: ignore[misc]
    """Augment cells, and turn what a classifier says of them into a loss."""

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs: Any) -> dict[str, Any]:
        counts = tensors[REGISTRY_KEYS.X_KEY]
        return {
            "counts": counts,
            "measured": tensors.get("measured", counts.new_ones(counts.shape[1])),
            "nodes": tensors.get(REGISTRY_KEYS.LABELS_KEY),
        }

    def augment(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Make training cells look like those of queries: shallower, and with fewer genes.

        Parameters
        ----------
        tensors
            Mini-batch with raw counts, shape ``(n_cells, n_genes)``; ``measured`` of the same
            shape, if it is there, is 1 for genes that may be shown.

        Returns
        -------
        The mini-batch with thinned counts and masks of what is shown.
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
        """Hierarchical loss of a mini-batch."""
        targets = nodes = tensors[REGISTRY_KEYS.LABELS_KEY]
        if "soft_labels" in tensors:  # none for a member that must not see the label
            targets = tensors["soft_labels"] * (nodes > 0).unsqueeze(1)
        loss = self.objective(generative_outputs["conditional"], targets)
        return LossOutput(loss=loss, n_obs_minibatch=len(nodes))

    def sample(self, *args: Any, **kwargs: Any) -> None:
        """Not available: the model classifies, it does not generate."""
        raise NotImplementedError(f"{type(self).__name__} is a classifier; it has no samples.")
