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
    adjacency_error,
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
    neighbors, candidates
        Cells to which each one is joined at first, and may be joined; -1 for none.
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
    """How edges are chosen among candidates; see :class:`~hdeepinsight.models.SCAGC`."""

    sampler: str
    similarity: Similarity
    temperature: float
    n_neighbors: int
    n_candidates: int

    def scores(self, latent: Tensor, candidates: Tensor, noise: float) -> Tensor:
        """Compute the scores of candidates, with Gumbel noise."""
        found = candidate_similarity(latent, candidates, self.similarity)
        divisor = 1.0 if self.sampler == "published" else self.temperature
        return found / divisor + (noise * gumbel_noise(found) if noise else 0.0)

    def widened(self, cells: Cells, latent: Tensor) -> Tensor:
        """Return the first candidates, and the nearest cells in the embedding beside them."""
        first, points = cells.candidates, latent.detach().cpu()
        if self.similarity == "cosine":
            points = nn.functional.normalize(points, dim=1)
        n_more = min(self.n_candidates // 2, len(first) - 1)
        found = torch.as_tensor(nearest_neighbors(points.numpy(), k=n_more)[0])
        known = torch.stack([(column[:, None] == first).any(dim=1) for column in found.T], dim=1)
        return torch.cat([first, found.masked_fill(known, -1)], dim=1).to(latent.device)

    @torch.no_grad()
    def settle(
        self, module: GraphAutoencoder, cells: Cells, features: SparseFeatures
    ) -> tuple[Tensor, Tensor]:
        """Embed cells over their first graph, and twice over the one that follows from it.

        Nothing is random here: the embedding and the neighbours that each cell chose depend on
        weights and cells alone.
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
    """Give the positions of the cells of each step: all of them, or those of some random blocks.

    Parameters
    ----------
    block_of_cell
        Block of each cell, int, shape ``(n_cells,)``; one block makes one step of all cells.
    """

    N_JOINED = 4

    def __init__(self, block_of_cell: np.ndarray) -> None:
        super().__init__()
        order, ends = np.argsort(block_of_cell, kind="stable"), np.bincount(block_of_cell).cumsum()
        self.blocks: Any = [torch.as_tensor(part) for part in np.split(order, ends[:-1])]
        self.train_idx, self.val_idx = np.arange(len(order)), np.arange(0)

    def train_dataloader(self) -> DataLoader[Tensor]:
        """Return the positions step by step, in a new order every epoch."""
        return DataLoader(self.blocks, self.N_JOINED, shuffle=True, collate_fn=_joined)


def _joined(blocks: list[Tensor]) -> Tensor:
    return torch.cat(blocks).sort().values


@dataclass(frozen=True)
class PlanOptions:
    """Options of the training plan, as ``plan_kwargs``.

    Parameters
    ----------
    lr, cluster_lr
        Learning rates of both phases.
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

    lr: float = 1e-3
    cluster_lr: float = 5e-4
    edge_weight: float = 0.3
    contrast_weight: float = 0.01
    cluster_weight: float = 1.5
    contrast_temperature: float = 0.7
    step_cells: int = 256
    pool_refresh: int = 25
    target_update: int = 8
    label_change_tol: float = 0.001


class AdaptiveGraphPlan(pl.LightningModule):
    """Train in two phases: embedding and graph first, then the clusters with them.

    Parameters
    ----------
    module, cells, rule
        The network, the cells to train on, and how their edges are chosen.
    first_centres
        Makes the first centres from embedding and neighbours.
    epochs
        Length of both phases.
    options
        Further options.
    """

    def __init__(
        self,
        module: GraphAutoencoder,
        cells: Cells,
        rule: EdgeRule,
        first_centres: Callable[[Tensor, Tensor], Tensor],
        epochs: tuple[int, int],
        options: PlanOptions,
    ) -> None:
        super().__init__()
        self.module, self.cells, self.rule, self.options = module, cells, rule, options
        self.first_centres, self.epochs = first_centres, epochs
        self.target: Tensor | None = None
        self.labels = torch.zeros(0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over all weights; the centres join it in the second phase."""
        fused = self.device.type in ("cpu", "cuda")
        return torch.optim.Adam(self.module.parameters(), lr=self.options.lr, fused=fused)

    def on_fit_start(self) -> None:
        """Put what every step reads where the network is."""
        self.features = SparseFeatures.from_scipy(self.cells.logged, self.device)
        self.neighbors = self.cells.neighbors.to(self.device)
        self.candidates = self.cells.candidates.to(self.device)

    def _settled(self) -> tuple[Tensor, Tensor]:
        self.module.eval()
        found = self.rule.settle(self.module, self.cells, self.features)
        self.module.train()
        return found

    def on_train_epoch_start(self) -> None:
        """Renew candidates and targets, and begin the second phase when it is due."""
        epoch, options = self.current_epoch - self.epochs[0], self.options
        renews = epoch >= 0 and epoch % options.target_update == 0
        if not renews and (self.current_epoch + 1) % options.pool_refresh:
            return
        latent, neighbors = self._settled()
        if self.rule.sampler != "static":
            self.candidates = self.rule.widened(self.cells, latent)
        if epoch == 0:
            self.module.centres = nn.Parameter(self.first_centres(latent, neighbors))
            optimizer: Any = self.optimizers()
            optimizer.state.clear()
            optimizer.add_param_group({"params": [self.module.centres]})
            for group in optimizer.param_groups:
                group["lr"] = options.cluster_lr
        if renews:
            probabilities = self.module.assign(latent).detach()
            self.target, labels = sharpened_assignment(probabilities), probabilities.argmax(dim=1)
            if epoch > 0:
                changed = float((labels != self.labels).float().mean())
                self.trainer.should_stop = changed < options.label_change_tol
            self.labels = labels

    def on_train_end(self) -> None:
        """Place the centres where there is no second phase."""
        if not self.epochs[1]:
            self.module.centres = nn.Parameter(self.first_centres(*self._settled()))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return the loss of a step, in which the cells' edges are drawn anew."""
        features, candidates, neighbors = self.features, self.candidates, self.neighbors
        n_cells = len(batch)
        if is_part := n_cells < len(neighbors):
            place = batch.new_full((len(neighbors) + 1,), -1)  # the last one is for -1
            place[batch] = torch.arange(n_cells, device=batch.device)
            candidates, neighbors = place[candidates[batch]], place[neighbors[batch]]
            logged = self.cells.logged[batch.cpu().numpy()]
            features = SparseFeatures.from_scipy(logged, self.device)
        projected = self.module.project(features)
        latent = renewed = self.module.encode(projected, union_graph(neighbors).normalized())
        if self.rule.sampler != "static":
            noise = 1.0 - max(self.current_epoch - self.epochs[0], 0) / max(self.epochs[1], 1)
            scores = self.rule.scores(latent, candidates, noise)
            chosen, soft = draw_neighbors(scores, self.rule.n_neighbors)
            graph = union_graph(candidates, chosen, soft).normalized()
            renewed, neighbors = (
                self.module.encode(projected, graph),
                chosen_cells(candidates, chosen),
            )
            if is_part:
                self.neighbors[batch] = -1
                named = batch[neighbors].where(neighbors >= 0, -1)
                self.neighbors[batch, : neighbors.shape[1]] = named
            else:
                self.neighbors = neighbors
        rows = torch.randperm(n_cells, device=batch.device)[: self.options.step_cells]
        total, losses = self._losses(batch, rows, latent, renewed, candidates, neighbors)
        self.log("train_loss", total, prog_bar=True, on_epoch=True, on_step=False, batch_size=1)
        self.log_dict(losses, on_epoch=True, on_step=False, batch_size=1)
        return total

    def _losses(
        self,
        batch: Tensor,
        rows: Tensor,
        latent: Tensor,
        renewed: Tensor,
        candidates: Tensor,
        neighbors: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted loss and its parts, of some rows of the cells of a step."""
        module, options, at = self.module, self.options, batch[rows].cpu()
        counts = torch.as_tensor(self.cells.counts[at.numpy()].toarray()).to(latent)
        given = (part[at].to(self.device) for part in (self.cells.size_factor, self.cells.batch))
        generated = module.generative(latent[rows], *given)

        def probability(cells: Tensor, others: Tensor) -> Tensor:
            return module.edge_probability(latent, cells, others)

        losses = {
            "count_loss": module.loss({"counts": counts}, {}, generated).loss,
            "edge_loss": adjacency_error(probability, rows, candidates, neighbors),
            "contrast_loss": info_nce(latent[rows], renewed[rows], options.contrast_temperature),
        }
        total = losses["count_loss"] + options.edge_weight * losses["edge_loss"]
        total = total + options.contrast_weight * losses["contrast_loss"]
        if self.target is not None:
            target, found = self.target[batch], module.assign(latent)
            divergence = target * (target.clamp_min(1e-12) / found.clamp_min(1e-12)).log()
            losses["cluster_loss"] = divergence.sum(dim=1).mean()
            total = total + options.cluster_weight * losses["cluster_loss"]
        return total, losses
