"""Lists of neighbours that name each other, joined where the graph would fall apart."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from hdeepinsight._errors import check_integer
from hdeepinsight.graph._neighbors import Exact, nearest_neighbors


def mutual_neighbors(
    x: ArrayLike, *, k: int = 15, exact: Exact = "auto", seed: int = 0
) -> NDArray[np.int64]:
    """List for every cell itself and the neighbours that also name it, nearest first.

    Parameters
    ----------
    x
        Coordinates of the cells, shape ``(n_cells, d)``.
    k
        Longest list, the cell itself included; fewer where there are fewer cells.
    exact, seed
        As in `nearest_neighbors`.

    Returns
    -------
    Positions of cells, int64, shape ``(n_cells, k)``: the cell itself, then its neighbours; -1
    where the list is shorter. Cells whose mutual pairs alone would form several components are
    joined by edges of the minimum spanning tree of all nearest neighbours.

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
    found, distances = nearest_neighbors(points, k=k - 1, exact=exact, seed=seed)
    # An entry of 0 would be no edge, and cells may be equal.
    values = distances.ravel() + np.finfo(np.float64).tiny ** 0.5
    edges = np.repeat(lists[:, 0], k - 1), found.ravel()
    named = sp.csr_matrix((values, edges), shape=(n_cells, n_cells))
    linked = named.multiply(named.T.astype(bool)).tocoo()
    n_parts, part = connected_components(linked, directed=False)
    rows, columns, lengths = linked.row, linked.col, linked.data
    if n_parts > 1:
        tree = minimum_spanning_tree(named.maximum(named.T)).tocoo()
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
