"""From neighbours to a symmetric graph, or to one within and one between batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist

from hdeepinsight._errors import check_integer
from hdeepinsight.graph._neighbors import Exact, nearest_neighbors

#: Neighbours that are looked for in batches of any size.
MIN_NEIGHBORS = 5
#: Other batches that a batch is compared with: time and edges grow with this, not with all pairs.
MAX_PARTNERS = 8


class BatchGraphs(NamedTuple):
    """Two graphs of the same cells, without a common edge.

    Examples
    --------
    >>> from hdeepinsight.graph import batch_graphs
    >>> graphs = batch_graphs([[0.0], [1.0], [0.2], [5.0]], ["a", "a", "b", "b"], k=1)
    >>> graphs.within.nnz, graphs.between.nnz
    (4, 2)
    """

    within: sp.csr_matrix
    """Edges between cells of one batch."""
    between: sp.csr_matrix
    """Edges between cells of different batches."""


def knn_graph(x: ArrayLike, *, k: int = 15, exact: Exact = "auto", seed: int = 0) -> sp.csr_matrix:
    """Connect every cell with its nearest neighbours, both ways.

    Parameters
    ----------
    x
        Coordinates of the cells, shape ``(n_cells, d)``.
    k
        Neighbours per cell; all others where there are fewer.
    exact, seed
        As in `nearest_neighbors`.

    Returns
    -------
    Symmetric, float64, shape ``(n_cells, n_cells)``; nothing on the diagonal. An edge, of weight 1,
    stands where either cell names the other.

    Raises
    ------
    ValueError
        If coordinates are not finite, or ``k`` is below 1.

    Examples
    --------
    >>> from hdeepinsight.graph import knn_graph
    >>> knn_graph([[0.0], [1.0], [2.0], [9.0]], k=1).toarray()
    array([[0., 1., 0., 0.],
           [1., 0., 1., 0.],
           [0., 1., 0., 1.],
           [0., 0., 1., 0.]])
    """
    points = np.asarray(x)
    everyone = np.arange(len(points))
    return _union(_named([_edges(points, everyone, everyone, k, exact, seed)], len(points)))


def batch_graphs(
    x: ArrayLike,
    batch: ArrayLike,
    *,
    k: int = 15,
    exact: Exact = "auto",
    seed: int = 0,
) -> BatchGraphs:
    """Connect every cell within its batch, and across batches by mutual pairs.

    Parameters
    ----------
    x
        Coordinates of the cells, shape ``(n_cells, d)``.
    batch
        Batch of every cell, shape ``(n_cells,)``.
    k
        Neighbours per cell in each batch; a tenth of the batch where that is fewer, but 5 at least.
    exact, seed
        As in `knn_graph`.

    Returns
    -------
    A graph within batches (union of the neighbours) and one between them (mutual neighbours). Of
    more than nine batches, each is compared with the eight whose mean is nearest, and with those
    to which it is one of the eight.

    Raises
    ------
    ValueError
        If coordinates are not finite, ``k`` is below 1, or there is not one batch per cell.

    Notes
    -----
    Where a batch lacks a type, the nearest cell there is of another one; such edges are rarely
    mutual (Haghverdi et al. 2018, doi:10.1038/nbt.4091). Source of the rest: our decision.

    Examples
    --------
    >>> from hdeepinsight.graph import batch_graphs
    >>> within, between = batch_graphs([[0.0], [1.0], [0.2], [5.0]], ["a", "a", "b", "b"], k=1)
    >>> within.nonzero()[0].tolist(), between.nonzero()[0].tolist()
    ([0, 1, 2, 3], [0, 2])
    """
    points = np.asarray(x)
    names = np.asarray(batch, dtype=object).astype(str)
    if names.shape != (len(points),):
        raise ValueError(
            f"There must be one batch per cell, got batches of shape {names.shape} for "
            f"{len(points)} cells. Pass the column of these cells."
        )
    members = [np.flatnonzero(names == name) for name in np.unique(names)]

    def find(mine: NDArray[np.intp], theirs: NDArray[np.intp]) -> NDArray[np.intp]:
        # In a small batch the k-th neighbour is of another type.
        n_found = min(k, max(MIN_NEIGHBORS, len(theirs) // 10))
        return _edges(points, mine, theirs, n_found, exact, seed)

    within = _named([find(mine, mine) for mine in members], len(points))
    partners = _partners(points, members)
    between = _named([find(members[one], members[other]) for one, other in partners], len(points))
    mutual = between.minimum(between.T).tocsr()  # an edge that one cell alone names becomes 0
    mutual.eliminate_zeros()
    return BatchGraphs(_union(within), mutual)


def _partners(points: NDArray[np.floating], members: list[NDArray[np.intp]]) -> NDArray[np.intp]:
    """Ordered pairs of batches to compare, shape ``(n_pairs, 2)``; all of them where few."""
    n_batches = len(members)
    if n_batches < 2:
        return np.empty((0, 2), dtype=np.intp)
    centres = np.stack([points[mine].mean(axis=0) for mine in members])
    apart = cdist(centres, centres)
    np.fill_diagonal(apart, np.inf)
    nearest = np.argsort(apart, axis=1, kind="stable")[:, : min(MAX_PARTNERS, n_batches - 1)]
    chosen = np.zeros((n_batches, n_batches), dtype=bool)
    np.put_along_axis(chosen, nearest, True, axis=1)
    return np.argwhere(chosen | chosen.T)


def _edges(
    points: NDArray[np.floating],
    mine: NDArray[np.intp],
    theirs: NDArray[np.intp],
    k: int,
    exact: Exact,
    seed: int,
) -> NDArray[np.intp]:
    """Pairs of each of ``mine`` with its neighbours among ``theirs``, shape ``(2, n_edges)``."""
    check_integer("k", k)
    same = mine is theirs
    n_found = min(k, len(theirs) - same)
    if n_found < 1 or not len(mine):
        return np.empty((2, 0), dtype=np.intp)
    targets = None if same else points[theirs]
    found, _ = nearest_neighbors(points[mine], targets, k=n_found, exact=exact, seed=seed)
    return np.stack([np.repeat(mine, n_found), theirs[found.ravel()]])


def _named(edges: list[NDArray[np.intp]], n_cells: int) -> sp.csr_matrix:
    """Matrix with a 1 where the cell of the row names that of the column."""
    pairs = np.concatenate([np.empty((2, 0), dtype=np.intp), *edges], axis=1)
    return sp.csr_matrix((np.ones(pairs.shape[1]), tuple(pairs)), shape=(n_cells, n_cells))


def _union(named: sp.csr_matrix) -> sp.csr_matrix:
    graph = named.maximum(named.T).tocsr()
    graph.sort_indices()
    return graph
