"""Find cells whose labels at several levels do not form a path of the taxonomy."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hdeepinsight.annotation import label_nodes
from hdeepinsight.taxonomy import Taxonomy


def level_nodes(labels: pd.DataFrame, taxonomy: Taxonomy) -> NDArray[np.int64]:
    """Return the node of each label in a table of the same shape; 0 for missing labels."""
    return np.column_stack([label_nodes(taxonomy, labels[name]) for name in labels])


def agreed_nodes(
    nodes: NDArray[np.int64], taxonomy: Taxonomy
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the deepest node consistent with all labels of each cell, and contradictions.

    For labels on a single path, this is the deepest label; otherwise it is the lowest common
    ancestor of all labels, and the labels contradict each other.

    Parameters
    ----------
    nodes
        Nodes of the labels, with levels in any order, shape ``(n_cells, n_levels)``; 0 for missing
        labels.
    taxonomy
        Taxonomy of the labels.

    Returns
    -------
    nodes, contradict
        Nodes, and whether labels contradict each other; both of shape ``(n_cells,)``.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> labels = pd.DataFrame({"l1": ["T", "T", "B"], "l2": ["CD4", None, "CD8"]})
    >>> agreed_nodes(level_nodes(labels, tree), tree)
    (array([3, 1, 0]), array([False, False,  True]))
    """
    rows, which = np.unique(nodes, axis=0, return_inverse=True)
    agreed, contradict = rows.max(axis=1, initial=0), np.zeros(len(rows), dtype=np.bool_)
    for i, row in enumerate(rows.tolist()):  # a deeper node has a larger index
        if not set(row) <= {0, *taxonomy.ancestors(int(agreed[i])).tolist()}:
            agreed[i], contradict[i] = reduce(taxonomy.lca, row), True
    return agreed[which.ravel()], contradict[which.ravel()]


def contradictions(labels: pd.DataFrame, taxonomy: Taxonomy) -> pd.DataFrame:
    """Count cells whose labels at several levels do not form a path of the taxonomy.

    Tools that predict each level independently may label a cell "B" at one level and "CD4 T" at the
    next.

    Parameters
    ----------
    labels
        One column per level, written by any tool, shape ``(n_cells, n_levels)``. Missing labels are
        ignored.
    taxonomy
        Taxonomy in which labels are names, synonyms or paths.

    Returns
    -------
    pandas.DataFrame
        One row per contradictory combination of labels, by decreasing frequency: the labels,
        ``agreed`` (their lowest common ancestor, ``"Unknown"`` if it is the root) and ``n_cells``.
        ``table["n_cells"].sum()`` is the number of cells with contradictory labels.

    Raises
    ------
    ValueError
        If there is no column, or a label is not in the taxonomy.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> labels = pd.DataFrame({"l1": ["T", "B", "B"], "l2": ["CD4", "CD4", "CD4"]})
    >>> hdi.tl.contradictions(labels, tree)
      l1   l2   agreed  n_cells
    0  B  CD4  Unknown        2
    """
    if not labels.shape[1]:
        hint = "Select the label columns, as in contradictions(adata.obs[['l1', 'l2']], taxonomy)."
        raise ValueError(f"labels must have one column per level, got no column. {hint}")
    nodes, contradict = agreed_nodes(level_nodes(labels, taxonomy), taxonomy)
    agreed = pd.Series([taxonomy.label(int(node)) for node in nodes], labels.index)
    table = labels.assign(agreed=agreed.where(nodes > 0, "Unknown"))[contradict].astype(str)
    found = table.value_counts(sort=True).rename("n_cells").reset_index()
    return found if len(found) else pd.DataFrame(columns=[*table, "n_cells"])
