"""Mini-batches of the reference: sparse counts in memory, dense only one mini-batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from torch import Tensor

from hdeepinsight._keys import FIELD_KEYS
from hdeepinsight.nn import CountThinning

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from hdeepinsight.data import ProteinCounts


@dataclass(frozen=True)
class Split:
    """Indices of the cells that train the network and of those that are held out."""

    train: np.ndarray
    validation: np.ndarray

    def __post_init__(self) -> None:
        if np.intersect1d(self.train, self.validation).size:
            msg = "A cell is in both parts of the split. Give every cell to one part."
            raise ValueError(msg)


class SparseBatches:
    """Iterable over mini-batches of nearly equal size, reshuffled on every pass.

    Parameters
    ----------
    counts
        Raw counts in the order of the model's genes, shape ``(n_cells, n_genes)``.
    nodes
        Node of every cell's label, shape ``(n_cells,)``.
    indices
        Cells to iterate over.
    batch_size
        Most cells a mini-batch.
    generator
        Source of the shuffling and thinning; ``None`` keeps the order and all counts.
    thinning
        How the counts of training cells are thinned.
    proteins
        Protein counts of all cells, where they were measured.
    """

    def __init__(
        self,
        counts: csr_matrix,
        nodes: np.ndarray,
        indices: np.ndarray,
        *,
        batch_size: int,
        generator: np.random.Generator | None = None,
        thinning: CountThinning | None = None,
        proteins: ProteinCounts | None = None,
    ) -> None:
        self.counts = counts
        self.proteins = proteins
        self.thinning = thinning or CountThinning.none()
        self.nodes = nodes
        self.indices = indices
        self.n_batches = -(-len(indices) // batch_size)
        self.generator = generator

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = self.indices
        if self.generator is not None:
            order = self.generator.permutation(order)
        # Equal parts: no last mini-batch of a single cell, unless there is only one cell.
        for rows in np.array_split(order, self.n_batches) if self.n_batches else ():
            yield {
                REGISTRY_KEYS.X_KEY: self._thinned(self.counts[rows]),
                REGISTRY_KEYS.LABELS_KEY: torch.from_numpy(self.nodes[rows]),
                **self._protein_tensors(rows),
            }

    def _thinned(self, counts: csr_matrix) -> Tensor:
        if self.generator is not None:
            counts = self.thinning.sample(counts, self.generator)
        return torch.from_numpy(counts.toarray())

    def _protein_tensors(self, rows: np.ndarray) -> dict[str, Tensor]:
        if self.proteins is None:
            return {}
        part = self.proteins[rows]
        return {
            FIELD_KEYS.PROTEINS: self._thinned(sparse.csr_matrix(part.counts)),
            "proteins_measured": torch.from_numpy(part.measured),
        }


class ReferenceBatches(pl.LightningDataModule):  # type: ignore[misc]
    """Training and validation mini-batches of a labelled reference.

    Parameters
    ----------
    counts, nodes
        As in :class:`SparseBatches`.
    split
        Which cells train and which validate.
    batch_size
        Most cells a mini-batch.
    thinning
        How the counts of training cells are thinned.
    seed
        Seed of the shuffling and thinning.
    proteins
        As in :class:`SparseBatches`.
    """

    def __init__(
        self,
        counts: csr_matrix,
        nodes: np.ndarray,
        split: Split,
        *,
        thinning: CountThinning | None = None,
        batch_size: int = 128,
        seed: int = 0,
        proteins: ProteinCounts | None = None,
    ) -> None:
        super().__init__()
        self.counts = counts
        self.proteins = proteins
        self.cell_nodes = nodes
        self.train_idx, self.val_idx = split.train, split.validation
        self.n_train, self.n_val = len(split.train), len(split.validation)
        self.batch_size = batch_size
        self.thinning = thinning
        self.generator = np.random.default_rng(seed)

    def train_dataloader(self) -> SparseBatches:
        """Shuffled mini-batches of the training cells."""
        return self._batches(self.train_idx, self.generator)

    def val_dataloader(self) -> SparseBatches:
        """Mini-batches of the held-out cells, in order."""
        return self.in_order(self.val_idx)

    def in_order(self, indices: np.ndarray) -> SparseBatches:
        """Mini-batches of any cells, in order and with all their counts."""
        return self._batches(indices, None)

    def _batches(self, indices: np.ndarray, generator: np.random.Generator | None) -> SparseBatches:
        return SparseBatches(
            self.counts,
            self.cell_nodes,
            indices,
            batch_size=self.batch_size,
            generator=generator,
            thinning=self.thinning,
            proteins=self.proteins,
        )
