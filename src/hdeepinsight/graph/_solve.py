"""Smooth scores over a graph: one positive definite system, never an inverse."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from hdeepinsight.graph._laplacian import LaplacianKind, check_graph, smoothing_system

Solver = Literal["auto", "direct", "cg"]
SOLVERS: tuple[Solver, ...] = ("auto", "direct", "cg")

#: Above this many cells factors of a neighbour graph fill up, and iterating is faster.
DIRECT_CELLS = 2_000
_CLASS_BLOCK = 256


def smooth(
    graph: sp.spmatrix,
    scores: ArrayLike,
    *,
    lam: float = 5.0,
    laplacian: LaplacianKind = "rw",
    solver: Solver = "auto",
    tol: float = 1e-5,
    max_iter: int = 200,
) -> NDArray[np.float64]:
    """Smooth scores: the solution P of ``(I + λL) P = P₀``.

    Parameters
    ----------
    graph
        Symmetric weights, ``(n_cells, n_cells)``.
    scores
        P₀, any real numbers, ``(n_cells, n_classes)``.
    lam
        Strength λ; 0 gives the scores back.
    laplacian
        ``"rw"``, ``"comb"`` or ``"sym"``; see `hdeepinsight.graph.laplacian`.
    solver
        ``"direct"`` factorises, ``"cg"`` takes conjugate gradients with a Jacobi preconditioner,
        ``"auto"`` factorises up to 2,000 cells.
    tol
        Largest residual, relative to the right-hand side, of every class (``"cg"``).
    max_iter
        Most iterations (``"cg"``).

    Returns
    -------
    Smooth scores, float64, ``(n_cells, n_classes)``. Cells without edges keep theirs.

    Raises
    ------
    ValueError
        If the graph is not symmetric, shapes do not fit, or values are not finite.
    RuntimeError
        If ``max_iter`` iterations do not reach ``tol``.

    Notes
    -----
    GRIT (Hu et al. 2025, arXiv:2508.04747) states the problem; the solvers are our decision. The
    condition number after preconditioning is at most 1 + 2λ for ``"rw"`` and ``"sym"``.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from hdeepinsight.graph import smooth
    >>> pair = sp.csr_matrix([[0.0, 1.0], [1.0, 0.0]])
    >>> smooth(pair, [[1.0], [0.0]], lam=1.0).round(3).tolist()
    [[0.667], [0.333]]
    """
    matrix = check_graph(graph)
    start = check_scores(scores, matrix.shape[0])
    system = smoothing_system(matrix, lam, laplacian)
    right = system.scale[:, None] * start
    if solver not in SOLVERS:
        raise ValueError(f"Found solver={solver!r}. Valid are {list(SOLVERS)}. Choose one.")
    if lam == 0:
        return start
    if solver == "direct" or (solver == "auto" and len(start) <= DIRECT_CELLS):
        return np.asarray(sp.linalg.splu(system.matrix.tocsc()).solve(right))
    blocks = [
        _conjugate_gradients(
            system.matrix,
            right[:, first : first + _CLASS_BLOCK],
            start[:, first : first + _CLASS_BLOCK],
            tol=tol,
            max_iter=max_iter,
        )
        for first in range(0, start.shape[1], _CLASS_BLOCK)
    ]
    return np.concatenate(blocks, axis=1) if blocks else start


def check_scores(scores: ArrayLike, n_cells: int) -> NDArray[np.float64]:
    """Return scores as a new float64 array, or say what is wrong with them.

    Parameters
    ----------
    scores
        Shape ``(n_cells, n_classes)``.
    n_cells
        Number of cells of the graph.

    Raises
    ------
    ValueError
        If the shape does not fit or values are not finite.
    """
    matrix = np.array(scores, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) != n_cells:
        raise ValueError(
            f"Found scores of shape {matrix.shape} for a graph of {n_cells} cells. Valid is one "
            "row a cell and one column a class. Pass the scores of these cells."
        )
    n_bad = int((~np.isfinite(matrix).all(axis=1)).sum())
    if n_bad:
        raise ValueError(
            f"Found {n_bad} of {n_cells} cells with NaN or infinite scores. Valid are finite "
            "numbers. Leave these cells out, or look at the classifier."
        )
    return matrix


def _conjugate_gradients(
    matrix: sp.csr_matrix,
    right: NDArray[np.float64],
    start: NDArray[np.float64],
    *,
    tol: float,
    max_iter: int,
) -> NDArray[np.float64]:
    """All classes at once; each has step sizes of its own."""
    preconditioner = 1.0 / matrix.diagonal()[:, None]
    target = tol * np.linalg.norm(right, axis=0)
    solution = start.copy()
    residual = right - matrix @ solution
    direction = preconditioner * residual
    product = (residual * direction).sum(axis=0)
    for _ in range(max_iter + 1):
        if (np.linalg.norm(residual, axis=0) <= target).all():
            return solution
        image = matrix @ direction
        step = _ratio(product, (direction * image).sum(axis=0))
        solution += step * direction
        residual -= step * image
        conditioned = preconditioner * residual
        previous, product = product, (residual * conditioned).sum(axis=0)
        direction = conditioned + _ratio(product, previous) * direction
    worst = float(np.max(np.linalg.norm(residual, axis=0) / np.maximum(target / tol, 1e-300)))
    raise RuntimeError(
        f"Found a relative residual of {worst:.2g} after {max_iter} iterations. Valid is at most "
        f"tol={tol}. Raise max_iter, lower lam, or use solver='direct'."
    )


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotient, 0 where a class has converged exactly."""
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)
