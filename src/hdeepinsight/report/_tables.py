"""Compute the tables of the report, which are shown as HTML and included as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight.annotation import Annotation, Evaluation, LabelSets
from hdeepinsight.taxonomy import CellType, Taxonomy, cell_type
from hdeepinsight.tl import MarkerEvidence

#: Maximum number of rows, which limits the size of the report.
MAX_ROWS: Final = 1_000
TEMPLATES: Final = files("hdeepinsight.report") / "templates"
N_BINS: Final = 20
#: Error rate of the label sets, and largest p-value of novel cells.
ALPHA, NOVEL = 0.1, 0.05
#: Columns of the novelty, with their descriptions.
_MEASURES: Final = {
    "lineage_p_value": "no known lineage",
    "type_p_value": "no known type of their lineage",
    "is_doublet": "doublets of two lineages",
    "is_ambient": "empty droplets (ambient RNA)",
}


class Label(NamedTuple):
    """Label in a table: its name, level, colour, and a link to its definition."""

    name: str
    depth: int = 1
    color: str | None = None
    link: str | None = None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Table:
    """Table with sortable and, optionally, filterable rows.

    Parameters
    ----------
    key
        Key in the JSON, and anchor in the HTML.
    caption
        Description of the table, one sentence.
    columns
        Name and kind of each column. The kind determines formatting and sorting: ``"text"``,
        ``"count"``, ``"number"``, ``"share"`` (percent with a bar) or ``"bins"`` (counts of a
        histogram). The first column contains row names.
    rows
        One tuple per row; ``None`` for missing values.
    filtered
        Whether rows can be filtered.
    """

    key: str
    caption: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Sequence[Any]]
    filtered: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the caption and the rows, each as a dict of column names and values."""
        names = [name for name, _ in self.columns]
        rows = [dict(zip(names, row, strict=True)) for row in self.rows]
        return {"caption": self.caption, "rows": plain(rows)}


@cache
def _texts() -> Any:
    """Return the caption and the columns of each table."""
    return json.loads((TEMPLATES / "tables.json").read_text(encoding="utf-8"))


def _table(key: str, rows: Sequence[tuple[Any, ...]], *, n_rows: int = 0, **words: Any) -> Table:
    """Build a table of at most `MAX_ROWS` rows, without columns that are empty in all of them.

    Parameters
    ----------
    key, rows
        As in :class:`Table`.
    n_rows
        Total number of rows, if ``rows`` contains only the first of them.
    **words
        Values of the fields of the caption.
    """
    text = _texts()[key]
    columns, caption = list(text["columns"].items()), text["caption"].format(**words)
    if max(n_rows, len(rows)) > MAX_ROWS:
        caption += f" The first {MAX_ROWS:,} of {max(n_rows, len(rows)):,} are shown."
    filled = [i for i in range(len(columns)) if not rows or any(row[i] != "" for row in rows)]
    shown = [[row[i] for i in filled] for row in rows[:MAX_ROWS]]
    return Table(key, caption, [columns[i] for i in filled], shown, text.get("filtered", False))


def plain(value: Any) -> Any:
    """Convert a value to JSON types; non-finite numbers become ``None``, objects text.

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
    """Tabulate the cells at or below each node, in the order of the tree."""
    tree, stops, first = result.taxonomy, result.stop_nodes, result.taxonomy.first_of_label
    rows: list[tuple[Any, ...]] = []
    for node in tree.distinct_nodes:
        cells = np.flatnonzero(tree.node_at_level[stops, tree.depth[node] - 1] == node)
        if len(cells):
            values, here = result.node_probabilities[cells, node], first[stops[cells]] == node
            shown = values.mean(), np.quantile(values, 0.05), bins_of(values)
            share = len(cells) / len(result)
            rows.append((label_of(result, node), len(cells), share, int(here.sum()), *shown))
    if unknown := int((stops == 0).sum()):
        share, none = unknown / len(result), (None, None, bins_of(stops[:0]))
        rows.append((label_of(result, 0), unknown, share, unknown, *none))
    return _table("composition", rows)


def stops(result: Annotation) -> Table:
    """Tabulate the cells whose labels stop above a type, by node and reason."""
    rows, tree, above = [], result.taxonomy, np.flatnonzero(result.is_stopped)
    keys = [result.stop_reason.to_numpy()[above], result.stop_nodes[above]]
    for (reason, node), at in pd.Series(above).groupby(keys, sort=False):
        probabilities, n = result.node_probabilities[at], len(at)
        leaf, of_leaf = groups_of(result.leaf_nodes[at])[0]
        there = probabilities[:, node].mean() if node else None
        best = probabilities[:, tree.children(node)].max(axis=1).mean()
        where = label_of(result, int(node)), reason, n, n / len(result)
        rows.append((*where, there, best, tree.label(leaf), len(of_leaf) / n))
    return _table("stops", sorted(rows, key=lambda row: -row[2]))


def label_sets(result: Annotation) -> tuple[LabelSets | None, Table | None]:
    """Count the cells by the size of their label set; ``None`` without a calibration."""
    if result.calibration is None or not len(result):
        return None, None
    sets = result.label_sets(ALPHA)
    counts = sets.size.value_counts().sort_index()
    rows = [(n, count, count / len(result)) for n, count in counts.items()]
    return sets, _table("label_sets", rows, alpha=ALPHA)


def novelty(result: Annotation) -> tuple[Table, ...]:
    """Count novel cells, doublets and empty droplets, overall and by nearest type."""
    if result.novelty is None or not len(result):
        return ()
    flags, rows = {}, list[tuple[Any, ...]]()
    for name in filter(result.novelty.__contains__, _MEASURES):
        values = result.novelty[name].to_numpy()
        flag = flags[name] = values if values.dtype == bool else values <= NOVEL
        by_chance = NOVEL if name.endswith("value") else None
        rows.append((_MEASURES[name], int(flag.sum()), flag.mean(), by_chance))
    overall = _table("novelty", rows, novel=NOVEL)
    rows = []
    for leaf, cells in groups_of(result.leaf_nodes):
        shares = (flags[name][cells].mean() if name in flags else "" for name in _MEASURES)
        rows.append((result.taxonomy.label(leaf), len(cells), *shares))
    return overall, _table("novelty_by_type", rows)


def scores(evaluation: Evaluation) -> Table:
    """Tabulate the scores at each level against known labels."""
    names = ["accuracy", "macro_f1", "balanced_accuracy", "ece"]
    rows = [
        (str(level), int(row["n_cells"]), *map(float, row[names]))
        for level, row in evaluation.levels.iterrows()
    ]
    note = f"{evaluation.note} " if evaluation.note else ""
    return _table("scores", rows, note=note, n_cells=evaluation.n_cells)


def clusters(result: Annotation, values: Any | None) -> Table | None:
    """Tabulate the most frequent labels and the mean confidence of each cluster."""
    if values is None or not len(result):
        return None
    column: pd.Categorical = pd.Categorical(values)
    names = [*map(str, column.categories), "(no cluster)"]  # code -1 is the last name
    groups = groups_of(np.asarray(column.codes))
    confidence, above = result.confidence.to_numpy(), result.is_stopped
    rows = []
    for code, cells in groups[:MAX_ROWS]:
        found: list[Any] = []
        for node, at in groups_of(result.stop_nodes[cells])[:2]:
            name = result.taxonomy.label(node) if node else LABEL_COLUMNS.ROOT
            found += name, len(at) / len(cells)
        means = confidence[cells].mean(), above[cells].mean()
        rows.append((names[code], len(cells), *(*found, None, None)[:4], *means))
    return _table("clusters", rows, n_rows=len(groups))


def evidence(result: Annotation, found: MarkerEvidence | None) -> tuple[Table, ...]:
    """Tabulate the markers of each label, by label and by gene, and the label definitions."""
    if found is None or found.labels.empty:
        return ()
    tree, rows, genes, terms = result.taxonomy, [], [], []
    nodes = {tree.path_name(node): node for node in range(1, tree.n_nodes)}
    for path, summary in found.labels.iterrows():
        node, own = nodes[str(path)], found.table[found.table["path"] == path]
        label, supports = label_of(result, node), own["supports"].map({True: "yes", False: "no"})
        supports = supports.fillna("not assessed").where(own["mean"].notna(), "not measured")
        words = "yes", "no", "not measured"
        lists = [", ".join(own.loc[supports == word, "gene"]) for word in words]
        verdict = str(summary["verdict"])
        if verdict in ("supported", "contradicted"):
            verdict = f"{verdict} ({summary['n_supporting']} of {summary['n_markers']})"
        rows.append((label, summary["n_cells"], verdict, *lists))
        if known := _term(tree, node):
            terms.append((label, known.name, tree.ontology_ids[tree.names[node]], known.definition))
        numbers = ["gene", "source", "compared_with", "mean", "other_mean", "share", "other_share"]
        lines = own[numbers].itertuples(index=False)
        genes += [(label.name, *line, word) for line, word in zip(lines, supports, strict=True)]
    read = f"{len(found.rows):,} of {found.n_cells:,} cells were read"
    read = "all cells were read" if len(found.rows) == found.n_cells else read
    tables = _table("evidence", rows, read=read), _table("marker_genes", genes)
    return (*tables, _table("definitions", terms)) if terms else tables


def groups_of(nodes: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Return the values with the positions of their cells, the most frequent first."""
    groups = pd.Series(nodes).groupby(nodes).indices
    return sorted(groups.items(), key=lambda group: -len(group[1]))


def _term(tree: Taxonomy, node: int) -> CellType | None:
    return cell_type(tree.ontology_ids.get(tree.names[node], "")) if node else None


def label_of(result: Annotation, node: int) -> Label:
    """Return the label of a node with its colour; ``"Unknown"`` for the root."""
    tree, term = result.taxonomy, _term(result.taxonomy, node)
    name = tree.label(node) if node else LABEL_COLUMNS.ROOT
    depth = len(set(tree.first_of_label[tree.ancestors(node)].tolist()))
    return Label(name, max(1, depth), result.colors.get(name), term and term.link)


def bins_of(values: np.ndarray) -> list[int]:
    """Return the histogram of values from 0 to 1, in 20 bins."""
    counts, _ = np.histogram(np.clip(values, 0, 1), bins=N_BINS, range=(0.0, 1.0))
    return list(counts.tolist())
