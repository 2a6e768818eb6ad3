"""Log values of counts, one and the same wherever they are used."""

from __future__ import annotations

import numpy as np
from scipy import sparse


def log_normalize(counts: sparse.csr_matrix, target_sum: float = 1e4) -> sparse.csr_matrix:
    """Compute the natural log1p of counts per ``target_sum`` of each cell.

    Parameters
    ----------
    counts
        Counts, CSR, shape ``(n_cells, n_genes)``; not changed.
    target_sum
        Total that every cell is scaled to.

    Returns
    -------
    CSR float32, shape ``(n_cells, n_genes)``. Cells without any count stay at 0.

    Notes
    -----
    A value is ``log1p(count * (target_sum / total))``, with the total of the cell over the genes
    given, summed and divided in double precision, and rounded to single precision once, at the end.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from hdeepinsight.data import log_normalize
    >>> log_normalize(sp.csr_matrix([[1.0, 3.0], [0.0, 0.0]]), 4.0).toarray().round(3)
    array([[0.693, 1.386],
           [0.   , 0.   ]], dtype=float32)
    """
    totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    factors = target_sum / np.where(totals > 0, totals, 1.0)
    logged = sparse.csr_matrix(counts, copy=True)
    logged.data = np.log1p(logged.data * np.repeat(factors, np.diff(logged.indptr)))
    return logged.astype(np.float32)
