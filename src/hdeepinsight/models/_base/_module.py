"""What every network that classifies along a tree does with its logits."""

from __future__ import annotations

from typing import Any

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor

from hdeepinsight.nn import (
    AdaptiveHierarchicalFocalLoss,
    CountThinning,
    GeneMasking,
    MemberHeads,
)
from hdeepinsight.taxonomy import TreeAlgebra


class TreeClassifier(BaseModuleClass):  # type: ignore[misc]
    """Augment cells, and turn logits into a loss and probabilities.

    A subclass sets ``tree``, ``objective``, ``masking``, ``thinning``, ``head`` and the buffer
    ``temperature`` (one per level), and has an ``inference`` that returns ``latent`` and
    ``logits``.
    """

    tree: TreeAlgebra
    objective: AdaptiveHierarchicalFocalLoss
    masking: GeneMasking
    thinning: CountThinning
    temperature: Tensor
    head: Any

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

    def generative(self, logits: Tensor) -> dict[str, Tensor]:
        """Conditional log-probability of every node, shape ``(n_cells, n_edges)``."""
        if not self.training:
            logits = logits / self.temperature[self.tree.edge_depth - 1]
        return {"conditional": self.tree.conditional_log_probs(logits)}

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

    @torch.inference_mode()
    def predict(self, counts: Tensor, measured: Tensor, **further: Tensor) -> dict[str, Tensor]:
        """Calibrated probabilities of all nodes, and features, in evaluation mode.

        Returns
        -------
        ``probabilities`` ``(n_cells, n_nodes)``, ``latent`` ``(n_cells, n_latent)``, and of several
        members their ``disagreement`` ``(n_cells,)``.
        """
        outputs = self.inference(counts, measured, **further)
        return self.classify(outputs["latent"], outputs["logits"])

    def classify(self, latent: Tensor, logits: Tensor) -> dict[str, Tensor]:
        """Return what :meth:`predict` does, from features and logits."""
        conditional = self.generative(logits)["conditional"]
        probabilities = self.tree.node_log_probs(conditional).exp()
        found = {"probabilities": probabilities, "latent": latent}
        heads = getattr(self.head, "head", self.head)  # that of the reference, within an adapter
        if isinstance(heads, MemberHeads):
            found["disagreement"] = heads.disagreement(latent)
        return found
