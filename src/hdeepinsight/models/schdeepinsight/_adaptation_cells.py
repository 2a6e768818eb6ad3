"""Cells of a query or of a reference in memory, and their way to the device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

CELLS = 1024


@dataclass(frozen=True, eq=False)
class Cells:
    """Cells in memory, sparse, in the order of the model's genes.

    Parameters
    ----------
    counts
        Raw counts, shape ``(n_cells, n_genes)``.
    batch
        Batch of every cell, shape ``(n_cells,)``.
    nodes
        Node of the label, 0 where there is none, shape ``(n_cells,)``.
    further
        Further inputs of the network, each ``(n_cells, ...)``.
    """

    counts: csr_matrix
    batch: np.ndarray
    nodes: np.ndarray
    further: dict[str, Tensor]

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    @property
    def has_rna(self) -> Tensor:
        """Whether RNA was measured in each cell, shape ``(n_cells,)``."""
        measured = self.further.get("measured")
        return torch.ones(len(self), dtype=torch.bool) if measured is None else measured.any(1)

    def extra(self, rows: np.ndarray | slice, device: torch.device) -> dict[str, Tensor]:
        """Further inputs of some cells."""
        return {name: values[rows].to(device) for name, values in self.further.items()}


def dense(counts: csr_matrix, device: torch.device) -> Tensor:
    """Put the counts of a mini-batch on the device."""
    return torch.from_numpy(counts.toarray()).to(device)


def chunks(counts: csr_matrix, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Dense counts of a thousand cells at a time."""
    for start in range(0, counts.shape[0], CELLS):
        yield slice(start, start + CELLS), dense(counts[start : start + CELLS], device)


def draw_cells(batch: np.ndarray, labelled: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Draw rows of cells, ascending: alike from every batch, labelled ones first.

    Parameters
    ----------
    batch, labelled
        Batch of every cell, and whether it has a label, shape ``(n_cells,)``.
    most
        Most cells to draw; if there are no more, all are taken.
    seed
        Seed of the draw.
    """
    n_cells = len(batch)
    if n_cells <= most:
        return np.arange(n_cells)
    order = np.random.default_rng(seed).permutation(n_cells)
    order = order[np.argsort(~labelled[order], kind="stable")]
    turn = pd.Series(order).groupby(batch[order]).cumcount().to_numpy()
    return np.sort(order[np.argsort(turn, kind="stable")[:most]])
