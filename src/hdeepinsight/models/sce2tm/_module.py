"""Module and training plan of SCE2TM, an embedded topic model with two views of the cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_matrix
from scvi import REGISTRY_KEYS
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional

from hdeepinsight.models._base._plan import OneCyclePlan
from hdeepinsight.models._base._unlabeled import EMBEDDING, SIZE_FACTOR
from hdeepinsight.nn import BatchNorm1d, cluster_contrast, sinkhorn

#: Name of the positions of cells in mini-batches.
POSITION = "position"
#: Suffix of the names of arrays of a neighbour of each cell.
NEIGHBOR = "_of_neighbor"
TARGET_SUM = 1e4
#: Temperature of the softmax over topics; lower values give sparser topics.
BETA_TEMPERATURE = 0.2
SINKHORN_EPSILON = 0.01


class TopicModule(BaseModuleClass):  # type: ignore[misc]
    """Embedded topic model whose topic proportions are also soft clusters.

    Parameters
    ----------
    n_genes, n_embedding, n_batch
        Number of genes, dimension of the embedding (0 for none), and number of batches (1 for no
        gene bias per batch).
    n_topics, n_hidden, n_embed, ecr_weight, cm_weight, balance_weight
        As in :class:`~hdeepinsight.models.SCE2TM`.
    """

    embedding_mean: Tensor
    embedding_scale: Tensor
    potential: Tensor

    def __init__(
        self,
        n_genes: int,
        n_embedding: int,
        n_batch: int,
        *,
        n_topics: int,
        n_hidden: int,
        n_embed: int,
        ecr_weight: float,
        cm_weight: float,
        balance_weight: float,
    ) -> None:
        super().__init__()
        self.n_topics = n_topics
        self.ecr_weight, self.cm_weight, self.balance_weight = ecr_weight, cm_weight, balance_weight
        self.encoder = nn.Sequential(
            nn.Linear(n_genes, n_hidden),
            BatchNorm1d(n_hidden),
            nn.Tanh(),
            nn.Linear(n_hidden, n_hidden),
        )
        self.mean, self.log_variance = (
            nn.Sequential(nn.Linear(n_hidden, n_topics), BatchNorm1d(n_topics)) for _ in range(2)
        )
        self.topics, self.genes = (
            nn.Parameter(functional.normalize(torch.randn(n, n_embed))) for n in (n_topics, n_genes)
        )
        self.gene_norm = BatchNorm1d(n_genes)
        self.batch_bias = nn.Parameter(torch.zeros(n_batch, n_genes)) if n_batch > 1 else None
        self.knowledge = None
        if n_embedding:
            self.knowledge = nn.Sequential(
                nn.Linear(n_embedding, n_embedding),
                BatchNorm1d(n_embedding),
                nn.Tanh(),
                nn.Linear(n_embedding, n_topics),
            )
        self.register_buffer("embedding_mean", torch.zeros(n_embedding))
        self.register_buffer("embedding_scale", torch.ones(n_embedding))
        self.register_buffer("potential", torch.zeros(n_genes), persistent=False)

    def standardize_embedding(self, embedding: Tensor) -> None:
        """Set mean and scale of an embedding, unless its rows have unit norm."""
        if not torch.allclose(embedding.norm(dim=1), embedding.new_ones(len(embedding)), atol=1e-3):
            self.embedding_mean.copy_(embedding.mean(dim=0))
            self.embedding_scale.copy_(embedding.std(dim=0).clamp_min(1e-6))

    def encode(self, counts: Tensor, total: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Compute log-normalised expression, and means and log variances of the topic scores."""
        total = counts.sum(dim=1, keepdim=True) if total is None else total
        x = (1 + counts * (TARGET_SUM / total.clamp_min(1e-6))).log()  # faster than log1p
        hidden = self.encoder(x)
        return x, self.mean(hidden), self.log_variance(hidden)

    def draw(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Return topic scores: sampled in training, their means at prediction."""
        if not self.training:
            return mean
        return mean + (log_variance / 2).exp() * torch.randn_like(mean)

    def assign(self, embedding: Tensor) -> Tensor:
        """Compute topic probabilities from the embedding, shape ``(n_cells, n_topics)``."""
        scaled = (embedding - self.embedding_mean) / self.embedding_scale
        assigned: Tensor = self.knowledge(scaled).softmax(dim=1)  # type: ignore[misc]
        return assigned

    def positions(self) -> tuple[Tensor, Tensor]:
        """Return topic and gene embeddings, normalised so that transport cannot collapse them."""
        return functional.normalize(self.topics), functional.normalize(self.genes)

    def distances(self) -> Tensor:
        """Compute squared distances of topics and genes, shape ``(n_topics, n_genes)``."""
        topics, genes = self.positions()
        return (2 - 2 * topics @ genes.T).clamp_min(0)

    def loadings(self, distances: Tensor | None = None) -> Tensor:
        """Compute the share of each topic in each gene; columns sum to 1."""
        distances = self.distances() if distances is None else distances
        return (-distances / BETA_TEMPERATURE).softmax(dim=0)

    def _get_inference_input(self, tensors: Any) -> dict[str, Any]:
        names = REGISTRY_KEYS.X_KEY, SIZE_FACTOR, EMBEDDING
        here, there = ([tensors.get(name + end) for name in names] for end in ("", NEIGHBOR))
        return {"cells": here, "neighbors": there}

    @auto_move_data  # type: ignore[untyped-decorator]
    def inference(
        self, cells: list[Tensor | None], neighbors: list[Tensor | None]
    ) -> dict[str, Tensor]:
        """Compute topic scores ``z`` and proportions, also for given neighbours."""
        counts, total, embedding = cells
        x, mean, log_variance = self.encode(counts, total)  # type: ignore[arg-type]
        z = self.draw(mean, log_variance)
        found = {"x": x, "mean": mean, "log_variance": log_variance}
        found |= {"z": z, "theta": z.softmax(dim=1)}
        if neighbors[0] is not None and embedding is not None and neighbors[2] is not None:
            _, *near = self.encode(neighbors[0], neighbors[1])
            found["theta_near"] = self.draw(*near).softmax(dim=1)
            found["assigned"] = self.assign(embedding)
            found["assigned_near"] = self.assign(neighbors[2])
        return found

    def _get_generative_input(self, tensors: Any, inference_outputs: Any) -> dict[str, Any]:
        return {"theta": inference_outputs["theta"], "batch": tensors.get(REGISTRY_KEYS.BATCH_KEY)}

    @auto_move_data  # type: ignore[untyped-decorator]
    def generative(self, theta: Tensor, batch: Tensor | None = None) -> dict[str, Tensor]:
        """Compute log shares of the genes, averaged over batches if none or a new one is given."""
        distances = self.distances()
        logits = self.gene_norm(theta @ self.loadings(distances))
        if self.batch_bias is not None:
            known, mean = self.batch_bias, self.batch_bias.mean(dim=0, keepdim=True)
            if batch is not None:  # batches that the model does not know have the mean bias
                mean = torch.cat([known, mean])[batch.long().ravel().clamp(max=len(known))]
            logits = logits + mean
        return {"log_share": logits.log_softmax(dim=1), "distances": distances}

    def loss(self, tensors: Any, inference_outputs: Any, generative_outputs: Any) -> LossOutput:
        """Compute reconstruction loss and KL divergence; in training, add the other losses."""
        found, distances = inference_outputs, generative_outputs["distances"]
        reconstruction = -(found["x"] * generative_outputs["log_share"]).sum(dim=1)
        prior = Normal(0.0, (1 - 1 / self.n_topics) ** 0.5)
        posterior = Normal(found["mean"], (found["log_variance"] / 2).exp())
        divergence = kl_divergence(posterior, prior).sum(dim=1)
        total, others = (reconstruction + divergence).mean(), {}
        if self.training and self.ecr_weight:
            plan, self.potential = sinkhorn(distances, SINKHORN_EPSILON, start=self.potential)
            others["ecr"] = (plan * distances).sum()
            total = total + self.ecr_weight * others["ecr"]
        if "assigned" in found:
            views = (found[n] for n in ("theta", "theta_near", "assigned", "assigned_near"))
            others["cross_view"] = self.cross_view(*views)
            total = total + self.cm_weight * others["cross_view"]
        return LossOutput(total, reconstruction, kl_local=divergence, extra_metrics=others)

    def cross_view(self, p: Tensor, p_near: Tensor, q: Tensor, q_near: Tensor) -> Tensor:
        """Compute the disagreement of two views minus the weighted entropy of the mean topics."""
        contrast = cluster_contrast(q, p_near) + cluster_contrast(p, q_near)
        disagreement = -(p * q).sum(dim=1).clamp_min(1e-9).log().mean()
        means = torch.stack([p.mean(dim=0), q.mean(dim=0)]).clamp_min(1e-9)
        entropy = -(means * means.log()).sum()
        return contrast + disagreement - self.balance_weight * entropy


class NeighborPlan(OneCyclePlan):
    """Training plan with a random neighbour of each cell in expression and in the embedding.

    Parameters
    ----------
    module
        Module to train.
    arrays
        Counts, embedding and optional size factors of all cells, by their names in mini-batches.
    lists
        Neighbours of each cell in expression and in the embedding, each of shape ``(n_cells, k)``,
        padded with -1; see :func:`hdeepinsight.graph.mutual_neighbors`. By default no neighbours
        are used.
    **kwargs
        Passed to :class:`~hdeepinsight.models.OneCyclePlan`.
    """

    def __init__(
        self,
        module: Any,
        arrays: dict[str, Any] | None = None,
        lists: tuple[np.ndarray, np.ndarray] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, **kwargs)
        self.arrays, self.lists = arrays or {}, lists

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a mini-batch with its neighbours."""
        if self.lists is not None:
            cells = batch[POSITION].long().ravel().cpu().numpy()
            near, near_embedding = (draw_from(lists[cells]) for lists in self.lists)
            rows = {REGISTRY_KEYS.X_KEY: near, SIZE_FACTOR: near, EMBEDDING: near_embedding}
            for name, array in self.arrays.items():
                values: Any = array[rows[name]]
                values = values.toarray() if isinstance(values, csr_matrix) else values
                batch[name + NEIGHBOR] = torch.from_numpy(values).to(self.device, torch.float32)
        loss: Tensor = super().training_step(batch, batch_idx)
        return loss


def draw_from(lists: np.ndarray) -> np.ndarray:
    """Draw one entry of each list uniformly, ignoring entries of -1."""
    n_listed = (lists >= 0).sum(axis=1)
    place = (torch.rand(len(lists)).numpy() * n_listed).astype(np.int64)
    found: np.ndarray = lists[np.arange(len(lists)), np.minimum(place, n_listed - 1)]
    return found
