"""One pass over a matrix: everything that a verdict on its scale needs, in constant memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp

from hdeepinsight.data._matrix import Block, RowMatrix

__all__ = ["Scan", "canonical", "scan", "scan_rows"]

#: Numbers of decimals that values may have been rounded to.
DECIMALS = (2, 3, 4, 5)
ROWS = 2048


@dataclass
class Scan:
    """Exact tallies over all values, and a sample of whole cells.

    ``n_cells`` counts the rows seen; ``low`` and ``high`` are the range of the finite stored
    values; ``decimals`` are the numbers of decimals that all values seen so far are rounded to;
    ``sample`` holds evenly spaced rows as CSR matrices.
    """

    n_cells: int = 0
    n_nan: int = 0
    n_inf: int = 0
    n_negative: int = 0
    n_empty: int = 0
    n_nonzero: int = 0
    n_whole: int = 0
    low: float = np.inf
    high: float = -np.inf
    decimals: tuple[int, ...] = DECIMALS
    sample: list[sp.csr_matrix] = field(default_factory=list)

    @property
    def all_whole(self) -> bool:
        """Whether every finite value is a whole number."""
        return self.n_whole == self.n_nonzero - self.n_nan - self.n_inf

    @property
    def grid(self) -> float:
        """Distance of the decimals that the values are rounded to; 0.0 if they are not."""
        return 10.0 ** -min(self.decimals) if self.decimals else 0.0

    def add(self, rows: sp.csr_matrix) -> None:
        """Tally a canonical CSR block."""
        stored = rows.data
        self.n_cells += rows.shape[0]
        self.n_nonzero += len(stored)
        self.n_empty += int(np.count_nonzero(np.diff(rows.indptr) == 0))
        finite = self._finite(stored)
        if not len(finite):
            return
        self.low = min(self.low, float(finite.min()))
        self.high = max(self.high, float(finite.max()))
        if self.low < 0:
            self.n_negative += int(np.count_nonzero(finite < 0))
        whole = len(finite) if finite.dtype.kind in "iub" else _count_whole(finite)
        self.n_whole += whole
        if whole < len(finite):
            self.decimals = tuple(d for d in self.decimals if _is_rounded(finite, d))

    def _finite(self, stored: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if stored.dtype.kind != "f":
            return stored
        finite = np.isfinite(stored)
        if finite.all():
            return stored
        n_nan = int(np.count_nonzero(np.isnan(stored)))
        self.n_nan += n_nan
        self.n_inf += int(np.count_nonzero(~finite)) - n_nan
        kept: np.ndarray[Any, Any] = stored[finite]
        return kept


def _count_whole(values: np.ndarray[Any, Any]) -> int:
    return int(np.count_nonzero(values == np.rint(values)))


def _is_rounded(values: np.ndarray[Any, Any], decimals: int) -> bool:
    """Whether all values are the nearest single-precision number to one with so many decimals."""
    exact = np.round(values.astype(np.float64), decimals)
    return bool((exact.astype(np.float32) == values.astype(np.float32)).all())


def canonical(block: Block) -> sp.csr_matrix:
    """Sparse form without explicit zeros and double entries; never changes ``block``."""
    rows: sp.csr_matrix = block if sp.issparse(block) else sp.csr_matrix(block)
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    if np.count_nonzero(rows.data) < len(rows.data):
        rows = rows.copy()
        rows.eliminate_zeros()
    return rows


def scan(matrix: RowMatrix, max_cells: int) -> Scan:
    """Read the whole matrix once, keeping about ``max_cells`` evenly spaced cells."""
    result = Scan()
    matrix.tally.n_scans += 1
    step = max(1, -(-matrix.shape[0] // max(1, max_cells)))
    for rows, block in matrix.blocks(ROWS):
        part = canonical(block)
        result.add(part)
        picked = np.arange(-rows.start % step, part.shape[0], step)
        if len(picked):
            result.sample.append(part[picked])
    return result


def scan_rows(matrix: RowMatrix, n_rows: int) -> Scan:
    """Tally the first rows only: enough for a hint, not for a verdict."""
    result = Scan()
    for _, block in matrix.blocks(n_rows):
        result.add(canonical(block))
        break
    return result
