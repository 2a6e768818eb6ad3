"""What a gene looks like across the cells: a point on the unit sphere."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

N_COMPONENTS = 50


def gene_profiles(
    x: Any, *, n_components: int = N_COMPONENTS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Describe each gene by a short unit vector whose inner products are cosines between genes.

    Each gene is scaled to unit length over the cells, so that squared Euclidean distance is
    ``2 (1 - cosine)``; the genes × cells matrix is then cut to its leading singular vectors and
    the result is scaled to unit length again.

    Parameters
    ----------
    x
        Log-normalised expression, ``(n_cells, n_genes)``, dense or scipy sparse.
    n_components
        Singular vectors that are kept, at most.
    seed
        Seed of the randomised decomposition.

    Returns
    -------
    ``(profiles, expressed)``: profiles of the expressed genes ``(n_expressed, d)`` with
    ``d <= n_components``, and the mask ``(n_genes,)`` of genes with a value other than zero.

    Raises
    ------
    ValueError
        If a value is NaN or infinite, or if no gene is expressed.
    """
    genes = _genes_by_cells(x)
    norms = _row_norms(genes)
    if not np.isfinite(norms).all():
        raise ValueError(
            f"The expression of {int((~np.isfinite(norms)).sum())} genes holds NaN or infinite "
            "values. A layout is fitted on finite log-normalised values. Remove the cells or genes "
            "with such values, or normalise the counts again."
        )
    expressed = norms > 0
    if not expressed.any():
        raise ValueError(
            f"None of the {norms.size} genes has a value other than zero. A layout is fitted on "
            "log-normalised values with at least one expressed gene. Check the layer that was "
            "passed, or use GeneLayout.random(genes), which needs no expression."
        )
    unit = sparse.diags_array(1.0 / norms[expressed]) @ genes[np.flatnonzero(expressed)]
    return _unit_rows(_reduce(unit, n_components, seed)), expressed


def _genes_by_cells(x: Any) -> Any:
    """Turn the matrix so that a gene is a row, in double precision, sparse where it was sparse."""
    if sparse.issparse(x):
        return sparse.csr_array(x.T, dtype=np.float64)
    return np.asarray(x, dtype=np.float64).T


def _row_norms(genes: Any) -> np.ndarray:
    squares = genes.multiply(genes) if sparse.issparse(genes) else genes * genes
    return np.sqrt(np.asarray(squares.sum(axis=1), dtype=np.float64).ravel())


def _reduce(unit: Any, n_components: int, seed: int) -> np.ndarray:
    """Project onto the leading singular vectors; a matrix that is already narrow stays exact."""
    if min(unit.shape) <= n_components:
        left, values, _ = np.linalg.svd(_dense(unit), full_matrices=False)
    else:
        left, values, _ = randomized_svd(unit, n_components, n_iter=4, random_state=seed)
    return np.asarray(left * values)


def _dense(matrix: Any) -> np.ndarray:
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    # A gene that is orthogonal to every kept component has no direction left: it stays at zero.
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > np.finfo(np.float64).eps, norms, np.inf)
