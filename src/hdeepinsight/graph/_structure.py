"""Mutual nearest neighbours, neighbours within groups, degree statistics and communities."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from scipy.stats import skew

from hdeepinsight._errors import check_integer, need_extra
from hdeepinsight.graph._neighbors import nearest_neighbors


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
