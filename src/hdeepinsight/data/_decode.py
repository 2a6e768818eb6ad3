"""Turn a block of normalised values back into counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import scipy.sparse as sp

from hdeepinsight.data._matrix import Block
from hdeepinsight.data._scan import canonical
from hdeepinsight.data._units import Units, find_units, float_step, linear_tolerance, log_tolerance

__all__ = ["Denormalizer", "Normalisation"]

Normalisation: TypeAlias = Literal["log1p", "normalized"]

#: A log1p value above this is no log1p value: e^30 is 10^13.
MAX_LOG = 30.0


@dataclass(frozen=True)
class Denormalizer:
    """How the values of a matrix came from counts.

    Parameters
    ----------
    scale
        ``"log1p"``: library-size normalised, then natural log1p; ``"normalized"``: without the log.
    dtype
        Type of the stored values; sets the floating-point tolerance.
    grid
        Distance of the decimals that the values are rounded to, 0.0 if they are not.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.data import Denormalizer
    >>> values = np.log1p(np.array([[1.5, 0.0, 4.5]]))
    >>> Denormalizer("log1p", values.dtype).decode(values)[0].toarray()
    array([[1., 0., 3.]], dtype=float32)
    """

    scale: Normalisation
    dtype: np.dtype[Any]
    grid: float = 0.0

    def decode(self, block: Block) -> tuple[sp.csr_matrix, Units]:
        """Give the counts of a block (CSR float32), and how every cell was solved.

        A cell is solved on its own: the result depends on no other cell.
        """
        rows = canonical(block)
        values = rows.data.astype(np.float64)
        eps = float_step(self.dtype)
        if self.scale == "log1p":
            x = np.expm1(values)
            tolerance = log_tolerance(values, x, eps, self.grid)
        else:
            x, tolerance = values, linear_tolerance(values, eps, self.grid)
        found = find_units(x, tolerance, rows.indptr.astype(np.int64))
        stored = (found.counts.astype(np.float32), rows.indices, rows.indptr)
        return sp.csr_matrix(stored, shape=rows.shape), found

    def share_solved(self, rows: sp.csr_matrix) -> float:
        """Share of the non-empty cells whose counts can be recovered."""
        if self.scale == "log1p" and rows.data.max(initial=0.0) > MAX_LOG:
            return 0.0
        filled = np.diff(rows.indptr) > 0
        if not _tells_something(rows):
            return 0.0
        _, found = self.decode(rows)
        return float(found.solved[filled].mean())


def _tells_something(rows: sp.csr_matrix) -> bool:
    """Whether some cell has two different values: equal ones are multiples of anything."""
    starts = rows.indptr[:-1][np.diff(rows.indptr) > 0]
    if not len(starts):
        return False
    largest = np.maximum.reduceat(rows.data, starts)
    return bool((largest > 1.001 * np.minimum.reduceat(rows.data, starts)).any())
