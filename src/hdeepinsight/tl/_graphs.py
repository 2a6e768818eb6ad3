"""The cell graphs of an AnnData: those it holds, or new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from hdeepinsight.graph import batch_graphs, check_graph, knn_graph
from hdeepinsight.tl._representation import coordinates

if TYPE_CHECKING:
    from anndata import AnnData

GraphWeights = Literal["binary", "self_tuning", "connectivities"]
GRAPH_WEIGHTS: tuple[GraphWeights, ...] = ("binary", "self_tuning", "connectivities")


def cell_graphs(
    adata: AnnData,
    *,
    use_rep: str | NDArray[np.floating] = "X_pca",
    neighbors_key: str | None = None,
    n_neighbors: int = 15,
    weights: GraphWeights = "binary",
    batch_key: str | None = None,
) -> list[sp.csr_matrix]:
    """One graph, or with a batch key one within and one between batches.

    Raises
    ------
    KeyError
        If a key is not there.
    ValueError
        If the settings do not go together or the graph is not symmetric.
    """
    if weights not in GRAPH_WEIGHTS:
        raise ValueError(f"Found weights={weights!r}. Valid are {list(GRAPH_WEIGHTS)}. Choose one.")
    batch = None if batch_key is None else batches_of(adata, batch_key)
    if neighbors_key is not None:
        graph = _stored(adata, neighbors_key, weights)
        return [graph] if batch is None else _split(graph, batch)
    if weights == "connectivities":
        raise ValueError(
            "Found weights='connectivities' without a graph. Valid are the weights that scanpy "
            "stores. Name its graph, such as neighbors_key='neighbors'."
        )
    points = coordinates(adata, use_rep)
    if batch is None:
        return [knn_graph(points, k=n_neighbors, weights=weights)]
    return list(batch_graphs(points, batch, k=n_neighbors, weights=weights))


def batches_of(adata: AnnData, key: str) -> NDArray[np.str_]:
    """Batch of every cell as text, shape ``(n_cells,)``; missing ones are a batch together."""
    if key not in adata.obs:
        raise KeyError(
            f"adata.obs has no {key!r}; it holds {list(adata.obs.columns)}. Name the column of "
            "batches, or leave batch_key out."
        )
    return np.asarray(adata.obs[key].astype(str), dtype=str)


def _stored(adata: AnnData, key: str, weights: GraphWeights) -> sp.csr_matrix:
    if key not in adata.uns:
        raise KeyError(
            f"adata.uns has no {key!r}. Valid is the key of a graph made by scanpy.pp.neighbors. "
            "Make one, or leave neighbors_key out."
        )
    if weights == "self_tuning":
        raise ValueError(
            "Found weights='self_tuning' with neighbors_key. Valid for a stored graph are "
            "'binary' and 'connectivities'. Choose one, or leave neighbors_key out."
        )
    where = adata.uns[key].get("connectivities_key") if hasattr(adata.uns[key], "get") else None
    if where not in adata.obsp:
        raise KeyError(
            f"adata.uns[{key!r}] names no graph that adata.obsp has; that holds "
            f"{list(adata.obsp)}. Valid is the key of a graph made by scanpy.pp.neighbors. Make "
            "one, or leave neighbors_key out."
        )
    graph = check_graph(adata.obsp[where])
    if weights == "binary":
        graph.data[:] = 1.0
    return graph


def _split(graph: sp.csr_matrix, batch: NDArray[np.str_]) -> list[sp.csr_matrix]:
    """Edges within batches, and edges between them."""
    edges = graph.tocoo()
    same = batch[edges.row] == batch[edges.col]
    return [
        sp.csr_matrix((edges.data[part], (edges.row[part], edges.col[part])), shape=graph.shape)
        for part in (same, ~same)
    ]


def joined(graphs: list[sp.csr_matrix]) -> sp.csr_matrix:
    """All edges in one graph; graphs share none."""
    total = graphs[0]
    for graph in graphs[1:]:
        total = total + graph
    return sp.csr_matrix(total)
