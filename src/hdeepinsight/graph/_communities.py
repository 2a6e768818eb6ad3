"""Communities of a neighbour graph."""

from __future__ import annotations

import random

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from hdeepinsight._errors import need_extra


def leiden_communities(
    graph: sp.csr_matrix, resolution: float = 1.0, seed: int = 0
) -> NDArray[np.int64]:
    """Cluster the cells of a graph by the Leiden algorithm.

    Parameters
    ----------
    graph
        Symmetric weights, shape ``(n_cells, n_cells)``.
    resolution
        Higher values give more clusters.
    seed
        Seed of the algorithm.

    Returns
    -------
    Cluster of every cell from 0, the largest first, shape ``(n_cells,)``.

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
