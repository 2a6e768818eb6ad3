"""How far labels and batches are one and the same thing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from hdeepinsight.taxonomy import Taxonomy

#: A label and a batch whose overlap (Jaccard) reaches this are taken for the same cells.
SAME_CELLS = 0.95


def class_batches(
    taxonomy: Taxonomy, nodes: np.ndarray, rows: np.ndarray, batches: np.ndarray
) -> pd.DataFrame:
    """Where the cells of each class come from, a row a class.

    Parameters
    ----------
    taxonomy
        The tree.
    nodes
        Node of every cell's label, shape ``(n_cells,)``.
    rows
        The classes to describe, shape ``(n_rows,)``; a class has the cells labelled at or under it.
    batches
        Batch of every cell, shape ``(n_cells,)``.

    Returns
    -------
    Table with ``n_batches``, ``largest_batch``, ``largest_batch_share`` (of the class's cells),
    ``batch_overlap`` (largest Jaccard index of the class and a batch) and ``confounding``:
    ``"same as a batch"``, ``"in one batch only"`` or ``""``.
    """
    names, codes, sizes = np.unique(batches, return_inverse=True, return_counts=True)
    counts = np.zeros((taxonomy.n_nodes, len(names)), dtype=np.int64)
    np.add.at(counts, (nodes, codes), 1)
    counts = taxonomy.roll_up(counts.T).T[rows]
    own = counts.sum(axis=1, keepdims=True)
    overlap = (counts / (own + sizes - counts)).max(axis=1)
    n_batches = (counts > 0).sum(axis=1)
    alone = np.where((n_batches == 1) & (own.ravel() > 1), "in one batch only", "")
    return pd.DataFrame(
        {
            "n_batches": n_batches,
            "largest_batch": names[counts.argmax(axis=1)],
            "largest_batch_share": counts.max(axis=1) / own.ravel(),
            "batch_overlap": overlap,
            "confounding": np.where(overlap >= SAME_CELLS, "same as a batch", alone),
        }
    )


def batch_information(
    taxonomy: Taxonomy, nodes: np.ndarray, batches: np.ndarray | None
) -> pd.Series[float]:
    """Normalised mutual information of labels and batches at every level, shape ``(n_levels,)``.

    0 says that labels tell nothing about batches, 1 that they are the same partition. NaN without
    batches.
    """
    from sklearn.metrics import normalized_mutual_info_score

    values = []
    for level in range(taxonomy.max_depth):
        at_level = taxonomy.node_at_level[nodes, level]
        known = (nodes > 0) & (at_level > 0)
        if batches is None or not known.any():
            values.append(np.nan)
        else:
            values.append(normalized_mutual_info_score(at_level[known], batches[known]))
    return pd.Series(values, index=list(taxonomy.level_names), name="batch_nmi", dtype=float)
