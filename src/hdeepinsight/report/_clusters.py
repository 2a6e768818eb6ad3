"""Groups of cells that the user knows, by what their cells are called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hdeepinsight.report._labels import above_a_type, groups_of, name_of
from hdeepinsight.report._table import MAX_ROWS, Column, Table

if TYPE_CHECKING:
    from hdeepinsight.annotation import Annotation

__all__ = ["cluster_table"]

MISSING = "(no cluster)"


def cluster_table(result: Annotation, clusters: Any | None) -> Table:
    """One row a cluster: its most frequent labels, and how sure and how settled its cells are.

    Parameters
    ----------
    result
        The annotation.
    clusters
        A cluster a cell, ``(n_cells,)``; by default the labels where paths stop, and then the
        types are counted to which their cells come nearest.
    """
    nodes = result.leaf_nodes if clusters is None else result.stop_nodes
    confidence, above = result.confidence.to_numpy(), above_a_type(result)
    groups = _groups(result, clusters)
    rows = [
        (
            name,
            len(cells),
            *_two_most_frequent(result, nodes[cells]),
            confidence[cells].mean(),
            above[cells].mean(),
        )
        for name, cells in groups[:MAX_ROWS]
    ]
    kind, counted = ("label", "type") if clusters is None else ("cluster", "label")
    columns = (
        Column(kind.capitalize()),
        Column("Cells", "count"),
        Column(f"Most frequent {counted}"),
        Column(f"Share of that {counted}", "share"),
        Column(f"Second {counted}"),
        Column("Share of the second", "share"),
        Column("Mean confidence", "number"),
        Column("Stopped above a type", "share"),
    )
    caption = f"What the cells of each {kind} are called."
    return Table.of("clusters", caption, columns, rows, filtered=True, n_rows=len(groups))


def _groups(result: Annotation, clusters: Any | None) -> list[tuple[str, np.ndarray]]:
    """Name and positions of the cells of each group, the largest first."""
    if clusters is None:
        found = groups_of(result.stop_nodes)
        return [(name_of(result.taxonomy, node)[0], cells) for node, cells in found]
    column: pd.Categorical = pd.Categorical(clusters)
    names = [*map(str, column.categories), MISSING]  # code -1 takes the last name
    return [(names[code], cells) for code, cells in groups_of(np.asarray(column.codes))]


def _two_most_frequent(result: Annotation, nodes: np.ndarray) -> tuple[str | float | None, ...]:
    """Label and share of the most frequent node, and of the second one if there is one."""
    first, *others = groups_of(nodes)
    label, share = name_of(result.taxonomy, first[0])[0], len(first[1]) / len(nodes)
    if not others:
        return label, share, None, None
    node, cells = others[0]
    return label, share, name_of(result.taxonomy, node)[0], len(cells) / len(nodes)
