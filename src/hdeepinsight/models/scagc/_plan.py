"""How SCAGC is trained: the cells of a step, the graph that is drawn in it, and its losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hdeepinsight.graph import nearest_neighbors
from hdeepinsight.nn import (
    SparseFeatures,
    are_joined,
    candidate_similarity,
    chosen_cells,
    draw_neighbors,
    gumbel_noise,
    info_nce,
    sharpened_assignment,
    union_graph,
)

if TYPE_CHECKING:
    import scipy.sparse as sp

    from hdeepinsight.models.scagc._module import GraphAutoencoder
    from hdeepinsight.nn import Similarity

#: Unjoined cells with which a cell is compared in the loss of edges.
OTHERS = 20


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells as the network reads them.

    Parameters
    ----------
    counts, logged
        Counts, and log values at the median depth, shape ``(n_cells, n_genes)``.
    size_factor
        Depth of each cell over the median depth, shape ``(n_cells, 1)``.
    batch
        Code of its batch, -1 where the reference has no such batch.
    points
        Coordinates in which the first neighbours were searched.
    neighbors
        Neighbours in the initial graph, shape ``(n_cells, k)``, -1 for none.
    candidates
        Cells that each one may be joined to from the start.
    """

    counts: sp.csr_matrix
    logged: sp.csr_matrix
    size_factor: Tensor
    batch: Tensor
    points: np.ndarray
    neighbors: Tensor
    candidates: Tensor


@dataclass(frozen=True)
class EdgeRule:
    """How edges are chosen among candidates.

    Parameters
    ----------
    sampler
        ``"adaptive"``; ``"published"``, noise as large as in the public code; or ``"static"``.
    similarity, temperature
        Similarity of cells, and what divides it before noise is added.
    n_neighbors, n_candidates
        Edges that each cell chooses, and candidates among which it does.
    """

    sampler: str
    similarity: Similarity
    temperature: float
    n_neighbors: int
    n_candidates: int

    def scores(self, latent: Tensor, candidates: Tensor, noise: float) -> Tensor:
        """Compute the scores of candidates, with Gumbel noise."""
        found = candidate_similarity(latent, candidates, self.similarity)
        if self.sampler == "published":
            return (found + (gumbel_noise(found) if noise else 0.0)) / 0.5
        return found / self.temperature + (noise * gumbel_noise(found) if noise else 0.0)

    def widened(self, cells: Cells, latent: Tensor) -> Tensor:
        """Return the initial candidates with the nearest cells in the embedding beside them."""
        first = cells.candidates
        n_more = min(self.n_candidates // 2, len(first) - 1)
        points = latent.detach().cpu().numpy()
        if self.similarity == "cosine":
            points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
        found = torch.as_tensor(nearest_neighbors(points, k=n_more)[0])
        known = torch.stack([(column[:, None] == first).any(dim=1) for column in found.T], dim=1)
        return torch.cat([first, found.masked_fill(known, -1)], dim=1).to(latent.device)

    @torch.no_grad()
    def settle(
        self, module: GraphAutoencoder, cells: Cells, features: SparseFeatures
    ) -> tuple[Tensor, Tensor]:
        """Embed cells over their initial graph, and twice over the graph that this gives.

        Nothing is random here, and the result depends on weights and cells alone.
        """
        projected, neighbors = module.project(features), cells.neighbors.to(module.device)
        latent = module.encode(projected, union_graph(neighbors).normalized())
        for _ in range(0 if self.sampler == "static" else 2):
            candidates = self.widened(cells, latent)
            chosen, _ = draw_neighbors(self.scores(latent, candidates, 0.0), self.n_neighbors)
            neighbors = chosen_cells(candidates, chosen)
            latent = module.encode(projected, union_graph(neighbors).normalized())
        return latent, neighbors


class CellBlocks(pl.LightningDataModule):
    """Give the positions of the cells of each step: all of them, or some random blocks.

    Parameters
    ----------
    block_of_cell
        Block of each cell, int, shape ``(n_cells,)``; all cells make one step where there is one.
    n_joined
        Blocks that a step joins.
    """

    def __init__(self, block_of_cell: np.ndarray, n_joined: int = 4) -> None:
        super().__init__()
        order = np.argsort(block_of_cell, kind="stable")
        ends = np.cumsum(np.bincount(block_of_cell))[:-1]
        self.blocks = [torch.as_tensor(part) for part in np.split(order, ends)]
        self.n_joined, self.train_idx = n_joined, np.arange(len(block_of_cell))
        self.val_idx = self.test_idx = np.arange(0)

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Return the positions step by step, in a new order every epoch."""
        blocks: Any = self.blocks
        return DataLoader(blocks, self.n_joined, shuffle=True, collate_fn=_join)


def _join(blocks: list[Tensor]) -> Tensor:
    return torch.cat(blocks).sort().values


class AdaptiveGraphPlan(pl.LightningModule):
    """Train in two phases: embedding and graph first, then the clusters with them.

    Parameters
    ----------
    module
        The network.
    cells
        Cells to train on.
    rule
        How edges are chosen.
    start_clusters
        Makes the first centres from an embedding and its graph.
    pretrain_epochs, lr
        Length and learning rate of the first phase.
    cluster_lr
        Learning rate of the second phase.
    edge_weight, contrast_weight, cluster_weight
        Weights of the losses beside the likelihood of the counts.
    contrast_temperature
        Temperature of the contrast between the two graphs.
    step_cells
        Cells per step of which counts, edges and contrast are computed.
    pool_refresh, target_update
        Epochs after which candidates, and the targets of the clusters, are computed anew.
    label_change_tol
        Share of changed labels between two targets below which the second phase ends.
    """

    weight_decay = 0.0

    def __init__(
        self,
        module: GraphAutoencoder,
        cells: Cells,
        rule: EdgeRule,
        start_clusters: Callable[[np.ndarray, Any], np.ndarray],
        *,
        pretrain_epochs: int,
        cluster_epochs: int,
        lr: float = 1e-3,
        cluster_lr: float = 5e-4,
        edge_weight: float = 0.3,
        contrast_weight: float = 0.01,
        cluster_weight: float = 1.5,
        contrast_temperature: float = 0.7,
        step_cells: int = 512,
        pool_refresh: int = 25,
        target_update: int = 8,
        label_change_tol: float = 0.001,
    ) -> None:
        super().__init__()
        self.module, self.cells, self.rule = module, cells, rule
        self.start_clusters = start_clusters
        self.pretrain_epochs, self.cluster_epochs = pretrain_epochs, cluster_epochs
        self.lr, self.cluster_lr = lr, cluster_lr
        self.edge_weight, self.contrast_weight = edge_weight, contrast_weight
        self.cluster_weight, self.contrast_temperature = cluster_weight, contrast_temperature
        self.step_cells, self.pool_refresh = step_cells, pool_refresh
        self.target_update, self.label_change_tol = target_update, label_change_tol
        self.target: Tensor | None = None
        self._labels: Tensor | None = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over all weights; the centres join it in the second phase."""
        return torch.optim.Adam(self.module.parameters(), lr=self.lr)

    def on_fit_start(self) -> None:
        """Put what every step reads where the network is."""
        self.features = SparseFeatures.from_scipy(self.cells.logged, self.device)
        self.neighbors = self.cells.neighbors.to(self.device)
        self.candidates = self.cells.candidates.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Renew candidates and targets, and begin the second phase when it is due."""
        epoch = self.current_epoch - self.pretrain_epochs
        begins, renews = epoch == 0, epoch >= 0 and epoch % self.target_update == 0
        refresh = self.current_epoch % self.pool_refresh == 0 and self.current_epoch > 0
        if not (begins or renews or refresh):
            return
        self.module.eval()
        latent, neighbors = self.rule.settle(self.module, self.cells, self.features)
        self.module.train()
        if self.rule.sampler != "static":
            self.candidates = self.rule.widened(self.cells, latent)
        if begins:
            self.begin_clusters(latent, neighbors)
            optimizer: Any = self.optimizers()
            optimizer.state.clear()
            optimizer.add_param_group({"params": [self.module.centres]})
            for group in optimizer.param_groups:
                group["lr"] = self.cluster_lr
        if renews:
            probabilities = self.module.assign(latent).detach()
            self.target, labels = sharpened_assignment(probabilities), probabilities.argmax(dim=1)
            if not begins:
                changed = float((labels != self._labels).float().mean())
                self.trainer.should_stop = changed < self.label_change_tol
            self._labels = labels

    def on_train_end(self) -> None:
        """Place the centres where there was no second phase."""
        if not self.cluster_epochs:
            self.module.eval()
            self.begin_clusters(*self.rule.settle(self.module, self.cells, self.features))

    def begin_clusters(self, latent: Tensor, neighbors: Tensor) -> None:
        """Place the first centres, which are trained from here on."""
        centres = self.start_clusters(latent.cpu().numpy(), union_graph(neighbors))
        self.module.centres = nn.Parameter(torch.as_tensor(centres).to(latent))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return the loss of a step, in which the cells' edges are drawn anew."""
        features, candidates, neighbors = self.features, self.candidates, self.neighbors
        n_cells, is_part = len(batch), len(batch) < len(neighbors)
        if is_part:
            place = batch.new_full((len(neighbors) + 1,), -1)  # the last one is for -1
            place[batch] = torch.arange(n_cells, device=batch.device)
            candidates, neighbors = place[candidates[batch]], place[neighbors[batch]]
            features = SparseFeatures.from_scipy(
                self.cells.logged[batch.cpu().numpy()], self.device
            )
        projected = self.module.project(features)
        latent = self.module.encode(projected, union_graph(neighbors).normalized())
        renewed = latent
        if self.rule.sampler != "static":
            phase = (self.current_epoch - self.pretrain_epochs) / max(self.cluster_epochs, 1)
            scores = self.rule.scores(latent, candidates, 1.0 - max(phase, 0.0))
            chosen, soft = draw_neighbors(scores, self.rule.n_neighbors)
            graph = union_graph(candidates, chosen, soft)
            renewed = self.module.encode(projected, graph.normalized())
            neighbors = chosen_cells(candidates, chosen)
            self._keep(batch, neighbors)
        rows = torch.randperm(n_cells, device=batch.device)[: self.step_cells]
        losses = {
            "count_loss": self._count_loss(latent[rows], batch[rows]),
            "edge_loss": self.edge_loss(latent, rows, candidates, neighbors),
            "contrast_loss": info_nce(latent[rows], renewed[rows], self.contrast_temperature),
        }
        weights = [1.0, self.edge_weight, self.contrast_weight]
        if self.target is not None:
            target, found = self.target[batch], self.module.assign(latent)
            divergence = target * (target.clamp_min(1e-12) / found.clamp_min(1e-12)).log()
            losses["cluster_loss"] = divergence.sum(dim=1).mean()
            weights.append(self.cluster_weight)
        total = torch.stack(
            [w * part for w, part in zip(weights, losses.values(), strict=True)]
        ).sum()
        log = {"on_step": False, "on_epoch": True, "batch_size": n_cells}
        self.log("train_loss", total, prog_bar=True, **log)
        self.log_dict(losses, **log)
        return total

    def _keep(self, batch: Tensor, neighbors: Tensor) -> None:
        """Remember what was drawn, for the next step that has these cells."""
        if len(batch) == len(self.neighbors):
            self.neighbors = neighbors
        else:
            self.neighbors[batch] = -1
            self.neighbors[batch, : neighbors.shape[1]] = batch[neighbors].where(neighbors >= 0, -1)

    def _count_loss(self, latent: Tensor, rows: Tensor) -> Tensor:
        at, cells = rows.cpu(), self.cells
        counts = torch.as_tensor(cells.counts[at.numpy()].toarray()).to(latent)
        given = {"size_factor": cells.size_factor[at], "batch": cells.batch[at]}
        generated = self.module.generative(latent, *(x.to(latent.device) for x in given.values()))
        loss: Tensor = self.module.loss({"counts": counts}, {"z": latent}, generated).loss
        return loss

    def edge_loss(
        self, latent: Tensor, rows: Tensor, candidates: Tensor, neighbors: Tensor
    ) -> Tensor:
        """Estimate the mean squared error of the decoded adjacency over all pairs of cells.

        Candidates are taken all, and other cells by a sample that stands for the rest.
        """
        n_cells = len(latent)
        there = candidates[rows]
        others = torch.randint(n_cells, (len(rows), OTHERS), device=rows.device)
        is_known = (others[:, :, None] == there[:, None, :]).any(dim=2)
        both = torch.cat([there, others], dim=1)
        joined = are_joined(neighbors, rows, both).to(latent)
        error = (joined - self.module.edge_probability(latent, rows, both.clamp_min(0))).square()
        inside = (error[:, : there.shape[1]] * (there >= 0)).sum(dim=1)
        outside = (error[:, there.shape[1] :] * ~is_known).sum(dim=1)
        # The share of others that are no candidates is known: the estimate is unbiased.
        outside = outside * n_cells / OTHERS
        return (inside + outside).mean() / n_cells
