"""Label sets, novelty and known labels: what can be said about trust beyond the probabilities."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from hdeepinsight.annotation import Annotation, Evaluation, LabelSets, evaluate_annotation
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


def label_sets(result: Annotation) -> tuple[LabelSets | None, Table | None]:
    """Count the cells by the size of their label set; ``None`` where nothing is promised."""
    if result.calibration is None or not len(result):
        return None, None
    sets = result.label_sets(ALPHA)
    sizes, counts = np.unique(sets.size, return_counts=True)
    rows = [(n, count, count / len(result)) for n, count in zip(sizes, counts, strict=True)]
    caption = f"Cells by the number of types in their label set (alpha {ALPHA})."
    return sets, Table.of("label_sets", caption, _SIZES, rows)


def novelty(result: Annotation) -> tuple[Table, ...]:
    """How many cells are novel, and which types they come nearest to; empty if unknown."""
    if result.novelty is None:
        return ()
    compared = {"all types": "p_value", "all lineages": "lineage_p_value"}
    rows: list[tuple[Any, ...]] = []
    for name, column in compared.items():
        p = result.novelty[column].to_numpy()
        n_novel = int((p <= NOVEL).sum())
        rows.append((name, n_novel, n_novel / max(1, len(p)), NOVEL, bins_of(p)))
    caption = f"Cells that are novel to the reference (p-value of at most {NOVEL})."
    overall = Table.of("novelty", caption, _NOVELTY, rows)
    novel, unrecognised = (result.novelty[c].to_numpy() <= NOVEL for c in compared.values())
    rows = [
        (
            result.taxonomy.label(leaf),
            len(cells),
            int(novel[cells].sum()),
            novel[cells].mean(),
            unrecognised[cells].mean(),
        )
        for leaf, cells in groups_of(result.leaf_nodes)
    ]
    rows.sort(key=lambda row: -row[2])
    caption = "Novel cells by the type that they come nearest to."
    return overall, Table.of("novelty_by_type", caption, _NEAREST, rows, filtered=True)


def scores(result: Annotation, true_nodes: np.ndarray) -> tuple[Evaluation, Table]:
    """Scores against known labels, and the same as a table of levels."""
    evaluation = evaluate_annotation(result, true_nodes)
    names = ["accuracy", "macro_f1", "balanced_accuracy", "ece"]
    rows = [
        (str(level), int(row["n_cells"]), *map(float, row[names]))
        for level, row in evaluation.levels.iterrows()
    ]
    caption = f"{evaluation.n_cells:,} cells with known labels, every cell followed to a type."
    return evaluation, Table.of("scores", caption, _SCORES, rows)
