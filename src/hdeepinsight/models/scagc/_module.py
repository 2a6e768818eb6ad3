"""Network of SCAGC, and its training: blocks of cells, sampled graphs, and losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import scipy.sparse as sp
import torch
from scvi.distributions import ZeroInflatedNegativeBinomial
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor, nn
from torch.nn.functional import dropout, normalize, one_hot
from torch.utils.data import DataLoader

from hdeepinsight._errors import check_number
from hdeepinsight.graph import nearest_neighbors
from hdeepinsight.nn import (
    CellGraph,
    CountHeads,
    Similarity,
    SparseFeatures,
    TAGConv,
    adjacency_error,
    candidate_similarity,
    chosen_cells,
    draw_neighbors,
    gumbel_noise,
    info_nce,
    sharpened_assignment,
    student_t_assignment,
    union_graph,
)

Sampler = Literal["adaptive", "published", "static"]

#: Powers of the adjacency in a convolution, and width of the edge decoder.
N_HOPS, EDGE_WIDTH = 3, 32
#: Blocks per step, and cells of a step whose counts and edges are decoded.
JOINED_BLOCKS, DECODED_CELLS = 4, 256
#: Epochs between updates of the candidates, and of the cluster targets.
POOL_REFRESH, TARGET_UPDATE = 25, 8
#: The second phase ends if less than this share of labels changes between two targets.
LABEL_CHANGE = 0.001
CONTRAST_TEMPERATURE = 0.7
#: Dropout rate of genes.
DROPOUT = 0.2


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


class CellBlocks(pl.LightningDataModule):
    """Data module of cell positions: all cells, or some random blocks, per step.

    Parameters
    ----------
    block_of_cell
        Block of each cell, int, shape ``(n_cells,)``; with one block, each step uses all cells.
    """

    def __init__(self, block_of_cell: np.ndarray) -> None:
        super().__init__()
        order, ends = np.argsort(block_of_cell, kind="stable"), np.bincount(block_of_cell).cumsum()
        self.blocks: Any = [torch.as_tensor(part) for part in np.split(order, ends[:-1])]
        self.train_idx, self.val_idx = np.arange(len(order)), np.arange(0)

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Return a loader of the positions per step, shuffled in each epoch."""
        return DataLoader(self.blocks, JOINED_BLOCKS, shuffle=True, collate_fn=_join)


@dataclass(frozen=True)
class PlanOptions:
    """Options of the training plan, as ``plan_kwargs``.

    Parameters
    ----------
    lr, cluster_lr
        Learning rates of the two phases.
    edge_weight, contrast_weight, cluster_weight
        Weights of the losses relative to the likelihood of the counts.

    Raises
    ------
    ValueError
        If a value is not a finite number >= 0.
    """

    lr: float = 1e-3
    cluster_lr: float = 5e-4
    edge_weight: float = 0.3
    contrast_weight: float = 0.01
    cluster_weight: float = 1.5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_number(name, value, hint="Omit it to use the default.")


class AdaptiveGraphPlan(pl.LightningModule):
    """Training plan with two phases: embedding and graph first, then together with the clusters.

    Parameters
    ----------
    module, cells
        Module to train, and its training cells.
    first_centres
        Function that computes the initial centres from embedding and neighbours.
    epochs
        Number of epochs of the two phases.
    options
        Learning rates and weights.
    """

    def __init__(
        self,
        module: GraphAutoencoder,
        cells: Cells,
        first_centres: Callable[[Tensor, Tensor], Tensor],
        epochs: tuple[int, int],
        options: PlanOptions,
    ) -> None:
        super().__init__()
        self.module, self.cells, self.options = module, cells, options
        self.first_centres, self.epochs = first_centres, epochs
        self.target: Tensor | None = None
        self.labels = torch.zeros(0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over all weights; the centres are added in the second phase."""
        fused = self.device.type in ("cpu", "cuda")
        return torch.optim.Adam(self.module.parameters(), lr=self.options.lr, fused=fused)

    def on_fit_start(self) -> None:
        """Copy the inputs to the device of the network."""
        self.features = SparseFeatures.from_scipy(self.cells.logged, self.device)
        self.neighbors = self.cells.neighbors.to(self.device).clone()
        self.candidates = self.cells.candidates.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Update candidates and targets, and start the second phase at its first epoch."""
        epoch = self.current_epoch - self.epochs[0]
        updates_target = epoch >= 0 and epoch % TARGET_UPDATE == 0
        if not updates_target and (self.current_epoch + 1) % POOL_REFRESH:
            return
        latent, neighbors = self.module.embed(self.cells, self.features)
        if not self.module.is_static:
            self.candidates = self.module.widened(self.cells.candidates, latent)
        if epoch == 0:
            self.module.centres = nn.Parameter(self.first_centres(latent, neighbors))
            optimizer: Any = self.optimizers()
            optimizer.state.clear()
            optimizer.add_param_group({"params": [self.module.centres]})
            for group in optimizer.param_groups:
                group["lr"] = self.options.cluster_lr
        if updates_target:
            probabilities = self.module.assign(latent).detach()
            self.target, labels = sharpened_assignment(probabilities), probabilities.argmax(dim=1)
            if epoch > 0:
                changed = float((labels != self.labels).float().mean())
                self.trainer.should_stop = changed < LABEL_CHANGE
            self.labels = labels

    def on_train_end(self) -> None:
        """Set the centres if there is no second phase, and release the inputs."""
        if not self.epochs[1]:
            embedded = self.module.embed(self.cells, self.features)
            self.module.centres = nn.Parameter(self.first_centres(*embedded))
        del self.features, self.cells, self.neighbors, self.candidates

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Resample the edges of the cells of a step, and compute the loss."""
        features, candidates, neighbors = self.features, self.candidates, self.neighbors
        if len(batch) < len(neighbors):
            place = batch.new_full((len(neighbors) + 1,), -1)  # the last entry maps -1 to -1
            place[batch] = torch.arange(len(batch), device=batch.device)
            candidates, neighbors = place[candidates[batch]], place[neighbors[batch]]
            logged = self.cells.logged[batch.cpu().numpy()]
            features = SparseFeatures.from_scipy(logged, self.device)
        projected = self.module.project(features, DROPOUT)
        latent = renewed = self.module.encode(projected, union_graph(neighbors))
        if not self.module.is_static:
            noise = 1.0 - max(self.current_epoch - self.epochs[0], 0) / max(self.epochs[1], 1)
            chosen, soft = self.module.choose(latent, candidates, noise)
            renewed = self.module.encode(projected, union_graph(candidates, chosen, soft))
            neighbors = chosen_cells(candidates, chosen)
            if len(batch) == len(self.neighbors):
                self.neighbors = neighbors
            else:
                self.neighbors[batch] = -1  # the initial graph may have more columns
                named = batch[neighbors].where(neighbors >= 0, -1)
                self.neighbors[batch, : neighbors.shape[1]] = named
        rows = torch.randperm(len(batch), device=batch.device)[:DECODED_CELLS]
        at = batch[rows].cpu()
        counts = torch.as_tensor(self.cells.counts[at.numpy()].toarray()).to(latent)
        given = (part[at].to(self.device) for part in (self.cells.size_factor, self.cells.batch))
        generated = self.module.generative(latent[rows], *given)
        decoded = partial(self.module.edge_probability, latent)
        losses = {
            "count": self.module.loss({"counts": counts}, {}, generated).loss,
            "edge": adjacency_error(decoded, rows, candidates, neighbors),
            "contrast": info_nce(latent[rows], renewed[rows], CONTRAST_TEMPERATURE),
        }
        if self.target is not None:
            target, found = self.target[batch], self.module.assign(latent)
            divergence = target * (target.clamp_min(1e-12) / found.clamp_min(1e-12)).log()
            losses["cluster"] = divergence.sum(dim=1).mean()
        weights = {"count_weight": 1.0, **vars(self.options)}
        total = sum((weights[f"{k}_weight"] * v for k, v in losses.items()), latent.new_zeros(()))
        how: Any = {"on_epoch": True, "on_step": False, "batch_size": 1}
        self.log("train_loss", total, prog_bar=True, **how)
        self.log_dict({f"{name}_loss": loss for name, loss in losses.items()}, **how)
        return total


def _join(blocks: list[Tensor]) -> Tensor:
    return torch.cat(blocks).sort().values
