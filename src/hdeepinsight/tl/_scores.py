"""Scores of any classifier, read from wherever they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import softmax

from hdeepinsight.annotation import Annotation, class_nodes, drop_ancestors, label_nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hdeepinsight.taxonomy import Taxonomy

_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassScores:
    """Scores of cells for classes; with a taxonomy, for the finest classes among those given."""

    values: NDArray[np.float64]
    """Shape ``(n_cells, n_classes)``."""
    classes: tuple[str, ...]
    """Names of the columns."""
    are_probabilities: bool
    """Whether rows are distributions; otherwise the values are logits."""
    taxonomy: Taxonomy | None = None
    nodes: NDArray[np.int64] | None = None
    """Node of every class."""

    def probabilities(self, temperature: float = 1.0) -> NDArray[np.float64]:
        """Distributions over the classes: as given, or the softmax of the logits."""
        if not self.are_probabilities:
            return np.asarray(softmax(self.values / temperature, axis=1))
        if temperature == 1.0:
            return self.values
        with np.errstate(divide="ignore"):
            return np.asarray(softmax(np.log(self.values) / temperature, axis=1))


def read_scores(
    adata: Any,
    probabilities: Any,
    *,
    classes: Sequence[str] | None = None,
    taxonomy: Taxonomy | None = None,
) -> ClassScores:
    """Read scores from an annotation, a table, an array, labels, or a key of ``obsm``.

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
            "Found an AnnData without cells. Valid is one or more. Look at how they were selected."
        )
    if isinstance(probabilities, Annotation):
        taxonomy = probabilities.taxonomy if taxonomy is None else taxonomy
        probabilities = leaf_table(probabilities)
    if isinstance(probabilities, str):
        probabilities = _from_obsm(adata, probabilities)
    if isinstance(probabilities, pd.Series):
        return _from_labels(probabilities, names, taxonomy)
    table = _table(probabilities, classes, names)
    values = table.to_numpy(dtype=np.float64)
    _check_finite(values)
    given = tuple(map(str, table.columns))
    if taxonomy is None:
        return ClassScores(
            values=values, classes=given, are_probabilities=_are_distributions(values)
        )
    return _on_taxonomy(values, given, taxonomy)


def leaf_table(annotation: Annotation) -> pd.DataFrame:
    """Probabilities of the leaves, with columns named by paths."""
    leaves = annotation.taxonomy.leaves
    columns = [annotation.taxonomy.path_name(int(leaf)) for leaf in leaves]
    return pd.DataFrame(
        annotation.node_probabilities[:, leaves], index=annotation.obs_names, columns=columns
    )


def _from_obsm(adata: Any, key: str) -> Any:
    if key not in adata.obsm:
        raise KeyError(
            f"adata.obsm has no {key!r}; it holds {list(adata.obsm)}. Pass one of these keys, a "
            "table, an array with `classes`, or an Annotation."
        )
    return adata.obsm[key]


def _from_labels(labels: pd.Series, names: pd.Index, taxonomy: Taxonomy | None) -> ClassScores:
    """One class a label, at any depth; cells without a label have no mass at all."""
    if taxonomy is None:
        raise ValueError(
            "Found labels without a taxonomy. Valid are labels that are nodes of a tree. Pass "
            "taxonomy=."
        )
    encoded = label_nodes(taxonomy, labels)
    nodes = np.unique(encoded[encoded > 0])
    if not nodes.size:
        raise ValueError(
            f"Found {len(labels)} cells, none of them with a label. Valid is a label for some. "
            "Look at the column of labels."
        )
    paths = [taxonomy.path_name(int(node)) for node in nodes]
    hits = pd.DataFrame(encoded[:, None] == nodes, index=labels.index, columns=paths)
    table = _table(hits.astype(np.float64), None, names)
    return ClassScores(
        values=table.to_numpy(),
        classes=tuple(paths),
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
                f"{'no' if classes is None else len(classes)} classes. Valid is one row a cell "
                "and one name a column. Pass `classes`, or a DataFrame."
            )
        index = names if len(matrix) == len(names) else pd.RangeIndex(len(matrix))
        values = pd.DataFrame(matrix, index=index, columns=list(classes))
    if not pd.Index(values.index).equals(names):
        raise ValueError(
            f"Found scores of {len(values)} cells for an AnnData of {len(names)} cells, and "
            "their names are not the same in the same order. Reorder them by adata.obs_names."
        )
    if values.columns.has_duplicates:
        twice = values.columns[values.columns.duplicated()].unique().tolist()
        raise ValueError(
            f"Found classes with more than one column: {twice[:10]}. Valid is one column a class. "
            "Rename or add them up."
        )
    return values


def _check_finite(values: NDArray[np.float64]) -> None:
    n_bad = int((~np.isfinite(values).all(axis=1)).sum())
    if n_bad:
        raise ValueError(
            f"Found {n_bad} of {len(values)} cells with NaN or infinite scores. Valid are finite "
            "numbers. Leave these cells out, or look at the classifier."
        )


def _are_distributions(values: NDArray[np.float64]) -> bool:
    return bool((values >= 0).all() and (np.abs(values.sum(axis=1) - 1) <= _SUM_TOLERANCE).all())


def _on_taxonomy(
    values: NDArray[np.float64], classes: tuple[str, ...], taxonomy: Taxonomy
) -> ClassScores:
    """Keep the finest classes; what is above them follows by adding up."""
    nodes = class_nodes(taxonomy, classes)
    proper = _are_distributions(values)
    keep = drop_ancestors(taxonomy, nodes)
    values, nodes = values[:, keep], nodes[keep]
    proper = proper or _are_distributions(values)
    if proper:
        total = values.sum(axis=1, keepdims=True)
        # All of a cell's mass may lie at dropped inner nodes: then nothing is known below.
        equal = np.full_like(values, 1.0 / max(values.shape[1], 1))
        values = np.divide(values, total, out=equal, where=total > 0)
    kept = tuple(name for name, one in zip(classes, keep, strict=True) if one)
    return ClassScores(
        values=values, classes=kept, are_probabilities=proper, taxonomy=taxonomy, nodes=nodes
    )
