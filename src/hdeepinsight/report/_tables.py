"""Tables of the report: labels, confidence, where paths stop, clusters.

What the page shows and what its machine-readable part holds are one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import numpy as np
import pandas as pd

from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight.annotation import Annotation, decode
from hdeepinsight.taxonomy import Taxonomy

#: ``"share"`` is written as percent with a bar, ``"bins"`` (counts of a histogram) as a drawing.
Kind = Literal["text", "count", "share", "number", "bins"]

#: More rows than this make a page that nobody reads and that grows with the data.
MAX_ROWS: Final = 1_000


@dataclass(frozen=True)
class Column:
    """One column.

    Parameters
    ----------
    name
        Heading.
    kind
        What its values are, which decides how they are written and sorted.
    """

    name: str
    kind: Kind = "text"


def columns_of(text: str) -> tuple[Column, ...]:
    """Read columns that are separated by commas, each with its kind behind a colon.

    Examples
    --------
    >>> columns_of("Label, Cells: count")
    (Column(name='Label', kind='text'), Column(name='Cells', kind='count'))
    """
    parts = (part.partition(": ") for part in text.split(", "))
    return tuple(Column(name, cast("Kind", kind or "text")) for name, _, kind in parts)


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that can be sorted and, where there are many, filtered.

    Parameters
    ----------
    key
        Name in the machine-readable part, and anchor on the page.
    caption
        What the table shows, in a sentence.
    columns
        The columns; the first one names the row.
    rows
        One tuple per row; ``None`` where there is no value.
    filtered
        Whether the page offers to filter the rows.
    """

    key: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    filtered: bool = False

    @classmethod
    def of(
        cls,
        key: str,
        caption: str,
        columns: Sequence[Column],
        rows: Sequence[tuple[Any, ...]],
        *,
        filtered: bool = False,
        n_rows: int | None = None,
    ) -> Table:
        """Make a table of the first rows, without columns that say nothing in any of them.

        Parameters
        ----------
        key, caption, columns, rows, filtered
            As above.
        n_rows
            How many rows there would be, where the caller made only the first of them.
        """
        n_rows = len(rows) if n_rows is None else n_rows
        if n_rows > MAX_ROWS:
            caption += f" The first {MAX_ROWS:,} of {n_rows:,} are shown."
        said = [i for i in range(len(columns)) if not rows or any(row[i] != "" for row in rows)]
        return cls(
            key=key,
            caption=caption,
            columns=tuple(columns[i] for i in said),
            rows=tuple(tuple(row[i] for i in said) for row in rows[:MAX_ROWS]),
            filtered=filtered,
        )

    def to_dict(self) -> dict[str, Any]:
        """Give caption and rows, each row by the names of its columns."""
        names = [column.name for column in self.columns]
        rows = [dict(zip(names, row, strict=True)) for row in self.rows]
        return {"caption": self.caption, "rows": plain(rows)}


def plain(value: Any) -> Any:
    """Turn a value into what JSON has: numbers that it lacks become ``None``, objects text.

    Examples
    --------
    >>> import numpy as np
    >>> plain({"a": np.float32(0.5), 2: (np.nan, np.int64(3), {"x"})})
    {'a': 0.5, '2': [None, 3, "{'x'}"]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


N_BINS: Final = 20
REJECTED: Final = "rejected: novel to the reference"

_LEVEL: Final = columns_of(
    "Label, Within, Cells: count, Share of cells: share, Confident at this level: share, "
    "Mean probability: number"
)
_LABELS: Final = columns_of(
    "Label, Within, Cells: count, Share of cells: share, Mean: number, "
    "5 % lie below: number, Median: number, 5 % lie above: number, Mean margin: number, "
    "From 0 to 1: bins"
)
_STOPS: Final = columns_of(
    "Stopped at, Within, Why, Cells: count, Share of cells: share, "
    "Mean probability there: number, Mean of the best child: number, "
    "Most frequent nearest type, Share of that type: share"
)


def composition(result: Annotation) -> tuple[Table, ...]:
    """Tabulate the cells of each label, level by level."""
    depths = range(1, result.taxonomy.max_depth + 1)
    return tuple(_composition_of(result, depth) for depth in depths)


def _composition_of(result: Annotation, depth: int) -> Table:
    nodes = result.level_nodes(depth)
    confident = result.stop_depth.to_numpy() >= depth
    rows = [
        (
            *name_of(result.taxonomy, node),
            len(cells),
            len(cells) / len(result),
            confident[cells].mean() if node > 0 else None,
            result.node_probabilities[cells, node].mean() if node > 0 else None,
        )
        for node, cells in groups_of(nodes)
    ]
    caption = f"Cells of each label at the level {result.taxonomy.level_names[depth - 1]}."
    return Table.of(f"level_{depth}", caption, _LEVEL, rows)


def labels(result: Annotation) -> Table:
    """How sure the cells of each label are, at the node where their path stops."""
    caption = "Confidence of the cells of each label, where their path stops."
    confidence, margin = result.confidence.to_numpy(), result.margin.to_numpy()
    rows = [
        (
            *name_of(result.taxonomy, node),
            len(cells),
            len(cells) / len(result),
            confidence[cells].mean(),
            *np.quantile(confidence[cells], (0.05, 0.5, 0.95)),
            margin[cells].mean(),
            bins_of(confidence[cells]),
        )
        for node, cells in groups_of(result.stop_nodes)
    ]
    return Table.of("labels", caption, _LABELS, rows, filtered=True)


def stops(result: Annotation) -> Table:
    """Cells whose path ends above a type: where, and why."""
    above, rejected = above_a_type(result), _rejected(result)
    unsure = f"no child reaches {result.threshold}"
    rows = []
    for reason, mask in ((unsure, above & ~rejected), (REJECTED, above & rejected)):
        stopped = np.flatnonzero(mask)
        for node, at in groups_of(result.stop_nodes[stopped]):
            probabilities = result.node_probabilities[stopped[at]]
            leaf, of_leaf = groups_of(result.leaf_nodes[stopped[at]])[0]
            row = (
                *name_of(result.taxonomy, node),
                reason,
                len(at),
                len(at) / len(result),
                probabilities[:, node].mean(),
                probabilities[:, result.taxonomy.children(node)].max(axis=1).mean(),
                result.taxonomy.label(leaf),
                len(of_leaf) / len(at),
            )
            rows.append(row)
    rows.sort(key=lambda row: -row[3])
    return Table.of("stops", "Cells that stop above a type, where, and why.", _STOPS, rows)


def above_a_type(result: Annotation) -> np.ndarray:
    """Whether each cell stops above a type, bool, shape ``(n_cells,)``."""
    return ~np.isin(result.stop_nodes, result.taxonomy.leaves)


def _rejected(result: Annotation) -> np.ndarray:
    """Whether each cell stops above where its probabilities alone would let it stop."""
    if result.supported_depth is None:
        return np.zeros(len(result), dtype=bool)
    free = decode(
        result.taxonomy,
        result.node_probabilities,
        decoder=result.decoder,
        threshold=result.threshold,
        node_thresholds=result.node_thresholds,
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


NO_CLUSTER: Final = "(no cluster)"


def cluster_table(result: Annotation, clusters: Any | None) -> Table:
    """Tabulate each cluster: its most frequent labels, and how sure its cells are.

    Parameters
    ----------
    result
        The annotation.
    clusters
        The cluster of every cell, ``(n_cells,)``; by default the labels where paths stop, and then
        the types are counted to which their cells come nearest.
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
    columns = columns_of(
        f"{kind.capitalize()}, Cells: count, Most frequent {counted}, "
        f"Share of that {counted}: share, Second {counted}, Share of the second: share, "
        "Mean confidence: number, Stopped above a type: share"
    )
    caption = f"What the cells of each {kind} are called."
    return Table.of("clusters", caption, columns, rows, filtered=True, n_rows=len(groups))


def _groups(result: Annotation, clusters: Any | None) -> list[tuple[str, np.ndarray]]:
    """Name and positions of the cells of each group, the largest first."""
    if clusters is None:
        found = groups_of(result.stop_nodes)
        return [(name_of(result.taxonomy, node)[0], cells) for node, cells in found]
    column: pd.Categorical = pd.Categorical(clusters)
    names = [*map(str, column.categories), NO_CLUSTER]  # code -1 takes the last name
    return [(names[code], cells) for code, cells in groups_of(np.asarray(column.codes))]


def _two_most_frequent(result: Annotation, nodes: np.ndarray) -> tuple[str | float | None, ...]:
    """Label and share of the most frequent node, and of the second one if there is one."""
    found: list[str | float | None] = []
    for node, cells in groups_of(nodes)[:2]:
        found += name_of(result.taxonomy, node)[0], len(cells) / len(nodes)
    return (*found, None, None)[:4]
