"""Scores of any classifier and graphs of the cells, read from wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import softmax

from hdeepinsight._errors import check_choice, one_column
from hdeepinsight.annotation import (
    Annotation,
    check_same_cells,
    class_nodes,
    drop_ancestors,
    label_nodes,
)
from hdeepinsight.data import AlignedQuery
from hdeepinsight.graph import batch_graphs, check_graph, knn_graph
from hdeepinsight.tl._representation import coordinates

if TYPE_CHECKING:
    from anndata import AnnData

    from hdeepinsight.taxonomy import Taxonomy

GraphWeights = Literal["binary", "connectivities"]

_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassScores:
    """Scores of cells for classes; with a taxonomy, for the finest classes among those given."""

    #: Shape ``(n_cells, n_classes)``.
    values: NDArray[np.float64]
    #: Names of the columns.
    classes: tuple[str, ...]
    #: Whether rows are distributions; otherwise the values are logits.
    are_probabilities: bool
    taxonomy: Taxonomy | None = None
    #: Node of every class.
    nodes: NDArray[np.int64] | None = None

    def probabilities(self) -> NDArray[np.float64]:
        """Return distributions over the classes: as given, or the softmax of the logits."""
        return self.values if self.are_probabilities else np.asarray(softmax(self.values, axis=1))


def class_scores(
    adata: AnnData | AlignedQuery,
    probabilities: Any,
    *,
    classes: Sequence[str] | None = None,
    taxonomy: Taxonomy | None = None,
) -> ClassScores:
    """Return scores from an annotation, a table, an array, labels, or a key of ``obsm``.

    Parameters
    ----------
    adata
        The cells.
    probabilities
        Key of ``adata.obsm``, table, array, or ``Annotation``; a Series holds labels.
    classes
        Names of the columns of an array.
    taxonomy
        Tree in which the classes are nodes.

    Raises
    ------
    KeyError
        If the key is not in ``obsm``.
    ValueError
        If there is no cell, cells, shapes or names do not fit, or values are not finite.
    """
    names = pd.Index(adata.obs_names)
    if not len(names):
        raise ValueError(
            "Found an AnnData without cells. Pass one or more; look at how they were selected."
        )
    if isinstance(probabilities, Annotation):
        taxonomy = probabilities.taxonomy if taxonomy is None else taxonomy
        probabilities = leaf_table(probabilities)
    if isinstance(probabilities, str):
        stored = getattr(adata, "obsm", {})
        if probabilities not in stored:
            raise KeyError(
                f"adata.obsm has no {probabilities!r}; it holds {list(stored)}. Pass one of these "
                "keys, a table, an array with `classes`, or an Annotation."
            )
        probabilities = stored[probabilities]
    if isinstance(probabilities, pd.Series):
        return _from_labels(probabilities, names, taxonomy)
    table = _table(probabilities, classes, names)
    values = table.to_numpy(dtype=np.float64)
    if n_bad := int((~np.isfinite(values).all(axis=1)).sum()):
        raise ValueError(
            f"Found {n_bad} of {len(values)} cells with NaN or infinite scores. Leave these cells "
            "out, or look at the classifier."
        )
    given = tuple(map(str, table.columns))
    proper = _are_distributions(values)
    if taxonomy is None:
        return ClassScores(values=values, classes=given, are_probabilities=proper)
    # Of the classes the finest stay; what is above them follows by adding up.
    nodes = class_nodes(taxonomy, given)
    keep = drop_ancestors(taxonomy, nodes)
    values = values[:, keep]
    if proper := proper or _are_distributions(values):
        total = values.sum(axis=1, keepdims=True)
        # All of a cell's mass may lie at dropped inner nodes: then nothing is known below.
        equal = np.full_like(values, 1.0 / max(values.shape[1], 1))
        values = np.divide(values, total, out=equal, where=total > 0)
    return ClassScores(
        values=values,
        classes=tuple(compress(given, keep)),
        are_probabilities=proper,
        taxonomy=taxonomy,
        nodes=nodes[keep],
    )


def leaf_table(annotation: Annotation) -> pd.DataFrame:
    """Return the probabilities of the leaves, with columns named by paths."""
    return annotation.probabilities().iloc[:, annotation.taxonomy.leaves - 1]


def _from_labels(labels: pd.Series, names: pd.Index, taxonomy: Taxonomy | None) -> ClassScores:
    """Make one class per label, at any depth; cells without a label have no mass at all."""
    if taxonomy is None:
        raise ValueError("Labels must be nodes of a tree. Pass taxonomy=.")
    encoded = label_nodes(taxonomy, labels)
    nodes = np.unique(encoded[encoded > 0])
    if not nodes.size:
        raise ValueError(
            f"Found {len(labels)} cells, none of them with a label. Look at the column of labels."
        )
    check_same_cells(names, labels, "probabilities")
    return ClassScores(
        values=(encoded[:, None] == nodes).astype(np.float64),
        classes=tuple(taxonomy.path_name(int(node)) for node in nodes),
        are_probabilities=True,
        taxonomy=taxonomy,
        nodes=nodes,
    )


def _table(values: Any, classes: Sequence[str] | None, names: pd.Index) -> pd.DataFrame:
    if not isinstance(values, pd.DataFrame):
        matrix = np.asarray(values)
        if classes is None or matrix.ndim != 2 or matrix.shape[1] != len(classes):
            raise ValueError(
                f"Found scores of shape {matrix.shape} and "
                f"{'no' if classes is None else len(classes)} classes. They must have one row per "
                "cell and one name per column. Pass `classes`, or a DataFrame."
            )
        values = pd.DataFrame(matrix, columns=list(classes))
    check_same_cells(names, values, "probabilities")
    if values.columns.has_duplicates:
        twice = values.columns[values.columns.duplicated()].unique().tolist()
        raise ValueError(
            f"Found classes with more than one column: {twice[:10]}. Rename or add them up."
        )
    return values


def _are_distributions(values: NDArray[np.float64]) -> bool:
    return bool((values >= 0).all() and (np.abs(values.sum(axis=1) - 1) <= _SUM_TOLERANCE).all())


def cell_graphs(
    adata: AnnData | AlignedQuery,
    *,
    use_rep: str | NDArray[np.floating] = "X_pca",
    neighbors_key: str | None = None,
    n_neighbors: int = 15,
    weights: GraphWeights = "binary",
    batch_key: str | None = None,
) -> list[sp.csr_matrix]:
    """Return one graph, or with a batch key one within and one between batches.

    Raises
    ------
    KeyError
        If a key is not there.
    ValueError
        If the settings do not go together or the graph is not symmetric.
    """
    check_choice("weights", weights, get_args(GraphWeights))
    batch = None if batch_key is None else batches_of(adata, batch_key)
    if neighbors_key is not None:
        graph = _stored(adata, neighbors_key, weights)
        if batch is None:
            return [graph]
        edges = graph.tocoo()
        within = batch[edges.row] == batch[edges.col]
        return [
            sp.csr_matrix((edges.data[part], (edges.row[part], edges.col[part])), graph.shape)
            for part in (within, ~within)
        ]
    if weights == "connectivities":
        raise ValueError(
            "weights='connectivities' are those that scanpy stores with a graph. Name the graph, "
            "such as neighbors_key='neighbors'."
        )
    points = coordinates(adata, use_rep)
    if batch is None:
        return [knn_graph(points, k=n_neighbors)]
    return list(batch_graphs(points, batch, k=n_neighbors))


def batches_of(adata: AnnData | AlignedQuery, key: str) -> NDArray[np.str_]:
    """Return the batch of every cell as text, ``(n_cells,)``; missing ones are a batch together."""
    column = one_column(adata.obs, key, hint="Name the column of batches, or omit batch_key.")
    return np.asarray(column.astype(str), dtype=str)


def _stored(adata: AnnData | AlignedQuery, key: str, weights: GraphWeights) -> sp.csr_matrix:
    settings: Any = getattr(adata, "uns", {}).get(key)
    graphs = getattr(adata, "obsp", {})
    where = settings.get("connectivities_key") if hasattr(settings, "get") else None
    if where not in graphs:
        raise KeyError(
            f"adata.uns[{key!r}] names no graph that adata.obsp has, which holds {list(graphs)}. "
            "Make one by scanpy.pp.neighbors and name its key, or omit neighbors_key."
        )
    graph = check_graph(graphs[where])
    if weights == "binary":
        graph.data[:] = 1.0
    return graph
