"""Read classifier scores and neighbour graphs from an AnnData, tables or arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray
from scipy.special import softmax

from hdeepinsight import annotation
from hdeepinsight._errors import (
    check_choice,
    missing_column,
    one_column,
    refuse_path,
    refuse_unused,
)
from hdeepinsight.data import AlignedQuery, InputError, Modalities, is_paired, open_paired
from hdeepinsight.graph import batch_graphs, check_graph, knn_graph
from hdeepinsight.taxonomy import Taxonomy
from hdeepinsight.tl._representation import coordinates

GraphWeights = Literal["binary", "connectivities"]

_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassScores:
    """Class scores of cells; with a taxonomy, restricted to the finest of the given classes."""

    #: Scores, shape ``(n_cells, n_classes)``.
    values: NDArray[np.float64]
    #: Names of the columns.
    classes: tuple[str, ...]
    #: Whether the values are probabilities, otherwise logits.
    are_probabilities: bool
    taxonomy: Taxonomy | None = None
    #: Node of each class.
    nodes: NDArray[np.int64] | None = None

    def probabilities(self) -> NDArray[np.float64]:
        """Return class probabilities, by a softmax if the scores are logits."""
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
        Cells that the scores must match.
    probabilities
        Key of ``adata.obsm``, table, array, ``Annotation``, or Series of labels.
    classes
        Names of the columns of an array.
    taxonomy
        Taxonomy in which the classes are nodes.

    Raises
    ------
    KeyError
        If the key is not in ``obsm``.
    ValueError
        If there are no cells, cells, shapes or names do not match, or values are not finite.
    """
    refuse_path(adata)
    names = pd.Index(adata.obs_names)
    if not len(names):
        hint = "Check how the cells were selected."
        raise ValueError(f"adata must have at least one cell, got an AnnData without cells. {hint}")
    if isinstance(probabilities, annotation.Annotation):
        taxonomy = probabilities.taxonomy if taxonomy is None else taxonomy
        probabilities = leaf_table(probabilities)
    if isinstance(probabilities, str):
        stored = getattr(adata, "obsm", {})
        if probabilities not in stored:
            hint = "Pass one of these, a table, an array with `classes`, or an Annotation."
            raise missing_column(probabilities, stored, where="adata.obsm", hint=hint)
        probabilities = stored[probabilities]
    is_named = isinstance(probabilities, pd.DataFrame | pd.Series)
    refuse_unused({"classes": is_named and classes is not None}, "with scores that have names")
    if isinstance(probabilities, pd.Series):
        return _label_scores(probabilities, names, taxonomy)
    if not isinstance(probabilities, pd.DataFrame):
        matrix = np.asarray(probabilities)
        if classes is None or matrix.ndim != 2 or matrix.shape[1] != len(classes):
            n_names = "no" if classes is None else len(classes)
            raise ValueError(
                "Scores must have one row per cell and one name per column, got the shape "
                f"{matrix.shape} and {n_names} names. Pass `classes`, or a DataFrame."
            )
        probabilities = pd.DataFrame(matrix, columns=list(classes))
    annotation.check_same_cells(names, probabilities, "probabilities")
    columns = probabilities.columns
    if columns.has_duplicates:
        repeated = columns[columns.duplicated()].unique().tolist()[:10]
        raise ValueError(f"Classes must be distinct, got {repeated} repeatedly. Rename them.")
    values = probabilities.to_numpy(dtype=np.float64)
    if n_bad := int((~np.isfinite(values).all(axis=1)).sum()):
        found = f"NaN or infinite ones in {n_bad} of {len(values)} cells"
        raise ValueError(f"Scores must be finite, got {found}. Remove these cells.")
    given = tuple(map(str, columns))
    are_probabilities = _are_distributions(values)
    if taxonomy is None:
        return ClassScores(values=values, classes=given, are_probabilities=are_probabilities)
    # Only the finest classes are kept; the values of their ancestors are sums.
    nodes = annotation.class_nodes(taxonomy, given)
    keep = annotation.drop_ancestors(taxonomy, nodes)
    values = values[:, keep]
    if are_probabilities := are_probabilities or _are_distributions(values):
        total = values.sum(axis=1, keepdims=True)
        # If all mass of a cell is at dropped inner nodes, its classes are equally probable.
        equal = np.full_like(values, 1.0 / max(values.shape[1], 1))
        values = np.divide(values, total, out=equal, where=total > 0)
    return ClassScores(
        values=values,
        classes=tuple(compress(given, keep)),
        are_probabilities=are_probabilities,
        taxonomy=taxonomy,
        nodes=nodes[keep],
    )


def leaf_table(result: annotation.Annotation) -> pd.DataFrame:
    """Return the probabilities of the leaves as a table with paths as columns."""
    return result.probabilities().iloc[:, result.taxonomy.leaves - 1]


def _label_scores(labels: pd.Series, names: pd.Index, taxonomy: Taxonomy | None) -> ClassScores:
    """Return scores with one class per label at any depth; 0 for cells without a label."""
    if taxonomy is None:
        raise ValueError("Labels must be nodes of a taxonomy, got no taxonomy. Pass taxonomy=.")
    encoded = annotation.label_nodes(taxonomy, labels)
    nodes = np.unique(encoded[encoded > 0])
    if not nodes.size:
        found = f"no label on any of {len(labels)} cells. Check the column of labels."
        raise ValueError(f"At least one cell must have a label, got {found}")
    annotation.check_same_cells(names, labels, "probabilities")
    return ClassScores(
        values=(encoded[:, None] == nodes).astype(np.float64),
        classes=tuple(taxonomy.path_name(int(node)) for node in nodes),
        are_probabilities=True,
        taxonomy=taxonomy,
        nodes=nodes,
    )


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
    """Return the neighbour graph, or with a batch key one within and one between batches.

    Raises
    ------
    KeyError
        If a key does not exist.
    ValueError
        If the settings are incompatible or the graph is not symmetric.
    """
    check_choice("weights", weights, get_args(GraphWeights))
    batch = None if batch_key is None else batches_of(adata, batch_key)
    if neighbors_key is not None:
        others = {"n_neighbors": n_neighbors != 15, "use_rep": str(use_rep) != "X_pca"}
        refuse_unused(others, "with neighbors_key")
        settings: Any = getattr(adata, "uns", {}).get(neighbors_key)
        stored = getattr(adata, "obsp", {})
        where = settings.get("connectivities_key") if hasattr(settings, "get") else None
        if where not in stored:
            raise KeyError(
                f"adata.uns[{neighbors_key!r}] must name a graph in adata.obsp, which has "
                f"{list(stored)}. Run scanpy.pp.neighbors, or omit neighbors_key."
            )
        graph = check_graph(stored[where])
        if weights == "binary":
            graph.data[:] = 1.0
        if batch is None:
            return [graph]
        edges = graph.tocoo()
        within = batch[edges.row] == batch[edges.col]
        return [
            sp.csr_matrix((edges.data[part], (edges.row[part], edges.col[part])), graph.shape)
            for part in (within, ~within)
        ]
    if weights == "connectivities":
        hint = "Pass its key, such as neighbors_key='neighbors', or omit weights."
        raise ValueError(f"weights='connectivities' requires a graph stored by scanpy. {hint}")
    points = coordinates(adata, use_rep)
    if batch is None:
        return [knn_graph(points, k=n_neighbors)]
    return list(batch_graphs(points, batch, k=n_neighbors))


def rna_of(query: Any) -> Any:
    """Return the RNA of paired data, or other data unchanged; ``InputError`` if there is no RNA."""
    rna = Modalities().rna_of(open_paired(query)) if is_paired(query) else query
    if rna is None:
        raise InputError("The MuData has no RNA.", "RNA counts are required.", "Add them.")
    return rna


def batches_of(adata: AnnData | AlignedQuery, key: str) -> NDArray[np.str_]:
    """Return the batch of each cell as text, ``(n_cells,)``; missing values form a batch, too."""
    column = one_column(adata.obs, key, hint="Pass the column of batches, or omit batch_key.")
    return np.asarray(column.astype(str), dtype=str)
