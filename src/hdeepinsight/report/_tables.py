"""Tables of the page; what people read and what its machine-readable part holds are one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import pandas as pd

from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight.annotation import Annotation, Evaluation, LabelSets
from hdeepinsight.taxonomy import CellType, Taxonomy, cell_type

if TYPE_CHECKING:
    from hdeepinsight.tl import MarkerEvidence

#: More rows than this make a page that nobody reads and that grows with the data.
MAX_ROWS: Final = 1_000
N_BINS: Final = 20
#: Of label sets, the share that may miss the truth; of novelty, the p-value that counts as novel.
ALPHA, NOVEL = 0.1, 0.05
#: Column of the novelty, how to find its cells, and in words.
_MEASURES: Final = {
    "lineage_p_value": "recognised by no lineage",
    "type_p_value": "recognised by no type of their lineage",
    "is_doublet": "of two lineages at once, as doublets are",
    "is_ambient": "like the background, as empty droplets are",
}


class Label(NamedTuple):
    """A label as a cell of a table: its name, level, colour, and the address of its definition."""

    name: str
    depth: int = 1
    color: str | None = None
    link: str | None = None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Table:
    """Rows that can be sorted and, where there are many, filtered.

    Parameters
    ----------
    key
        Name in the machine-readable part, and anchor on the page.
    caption
        What the table shows, in a sentence.
    columns
        Name of every column, and what it holds, which decides how it is written and sorted:
        ``"text"``, ``"count"``, ``"number"``, ``"share"`` (percent with a bar) or ``"bins"``
        (counts of a histogram). The first one names the row.
    rows
        One tuple per row; ``None`` where there is no value.
    filtered
        Whether the page offers to filter the rows.
    """

    key: str
    caption: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Any]]
    filtered: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Give caption and rows, each row by the names of its columns."""
        names = [name for name, _ in self.columns]
        rows = [dict(zip(names, row, strict=True)) for row in self.rows]
        return {"caption": self.caption, "rows": plain(rows)}


def _table(
    key: str,
    caption: str,
    columns: str,
    rows: Sequence[tuple[Any, ...]],
    *,
    filtered: bool = False,
    n_rows: int = 0,
) -> Table:
    """Make a table of the first rows, without columns that say nothing in any of them.

    Parameters
    ----------
    key, caption, rows, filtered
        As in :class:`Table`.
    columns
        Names separated by commas, each with its kind behind a colon where it is not text.
    n_rows
        How many rows there would be, where the caller made only the first of them.
    """
    if max(n_rows, len(rows)) > MAX_ROWS:
        caption += f" The first {MAX_ROWS:,} of {max(n_rows, len(rows)):,} are shown."
    named = [name.partition(": ")[::2] for name in columns.split(", ")]
    said = [i for i in range(len(named)) if not rows or any(row[i] != "" for row in rows)]
    kinds = [(named[i][0], named[i][1] or "text") for i in said]
    return Table(key, caption, kinds, [[row[i] for i in said] for row in rows[:MAX_ROWS]], filtered)


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
    if isinstance(value, list | tuple) and not isinstance(value, Label):
        return [plain(item) for item in value]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def composition(result: Annotation) -> Table:
    """Tabulate the cells at or under every node, in the order of the tree."""
    tree, stops, first = result.taxonomy, result.stop_nodes, first_of_label(result.taxonomy)
    rows: list[tuple[Any, ...]] = []
    for node in shown_nodes(tree):
        cells = np.flatnonzero(tree.node_at_level[stops, tree.depth[node] - 1] == node)
        if len(cells):
            values, here = result.node_probabilities[cells, node], first[stops[cells]] == node
            shown = values.mean(), np.quantile(values, 0.05), bins_of(values)
            share = len(cells) / len(result)
            rows.append((label_of(result, node), len(cells), share, int(here.sum()), *shown))
    if unknown := int((stops == 0).sum()):
        share, none = unknown / len(result), (None, None, bins_of(stops[:0]))
        rows.append((label_of(result, 0), unknown, share, unknown, *none))
    return _table(
        "composition",
        "Cells at or under each label, those whose label goes no further, and how sure it is.",
        "Label, Cells: count, Share of cells: share, Stop here: count, Mean probability: number, "
        "5 % lie below: number, Probability from 0 to 1: bins",
        rows,
    )


def stops(result: Annotation) -> Table:
    """Tabulate the cells whose label ends above a type: where, and why."""
    rows, tree, above = [], result.taxonomy, np.flatnonzero(above_a_type(result))
    keys = [result.stop_reason.to_numpy()[above], result.stop_nodes[above]]
    for (reason, node), at in pd.Series(above).groupby(keys, sort=False):
        probabilities, n = result.node_probabilities[at], len(at)
        leaf, of_leaf = groups_of(result.leaf_nodes[at])[0]
        there = probabilities[:, node].mean() if node else None
        best = probabilities[:, tree.children(node)].max(axis=1).mean()
        where = label_of(result, int(node)), reason, n, n / len(result)
        rows.append((*where, there, best, tree.label(leaf), len(of_leaf) / n))
    return _table(
        "stops",
        "Cells whose label ends above a type, where, and why.",
        "Stopped at, Why, Cells: count, Share of cells: share, Mean probability there: number, "
        "Mean of the best child: number, Most frequent nearest type, Share of that type: share",
        sorted(rows, key=lambda row: -row[2]),
    )


def above_a_type(result: Annotation) -> np.ndarray:
    """Return whether each cell's label ends above a type, bool, shape ``(n_cells,)``."""
    return ~np.isin(result.stop_nodes, result.taxonomy.leaves)


def label_sets(result: Annotation) -> tuple[LabelSets | None, Table | None]:
    """Count the cells by the size of their label set; ``None`` where nothing is promised."""
    if result.calibration is None or not len(result):
        return None, None
    sets = result.label_sets(ALPHA)
    counts = sets.size.value_counts().sort_index()
    rows = [(n, count, count / len(result)) for n, count in counts.items()]
    caption = f"Cells by the number of types in their label set (alpha {ALPHA})."
    columns = "Types in the set: count, Cells: count, Share of cells: share"
    return sets, _table("label_sets", caption, columns, rows)


def novelty(result: Annotation) -> tuple[Table, ...]:
    """Count the cells that are novel, doublets or empty, and by their nearest type."""
    if result.novelty is None or not len(result):
        return ()
    flags, rows = {}, list[tuple[Any, ...]]()
    for name in filter(result.novelty.__contains__, _MEASURES):
        values = result.novelty[name].to_numpy()
        flag = flags[name] = values if values.dtype == bool else values <= NOVEL
        by_chance = NOVEL if name.endswith("value") else None
        rows.append((_MEASURES[name], int(flag.sum()), flag.mean(), by_chance))
    caption = f"Cells unlike those of the reference (p-value of at most {NOVEL})."
    columns = "Found, Cells: count, Share of cells: share, By chance: share"
    overall = _table("novelty", caption, columns, rows)
    rows = []
    for leaf, cells in groups_of(result.leaf_nodes):
        shares = (flags[name][cells].mean() if name in flags else "" for name in _MEASURES)
        rows.append((result.taxonomy.label(leaf), len(cells), *shares))
    caption = "The same by the type that the cells come nearest to."
    columns = (
        "Nearest type, Cells: count, Of no known lineage: share, Of no known type: share, "
        "Two lineages at once: share, Like the background: share"
    )
    return overall, _table("novelty_by_type", caption, columns, rows, filtered=True)


def scores(evaluation: Evaluation) -> Table:
    """Tabulate the scores of every level against known labels."""
    names = ["accuracy", "macro_f1", "balanced_accuracy", "ece"]
    rows = [
        (str(level), int(row["n_cells"]), *map(float, row[names]))
        for level, row in evaluation.levels.iterrows()
    ]
    caption = f"{evaluation.n_cells:,} cells with known labels, every cell followed to a type."
    columns = "Level, Cells: count, Accuracy: share, Macro-F1: number, Balanced accuracy: number, "
    return _table("scores", caption, f"{columns}Expected calibration error: number", rows)


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
            name = result.taxonomy.label(node) if node else LABEL_COLUMNS.ROOT
            found += name, len(at) / len(cells)
        sure = confidence[cells].mean(), above[cells].mean()
        rows.append((names[code], len(cells), *(*found, None, None)[:4], *sure))
    columns = (
        "Cluster, Cells: count, Most frequent label, Share of that label: share, Second label, "
        "Share of the second: share, Mean confidence: number, Stopped above a type: share"
    )
    caption = "What the cells of each cluster are called."
    return _table("clusters", caption, columns, rows, filtered=True, n_rows=len(groups))


def evidence(result: Annotation, found: MarkerEvidence | None) -> tuple[Table, ...]:
    """Tabulate the markers of every label in words and gene by gene, and what the labels are."""
    if found is None or found.labels.empty:
        return ()
    tree, rows, genes, terms = result.taxonomy, [], [], []
    nodes = {tree.path_name(node): node for node in range(1, tree.n_nodes)}
    for path, of in found.labels.iterrows():
        node, own = nodes[str(path)], found.table[found.table["path"] == path]
        label, says = label_of(result, node), own["supports"].map({True: "yes", False: "no"})
        says = says.fillna("not judged").where(own["mean"].notna(), "not measured")
        lists = [", ".join(own.loc[says == word, "gene"]) for word in ("yes", "no", "not measured")]
        verdict = str(of["verdict"])
        if verdict in ("supported", "contradicted"):
            verdict = f"{verdict} ({of['n_supporting']} of {of['n_markers']})"
        rows.append((label, of["n_cells"], verdict, *lists))
        if known := _term(tree, node):
            terms.append((label, known.name, tree.ontology_ids[tree.names[node]], known.definition))
        numbers = ["gene", "source", "compared_with", "mean", "other_mean", "share", "other_share"]
        lines = own[numbers].itertuples(index=False)
        genes += [(label.name, *line, word) for line, word in zip(lines, says, strict=True)]
    read = f"{len(found.rows):,} of {found.n_cells:,} cells were read"
    read = "all cells were read" if len(found.rows) == found.n_cells else read
    caption = f"Markers of each label, and whether its cells express them ({read})."
    columns = "Label, Cells read: count, Markers, Higher here, Not higher here, Not measured"
    by_gene = (
        "Label, Gene, Named by, Compared with, Mean: number, Elsewhere: number, "
        "Cells that express it: share, Elsewhere : share, Supports the label"
    )
    about = "Mean log1p of counts per 10,000, and share of expressing cells, gene by gene."
    meant = "What the labels mean, by the Cell Ontology."
    return (
        _table("evidence", caption, columns, rows),
        _table("marker_genes", about, by_gene, genes, filtered=True),
        *([_table("definitions", meant, "Label, Cell type, Id, Definition", terms)] * bool(terms)),
    )


def shown_nodes(tree: Taxonomy) -> list[int]:
    """Return the nodes in tree order, without those that only repeat the label above them."""
    first = first_of_label(tree)
    nodes = (node for node in range(1, tree.n_nodes) if first[node] == node)
    return sorted(nodes, key=lambda node: tree.ancestors(node).tolist())


@lru_cache(maxsize=8)
def first_of_label(tree: Taxonomy) -> np.ndarray:
    """Return the highest node whose label each node only repeats, or the node itself."""
    first = np.arange(tree.n_nodes)
    for node in range(1, tree.n_nodes):  # parents come before their children
        if tree.label(node) == tree.label(int(tree.parent[node])):
            first[node] = first[tree.parent[node]]
    return first


def groups_of(nodes: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return each value that occurs with the positions of its cells, the most frequent first."""
    order = np.argsort(nodes, kind="stable")
    values, starts = np.unique(nodes[order], return_index=True)
    groups = zip(values.tolist(), np.split(order, starts[1:]), strict=False)
    return sorted(groups, key=lambda group: -len(group[1]))


def _term(tree: Taxonomy, node: int) -> CellType | None:
    return cell_type(tree.ontology_ids.get(tree.names[node], "")) if node else None


def label_of(result: Annotation, node: int) -> Label:
    """Return the label of a node, in its colour; ``"Unknown"`` for the root."""
    tree, term = result.taxonomy, _term(result.taxonomy, node)
    name = tree.label(node) if node else LABEL_COLUMNS.ROOT
    depth = len(set(first_of_label(tree)[tree.ancestors(node)].tolist()))
    return Label(name, max(1, depth), result.colors.get(name), term and term.link)


def bins_of(values: np.ndarray) -> list[int]:
    """Count the cells in each twentieth of the way from 0 to 1."""
    counts, _ = np.histogram(np.clip(values, 0, 1), bins=N_BINS, range=(0.0, 1.0))
    return list(counts.tolist())
