"""Training plan of SCAGC: blocks of cells, sampled graphs, and losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hdeepinsight._errors import check_number
from hdeepinsight.nn import (
    SparseFeatures,
    adjacency_error,
    chosen_cells,
    info_nce,
    sharpened_assignment,
    union_graph,
)

if TYPE_CHECKING:
    from hdeepinsight.models.scagc._module import Cells, GraphAutoencoder

#: Blocks per step, and cells of a step whose counts and edges are decoded.
JOINED_BLOCKS, DECODED_CELLS = 4, 256
#: Epochs between updates of the candidates, and of the cluster targets.
POOL_REFRESH, TARGET_UPDATE = 25, 8
#: The second phase ends if less than this share of labels changes between two targets.
LABEL_CHANGE = 0.001
CONTRAST_TEMPERATURE = 0.7
#: Dropout rate of genes.
DROPOUT = 0.2


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
