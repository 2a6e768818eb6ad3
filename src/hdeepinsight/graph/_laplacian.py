"""Laplacians of a graph, and the linear system that smoothing solves."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

LaplacianKind = Literal["rw", "comb", "sym"]
LAPLACIANS: tuple[LaplacianKind, ...] = ("rw", "comb", "sym")

_MESSAGE_NEXT = "Make it with `knn_graph`, or as max(A, Aᵀ)."


class SmoothingSystem(NamedTuple):
    """The equation ``matrix @ smooth = scale[:, None] * scores``.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> system = smoothing_system(sp.csr_matrix([[0.0, 2.0], [2.0, 0.0]]), lam=1.0)
    >>> system.scale.tolist()
    [2.0, 2.0]
    """

    matrix: sp.csr_matrix
    """Symmetric positive definite, ``(n_cells, n_cells)``."""
    scale: NDArray[np.float64]
    """Weight of every cell's own scores, ``(n_cells,)``."""


def check_graph(graph: sp.spmatrix) -> sp.csr_matrix:
    """Return the graph as float64 CSR, or say what is wrong with it.

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
            f"Found a graph of shape {matrix.shape}. Valid is one row and one column a cell. "
            f"{_MESSAGE_NEXT}"
        )
    n_bad = int((~np.isfinite(matrix.data) | (matrix.data < 0)).sum())
    if n_bad:
        raise ValueError(
            f"Found {n_bad} edges with negative, NaN or infinite weights. Valid weights are "
            f"finite and not negative. {_MESSAGE_NEXT}"
        )
    difference = abs(matrix - matrix.T)
    largest = difference.max() if difference.nnz else 0.0
    # Single precision leaves the two halves of scanpy's graphs a rounding error apart.
    if largest > 1e-5 * max(matrix.max(), 1e-300):
        n_bad = int((difference > 0).sum())
        raise ValueError(
            f"Found {n_bad} asymmetric entries, by up to {largest:.3g}. Valid is a symmetric "
            f"graph. {_MESSAGE_NEXT}"
        )
    matrix.setdiag(0)
    matrix.eliminate_zeros()
    return matrix


def degrees(graph: sp.csr_matrix) -> NDArray[np.float64]:
    """Sum of the weights of each cell's edges, shape ``(n_cells,)``.

    Examples
    --------
    >>> from hdeepinsight.graph import knn_graph
    >>> degrees(knn_graph([[0.0], [1.0], [2.0], [9.0]], k=1)).tolist()
    [1.0, 2.0, 2.0, 1.0]
    """
    return np.asarray(graph.sum(axis=1), dtype=np.float64).ravel()


def laplacian(graph: sp.csr_matrix, kind: LaplacianKind = "rw") -> sp.csr_matrix:
    """Laplacian of a graph with degree matrix D and weights A.

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
    degree = degrees(graph)
    combinatorial = sp.diags_array(degree) - graph
    inverse = _inverse(degree)
    if kind == "rw":
        return sp.csr_matrix(sp.diags_array(inverse) @ combinatorial)
    if kind == "sym":
        root = sp.diags_array(np.sqrt(inverse))
        return sp.csr_matrix(root @ combinatorial @ root)
    if kind == "comb":
        return sp.csr_matrix(combinatorial)
    raise ValueError(
        f"Found laplacian={kind!r}. Valid are {list(LAPLACIANS)}. Take 'rw' if in doubt."
    )


def smoothing_system(
    graph: sp.csr_matrix, lam: float, kind: LaplacianKind = "rw"
) -> SmoothingSystem:
    """Positive definite form of ``(I + λL) smooth = scores``.

    Parameters
    ----------
    graph
        Symmetric weights, ``(n_cells, n_cells)``.
    lam
        Strength λ, 0 or more.
    kind
        The Laplacian; for ``"rw"`` both sides are multiplied by D.

    Raises
    ------
    ValueError
        If ``lam`` is negative or not finite.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> pair = sp.csr_matrix([[0.0, 1.0], [1.0, 0.0]])
    >>> smoothing_system(pair, lam=0.5).matrix.toarray()
    array([[ 1.5, -0.5],
           [-0.5,  1.5]])
    """
    if not (np.isfinite(lam) and lam >= 0):
        raise ValueError(
            f"Found lam={lam}. Valid is a finite number from 0 (no smoothing). Pass one."
        )
    scale = np.ones(graph.shape[0])
    if kind == "rw":
        degree = degrees(graph)
        scale = np.where(degree > 0, degree, 1.0)
    weighted = laplacian(graph, "comb" if kind == "rw" else kind)
    return SmoothingSystem(sp.csr_matrix(sp.diags_array(scale) + lam * weighted), scale)


def dirichlet_energy(
    graph: sp.csr_matrix, scores: NDArray[np.floating], kind: LaplacianKind = "rw"
) -> float:
    """How much scores differ across edges: tr(Pᵀ(D − A)P), for ``"sym"`` tr(PᵀL_sym P).

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


def _inverse(degree: NDArray[np.float64]) -> NDArray[np.float64]:
    """1/d, and 0 for cells without edges."""
    return np.divide(1.0, degree, out=np.zeros_like(degree), where=degree > 0)
