"""Log values of counts, the same wherever they are compared without a model."""

from __future__ import annotations

import numpy as np
from scipy import sparse


def log_normalize(counts: sparse.csr_matrix, target_sum: float = 1e4) -> sparse.csr_matrix:
    """``log1p`` of counts per ``target_sum``, CSR float32, shape ``(n_cells, n_genes)``.

    Cells without any count stay at 0.
    """
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    factors = target_sum / np.where(totals > 0, totals, 1.0)
    logged = sparse.csr_matrix(counts, copy=True)
    logged.data = np.log1p(logged.data * np.repeat(factors, np.diff(logged.indptr)))
    return logged.astype(np.float32)
