"""Labels of one cell at several levels: whether they lie on one path of the tree."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hdeepinsight.annotation import label_nodes

if TYPE_CHECKING:
    from hdeepinsight.taxonomy import Taxonomy


def level_nodes(labels: pd.DataFrame, taxonomy: Taxonomy) -> NDArray[np.int64]:
    """Return the node of each label, 0 for none, of the shape of the table of labels."""
    return np.column_stack([label_nodes(taxonomy, labels[name]) for name in labels])


def agreed_nodes(
    nodes: NDArray[np.int64], taxonomy: Taxonomy
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the deepest node on which a cell's labels agree, and whether they contradict.

    Labels that lie on one path agree on the deepest of them; others on the lowest node above all.

    Parameters
    ----------
    nodes
        Nodes of the labels, in any order of levels, shape ``(n_cells, n_levels)``; node 0, no
        label, agrees with every label.
    taxonomy
        Their tree.

    Returns
    -------
    Nodes and contradictions, shapes ``(n_cells,)``.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> labels = pd.DataFrame({"l1": ["T", "T", "B"], "l2": ["CD4", None, "CD8"]})
    >>> agreed_nodes(level_nodes(labels, tree), tree)
    (array([3, 1, 0]), array([False, False,  True]))
    """
    each, which = np.unique(nodes, axis=0, return_inverse=True)
    deepest = [max(row, key=lambda node: int(taxonomy.depth[node])) for row in each.tolist()]
    agree = [
        set(row) <= {0, *taxonomy.ancestors(node).tolist()}
        for row, node in zip(each.tolist(), deepest, strict=True)
    ]
    agreed = [
        node if together else reduce(taxonomy.lca, row)
        for row, node, together in zip(each.tolist(), deepest, agree, strict=True)
    ]
    return np.array(agreed)[which.ravel()], ~np.array(agree)[which.ravel()]


def contradictions(labels: pd.DataFrame, taxonomy: Taxonomy) -> pd.DataFrame:
    """Count cells whose labels at several levels do not lie on one path of the tree.

    Tools that label every level by itself can call a cell "B" at one and "CD4 T" at the next.

    Parameters
    ----------
    labels
        One column per level, as any tool wrote them, shape ``(n_cells, n_levels)``. Missing labels
        contradict nothing.
    taxonomy
        Tree in which labels are names, synonyms or paths.

    Returns
    -------
    One row per combination that contradicts itself, most frequent first: its labels, ``agreed``
    (the deepest label above all of them, ``"Unknown"`` at the root) and ``n_cells``. No rows where
    nothing does; ``table["n_cells"].sum()`` is the number of cells.

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
        raise ValueError(
            "labels must have one column per level, got no column. Select those of the labels, as "
            "in contradictions(adata.obs[['l1', 'l2']], taxonomy)."
        )
    nodes, contradict = agreed_nodes(level_nodes(labels, taxonomy), taxonomy)
    agreed = pd.Series([taxonomy.label(int(node)) for node in nodes], labels.index)
    table = labels.assign(agreed=agreed.where(nodes > 0, "Unknown"))[contradict].astype(str)
    found = table.value_counts(sort=True).rename("n_cells").reset_index()
    return found if len(found) else pd.DataFrame(columns=[*table, "n_cells"])
