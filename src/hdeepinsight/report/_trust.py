"""Label sets, novelty and known labels: what can be said about trust beyond the probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from hdeepinsight.annotation import Annotation, Evaluation, evaluate_annotation
from hdeepinsight.report._tables import Table, bins_of, columns_of, groups_of

#: Of label sets, the share that may miss the truth; of novelty, the p-value that counts as novel.
ALPHA, NOVEL = 0.1, 0.05

_SIZES: Final = columns_of("Types in the set: count, Cells: count, Share of cells: share")
_NOVELTY: Final = columns_of(
    "Compared with, Novel cells: count, Share of cells: share, "
    "Share among reference cells: share, p-values from 0 to 1: bins"
)
_NEAREST: Final = columns_of(
    "Nearest type, Cells: count, Novel to all types: count, "
    "Share novel to all types: share, Share novel to all lineages: share"
)
_SCORES: Final = columns_of(
    "Level, Cells: count, Accuracy: share, Macro-F1: number, Balanced accuracy: number, "
    "Expected calibration error: number"
)


@dataclass(frozen=True, kw_only=True)
class Sets:
    """Sizes of the label sets, and what they promise."""

    table: Table
    promised: float
    source: str
    mean_size: float
    share_single: float


def label_sets(result: Annotation) -> Sets | None:
    """Count the cells by the size of their label set; ``None`` where nothing is promised."""
    if result.calibration is None or not len(result):
        return None
    sets = result.label_sets(ALPHA)
    size = sets.size.to_numpy()
    sizes, counts = np.unique(size, return_counts=True)
    rows = [(n, count, count / len(size)) for n, count in zip(sizes, counts, strict=True)]
    table = Table.of(
        "label_sets",
        f"Cells by the number of types in their label set (alpha {ALPHA}).",
        _SIZES,
        rows,
    )
    return Sets(
        table=table,
        promised=sets.promised_coverage,
        source=sets.source,
        mean_size=float(size.mean()),
        share_single=float((size == 1).mean()),
    )


def novelty(result: Annotation) -> tuple[Table, ...]:
    """How many cells are novel, and which types they come nearest to; empty if unknown."""
    if result.novelty is None:
        return ()
    return _novelty(result.novelty), _novelty_by_type(result, result.novelty)


def _novelty(measured: pd.DataFrame) -> Table:
    compared = {"p_value": "all types", "lineage_p_value": "all lineages"}
    rows = []
    for column, name in compared.items():
        p = measured[column].to_numpy()
        n_novel = int((p <= NOVEL).sum())
        rows.append((name, n_novel, n_novel / max(1, len(p)), NOVEL, bins_of(p)))
    return Table.of(
        "novelty",
        f"Cells that are novel to the reference (p-value of at most {NOVEL}).",
        _NOVELTY,
        rows,
    )


def _novelty_by_type(result: Annotation, measured: pd.DataFrame) -> Table:
    novel = measured["p_value"].to_numpy() <= NOVEL
    unrecognised = measured["lineage_p_value"].to_numpy() <= NOVEL
    rows: list[tuple[Any, ...]] = [
        (
            result.taxonomy.label(leaf),
            len(cells),
            int(novel[cells].sum()),
            novel[cells].mean(),
            unrecognised[cells].mean(),
        )
        for leaf, cells in groups_of(result.leaf_nodes)
    ]
    rows = sorted(rows, key=lambda row: -row[2])
    return Table.of(
        "novelty_by_type",
        "Novel cells by the type that they come nearest to.",
        _NEAREST,
        rows,
        filtered=True,
    )


def scores(result: Annotation, true_nodes: np.ndarray) -> tuple[Evaluation, Table]:
    """Scores against known labels, and the same as a table of levels."""
    evaluation = evaluate_annotation(result, true_nodes)
    table = Table.of(
        "scores",
        f"{evaluation.n_cells:,} cells with known labels, every cell followed to a type.",
        _SCORES,
        [_score_row(level, row) for level, row in evaluation.levels.iterrows()],
    )
    return evaluation, table


def _score_row(level: Any, row: pd.Series) -> tuple[Any, ...]:
    names = ("accuracy", "macro_f1", "balanced_accuracy", "ece")
    return str(level), int(row["n_cells"]), *(float(row[name]) for name in names)
