"""The usual hierarchical cross-entropy, as a control: one softmax over leaves, summed up the tree.

The network is ours; what differs is that the probability of an inner node is the sum over its
leaves, and that every level pays the negative log-probability of the label itself, not of the label
given its parent.
"""

from __future__ import annotations

import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import LossOutput
from torch import Tensor

from hdeepinsight import SCHDeepInsight


class LeafSoftmaxModule(SCHDeepInsight._module_cls):
    """Reads only the logits of leaves."""

    def generative(self, logits: Tensor) -> dict[str, Tensor]:
        """Conditional log-probabilities that follow from a softmax over the leaves."""
        if not self.training:
            logits = logits / self.temperature[-1]
        nodes = self.node_log_probs(logits)
        parent = self.tree.taxonomy.parent
        return {"conditional": nodes[:, 1:] - nodes[:, torch.as_tensor(parent[1:]).long()]}

    def node_log_probs(self, logits: Tensor) -> Tensor:
        """Log-probability of every node, ``(n_cells, n_nodes)``."""
        taxonomy = self.tree.taxonomy
        leaves = torch.as_tensor(taxonomy.leaves.copy()).long()
        log_p = logits[:, leaves - 1].log_softmax(dim=1)
        under = torch.as_tensor(taxonomy.ancestor_matrix.copy())  # (n_leaves, n_nodes)
        masked = log_p.unsqueeze(2).masked_fill(~under, -torch.inf)
        return masked.logsumexp(dim=1)

    def loss(self, tensors, inference_outputs, generative_outputs) -> LossOutput:
        """Mean over levels of the negative log-probability of the label there."""
        nodes = tensors[REGISTRY_KEYS.LABELS_KEY]
        on_path = self.tree.node_at_level[nodes]
        log_p = self.node_log_probs(inference_outputs["logits"]).gather(1, on_path.clamp_min(0))
        real = on_path > 0
        per_level = -(log_p * real).sum(0) / real.sum(0).clamp_min(1)
        return LossOutput(loss=per_level.mean(), n_obs_minibatch=len(nodes))


class LeafSoftmaxModel(SCHDeepInsight):
    """The model with that module."""

    _module_cls = LeafSoftmaxModule
