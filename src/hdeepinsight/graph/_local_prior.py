"""Refinement of class probabilities with a prior from neighbouring cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from hdeepinsight._errors import check_integer, check_number
from hdeepinsight.graph._smooth import check_graph, check_scores, degrees

Floats = NDArray[np.float64]

_EM_TOL, _EM_STEPS = 1e-6, 500
#: Maximum number of cells, evenly spaced, from which weights are estimated.
_ESTIMATED_CELLS = 20_000


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
