"""Nearest neighbours, neighbour graphs within and between batches, and communities in them."""

from __future__ import annotations

import random
from typing import Any, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.spatial.distance import cdist
from scipy.stats import skew
from sklearn.neighbors import NearestNeighbors
from sklearn.utils import check_array, check_consistent_length

from hdeepinsight._errors import check_integer, invalid, need_extra

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


def mutual_neighbors(x: ArrayLike, *, k: int = 15, seed: int = 0) -> NDArray[np.int64]:
    """Find the mutual nearest neighbours of each cell.

    Parameters
    ----------
    x
        Coordinates of the cells, shape ``(n_cells, d)``.
    k
        Maximum number of neighbours, including the cell itself.
    seed
        As in `nearest_neighbors`.

    Returns
    -------
    Positions of cells, int64, shape ``(n_cells, k)``: the cell itself, then its mutual neighbours
    by distance; -1 for none. If mutual neighbours form several components, these are connected by
    edges of the minimum spanning tree of all nearest neighbours.

    Raises
    ------
    ValueError
        If coordinates are not finite, or ``k`` is below 1.

    Examples
    --------
    >>> from hdeepinsight.graph import mutual_neighbors
    >>> mutual_neighbors([[0.0], [1.0], [1.5], [9.0]], k=3)
    array([[ 0,  1,  2],
           [ 1,  2,  0],
           [ 2,  1,  0],
           [ 3,  2, -1]])
    """
    check_integer("k", k)
    points = np.asarray(x)
    n_cells = len(points)
    k = min(k, n_cells)
    lists = np.full((n_cells, k), -1, dtype=np.int64)
    lists[:, 0] = np.arange(n_cells)
    if k < 2:
        return lists
    found, distances = nearest_neighbors(points, k=k - 1, seed=seed)
    # Distances of 0 between equal cells would be no edges.
    values = distances.ravel() + np.finfo(np.float64).tiny ** 0.5
    edges = np.repeat(lists[:, 0], k - 1), found.ravel()
    directed = sp.csr_matrix((values, edges), shape=(n_cells, n_cells))
    mutual = directed.multiply(directed.T.astype(bool)).tocoo()
    n_parts, part = connected_components(mutual, directed=False)
    rows, columns, lengths = mutual.row, mutual.col, mutual.data
    if n_parts > 1:
        tree = minimum_spanning_tree(directed.maximum(directed.T)).tocoo()
        across = part[tree.row] != part[tree.col]
        one, other, between = tree.row[across], tree.col[across], tree.data[across]
        rows, columns = np.concatenate([rows, one, other]), np.concatenate([columns, other, one])
        lengths = np.concatenate([lengths, between, between])
    order = np.lexsort((columns, lengths, rows))
    rows, columns = rows[order], columns[order]
    place = np.arange(len(rows)) - np.searchsorted(rows, rows) + 1
    short = place < k
    lists[rows[short], place[short]] = columns[short]
    return lists


def neighbors_within(points: ArrayLike, groups: ArrayLike, k: int) -> NDArray[np.int64]:
    """Find the nearest points of the same group, such as cells of one tissue section.

    Parameters
    ----------
    points
        Coordinates, shape ``(n, d)``.
    groups
        Group of each point, shape ``(n,)``.
    k
        Neighbours per point.

    Returns
    -------
    Positions of neighbours, shape ``(n, k)``; -1 if a group has fewer points.

    Examples
    --------
    >>> from hdeepinsight.graph import neighbors_within
    >>> neighbors_within([[0.0], [1.0], [1.1], [5.0]], ["a", "a", "b", "a"], k=1).tolist()
    [[1], [0], [-1], [1]]
    """
    points, names = np.asarray(points), np.asarray(groups)
    found = np.full((len(points), k), -1)
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        if n_found := min(k, len(rows) - 1):
            found[rows, :n_found] = rows[nearest_neighbors(points[rows], k=n_found)[0]]
    return found


def degree_summary(neighbors: NDArray[np.integer[Any]]) -> dict[str, float]:
    """Summarise the degrees of a neighbour graph.

    Parameters
    ----------
    neighbors
        Neighbours of each cell, shape ``(n_cells, k)``; -1 for none.

    Returns
    -------
    Quantiles of the degrees in the undirected graph, and standard deviation and skewness
    (``hubness``) of the in-degrees.

    References
    ----------
    Radovanović, Nanopoulos and Ivanović, Hubs in space, JMLR 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.graph import degree_summary
    >>> summary = degree_summary(np.array([[1], [0], [1], [1]]))
    >>> summary["max"], round(summary["in_degree_sd"], 2)
    (3.0, 1.22)
    """
    n_cells, k = neighbors.shape
    is_edge = (neighbors >= 0).ravel()
    edges = np.repeat(np.arange(n_cells), k)[is_edge], neighbors.ravel()[is_edge]
    chosen = sp.csr_matrix((np.ones(is_edge.sum()), edges), shape=(n_cells, n_cells))
    degree = np.diff(chosen.maximum(chosen.T).tocsr().indptr)
    in_degree = np.bincount(edges[1], minlength=n_cells)
    quantiles = map(float, np.quantile(degree, [0, 0.25, 0.5, 0.75, 1]))
    deviation = float(in_degree.std())
    return {
        **dict(zip(("min", "25%", "50%", "75%", "max"), quantiles, strict=True)),
        "in_degree_sd": deviation,
        "hubness": float(skew(in_degree)) if deviation else 0.0,
    }


def leiden_communities(
    graph: sp.csr_matrix, resolution: float = 1.0, seed: int = 0
) -> NDArray[np.int64]:
    """Cluster the cells of a graph with the Leiden algorithm.

    Parameters
    ----------
    graph
        Symmetric weights, shape ``(n_cells, n_cells)``.
    resolution
        Resolution; higher values give more clusters.
    seed
        Random seed.

    Returns
    -------
    Cluster of each cell, numbered from 0 in decreasing order of size, shape ``(n_cells,)``.

    Raises
    ------
    ImportError
        If igraph is not installed.

    References
    ----------
    Traag, Waltman and van Eck, From Louvain to Leiden, Scientific Reports 2019.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from hdeepinsight.graph import leiden_communities
    >>> triangle = 1 - np.eye(3)
    >>> leiden_communities(sp.csr_matrix(np.kron(np.eye(2), triangle)))
    array([0, 0, 0, 1, 1, 1])
    """
    igraph = need_extra("igraph", "leiden", "Clustering by Leiden")
    upper = sp.triu(graph, k=1).tocoo()
    made = igraph.Graph(n=graph.shape[0], edges=np.stack([upper.row, upper.col], axis=1))
    try:
        igraph.set_random_number_generator(random.Random(seed))
        groups = made.community_leiden("modularity", weights=upper.data, resolution=resolution)
    finally:
        igraph.set_random_number_generator(random)
    labels = np.asarray(groups.membership)
    order = np.argsort(-np.bincount(labels), kind="stable")
    found: NDArray[np.int64] = np.argsort(order)[labels]
    return found
