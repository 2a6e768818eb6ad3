"""Cells by given labels and by where their annotation puts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight.pl._names import NO_LABEL

if TYPE_CHECKING:
    from hdeepinsight.taxonomy import Taxonomy

__all__ = ["Groups", "groups_of", "node_groups"]


class Groups(NamedTuple):
    """Groups of cells, in the order in which they are drawn.

    Attributes
    ----------
    codes
        Group of every cell, ``(n_cells,)``.
    names
        Name of every group; cells without a label are a group of their own, the last.
    """

    codes: np.ndarray
    names: list[str]

    @property
    def sizes(self) -> np.ndarray:
        """Cells of every group, ``(n_groups,)``."""
        return np.bincount(self.codes, minlength=len(self.names))


def groups_of(labels: Any, n_cells: int) -> Groups:
    """Read a label a cell: categories keep their order, unused ones are left out.

    Parameters
    ----------
    labels
        Labels or clusters, ``(n_cells,)``.
    n_cells
        Cells that there must be.

    Raises
    ------
    ValueError
        If there is not one label a cell.
    """
    import pandas as pd

    categories: pd.Categorical = pd.Categorical(labels).remove_unused_categories()
    if len(categories) != n_cells:
        raise ValueError(
            f"There are {len(categories)} labels for {n_cells} cells. One label a cell is needed. "
            "Select the same cells of both."
        )
    codes, names = np.array(categories.codes, dtype=np.int64), list(map(str, categories.categories))
    if (codes < 0).any():
        codes[codes < 0] = len(names)
        names.append(NO_LABEL)
    return Groups(codes, names)


def node_groups(taxonomy: Taxonomy, nodes: np.ndarray) -> tuple[Groups, list[int]]:
    """Group cells by node: branch by branch, each node before those under it, the root last.

    Parameters
    ----------
    taxonomy
        The tree.
    nodes
        Node of every cell, ``(n_cells,)``.

    Returns
    -------
    The groups, named by bare names, or by whole paths where two of them share a name; and the node
    of every group.
    """
    occurring = np.unique(nodes).tolist()
    order = sorted(occurring, key=lambda node: (node == 0, taxonomy.ancestors(node).tolist()))
    rank = np.zeros(taxonomy.n_nodes, dtype=np.int64)
    rank[order] = np.arange(len(order))
    bare = [LABEL_COLUMNS.ROOT if node == 0 else taxonomy.label(node) for node in order]
    names = [
        name if bare.count(name) == 1 else taxonomy.path_name(node)
        for name, node in zip(bare, order, strict=True)
    ]
    return Groups(rank[nodes], names), order
