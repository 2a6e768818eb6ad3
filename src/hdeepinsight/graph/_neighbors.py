"""Nearest neighbour search, and symmetric neighbour graphs, also within and between batches."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_array, check_consistent_length

from hdeepinsight._errors import check_integer, invalid

Exact = Literal["auto", True, False]

#: Above this number of searched rows, ``exact="auto"`` uses nearest-neighbour descent.
EXACT_ROWS = 20_000
_CHUNK = 4_096
#: Minimum number of neighbours in small batches.
MIN_NEIGHBORS = 5
#: Maximum number of batches that a batch is compared with.
MAX_PARTNERS = 8


class NumbaCacheError(RuntimeError):
    """Numba has no writable cache folder, so that the approximate search cannot be compiled.

    Raised if neither the package folder nor the user's home is writable, as in some containers. Set
    the environment variable NUMBA_CACHE_DIR to a writable folder.

    Examples
    --------
    >>> issubclass(NumbaCacheError, RuntimeError)
    True
    """


def nearest_neighbors(
    x: ArrayLike, y: ArrayLike | None = None, *, k: int, exact: Exact = "auto", seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the nearest rows of ``y`` for each row of ``x``.

    Parameters
    ----------
    x
        Query points, shape ``(n, d)``.
    y
        Points to search, shape ``(m, d)``; by default ``x`` itself, without each point's own row.
    k
        Number of neighbours.
    exact
        Exact or approximate search; ``"auto"`` is exact up to 20,000 searched rows and uses
        nearest-neighbour descent beyond.
    seed
        Seed of the approximate search.

    Returns
    -------
    indices, distances
        Rows of ``y``, int64, and Euclidean distances, float64, both of shape ``(n, k)``, sorted by
        distance, then by index.

    Raises
    ------
    ValueError
        If shapes do not match, values are not finite, or there are fewer than ``k`` rows to search.
    NumbaCacheError
        If the approximate search cannot be compiled.

    Notes
    -----
    Exact search uses scikit-learn, approximate search pynndescent (Dong, Moses and Li 2011,
    doi:10.1145/1963405.1963487). Distances are recomputed from differences, because the usual
    expansion of the square gives distances of about 1e-7 between equal rows.

    Examples
    --------
    >>> from hdeepinsight.graph import nearest_neighbors
    >>> indices, distances = nearest_neighbors([[0.0], [1.0], [3.0], [3.0]], k=2)
    >>> indices.tolist()
    [[1, 2], [0, 2], [3, 1], [2, 1]]
    >>> distances.tolist()
    [[1.0, 3.0], [1.0, 2.0], [0.0, 2.0], [0.0, 2.0]]
    """
    floats: dict[str, Any] = {"dtype": (np.float64, np.float32), "ensure_min_samples": 0}
    rows, within = check_array(x, input_name="x", **floats), y is None
    targets = rows if y is None else check_array(y, input_name="y", **floats)
    available = len(targets) - within
    if not 1 <= k <= available:
        hint = "Reduce the number of neighbours, or pass more rows."
        raise invalid("k", k, f"from 1 to {available}, the number of other rows", hint)
    n_found = k + within  # including the row itself
    if exact is True or (exact == "auto" and len(targets) <= EXACT_ROWS):
        found = _exact(rows, targets, n_found)
    else:
        found = _approximate(rows, targets, n_found, seed=seed, within=within)
    if within:  # drop each row's own index, or the last one if equal rows displaced it
        own = found == np.arange(len(found))[:, None]
        own[~own.any(axis=1), -1] = True
        found = found[~own].reshape(len(found), k)
    indices = np.sort(found, axis=1)
    distances = np.empty(found.shape, dtype=np.float64)
    for start in range(0, len(rows), _CHUNK):
        here = slice(start, start + _CHUNK)
        difference = targets[indices[here]] - rows[here, None, :]
        distances[here] = np.sqrt(np.einsum("nkd,nkd->nk", difference, difference))
    order = np.argsort(distances, axis=1, kind="stable")
    return np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)


def _exact(
    rows: NDArray[np.floating], targets: NDArray[np.floating], n_found: int
) -> NDArray[np.int64]:
    if not len(rows):
        return np.empty((0, n_found), np.int64)
    search = NearestNeighbors(n_neighbors=n_found).fit(targets)
    return np.asarray(search.kneighbors(rows, return_distance=False), dtype=np.int64)


def _approximate(
    rows: NDArray[np.floating],
    targets: NDArray[np.floating],
    n_found: int,
    *,
    seed: int,
    within: bool,
) -> NDArray[np.int64]:
    try:
        from pynndescent import NNDescent  # compiles at import, which takes seconds
    except RuntimeError as error:  # "cannot cache function ...: no locator available for file ..."
        raise NumbaCacheError(
            f"Searching neighbours among {len(targets):,} rows requires pynndescent, but numba has "
            "no writable folder for compiled code. Set the environment variable NUMBA_CACHE_DIR to "
            "a writable folder, or search with exact=True."
        ) from error

    data = np.ascontiguousarray(targets, dtype=np.float32)
    index = NNDescent(data, n_neighbors=max(n_found, 15), random_state=seed)
    if within:
        found = index.neighbor_graph[0][:, :n_found]
    else:
        found = index.query(np.ascontiguousarray(rows, dtype=np.float32), k=n_found)[0]
    found = found.astype(np.int64)
    # Nearest-neighbour descent may find too few neighbours (-1), for example of equal rows.
    if len(incomplete := np.flatnonzero((found < 0).any(axis=1))):
        found[incomplete] = _exact(rows[incomplete], targets, n_found)
    return np.asarray(found)


class BatchGraphs(NamedTuple):
    """Graphs of the same cells within and between batches.

    Examples
    --------
    >>> from hdeepinsight.graph import batch_graphs
    >>> graphs = batch_graphs([[0.0], [1.0], [0.2], [5.0]], ["a", "a", "b", "b"], k=1)
    >>> graphs.within.nnz, graphs.between.nnz
    (4, 2)
    """

    #: Edges between cells of the same batch.
    within: sp.csr_matrix
    #: Edges between cells of different batches.
    between: sp.csr_matrix


def knn_graph(x: ArrayLike, *, k: int = 15) -> sp.csr_matrix:
    """Compute the symmetric k-nearest neighbour graph.

    Parameters
    ----------
    x
        Coordinates of the cells, shape ``(n_cells, d)``.
    k
        Neighbours per cell; all other cells if there are fewer.

    Returns
    -------
    Symmetric matrix, float64, shape ``(n_cells, n_cells)``, with an empty diagonal. Two cells have
    an edge of weight 1 if either is a neighbour of the other.

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
    cells = np.arange(len(points))
    return _union(_adjacency([_edges(points, cells, cells, k)], len(points)))


def batch_graphs(x: ArrayLike, batch: ArrayLike, *, k: int = 15) -> BatchGraphs:
    """Compute the neighbour graph within batches, and mutual nearest neighbours between batches.

    Parameters
    ----------
    x
        Coordinates of the cells, shape ``(n_cells, d)``.
    batch
        Batch of each cell, shape ``(n_cells,)``.
    k
        Neighbours per cell in each batch; at most a tenth of the cells of the batch, but at least
        5.

    Returns
    -------
    Graph within batches (union of the neighbours) and between batches (mutual neighbours). With
    more than nine batches, each is compared with the eight batches with the nearest means, and with
    batches for which it is one of the eight.

    Raises
    ------
    ValueError
        If coordinates are not finite, ``k`` is below 1, or the number of batches is wrong.

    Notes
    -----
    If a batch lacks a type, nearest neighbours in it are of another type; such edges are rarely
    mutual (Haghverdi et al. 2018, doi:10.1038/nbt.4091).

    Examples
    --------
    >>> from hdeepinsight.graph import batch_graphs
    >>> within, between = batch_graphs([[0.0], [1.0], [0.2], [5.0]], ["a", "a", "b", "b"], k=1)
    >>> within.nonzero()[0].tolist(), between.nonzero()[0].tolist()
    ([0, 1, 2, 3], [0, 2])
    """
    points = np.asarray(x)
    names = np.asarray(batch, dtype=object).astype(str)
    check_consistent_length(points, names)
    members = [np.flatnonzero(names == name) for name in np.unique(names)]

    def find(cells: NDArray[np.intp], others: NDArray[np.intp]) -> NDArray[np.intp]:
        # In small batches, distant neighbours are of other types.
        n_found = min(k, max(MIN_NEIGHBORS, len(others) // 10))
        return _edges(points, cells, others, n_found)

    within = _adjacency([find(cells, cells) for cells in members], len(points))
    pairs = [find(members[one], members[other]) for one, other in _partners(points, members)]
    between = _adjacency(pairs, len(points))
    mutual = between.minimum(between.T).tocsr()  # explicit 0 for edges in one direction only
    mutual.eliminate_zeros()
    return BatchGraphs(_union(within), mutual)


def _partners(points: NDArray[np.floating], members: list[NDArray[np.intp]]) -> NDArray[np.intp]:
    """Return ordered pairs of batches to compare, shape ``(n_pairs, 2)``."""
    n_batches = len(members)
    if n_batches < 2:
        return np.empty((0, 2), dtype=np.intp)
    centres = np.stack([points[cells].mean(axis=0) for cells in members])
    distance = cdist(centres, centres)
    np.fill_diagonal(distance, np.inf)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, : min(MAX_PARTNERS, n_batches - 1)]
    chosen = np.zeros((n_batches, n_batches), dtype=bool)
    np.put_along_axis(chosen, nearest, True, axis=1)
    return np.argwhere(chosen | chosen.T)


def _edges(
    points: NDArray[np.floating], cells: NDArray[np.intp], others: NDArray[np.intp], k: int
) -> NDArray[np.intp]:
    """Return pairs of cells and their neighbours among ``others``, shape ``(2, n_edges)``."""
    check_integer("k", k)
    same = cells is others
    n_found = min(k, len(others) - same)
    if n_found < 1 or not len(cells):
        return np.empty((2, 0), dtype=np.intp)
    found, _ = nearest_neighbors(points[cells], None if same else points[others], k=n_found)
    return np.stack([np.repeat(cells, n_found), others[found.ravel()]])


def _adjacency(edges: list[NDArray[np.intp]], n_cells: int) -> sp.csr_matrix:
    """Return the directed adjacency matrix of pairs of cells."""
    pairs = np.concatenate([np.empty((2, 0), dtype=np.intp), *edges], axis=1)
    return sp.csr_matrix((np.ones(pairs.shape[1]), tuple(pairs)), shape=(n_cells, n_cells))


def _union(directed: sp.csr_matrix) -> sp.csr_matrix:
    graph = directed.maximum(directed.T).tocsr()
    graph.sort_indices()
    return graph
