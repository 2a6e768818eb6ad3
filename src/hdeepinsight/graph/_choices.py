"""Graphs given as the cells that each cell chose: within groups, and how often each was chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.stats import skew

from hdeepinsight.graph._neighbors import nearest_neighbors


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
    Shape ``(n, k)``; -1 where a group has fewer points.

    Examples
    --------
    >>> from hdeepinsight.graph import neighbors_within
    >>> neighbors_within([[0.0], [1.0], [1.1], [5.0]], ["a", "a", "b", "a"], k=1).tolist()
    [[1], [0], [-1], [1]]
    """
    places, names = np.asarray(points), np.asarray(groups)
    found = np.full((len(places), k), -1)
    for name in np.unique(names):
        rows = np.flatnonzero(names == name)
        if n_found := min(k, len(rows) - 1):
            found[rows, :n_found] = rows[nearest_neighbors(places[rows], k=n_found)[0]]
    return found


def degree_summary(neighbors: NDArray[np.integer[Any]]) -> dict[str, float]:
    """Summarise the degrees of a graph of chosen neighbours.

    Parameters
    ----------
    neighbors
        Cells that each cell chose, shape ``(n_cells, k)``; -1 for none.

    Returns
    -------
    Quantiles of the degrees where every choice is an edge in both directions, and standard
    deviation and skewness (``hubness``) of how often a cell was chosen.

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
    spread = float(in_degree.std())
    return {
        **dict(zip(("min", "25%", "50%", "75%", "max"), quantiles, strict=True)),
        "in_degree_sd": spread,
        "hubness": float(skew(in_degree)) if spread else 0.0,
    }
