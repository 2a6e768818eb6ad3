"""Figures as one table, and what the demo says about its outputs and about one's own data."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from hdeepinsight.annotation import Annotation, Evaluation

__all__ = ["FIGURES", "MARKER", "OUTPUTS", "figures_table", "guide", "head_to_head", "readme"]

#: First line of the README in a folder that the demo may write to again.
MARKER: Final = "# What `hdeepinsight demo` left here"
FIGURES: Final = ("n_cells", "accuracy", "macro_f1", "balanced_accuracy", "ece")
OUTPUTS: Final = {
    "figures.csv": "scores of every level, beside those of logistic regression",
    "taxonomy.png": "the tree of cell types with numbers of cells",
    "gene_layout.png": "the pixel of every gene",
    "gene_images.png": "mean images of three cell types",
    "confusion.png": "which held-out types are taken for which",
    "embedding.png": "held-out cells by what the network sees in them (UMAP)",
    "annotated.h5ad": "the held-out cells with their labels, confidences and probabilities",
    "model": "the trained model: plain data, no code",
    "reference.h5ad": "raw counts and labels that the model was trained on",
    "query.h5ad": "raw counts of the held-out cells (their labels only serve to score)",
}


def figures_table(evaluations: Mapping[str, Evaluation]) -> pd.DataFrame:
    """Scores of every method, side by side for each level.

    Parameters
    ----------
    evaluations
        Name and scores of each method.

    Returns
    -------
    Table with the columns ``level``, ``method`` and those of `FIGURES`.
    """
    tables = [
        each.levels[list(FIGURES)].rename_axis("level").reset_index().assign(method=name)
        for name, each in evaluations.items()
    ]
    table = pd.concat(tables).sort_values("level", kind="stable", key=_in_order(tables[0]["level"]))
    return table[["level", "method", *FIGURES]].reset_index(drop=True)


def head_to_head(
    truth: np.ndarray, ours: Annotation, other: Annotation
) -> dict[str, tuple[int, int, float]]:
    """Cells that only one of two methods gets right, at every level.

    Parameters
    ----------
    truth
        True node of every cell, shape ``(n_cells,)``.
    ours, other
        Annotations of these cells.

    Returns
    -------
    For each level the cells that only ours and that only the other gets right, and the p-value of
    the exact sign test (McNemar) that both are as good.
    """
    from scipy.stats import binomtest

    table = ours.taxonomy.node_at_level
    found = {}
    for level, name in enumerate(ours.taxonomy.level_names):
        here = table[truth, level]
        right = [table[each.leaf_nodes, level] == here for each in (ours, other)]
        only = [int((right[i] & ~right[1 - i] & (here >= 0)).sum()) for i in (0, 1)]
        p_value = binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
        found[name] = (only[0], only[1], float(p_value))
    return found


def guide(out: Path) -> dict[str, list[str]]:
    """Commands by what they are for: one's own data, and the files of the demo."""
    here = [shlex.quote(str(out / name)) for name in ("query.h5ad", "model")]
    return {
        "a reference with raw counts and label columns, and a query with raw counts:": [
            "hdeepinsight train reference.h5ad --levels lineage,cell_type --out my_model",
            "hdeepinsight annotate query.h5ad --model my_model --out annotated.h5ad",
        ],
        "or look around in the files of the demo first:": [
            f"hdeepinsight info {here[1]}",
            "hdeepinsight evaluate {} --model {}".format(*here),
        ],
    }


def readme(summary: str) -> str:
    """Text of the README that the demo leaves in its folder."""
    files = "\n".join(f"- `{name}`: {text}" for name, text in OUTPUTS.items())
    return f"{MARKER}\n\n{summary}\n\n{files}\n"


def _in_order(levels: pd.Series) -> object:
    rank = {name: position for position, name in enumerate(levels)}
    return lambda column: column.map(rank)
