"""What an annotation of any kind says about each cell, as mass on the nodes of one tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hdeepinsight.annotation import (
    Annotation,
    class_nodes,
    label_nodes,
    node_mass,
    normalise_classes,
)
from hdeepinsight.tl._scores import leaf_table

if TYPE_CHECKING:
    from hdeepinsight.taxonomy import Taxonomy

Floats = NDArray[np.float64]
Nodes = NDArray[np.int64]
Source: TypeAlias = Annotation | pd.Series | pd.DataFrame


def check_kinds(annotations: Sequence[Source]) -> None:
    """Raise unless there are annotations, each of a kind that can be read."""
    if not annotations:
        raise ValueError("Found no annotation. Valid are one or more. Pass those to be pooled.")
    for each in annotations:
        if not isinstance(each, (Annotation, pd.Series, pd.DataFrame)):
            raise TypeError(
                f"Found a {type(each).__name__}. Valid are an Annotation, a Series of labels and a "
                "DataFrame of probabilities. Wrap it in one of these, with names of cells as index."
            )


def names_of(source: Source) -> pd.Index:
    """Names of the cells of an annotation of any kind."""
    return pd.Index(source.obs_names if isinstance(source, Annotation) else source.index)


def read_source(source: Source, obs_names: pd.Index, taxonomy: Taxonomy) -> tuple[Floats, Nodes]:
    """Mass at or below every node, ``(n_cells, n_nodes)``, and the node of each cell's label."""
    order = _order(names_of(source), obs_names)
    if isinstance(source, pd.Series):
        nodes = label_nodes(taxonomy, source.iloc[order])
        values, columns = np.eye(taxonomy.n_nodes)[nodes], np.arange(taxonomy.n_nodes)
        values[:, 0] = 0.0  # a cell without a label says nothing
        return node_mass(taxonomy, values, columns), nodes
    table = leaf_table(source) if isinstance(source, Annotation) else source
    values = table.to_numpy(dtype=np.float64)[order]
    classes = class_nodes(taxonomy, list(map(str, table.columns)))
    values, nodes = normalise_classes(values, classes, taxonomy)
    if isinstance(source, Annotation):  # it decoded its own leaves
        leaf = np.searchsorted(source.taxonomy.leaves, source.leaf_nodes[order])
        return node_mass(taxonomy, values, nodes), classes[leaf]
    chosen = np.where(values.any(axis=1), nodes[values.argmax(axis=1)], 0)
    return node_mass(taxonomy, values, nodes), chosen


def _order(found: pd.Index, wanted: pd.Index) -> NDArray[np.intp]:
    order = found.get_indexer(wanted) if found.is_unique else np.full(len(wanted), -1)
    if len(found) != len(wanted) or (order < 0).any():
        raise ValueError(
            f"Found annotations of {len(wanted)} and of {len(found)} cells, of which "
            f"{int((order >= 0).sum())} are shared. Valid are annotations of the same cells, each "
            "named once. Select the cells that all have."
        )
    return np.asarray(order)
