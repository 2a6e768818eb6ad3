"""Module of SCAGC: a graph encoder, an edge decoder and a count decoder."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from scvi.distributions import ZeroInflatedNegativeBinomial
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor, nn
from torch.nn.functional import dropout, normalize, one_hot

from hdeepinsight.graph import nearest_neighbors
from hdeepinsight.nn import (
    CellGraph,
    CountHeads,
    Similarity,
    SparseFeatures,
    TAGConv,
    candidate_similarity,
    chosen_cells,
    draw_neighbors,
    gumbel_noise,
    student_t_assignment,
    union_graph,
)

if TYPE_CHECKING:
    import numpy as np
    import scipy.sparse as sp

Sampler = Literal["adaptive", "published", "static"]

#: Powers of the adjacency in a convolution, and width of the edge decoder.
N_HOPS, EDGE_WIDTH = 3, 32


@dataclass(frozen=True, eq=False)
class Cells:
    """Inputs of the network for cells.

    Parameters
    ----------
    counts, logged
        Counts, and log values at the median depth, shape ``(n_cells, n_genes)``.
    size_factor
        Depth of each cell divided by the median depth, shape ``(n_cells, 1)``.
    batch
        Batch code of each cell, -1 for batches that the training cells lack.
    points
        Coordinates used in the initial neighbour search.
    neighbors, candidates
        Initial and candidate neighbours of each cell; -1 for none.
    """

    counts: sp.csr_matrix
    logged: sp.csr_matrix
    size_factor: Tensor
    batch: Tensor
    points: np.ndarray
    neighbors: Tensor
    candidates: Tensor


class GraphAutoencoder(BaseModuleClass):  # type: ignore[misc]
    """Graph autoencoder: a convolutional encoder, and decoders of counts and edges.

    Parameters
    ----------
    n_genes, n_batches
        Number of genes, and of batches on which the count decoder is conditioned.
    n_components
        Principal components that are kept with the network, 0 for none.
    n_latent, n_hidden, n_neighbors, graph_sampler, similarity, graph_temperature, candidates
        As in :class:`~hdeepinsight.models.SCAGC`.

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
        n_batches: int,
        n_components: int,
        *,
        n_latent: int,
        n_hidden: int,
        n_neighbors: int,
        graph_sampler: Sampler,
        similarity: Similarity,
        graph_temperature: float,
        candidates: int,
    ) -> None:
        super().__init__()
        self.n_batches, self.n_neighbors, self.n_candidates = n_batches, n_neighbors, candidates
        self.is_static, self.similarity = graph_sampler == "static", similarity
        self.temperature = 1.0 if graph_sampler == "published" else graph_temperature
        self.first = TAGConv(n_genes, n_hidden, N_HOPS)
        self.second = TAGConv(n_hidden, n_latent, N_HOPS)
        self.edge_features = nn.Linear(n_latent, EDGE_WIDTH)
        self.edge_form = nn.Parameter(torch.eye(EDGE_WIDTH) / EDGE_WIDTH)
        widths = [n_latent + (n_batches if n_batches > 1 else 0), 128, 256, 512]
        layers = [m for pair in pairwise(widths) for m in (nn.Linear(*pair), nn.ReLU())]
        self.decoder = nn.Sequential(*layers)
        self.heads = CountHeads(widths[-1], n_genes, per_cell=False)
        self.centres = nn.Parameter(torch.zeros(0, n_latent))
        self.register_buffer("depth", torch.ones(()))
        self.register_buffer("shift", torch.zeros(n_genes))
        self.register_buffer("scale", torch.ones(n_genes))
        self.register_buffer("rotation", torch.zeros(n_genes, n_components))

    def project(self, features: SparseFeatures | Tensor, left_out: float = 0.0) -> Tensor:
        """Standardise log values and project them for each hop; drop out a share of the genes."""
        return self.first.project(features, self.shift, dropout(1 / self.scale, left_out))

    def encode(self, projected: Tensor, graph: CellGraph) -> Tensor:
        """Encode cells by convolution over a graph, shape ``(n_cells, n_latent)``."""
        graph = graph.normalized()
        latent: Tensor = self.second(torch.relu(self.first.propagate(projected, graph)), graph)
        return latent

    def assign(self, latent: Tensor) -> Tensor:
        """Compute the probability of each cluster, shape ``(n_cells, n_clusters)``."""
        return student_t_assignment(latent, self.centres)

    def edge_probability(self, latent: Tensor, cells: Tensor, others: Tensor) -> Tensor:
        """Decode the probability of edges between cells ``(n,)`` and others ``(n, m)``."""
        features = self.edge_features(latent)
        left = features[cells] @ self.edge_form
        return torch.einsum("nd,nmd->nm", left, features[others]).sigmoid()

    def choose(self, latent: Tensor, candidates: Tensor, noise: float) -> tuple[Tensor, Tensor]:
        """Sample neighbours among candidates by similarity, with Gumbel noise.

        Returns
        -------
        Selected columns and probabilities of all columns, as in
        :func:`~hdeepinsight.nn.draw_neighbors`.
        """
        scores = candidate_similarity(latent, candidates, self.similarity) / self.temperature
        scores = scores + (noise * gumbel_noise(scores) if noise else 0.0)
        return draw_neighbors(scores, self.n_neighbors)

    def widened(self, first: Tensor, latent: Tensor) -> Tensor:
        """Add the nearest cells in the embedding to the initial candidates."""
        points, first = latent.detach(), first.cpu()
        points = normalize(points, dim=1) if self.similarity == "cosine" else points
        k = min(self.n_candidates // 2, len(first) - 1)
        more = torch.as_tensor(nearest_neighbors(points.cpu().numpy(), k=k)[0])
        known = torch.stack([(column[:, None] == first).any(dim=1) for column in more.T], dim=1)
        return torch.cat([first, more.masked_fill(known, -1)], dim=1).to(latent.device)

    @torch.no_grad()
    def embed(self, cells: Cells, features: SparseFeatures) -> tuple[Tensor, Tensor]:
        """Embed cells on the initial graph, then update graph and embedding twice.

        Returns
        -------
        Embedding and selected neighbours, which are deterministic: no noise is added.
        """
        projected, neighbors = self.project(features), cells.neighbors.to(self.device)
        latent = self.encode(projected, union_graph(neighbors))
        for _ in range(0 if self.is_static else 2):
            candidates = self.widened(cells.candidates, latent)
            neighbors = chosen_cells(candidates, self.choose(latent, candidates, 0.0)[0])
            latent = self.encode(projected, union_graph(neighbors))
        return latent, neighbors

    def _get_inference_input(self, tensors: Any) -> dict[str, Any]:
        return {name: tensors[name] for name in ("features", "graph")}

    def inference(self, features: SparseFeatures | Tensor, graph: CellGraph) -> dict[str, Tensor]:
        """Encode log values by convolution over a graph."""
        return {"z": self.encode(self.project(features), graph)}

    def _get_generative_input(self, tensors: Any, inference_outputs: Any) -> dict[str, Any]:
        given = {name: tensors[name] for name in ("size_factor", "batch")}
        return {"z": inference_outputs["z"], **given}

    def generative(self, z: Tensor, size_factor: Tensor, batch: Tensor) -> dict[str, Any]:
        """Return the distribution of counts; the batch code is -1 for unknown batches."""
        if self.n_batches > 1:
            codes = one_hot(batch + 1, self.n_batches + 1)[:, 1:]
            z = torch.cat([z, codes.to(z)], dim=1)
        mean, dispersion, zeros = self.heads(self.decoder(z), size_factor)
        return {"px": ZeroInflatedNegativeBinomial(mu=mean, theta=dispersion, zi_logits=zeros)}

    def loss(self, tensors: Any, inference_outputs: Any, generative_outputs: Any) -> LossOutput:
        """Return the mean negative log-likelihood of the counts over cells and genes."""
        per_cell = -generative_outputs["px"].log_prob(tensors["counts"]).mean(dim=1)
        return LossOutput(per_cell.mean(), per_cell, n_obs_minibatch=len(per_cell))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Load weights; resize the centres to their saved number."""
        if (centres := state_dict.get(f"{prefix}centres")) is not None:
            self.centres = nn.Parameter(torch.empty_like(centres, device=self.centres.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)
