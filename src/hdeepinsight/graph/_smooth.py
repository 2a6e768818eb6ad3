"""Smoothing over a graph: its Laplacians, and the solution of one positive definite system."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import cg, splu

from hdeepinsight._errors import check_choice, check_number

LaplacianKind = Literal["rw", "comb", "sym"]
Solver = Literal["auto", "direct", "cg"]

#: Above this many cells factors of a neighbour graph fill up, and iterating is faster.
DIRECT_CELLS = 2_000
_HOW_TO_MAKE = "Make it with `knn_graph`, or as max(A, Aᵀ)."


def check_graph(graph: sp.spmatrix) -> sp.csr_matrix:
    """Check a graph and return it as float64 CSR.

    Parameters
    ----------
    graph
        Weights of the edges, ``(n_cells, n_cells)``: symmetric, finite, not negative, nothing on
        the diagonal.

    Raises
    ------
    ValueError
        Naming what was found, where the graph is not such a matrix.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> check_graph(sp.csr_matrix([[5.0, 1.0], [1.0, 0.0]])).toarray()
    array([[0., 1.],
           [1., 0.]])
    """
    matrix = sp.csr_matrix(graph, dtype=np.float64, copy=True)
    matrix.eliminate_zeros()
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"A graph must have one row and one column per cell, got the shape {matrix.shape}. "
            f"{_HOW_TO_MAKE}"
        )
    if n_bad := int((~np.isfinite(matrix.data) | (matrix.data < 0)).sum()):
        raise ValueError(
            "The weights of a graph must be finite and not negative, got "
            f"{n_bad} edges with negative, NaN or infinite weights. {_HOW_TO_MAKE}"
        )
    difference = abs(matrix - matrix.T)
    largest = difference.max() if difference.nnz else 0.0
    # Single precision leaves the two halves of scanpy's graphs a rounding error apart.
    if largest > 1e-5 * max(matrix.max(), 1e-300):
        n_bad = int((difference > 0).sum())
        raise ValueError(
            f"A graph must be symmetric, got {n_bad} asymmetric entries, by up to {largest:.3g}. "
            f"{_HOW_TO_MAKE}"
        )
    matrix.setdiag(0)
    matrix.eliminate_zeros()
    return matrix


def degrees(graph: sp.csr_matrix) -> NDArray[np.float64]:
    """Sum the weights of each cell's edges, shape ``(n_cells,)``.

    Examples
    --------
    >>> from hdeepinsight.graph import knn_graph
    >>> degrees(knn_graph([[0.0], [1.0], [2.0], [9.0]], k=1)).tolist()
    [1.0, 2.0, 2.0, 1.0]
    """
    return np.asarray(graph.sum(axis=1), dtype=np.float64).ravel()


def laplacian(graph: sp.csr_matrix, kind: LaplacianKind = "rw") -> sp.csr_matrix:
    """Return the Laplacian of a graph with degree matrix D and weights A.

    Parameters
    ----------
    graph
        Symmetric weights, ``(n_cells, n_cells)``.
    kind
        ``"rw"`` is I − D⁻¹A, ``"comb"`` is D − A, ``"sym"`` is I − D^-½ A D^-½.

    Returns
    -------
    Shape ``(n_cells, n_cells)``; the rows of cells without edges are 0 for each kind.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from hdeepinsight.graph import laplacian
    >>> laplacian(sp.csr_matrix([[0.0, 2.0], [2.0, 0.0]]), "comb").toarray()
    array([[ 2., -2.],
           [-2.,  2.]])
    """
    check_choice("laplacian", kind, get_args(LaplacianKind), "Take 'rw' if in doubt.")
    degree = degrees(graph)
    combinatorial = sp.diags_array(degree) - graph
    # 1/d, and 0 for cells without edges
    inverse = np.divide(1.0, degree, out=np.zeros_like(degree), where=degree > 0)
    if kind == "rw":
        return sp.csr_matrix(sp.diags_array(inverse) @ combinatorial)
    if kind == "sym":
        root = sp.diags_array(np.sqrt(inverse))
        return sp.csr_matrix(root @ combinatorial @ root)
    return sp.csr_matrix(combinatorial)


_laplacian = laplacian  # `smooth` has an argument of that name


def dirichlet_energy(
    graph: sp.csr_matrix, scores: NDArray[np.floating], kind: LaplacianKind = "rw"
) -> float:
    """Compute how much scores differ across edges: tr(Pᵀ(D − A)P), for ``"sym"`` tr(PᵀL_sym P).

    Parameters
    ----------
    graph
        Symmetric weights, ``(n_cells, n_cells)``.
    scores
        Shape ``(n_cells, n_classes)``.
    kind
        The Laplacian.

    Returns
    -------
    A number from 0, which is reached where scores are constant within components (times the root
    of the degree for ``"sym"``).

    Examples
    --------
    Scores that differ across the one edge, and scores that do not:

    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from hdeepinsight.graph import dirichlet_energy
    >>> pair = sp.csr_matrix([[0.0, 1.0], [1.0, 0.0]])
    >>> dirichlet_energy(pair, np.array([[1.0], [0.0]])), dirichlet_energy(pair, np.ones((2, 1)))
    (1.0, 0.0)
    """
    matrix = laplacian(graph, "sym" if kind == "sym" else "comb")
    return float(np.sum(np.asarray(scores) * (matrix @ np.asarray(scores, dtype=np.float64))))


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
    check_number("lam", lam, hint="0 is no smoothing.")
    check_choice("solver", solver, get_args(Solver))
    degree = degrees(matrix)
    # The positive definite form of ``I + λL``: for "rw" both sides are multiplied by the degrees.
    own = np.where((laplacian == "rw") & (degree > 0), degree, 1.0)
    weighted = _laplacian(matrix, "comb" if laplacian == "rw" else laplacian)
    system = sp.csr_matrix(sp.diags_array(own) + lam * weighted)
    right = own[:, None] * start
    if lam == 0:
        return start
    if solver == "direct" or (solver == "auto" and len(start) <= DIRECT_CELLS):
        return np.asarray(splu(system.tocsc()).solve(right))
    jacobi = sp.diags_array(1.0 / system.diagonal())
    smoothed = np.empty_like(start)
    for i, (column, guess) in enumerate(zip(right.T, start.T, strict=True)):
        smoothed[:, i], unfinished = cg(system, column, guess, rtol=tol, maxiter=max_iter, M=jacobi)
        if unfinished:
            residual = np.linalg.norm(column - system @ smoothed[:, i]) / np.linalg.norm(column)
            raise RuntimeError(
                f"The relative residual must reach tol={tol}, got {residual:.2g} after {max_iter} "
                "iterations. Raise max_iter, lower lam, or use solver='direct'."
            )
    return smoothed


def check_scores(scores: ArrayLike, n_cells: int) -> NDArray[np.float64]:
    """Check scores and return them as a new float64 array.

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
            f"Scores must have one row per cell and one column per class, got scores of shape "
            f"{matrix.shape} for a graph of {n_cells} cells. Pass the scores of these cells."
        )
    if n_bad := int((~np.isfinite(matrix).all(axis=1)).sum()):
        raise ValueError(
            f"Scores must be finite, got {n_bad} of {n_cells} cells with NaN or infinite scores. "
            "Leave these cells out, or look at the classifier."
        )
    return matrix
