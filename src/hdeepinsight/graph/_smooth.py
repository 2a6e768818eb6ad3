"""Refinement of scores on a graph: Laplacian smoothing, and a prior from neighbouring cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import cg, splu
from sklearn.utils import check_array
from sklearn.utils.validation import check_non_negative, check_symmetric

from hdeepinsight._errors import check_choice, check_integer, check_number, invalid

LaplacianKind = Literal["rw", "comb", "sym"]
Solver = Literal["auto", "direct", "cg"]
Floats = NDArray[np.float64]

_EM_TOL, _EM_STEPS = 1e-6, 500
#: Maximum number of cells, evenly spaced, from which weights of a local prior are estimated.
_ESTIMATED_CELLS = 20_000

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
    how: Any = {"accept_sparse": "csr", "dtype": np.float64, "copy": True}
    matrix = sp.csr_matrix(check_array(graph, input_name="graph", **how))
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


class LocalPrior(NamedTuple):
    """Refined probabilities, and the weights of the components of the prior.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from hdeepinsight.graph import refine_by_local_prior
    >>> graph = sp.csr_matrix(1 - np.eye(3))
    >>> found = refine_by_local_prior([graph], [[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], lam=1.0)
    >>> found.probabilities.shape, found.weights.tolist()
    ((3, 2), [0.5, 0.5])
    """

    #: Refined probabilities, shape ``(n_cells, n_classes)``; rows sum to 1.
    probabilities: Floats
    #: Weights of the global prior and of each graph, shape ``(1 + n_graphs,)``, sum 1.
    weights: Floats


def refine_by_local_prior(
    graphs: Sequence[sp.spmatrix],
    probabilities: ArrayLike,
    *,
    lam: float | None = None,
    n_rounds: int = 2,
    floor: float = 1e-12,
) -> LocalPrior:
    r"""Replace the global class prior in the posterior of a classifier by a local prior.

    Parameters
    ----------
    graphs
        Symmetric weights, each ``(n_cells, n_cells)``.
    probabilities
        Posterior of the classifier, ``(n_cells, n_classes)``.
    lam
        Weight of the neighbours, divided equally among the graphs, relative to 1 for the global
        prior; with 0 nothing changes. By default the weights are estimated without labels from at
        most 20,000 cells.
    n_rounds
        Number of rounds; each further round uses the refined probabilities.
    floor
        Minimum probability of a class.

    Returns
    -------
    Refined probabilities, and the weights of the last round.

    Raises
    ------
    ValueError
        If shapes do not match, rows are not distributions, or ``lam`` or ``n_rounds`` is out of
        range.

    Notes
    -----
    With the mean posterior :math:`\pi`, the weighted mean :math:`\bar p_{gi}` over the neighbours
    of cell i in graph g, and weights :math:`\rho`,

    .. math:: n_i = \rho_0 \pi + \sum_g \rho_g \bar p_{gi}, \qquad
              \hat p_{ic} \propto p_{ic}\, n_{ic} / \pi_c.

    Cells are not their own neighbours, so that :math:`\sum_{ic} p_{ic} \log n_{ic}` is a held-out
    likelihood. The weights :math:`\rho` maximise it (by expectation maximisation). If the maximum
    does not exceed the likelihood of :math:`\pi` alone by :math:`\tfrac12 \log n` per graph (the
    BIC penalty), :math:`\rho_0` is 1 and nothing changes. For cells without edges in a graph, the
    weight of this graph is distributed over the other components. The method is our own.

    Examples
    --------
    Uncertain cells follow their neighbours:

    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from hdeepinsight.graph import refine_by_local_prior
    >>> graph = sp.csr_matrix(np.kron(np.eye(2), 1 - np.eye(3)))
    >>> p = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.1, 0.9], [0.1, 0.9], [0.5, 0.5]])
    >>> refine_by_local_prior([graph], p, lam=9).probabilities[[2, 5], 0].round(2).tolist()
    [0.86, 0.1]
    """
    matrices = [check_graph(graph) for graph in graphs]
    n_cells = matrices[0].shape[0] if matrices else len(np.asarray(probabilities))
    own = _distributions(check_scores(probabilities, n_cells), floor)
    if lam is not None:
        check_number("lam", lam, hint="Omit it to estimate it.")
    check_integer("n_rounds", n_rounds)
    prior = own.mean(axis=0)
    refined, weights = own, np.eye(1 + len(matrices))[0]
    for _ in range(n_rounds if matrices and lam != 0 and n_cells else 0):
        present, sources = _sources(matrices, refined, prior)
        if lam is None:
            some = slice(None, None, -(-n_cells // _ESTIMATED_CELLS))
            weights = _estimate(own[some], present[some], [source[some] for source in sources])
        else:
            weights = np.array([1.0, *[lam / len(matrices)] * len(matrices)]) / (1.0 + lam)
        refined = _normalised(own * _mixture(weights, present, sources) / prior)
    return LocalPrior(refined, weights)


def _distributions(values: Floats, floor: float) -> Floats:
    sums = values.sum(axis=1)
    if n_bad := int(((values < 0).any(axis=1) | (np.abs(sums - 1) > 1e-3)).sum()):
        raise ValueError(
            f"The rows must be probabilities, got {n_bad} of {len(values)} rows that are "
            "negative or do not sum to 1. Apply a softmax to logits first."
        )
    return _normalised(np.maximum(values, floor))


def _normalised(values: Floats) -> Floats:
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def _sources(
    graphs: Sequence[sp.csr_matrix], probabilities: Floats, prior: Floats
) -> tuple[NDArray[np.bool_], list[Floats]]:
    """Return which cells have each component, ``(n_cells, n_sources)``, and the components."""
    degree = [degrees(graph)[:, None] for graph in graphs]
    means = [
        (graph @ probabilities) / np.where(total > 0, total, 1.0)
        for graph, total in zip(graphs, degree, strict=True)
    ]
    everywhere = np.ones((len(probabilities), 1), dtype=bool)
    present = np.hstack([everywhere, *(total > 0 for total in degree)])
    return present, [np.broadcast_to(prior, probabilities.shape), *means]


def _shares(weights: Floats, present: NDArray[np.bool_]) -> Floats:
    """Return weights of each cell's components, with the global prior for cells without any."""
    shares = present * weights
    total = shares.sum(axis=1, keepdims=True)
    return np.where(total > 0, shares / np.where(total > 0, total, 1.0), np.eye(len(weights))[0])


def _mixture(weights: Floats, present: NDArray[np.bool_], sources: Sequence[Floats]) -> Floats:
    shares = _shares(weights, present)
    mixed = np.zeros(sources[0].shape)
    for source, share in zip(sources, shares.T, strict=True):
        mixed += share[:, None] * source
    return mixed


def _estimate(own: Floats, present: NDArray[np.bool_], sources: Sequence[Floats]) -> Floats:
    """Estimate the mixture weights with the maximum held-out likelihood.

    For cells that lack a component, its weight is distributed over the others; the update never
    decreases the likelihood.
    """
    n_cells = present.sum(axis=0)
    weights = np.where(n_cells > 0, 1.0, 0.0) / np.count_nonzero(n_cells)
    for _ in range(_EM_STEPS):
        shares = _shares(weights, present)
        ratio = own / np.maximum(_mixture(weights, present, sources), np.finfo(float).tiny)
        likelihood = np.column_stack([np.sum(ratio * source, axis=1) for source in sources])
        chances = (present / (present @ weights)[:, None]).sum(axis=0)
        updated = (shares * likelihood).sum(axis=0) / np.where(n_cells > 0, chances, 1.0)
        updated /= updated.sum()
        moved = np.abs(updated - weights).max()
        weights = updated
        if moved < _EM_TOL or weights[0] < _EM_TOL:
            break
    gain = _log_likelihood(own, _mixture(weights, present, sources))
    gain -= _log_likelihood(own, sources[0])
    informed = gain > 0.5 * (len(sources) - 1) * np.log(len(own))  # Schwarz's criterion
    return weights if informed else np.eye(len(sources))[0]


def _log_likelihood(own: Floats, prior: Floats) -> float:
    return float(np.sum(own * np.log(np.maximum(prior, np.finfo(float).tiny))))
