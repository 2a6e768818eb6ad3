"""Anchor cells with their values, which corrections are read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from hdeepinsight.pp._stacas._datasets import Dataset
from hdeepinsight.pp._stacas._steps import Step

__all__ = ["Support", "load_support"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Support:
    """Anchor cells, which all corrections are made of.

    ``cells`` are their numbers among all cells, sorted; ``values`` their log values of the genes to
    correct, CSR, shape ``(n_anchor_cells, n_genes)``.
    """

    cells: Ints
    values: sp.csr_matrix

    def combine(self, shift: sp.csr_matrix) -> NDArray[np.float64]:
        """Sum anchor cells by weights, ``(n_cells, n_all_cells)``; ``(n_cells, n_genes)``.

        What is added and what is taken away are summed apart, so that equal values cancel to 0.
        """
        columns = np.searchsorted(self.cells, shift.indices)
        shape = (shift.shape[0], len(self.cells))
        total = np.zeros((shift.shape[0], self.values.shape[1]))
        for sign in (1.0, -1.0):
            part = np.maximum(sign * shift.data, 0.0)
            weights = sp.csr_matrix((part, columns, shift.indptr), shape=shape)
            total += sign * (weights @ self.values).toarray()
        return total


def load_support(
    datasets: Sequence[Dataset], steps: Sequence[Step], genes: Sequence[str], chunk_size: int
) -> Support:
    """Read the anchor cells of all steps."""
    used = [cells for step in steps for cells in (step.query_anchors, step.reference_anchors)]
    cells = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *used]))
    parts, start = [], 0
    for one in datasets:
        own = cells[(cells >= start) & (cells < start + one.n_obs)] - start
        if len(own):
            parts.append(one.gather(genes, own, chunk_size))
        start += one.n_obs
    empty = sp.csr_matrix((0, len(genes)), dtype=np.float32)
    return Support(cells, sp.vstack([empty, *parts], format="csr").astype(np.float64))
