"""Corrections as linear maps, applied one after the other and only to the cells asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from hdeepinsight.pp._stacas._weights import CorrectionOperator, Weigher

__all__ = ["Step", "composed_shift"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Step:
    """One side moved onto another; cells are numbered through all datasets.

    Parameters
    ----------
    cells
        Cells that move, shape ``(n_cells,)``.
    query_anchors, reference_anchors
        Distinct anchor cells of the side that moves and of the one that stays, sorted.
    operator
        Weights of these anchor cells for every cell that moves.
    weigher
        How further cells of that side would get theirs.
    """

    cells: Ints
    query_anchors: Ints
    reference_anchors: Ints
    operator: CorrectionOperator
    weigher: Weigher

    def change(self, moved: sp.csr_matrix, n_all: int) -> sp.csr_matrix:
        """Change of combinations of the cells that move, in terms of all cells.

        With ``moved`` of shape ``(n, n_cells)`` this is ``moved @ (M_r - M_q)``.
        """
        added = _renamed(moved @ self.operator.reference, self.reference_anchors, n_all)
        return added - _renamed(moved @ self.operator.query, self.query_anchors, n_all)


def _renamed(matrix: sp.csr_matrix, columns: Ints, n_all: int) -> sp.csr_matrix:
    stored = (matrix.data, columns[matrix.indices], matrix.indptr)
    return sp.csr_matrix(stored, shape=(matrix.shape[0], n_all))


def composed_shift(steps: Sequence[Step], cells: Ints, n_all: int) -> sp.csr_matrix:
    """Change of some cells by all steps, as a combination of the original values of all cells.

    Parameters
    ----------
    steps
        Corrections in the order in which they were made; each one uses the values that those
        before it left.
    cells
        Cells asked for, shape ``(n_cells,)``.
    n_all
        Cells of all datasets.

    Returns
    -------
    Matrix ``D`` of shape ``(n_cells, n_all)``: corrected values are ``Y[cells] + D @ Y``.

    Notes
    -----
    The steps are unrolled from the last to the first, so that only weights are multiplied and no
    corrected value is ever kept.
    """
    start = sp.csr_matrix(
        (np.ones(len(cells)), (np.arange(len(cells)), cells)), shape=(len(cells), n_all)
    )
    shift = sp.csr_matrix((len(cells), n_all))
    for step in reversed(steps):
        moved = (start + shift)[:, step.cells]
        if moved.nnz:
            shift = (shift + step.change(moved, n_all)).tocsr()
    shift.sort_indices()
    return shift
