"""Normalisation shared by the controls and by peers that ask for log-normalised values."""

from __future__ import annotations

import numpy as np
from scipy import sparse


def log_cp10k(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """``log1p`` of counts per 10,000 of the given columns; an empty cell stays 0."""
    total = np.asarray(counts.sum(axis=1)).ravel()
    factor = np.divide(1e4, total, out=np.zeros_like(total, dtype=np.float64), where=total > 0)
    normalised = sparse.csr_matrix(sparse.diags(factor) @ counts, dtype=np.float32)
    return normalised.log1p()


class Scaler:
    """Zero mean and unit variance a gene on the reference, clipped at ±10, as in Seurat."""

    def fit(self, values: sparse.csr_matrix) -> Scaler:
        """Learn mean and standard deviation of the columns."""
        self.mean = np.asarray(values.mean(axis=0)).ravel()
        second = np.asarray(values.multiply(values).mean(axis=0)).ravel()
        std = np.sqrt(np.maximum(second - self.mean**2, 0))
        self.std = np.where(std > 0, std, 1.0)
        return self

    def __call__(self, values: sparse.csr_matrix) -> np.ndarray:
        """Scale, ``(n_cells, n_genes)`` dense float32."""
        return np.clip((values.toarray() - self.mean) / self.std, -10, 10).astype(np.float32)
