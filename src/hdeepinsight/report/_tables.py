"""Tables of the page; what people read and what its machine-readable part holds are one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
import pandas as pd

from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight.annotation import Annotation, Evaluation, LabelSets, evaluate_annotation
from hdeepinsight.taxonomy import Taxonomy
from hdeepinsight.tl import cell_type

if TYPE_CHECKING:
    from hdeepinsight.tl import MarkerEvidence

#: ``"share"`` is written as percent with a bar, ``"bins"`` (counts of a histogram) as a drawing.
Kind = Literal["text", "count", "share", "number", "bins"]

#: More rows than this make a page that nobody reads and that grows with the data.
MAX_ROWS: Final = 1_000


@dataclass(frozen=True)
class Label:
    """A label as a cell of a table: its name, level, colour, and the address of its definition."""

    name: str
    depth: int = 1
    color: str | None = None
    link: str | None = None

    def __str__(self) -> str:
        return self.name


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
#: Of label sets, the share that may miss the truth; of novelty, the p-value that counts as novel.
ALPHA, NOVEL = 0.1, 0.05

_COMPOSITION: Final = columns_of(
    "Label, Cells: count, Share of cells: share, Stop here: count, Mean probability: number, "
    "5 % lie below: number, From 0 to 1: bins"
)
_STOPS: Final = columns_of(
    "Stopped at, Why, Cells: count, Share of cells: share, Mean probability there: number, "
    "Mean of the best child: number, Most frequent nearest type, Share of that type: share"
)
_SIZES: Final = columns_of("Types in the set: count, Cells: count, Share of cells: share")
_NOVELTY: Final = columns_of("Found, Cells: count, Share of cells: share, By chance: share")
_NEAREST: Final = columns_of(
    "Nearest type, Cells: count, Of no known lineage: share, Of no known type: share, "
    "Two lineages at once: share, Like the background: share"
)
_SCORES: Final = columns_of(
    "Level, Cells: count, Accuracy: share, Macro-F1: number, Balanced accuracy: number, "
    "Expected calibration error: number"
)
_EVIDENCE: Final = columns_of(
    "Label, Cells read: count, Markers, Higher here, Not higher here, Not measured, What it is"
)
_GENES: Final = columns_of(
    "Label, Gene, Named by, Compared with, Mean: number, Elsewhere: number, "
    "Cells that express it: share, Elsewhere : share, Supports the label"
)


def composition(result: Annotation) -> Table:
    """Tabulate the cells at or under every node, in the order of the tree."""
    tree, stops = result.taxonomy, result.stop_nodes
    nodes, cells_of = shown_nodes(tree), dict[int, np.ndarray]()
    for depth in range(tree.max_depth):
        cells_of |= dict(groups_of(tree.node_at_level[stops, depth]))
    rows = []
    for node in nodes:
        if node not in cells_of:
            continue
        cells = cells_of[node]
        values = result.node_probabilities[cells, node]
        here = int(np.isin(stops[cells], same_label(tree, node)).sum())
        shown = values.mean(), np.quantile(values, 0.05), bins_of(values)
        rows.append((label_of(result, node), len(cells), len(cells) / len(result), here, *shown))
    if unknown := int((stops == 0).sum()):
        root = label_of(result, 0)
        rows.append((root, unknown, unknown / len(result), unknown, None, None, bins_of(stops[:0])))
    caption = "Cells at or under each label, those whose label goes no further, and how sure it is."
    return Table.of("composition", caption, _COMPOSITION, rows)


def stops(result: Annotation) -> Table:
    """Tabulate the cells whose label ends above a type: where, and why."""
    reasons = result.stop_reason.to_numpy()
    rows = []
    for reason in dict.fromkeys(reasons.tolist()):
        stopped = np.flatnonzero((reasons == reason) & above_a_type(result))
        for node, at in groups_of(result.stop_nodes[stopped]):
            probabilities = result.node_probabilities[stopped[at]]
            leaf, of_leaf = groups_of(result.leaf_nodes[stopped[at]])[0]
            row = (
                label_of(result, node),
                reason,
                len(at),
                len(at) / len(result),
                probabilities[:, node].mean() if node else None,
                probabilities[:, result.taxonomy.children(node)].max(axis=1).mean(),
                result.taxonomy.label(leaf),
                len(of_leaf) / len(at),
            )
            rows.append(row)
    rows.sort(key=lambda row: -row[2])
    return Table.of("stops", "Cells whose label ends above a type, where, and why.", _STOPS, rows)


def above_a_type(result: Annotation) -> np.ndarray:
    """Return whether each cell's label ends above a type, bool, shape ``(n_cells,)``."""
    return ~np.isin(result.stop_nodes, result.taxonomy.leaves)


def label_sets(result: Annotation) -> tuple[LabelSets | None, Table | None]:
    """Count the cells by the size of their label set; ``None`` where nothing is promised."""
    if result.calibration is None or not len(result):
        return None, None
    sets = result.label_sets(ALPHA)
    sizes, counts = np.unique(sets.size, return_counts=True)
    rows = [(n, count, count / len(result)) for n, count in zip(sizes, counts, strict=True)]
    caption = f"Cells by the number of types in their label set (alpha {ALPHA})."
    return sets, Table.of("label_sets", caption, _SIZES, rows)


#: Column of the novelty, how to find its cells, and in words.
_MEASURES: Final = {
    "lineage_p_value": "recognised by no lineage",
    "type_p_value": "recognised by no type of their lineage",
    "p_value": "far from all types",
    "is_doublet": "of two lineages at once, as doublets are",
    "is_ambient": "like the background, as empty droplets are",
}


def novelty(result: Annotation) -> tuple[Table, ...]:
    """Count the cells that are novel, doublets or empty, and by their nearest type."""
    if result.novelty is None or not len(result):
        return ()
    flags = {
        name: (values if values.dtype == bool else values <= NOVEL)
        for name in _MEASURES
        if name in result.novelty and (values := result.novelty[name].to_numpy()).size
    }
    rows: list[tuple[Any, ...]] = [
        (_MEASURES[name], int(flag.sum()), flag.mean(), NOVEL if name.endswith("value") else None)
        for name, flag in flags.items()
    ]
    caption = f"Cells unlike those of the reference (p-value of at most {NOVEL})."
    overall = Table.of("novelty", caption, _NOVELTY, rows)
    of_type = flags.get("type_p_value", flags.get("p_value"))
    columns = (flags.get("lineage_p_value"), of_type, *map(flags.get, ("is_doublet", "is_ambient")))
    rows = [
        (
            result.taxonomy.label(leaf),
            len(cells),
            *("" if flag is None else flag[cells].mean() for flag in columns),
        )
        for leaf, cells in groups_of(result.leaf_nodes)
    ]
    caption = "The same by the type that the cells come nearest to."
    return overall, Table.of("novelty_by_type", caption, _NEAREST, rows, filtered=True)


def scores(result: Annotation, true_nodes: np.ndarray) -> tuple[Evaluation, Table]:
    """Return scores against known labels, and the same as a table of levels."""
    evaluation = evaluate_annotation(result, true_nodes)
    names = ["accuracy", "macro_f1", "balanced_accuracy", "ece"]
    rows = [
        (str(level), int(row["n_cells"]), *map(float, row[names]))
        for level, row in evaluation.levels.iterrows()
    ]
    caption = f"{evaluation.n_cells:,} cells with known labels, every cell followed to a type."
    return evaluation, Table.of("scores", caption, _SCORES, rows)


def clusters(result: Annotation, given: Any | None) -> Table | None:
    """Tabulate each cluster: its most frequent labels, and how sure its cells are."""
    if given is None or not len(result):
        return None
    column: pd.Categorical = pd.Categorical(given)
    names = [*map(str, column.categories), "(no cluster)"]  # code -1 takes the last name
    groups = groups_of(np.asarray(column.codes))
    confidence, above = result.confidence.to_numpy(), above_a_type(result)
    rows = []
    for code, cells in groups[:MAX_ROWS]:
        found: list[Any] = []
        for node, at in groups_of(result.stop_nodes[cells])[:2]:
            found += label_of(result, node).name, len(at) / len(cells)
        sure = confidence[cells].mean(), above[cells].mean()
        rows.append((names[code], len(cells), *(*found, None, None)[:4], *sure))
    columns = columns_of(
        "Cluster, Cells: count, Most frequent label, Share of that label: share, Second label, "
        "Share of the second: share, Mean confidence: number, Stopped above a type: share"
    )
    caption = "What the cells of each cluster are called."
    return Table.of("clusters", caption, columns, rows, filtered=True, n_rows=len(groups))


def evidence(result: Annotation, found: MarkerEvidence | None) -> tuple[Table, ...]:
    """Tabulate the markers of every label: in words, and gene by gene."""
    if found is None or found.labels.empty:
        return ()
    tree, rows, genes = result.taxonomy, [], []
    nodes = {tree.path_name(node): node for node in range(1, tree.n_nodes)}
    for path, of in found.labels.iterrows():
        label, own = label_of(result, nodes[str(path)]), found.table[found.table["path"] == path]
        supports = own["supports"].fillna(value=False).to_numpy(dtype=bool)
        against = own["supports"].notna().to_numpy() & ~supports
        lists = [
            ", ".join(own.loc[mask, "gene"]) for mask in (supports, against, own["mean"].isna())
        ]
        term = tree.ontology_ids.get(tree.names[nodes[str(path)]], "")
        known = cell_type(term)
        what = "" if known is None else f"{known.name} ({term}): {known.definition}"
        verdict = str(of["verdict"])
        if verdict in ("supported", "contradicted"):
            verdict = f"{verdict} ({of['n_supporting']} of {of['n_markers']})"
        rows.append((label, of["n_cells"], verdict, *lists, what))
        for row in own.itertuples():
            says = "not judged" if row.supports is pd.NA else "yes" if row.supports else "no"
            says = "not measured" if math.isnan(row.mean) else says
            numbers = row.mean, row.other_mean, row.share, row.other_share
            genes.append((label.name, row.gene, row.source, row.compared_with, *numbers, says))
    read = f"{len(found.rows):,} of {found.n_cells:,} cells were read"
    read = "all cells were read" if len(found.rows) == found.n_cells else read
    caption = f"Markers of each label, and whether its cells express them ({read})."
    by_gene = "Mean log1p of counts per 10,000, and share of expressing cells, gene by gene."
    return (
        Table.of("evidence", caption, _EVIDENCE, rows),
        Table.of("marker_genes", by_gene, _GENES, genes, filtered=True),
    )


def shown_nodes(tree: Taxonomy) -> list[int]:
    """Return the nodes in tree order, without those that only repeat the label above them."""
    nodes = sorted(range(1, tree.n_nodes), key=lambda node: tree.ancestors(node).tolist())
    return [node for node in nodes if not _repeats(tree, node)]


def _repeats(tree: Taxonomy, node: int) -> bool:
    return node > 0 and tree.label(node) == tree.label(int(tree.parent[node]))


def same_label(tree: Taxonomy, node: int) -> list[int]:
    """Return a node and those under it that only repeat its label."""
    found = [node]
    for at in found:
        found += [child for child in tree.children(at).tolist() if _repeats(tree, child)]
    return found


def groups_of(nodes: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return each value that occurs with the positions of its cells, the most frequent first."""
    order = np.argsort(nodes, kind="stable")
    values, starts = np.unique(nodes[order], return_index=True)
    groups = zip(values.tolist(), np.split(order, starts[1:]), strict=False)
    return sorted(groups, key=lambda group: -len(group[1]))


def label_of(result: Annotation, node: int) -> Label:
    """Return the label of a node, in its colour; ``"Unknown"`` for the root."""
    tree = result.taxonomy
    name = tree.label(node) if node else LABEL_COLUMNS.ROOT
    repeated = sum(_repeats(tree, v) for v in tree.ancestors(node).tolist())
    depth = max(1, int(tree.depth[node]) - repeated)
    term = cell_type(tree.ontology_ids.get(tree.names[node], "")) if node else None
    return Label(name, depth, result.colors.get(name), None if term is None else term.link)


def bins_of(values: np.ndarray) -> tuple[int, ...]:
    """Count the cells in each twentieth of the way from 0 to 1."""
    counts, _ = np.histogram(np.clip(values, 0, 1), bins=N_BINS, range=(0.0, 1.0))
    return tuple(counts.tolist())
