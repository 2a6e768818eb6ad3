"""Cells by given labels and by where their annotation puts them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight.annotation import check_same_cells
from hdeepinsight.pl._names import NO_LABEL
from hdeepinsight.pl._text import shortened

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from hdeepinsight.annotation import Annotation
    from hdeepinsight.taxonomy import Taxonomy

__all__ = ["Groups", "check_any", "groups_of", "node_groups", "unique_names"]


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

    @property
    def titles(self) -> list[str]:
        """Name of every group as an axis shows it, with its cells."""
        sized = zip(self.names, self.sizes.tolist(), strict=True)
        return [f"{shortened(name)}  ({n:,})" for name, n in sized]


def check_any(result: Annotation) -> None:
    """Raise ``ValueError`` if an annotation has no cell."""
    if not len(result):
        raise ValueError(
            "The annotation has no cell. At least one is needed. Annotate cells, or check how "
            "they were selected."
        )


def groups_of(labels: Any, obs_names: pd.Index) -> Groups:
    """Read a label a cell: categories keep their order, unused ones are left out.

    Parameters
    ----------
    labels
        Labels or clusters, ``(n_cells,)``.
    obs_names
        The cells, ``(n_cells,)``.

    Raises
    ------
    ValueError
        If there is not one label a cell, or labels have the names of cells in another order.
    """
    import pandas as pd

    categories: pd.Categorical = pd.Categorical(labels).remove_unused_categories()
    if len(categories) != len(obs_names):
        raise ValueError(
            f"There are {len(categories)} labels for {len(obs_names)} cells. One label a cell is "
            "needed. Select the same cells of both."
        )
    check_same_cells(obs_names, labels, "groups")
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
    return Groups(rank[nodes], unique_names(taxonomy, order, {0: LABEL_COLUMNS.ROOT})), order


def unique_names(taxonomy: Taxonomy, nodes: list[int], given: Mapping[int, str]) -> list[str]:
    """Return bare or given names, or whole paths where two nodes share a name."""
    bare = [given[node] if node in given else taxonomy.label(node) for node in nodes]
    return [
        name if bare.count(name) == 1 else taxonomy.path_name(node)
        for name, node in zip(bare, nodes, strict=True)
    ]
