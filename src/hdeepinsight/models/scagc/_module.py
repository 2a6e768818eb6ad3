"""The network of SCAGC: a graph encoder, a decoder of edges and a decoder of counts."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from scvi.distributions import ZeroInflatedNegativeBinomial
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor, nn
from torch.nn.functional import dropout, one_hot

from hdeepinsight.nn import CellGraph, CountHeads, SparseFeatures, TAGConv, student_t_assignment


class GraphAutoencoder(BaseModuleClass):  # type: ignore[misc]
    """Embed cells by convolution over a graph; decode counts and edges from the embedding.

    Parameters
    ----------
    n_genes, n_batches
        Genes, and batches on which the decoder of counts is conditioned.
    n_latent, n_hidden, n_hops, adjacency_width
        Widths of embedding, hidden layer and edge decoder; powers of the adjacency.
    dropout_rate
        Share of the genes that a training step leaves out.
    n_components
        Principal components that are kept with the network, 0 for none.

    Attributes
    ----------
    depth
        Median total of the training cells, to which counts are scaled.
    shift, scale
        Mean and standard deviation of the log values per gene.
    rotation
        Principal directions of the standardised values, shape ``(n_genes, n_components)``.
    centres
        Positions of the clusters, shape ``(n_clusters, n_latent)``.
    """

    def __init__(
        self,
        n_genes: int,
        n_batches: int = 1,
        *,
        n_latent: int = 15,
        n_hidden: int = 128,
        n_hops: int = 3,
        adjacency_width: int = 32,
        dropout_rate: float = 0.2,
        n_components: int = 0,
    ) -> None:
        super().__init__()
        self.n_batches, self.dropout_rate = n_batches, dropout_rate
        self.first = TAGConv(n_genes, n_hidden, n_hops)
        self.second = TAGConv(n_hidden, n_latent, n_hops)
        self.edge_features = nn.Linear(n_latent, adjacency_width)
        self.edge_form = nn.Parameter(torch.eye(adjacency_width) / adjacency_width)
        widths = [n_latent + (n_batches if n_batches > 1 else 0), 128, 256, 512]
        self.decoder = nn.Sequential(
            *(m for w in pairwise(widths) for m in (nn.Linear(*w), nn.ReLU()))
        )
        self.heads = CountHeads(widths[-1], n_genes, per_cell=False)
        self.centres = nn.Parameter(torch.zeros(0, n_latent))
        self.register_buffer("depth", torch.ones(()))
        self.register_buffer("shift", torch.zeros(n_genes))
        self.register_buffer("scale", torch.ones(n_genes))
        self.register_buffer("rotation", torch.zeros(n_genes, n_components))

    def project(self, features: SparseFeatures | Tensor) -> Tensor:
        """Standardise log values and project them for every hop; the same for any graph."""
        factor = dropout(1 / self.scale, self.dropout_rate, self.training)
        return self.first.project(features, self.shift, factor)

    def encode(self, projected: Tensor, graph: CellGraph) -> Tensor:
        """Embed cells over a normalised graph, shape ``(n_cells, n_latent)``."""
        hidden = torch.relu(self.first.propagate(projected, graph))
        latent: Tensor = self.second(hidden, graph)
        return latent

    def assign(self, latent: Tensor) -> Tensor:
        """Compute the probability of every cluster, shape ``(n_cells, n_clusters)``."""
        return student_t_assignment(latent, self.centres)

    def edge_probability(self, latent: Tensor, cells: Tensor, others: Tensor) -> Tensor:
        """Decode the probability that cells ``(n,)`` are joined to others ``(n, m)``."""
        features = self.edge_features(latent)
        mine = features[cells] @ self.edge_form
        return torch.einsum("nd,nmd->nm", mine, features[others]).sigmoid()

    def _get_inference_input(self, tensors: dict[str, Any], **_: Any) -> dict[str, Any]:
        return {"features": tensors["features"], "graph": tensors["graph"]}

    def inference(self, features: SparseFeatures | Tensor, graph: CellGraph) -> dict[str, Tensor]:
        """Embed log values over a normalised graph."""
        return {"z": self.encode(self.project(features), graph)}

    def _get_generative_input(
        self, tensors: dict[str, Any], inference_outputs: dict[str, Tensor], **_: Any
    ) -> dict[str, Any]:
        given = {name: tensors[name] for name in ("size_factor", "batch")}
        return {"z": inference_outputs["z"], **given}

    def generative(self, z: Tensor, size_factor: Tensor, batch: Tensor) -> dict[str, Any]:
        """Return the distribution of counts; a batch of -1 is none of the reference's."""
        if self.n_batches > 1:
            codes = one_hot(batch + 1, self.n_batches + 1)[:, 1:]
            z = torch.cat([z, codes.to(z)], dim=1)
        mean, dispersion, zeros = self.heads(self.decoder(z), size_factor)
        return {"px": ZeroInflatedNegativeBinomial(mu=mean, theta=dispersion, zi_logits=zeros)}

    def loss(
        self,
        tensors: dict[str, Any],
        inference_outputs: dict[str, Tensor],
        generative_outputs: dict[str, Any],
    ) -> LossOutput:
        """Return the mean negative log-likelihood of the counts over cells and genes."""
        per_cell = -generative_outputs["px"].log_prob(tensors["counts"]).mean(dim=1)
        return LossOutput(
            loss=per_cell.mean(), reconstruction_loss=per_cell, n_obs_minibatch=len(per_cell)
        )

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Load weights, with as many centres as there are."""
        if (centres := state_dict.get(f"{prefix}centres")) is not None:
            self.centres = nn.Parameter(torch.empty_like(centres, device=self.centres.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)
