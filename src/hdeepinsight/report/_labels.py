"""Which labels the cells got, how sure they are, and where paths stop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight.annotation import decode
from hdeepinsight.report._table import Column, Table

if TYPE_CHECKING:
    from hdeepinsight.annotation import Annotation
    from hdeepinsight.taxonomy import Taxonomy

__all__ = ["above_a_type", "bins_of", "composition", "groups_of", "labels", "name_of", "stops"]

N_BINS: Final = 20
REJECTED: Final = "rejected: strange to the reference"
NO_LABEL: Final = "(type without this level)"

_LEVEL: Final = (
    Column("Label"),
    Column("Within"),
    Column("Cells", "count"),
    Column("Share of cells", "share"),
    Column("Settled at this level", "share"),
    Column("Mean probability", "number"),
)
_LABELS: Final = (
    Column("Label"),
    Column("Within"),
    Column("Cells", "count"),
    Column("Share of cells", "share"),
    Column("Mean", "number"),
    Column("5 % lie below", "number"),
    Column("Median", "number"),
    Column("5 % lie above", "number"),
    Column("Mean margin", "number"),
    Column("From 0 to 1", "bins"),
)
_STOPS: Final = (
    Column("Stopped at"),
    Column("Within"),
    Column("Why"),
    Column("Cells", "count"),
    Column("Share of cells", "share"),
    Column("Mean probability there", "number"),
    Column("Mean of the best child", "number"),
    Column("Most frequent nearest type"),
    Column("Share of that type", "share"),
)


def composition(result: Annotation) -> tuple[Table, ...]:
    """One table a level: the cells of each label, every cell followed down to a type."""
    depths = range(1, result.taxonomy.max_depth + 1)
    return tuple(_composition_of(result, depth) for depth in depths)


def _composition_of(result: Annotation, depth: int) -> Table:
    nodes = result.taxonomy.node_at_level[result.leaf_nodes, depth - 1]
    settled = result.stop_depth.to_numpy() >= depth
    rows = [
        (
            *(name_of(result.taxonomy, node) if node > 0 else (NO_LABEL, "")),
            len(cells),
            len(cells) / len(result),
            settled[cells].mean() if node > 0 else None,
            result.node_probabilities[cells, node].mean() if node > 0 else None,
        )
        for node, cells in groups_of(nodes)
    ]
    caption = f"Cells of each label at the level {result.taxonomy.level_names[depth - 1]}."
    return Table.of(f"level_{depth}", caption, _LEVEL, rows)


def labels(result: Annotation) -> Table:
    """How sure the cells of each label are, at the node where their path stops."""
    caption = "Confidence of the cells of each label, where their path stops."
    rows = [_label_row(result, node, cells) for node, cells in groups_of(result.stop_nodes)]
    return Table.of("labels", caption, _LABELS, rows, filtered=True)


def _label_row(result: Annotation, node: int, cells: np.ndarray) -> tuple[Any, ...]:
    confidence = result.confidence.to_numpy()[cells]
    return (
        *name_of(result.taxonomy, node),
        len(cells),
        len(cells) / len(result),
        confidence.mean(),
        *np.quantile(confidence, (0.05, 0.5, 0.95)),
        result.margin.to_numpy()[cells].mean(),
        bins_of(confidence),
    )


def stops(result: Annotation) -> Table:
    """Cells whose path ends above a type: where, and why."""
    above, rejected = above_a_type(result), _rejected(result)
    unsure = f"no child reaches {result.threshold}"
    rows = [
        _stop_row(result, node, cells, reason)
        for reason, mask in ((unsure, above & ~rejected), (REJECTED, above & rejected))
        for node, cells in groups_of(np.where(mask, result.stop_nodes, -1))
        if node >= 0
    ]
    rows.sort(key=lambda row: -row[3])
    return Table.of("stops", "Cells that stop above a type, where, and why.", _STOPS, rows)


def _stop_row(result: Annotation, node: int, cells: np.ndarray, reason: str) -> tuple[Any, ...]:
    taxonomy, probabilities = result.taxonomy, result.node_probabilities[cells]
    best = probabilities[:, taxonomy.children(node)].max(axis=1).mean()
    leaf, of_leaf = groups_of(result.leaf_nodes[cells])[0]
    return (
        *name_of(taxonomy, node),
        reason,
        len(cells),
        len(cells) / len(result),
        probabilities[:, node].mean(),
        best,
        taxonomy.label(leaf),
        len(of_leaf) / len(cells),
    )


def above_a_type(result: Annotation) -> np.ndarray:
    """Whether each cell stops above a type, bool, shape ``(n_cells,)``."""
    return ~np.isin(result.stop_nodes, result.taxonomy.leaves)


def _rejected(result: Annotation) -> np.ndarray:
    """Whether each cell stops above where its probabilities alone would let it stop."""
    if result.max_stop_depth is None:
        return np.zeros(len(result), dtype=bool)
    free = decode(
        result.taxonomy,
        result.node_probabilities,
        decoder=result.decoder,
        threshold=result.threshold,
    )
    return np.asarray(free.stop != result.stop_nodes)


def groups_of(nodes: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Each value that occurs with the positions of its cells, the most frequent first."""
    order = np.argsort(nodes, kind="stable")
    values, starts = np.unique(nodes[order], return_index=True)
    groups = zip(values.tolist(), np.split(order, starts[1:]), strict=False)
    return sorted(groups, key=lambda group: -len(group[1]))


def name_of(taxonomy: Taxonomy, node: int) -> tuple[str, str]:
    """Label of a node, and the path above it; ``"Unknown"`` for the root."""
    if node == 0:
        return LABEL_COLUMNS.ROOT, ""
    *above, label = taxonomy.path(node)
    return label, " > ".join(above)


def bins_of(values: np.ndarray) -> tuple[int, ...]:
    """Cells in each twentieth of the way from 0 to 1."""
    counts, _ = np.histogram(np.clip(values, 0, 1), bins=N_BINS, range=(0.0, 1.0))
    return tuple(counts.tolist())
