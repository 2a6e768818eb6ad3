"""Laplacians of graphs, and smoothing by the solution of a positive definite system."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import cg, splu
from sklearn.utils import check_array
from sklearn.utils.validation import check_non_negative, check_symmetric

from hdeepinsight._errors import check_choice, check_number, invalid

LaplacianKind = Literal["rw", "comb", "sym"]
Solver = Literal["auto", "direct", "cg"]

#: Above this number of cells, factors of neighbour graphs are dense, and iteration is faster.
DIRECT_CELLS = 2_000


def check_graph(graph: sp.spmatrix) -> sp.csr_matrix:
    """Check a graph and return it as float64 CSR.

    Parameters
    ----------
    graph
        Edge weights, ``(n_cells, n_cells)``: symmetric, finite and not negative. The diagonal is
        ignored.

    Raises
    ------
    ValueError
        If the matrix is not square or symmetric, or weights are invalid.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> check_graph(sp.csr_matrix([[5.0, 1.0], [1.0, 0.0]])).toarray()
    array([[0., 1.],
           [1., 0.]])
    """
    matrix = check_array(
        graph, accept_sparse="csr", dtype=np.float64, copy=True, input_name="graph"
    )
    check_non_negative(matrix, "a graph")
    # In single precision, graphs of scanpy are symmetric up to rounding errors.
    tol = 1e-5 * max(matrix.max(), 1e-300)
    check_symmetric(matrix, tol=tol, raise_exception=True)
    matrix.setdiag(0)
    matrix.eliminate_zeros()
    return matrix


def degrees(graph: sp.csr_matrix) -> NDArray[np.float64]:
    """Compute the sum of the edge weights of each cell, shape ``(n_cells,)``.

    Examples
    --------
    >>> from hdeepinsight.graph import knn_graph
    >>> degrees(knn_graph([[0.0], [1.0], [2.0], [9.0]], k=1)).tolist()
    [1.0, 2.0, 2.0, 1.0]
    """
    return np.asarray(graph.sum(axis=1), dtype=np.float64).ravel()


def laplacian(graph: sp.csr_matrix, kind: LaplacianKind = "rw") -> sp.csr_matrix:
    """Compute the Laplacian of a graph with degree matrix D and weights A.

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
    check_choice("laplacian", kind, get_args(LaplacianKind), "Use 'rw' if in doubt.")
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
    """Compute the Dirichlet energy of scores: tr(Pᵀ(D − A)P), or tr(PᵀL_sym P) for ``"sym"``.

    Parameters
    ----------
    graph
        Symmetric weights, ``(n_cells, n_cells)``.
    scores
        Scores P, shape ``(n_cells, n_classes)``.
    kind
        Kind of Laplacian.

    Returns
    -------
    Energy >= 0; 0 if scores are constant within components (multiplied by the square root of the
    degree for ``"sym"``).

    Examples
    --------
    Scores that differ across an edge, and constant scores:

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
        Strength λ; 0 returns the scores unchanged.
    laplacian
        ``"rw"``, ``"comb"`` or ``"sym"``; see `hdeepinsight.graph.laplacian`.
    solver
        ``"direct"`` for a sparse factorisation, ``"cg"`` for conjugate gradients with a Jacobi
        preconditioner, ``"auto"`` for a factorisation up to 2,000 cells.
    tol
        Maximum residual relative to the right-hand side, per class (``"cg"``).
    max_iter
        Maximum number of iterations (``"cg"``).

    Returns
    -------
    Smoothed scores, float64, ``(n_cells, n_classes)``. Scores of cells without edges are unchanged.

    Raises
    ------
    ValueError
        If the graph is not symmetric, shapes do not match, or values are not finite.
    RuntimeError
        If ``max_iter`` iterations do not reach ``tol``.

    Notes
    -----
    Problem of GRIT (Hu et al. 2025, arXiv:2508.04747); the solvers differ. The condition number
    after preconditioning is at most 1 + 2λ for ``"rw"`` and ``"sym"``.

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
    check_number("lam", lam, hint="Pass 0 for no smoothing.")
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
                "iterations. Increase max_iter, reduce lam, or use solver='direct'."
            )
    return smoothed


def check_scores(scores: ArrayLike, n_cells: int) -> NDArray[np.float64]:
    """Check scores and return them as a new float64 array.

    Parameters
    ----------
    scores
        Scores, shape ``(n_cells, n_classes)``.
    n_cells
        Number of cells of the graph.

    Raises
    ------
    ValueError
        If the shape is another one, or values are not finite.
    """
    matrix = check_array(
        scores, dtype=np.float64, copy=True, ensure_min_samples=0, input_name="scores"
    )
    if len(matrix) != n_cells:
        hint = "Pass the scores of these cells."
        raise invalid("scores", matrix.shape, f"one row for each of {n_cells} cells", hint)
    return np.asarray(matrix)
