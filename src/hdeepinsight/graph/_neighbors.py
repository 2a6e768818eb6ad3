"""Nearest neighbours, and the symmetric graph of them, or one within and one between batches."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from hdeepinsight._errors import check_integer, invalid

Exact = Literal["auto", True, False]

#: Above this many searched rows ``exact="auto"`` turns to nearest-neighbour descent.
EXACT_ROWS = 20_000
_CHUNK = 4_096
#: Neighbours that are looked for in batches of any size.
MIN_NEIGHBORS = 5
#: Other batches that a batch is compared with: time and edges grow with this, not with all pairs.
MAX_PARTNERS = 8


class NumbaCacheError(RuntimeError):
    """The approximate search cannot be compiled, because numba finds no folder for its cache.

    Raised where neither the installed packages nor the user's home can be written to, as in some
    containers. The environment variable NUMBA_CACHE_DIR names another folder.

    Examples
    --------
    >>> issubclass(NumbaCacheError, RuntimeError)
    True
    """


def nearest_neighbors(
    x: ArrayLike, y: ArrayLike | None = None, *, k: int, exact: Exact = "auto", seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the nearest rows of ``y`` for every row of ``x``.

    Parameters
    ----------
    x
        Rows that look for neighbours, shape ``(n, d)``.
    y
        Rows among which they look, shape ``(m, d)``; by default ``x`` itself, where no row is its
        own neighbour.
    k
        Neighbours per row.
    exact
        Whether to search exhaustively; ``"auto"`` does so up to 20,000 searched rows and takes
        nearest-neighbour descent beyond.
    seed
        Seed of the approximate search.

    Returns
    -------
    indices, distances
        Rows of ``y``, int64, and Euclidean distances, float64, both of shape ``(n, k)``. Within a
        row they are sorted by distance, and by index where distances are equal.

    Raises
    ------
    ValueError
        If the shapes do not fit, values are not finite, or there are fewer than ``k`` rows to find.
    NumbaCacheError
        If the approximate search has no folder to be compiled in.

    Notes
    -----
    Exact search is scikit-learn's, approximate search pynndescent's (Dong, Moses and Li 2011,
    doi:10.1145/1963405.1963487). Distances are computed anew from differences, since the usual
    expansion of the square leaves two equal rows about 1e-7 apart. Source: our decision.

    Examples
    --------
    >>> from hdeepinsight.graph import nearest_neighbors
    >>> indices, distances = nearest_neighbors([[0.0], [1.0], [3.0], [3.0]], k=2)
    >>> indices.tolist()
    [[1, 2], [0, 2], [3, 1], [2, 1]]
    >>> distances.tolist()
    [[1.0, 3.0], [1.0, 2.0], [0.0, 2.0], [0.0, 2.0]]
    """
    rows, within = check_points(x, "x"), y is None
    targets = rows if y is None else check_points(y, "y")
    if rows.shape[1] != targets.shape[1]:
        raise ValueError(
            f"x and y must be points in one space, got x with {rows.shape[1]} columns and y with "
            f"{targets.shape[1]}. Project both with the same map."
        )
    available = len(targets) - within
    if not 1 <= k <= available:
        hint = "Lower the number of neighbours, or give more rows."
        raise invalid("k", k, f"from 1 to {available}, the rows that can be found", hint)
    n_found = k + within  # a row finds itself too
    if exact is True or (exact == "auto" and len(targets) <= EXACT_ROWS):
        found = _exact(rows, targets, n_found)
    else:
        found = _approximate(rows, targets, n_found, seed=seed, within=within)
    if within:  # drop each row's own index, or its last find where equal rows crowded it out
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


def check_points(values: ArrayLike, name: str) -> NDArray[np.floating]:
    """Check coordinates, shape ``(n, d)``, and return them as an array of floats.

    Raises
    ------
    ValueError
        If the shape does not fit, or values are not finite.

    Examples
    --------
    >>> check_points([[1, 2]], "x")
    array([[1., 2.]])
    """
    matrix = np.asarray(values)
    if matrix.ndim != 2 or not matrix.shape[1]:
        raise ValueError(
            f"{name} must have one row per point, (n, d), got {name} of shape "
            f"{matrix.shape}. Reshape it."
        )
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float64)
    if n_broken := int((~np.isfinite(matrix).all(axis=1)).sum()):
        raise ValueError(
            f"Coordinates must be finite, got {n_broken} of {len(matrix)} rows of {name} with NaN "
            "or infinite values. Leave these rows out, or look at how they were computed."
        )
    return matrix


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
            f"Searching neighbours among {len(targets):,} rows needs pynndescent, for which numba "
            "finds no folder to keep compiled code in. Set the environment variable "
            "NUMBA_CACHE_DIR to a folder that can be written to, or search with exact=True."
        ) from error

    data = np.ascontiguousarray(targets, dtype=np.float32)
    index = NNDescent(data, n_neighbors=max(n_found, 15), random_state=seed)
    if within:
        found = index.neighbor_graph[0][:, :n_found]
    else:
        found = index.query(np.ascontiguousarray(rows, dtype=np.float32), k=n_found)[0]
    found = found.astype(np.int64)
    # The descent may leave places empty (-1), for example where many rows are equal.
    if len(incomplete := np.flatnonzero((found < 0).any(axis=1))):
        found[incomplete] = _exact(rows[incomplete], targets, n_found)
    return np.asarray(found)


class BatchGraphs(NamedTuple):
    """Two graphs of the same cells, without a common edge.

    Examples
    --------
    >>> from hdeepinsight.graph import batch_graphs
    >>> graphs = batch_graphs([[0.0], [1.0], [0.2], [5.0]], ["a", "a", "b", "b"], k=1)
    >>> graphs.within.nnz, graphs.between.nnz
    (4, 2)
    """

    #: Edges between cells of one batch.
    within: sp.csr_matrix
    #: Edges between cells of different batches.
    between: sp.csr_matrix


def knn_graph(x: ArrayLike, *, k: int = 15) -> sp.csr_matrix:
    """Connect every cell with its nearest neighbours, both ways.

    Parameters
    ----------
    x
        Coordinates of the cells, shape ``(n_cells, d)``.
    k
        Neighbours per cell; all others where there are fewer.

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
    return _union(_named([_edges(points, everyone, everyone, k)], len(points)))


def batch_graphs(x: ArrayLike, batch: ArrayLike, *, k: int = 15) -> BatchGraphs:
    """Connect every cell within its batch, and across batches by mutual pairs.

    Parameters
    ----------
    x
        Coordinates of the cells, shape ``(n_cells, d)``.
    batch
        Batch of every cell, shape ``(n_cells,)``.
    k
        Neighbours per cell in each batch; a tenth of the batch where that is fewer, but 5 at least.

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
        return _edges(points, mine, theirs, n_found)

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
    points: NDArray[np.floating], mine: NDArray[np.intp], theirs: NDArray[np.intp], k: int
) -> NDArray[np.intp]:
    """Pairs of each of ``mine`` with its neighbours among ``theirs``, shape ``(2, n_edges)``."""
    check_integer("k", k)
    same = mine is theirs
    n_found = min(k, len(theirs) - same)
    if n_found < 1 or not len(mine):
        return np.empty((2, 0), dtype=np.intp)
    found, _ = nearest_neighbors(points[mine], None if same else points[theirs], k=n_found)
    return np.stack([np.repeat(mine, n_found), theirs[found.ravel()]])


def _named(edges: list[NDArray[np.intp]], n_cells: int) -> sp.csr_matrix:
    """Matrix with a 1 where the cell of the row names that of the column."""
    pairs = np.concatenate([np.empty((2, 0), dtype=np.intp), *edges], axis=1)
    return sp.csr_matrix((np.ones(pairs.shape[1]), tuple(pairs)), shape=(n_cells, n_cells))


def _union(named: sp.csr_matrix) -> sp.csr_matrix:
    graph = named.maximum(named.T).tocsr()
    graph.sort_indices()
    return graph
