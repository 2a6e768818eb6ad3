"""Sentences about the input, the genes, and what deserves a look first."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hdeepinsight.report._labels import above_a_type

if TYPE_CHECKING:
    from hdeepinsight.annotation import Annotation
    from hdeepinsight.data import GeneReport, InputReport

__all__ = ["KeyFigure", "absent_types", "gene_sentences", "input_sentences", "key_figures"]

#: Names listed before the rest is only counted.
_MOST_NAMES = 60


class KeyFigure(NamedTuple):
    """A figure at the head of the page: its key for machines, and what people read."""

    key: str
    name: str
    value: float
    shown: str
    explanation: str


def input_sentences(report: InputReport) -> list[str]:
    """Say what the matrix is, what stood in the way and what was repaired."""
    versioned = " with versions" if report.versioned else ""
    oddities = {
        "are missing (NaN)": report.n_nan,
        "are infinite": report.n_inf,
        "are negative": report.n_negative,
    }
    return [
        f"{report.n_obs:,} cells × {report.n_vars:,} genes were read from {report.layer} "
        f"({report.storage}).",
        f"The values are {report.scale.replace('_', ' ')}: {report.evidence}.",
        f"Genes are named by {report.identifiers}{versioned}; species: {report.species}.",
        *(f"{n:,} values {what}." for what, n in oddities.items() if n),
        *([f"{report.n_empty_cells:,} cells hold zeros only."] if report.n_empty_cells else []),
        *(f"Repaired: {text}" for text in report.repairs),
        *(f"Needs care: {text}" for text in report.problems),
    ]


def gene_sentences(report: GeneReport) -> list[str]:
    """Say how many of the model's genes the query has, and which it lacks."""
    column = "" if report.column is None else f" Names come from var[{report.column!r}]."
    return [
        f"{report.n_measured:,} of {report.n_model:,} model genes are measured; they carry "
        f"{report.coverage:.1%} of the reference's expression.{column}",
        f"{report.n_extra:,} of the query's {report.n_query:,} columns are not used by the model.",
        *([f"Not measured: {_listed(report.missing)}."] if report.missing else []),
        *([f"Columns summed for: {_listed(report.duplicated)}."] if report.duplicated else []),
        *report.messages,
    ]


def key_figures(result: Annotation) -> tuple[KeyFigure, ...]:
    """Give the figures to know first."""
    tree, n_cells = result.taxonomy, len(result)
    n_types = len(np.unique(result.leaf_nodes))
    return (
        KeyFigure("n_cells", "Cells", n_cells, f"{n_cells:,}", "annotated"),
        KeyFigure("n_types", "Types found", n_types, f"{n_types:,}", f"of {tree.n_leaves:,}"),
        *(_of_cells(result) if n_cells else ()),
        *(() if result.gene_report is None else (_of_genes(result.gene_report),)),
    )


def _of_cells(result: Annotation) -> tuple[KeyFigure, ...]:
    above, unknown = above_a_type(result), result.stop_nodes == 0
    confidence = float(result.confidence.mean())
    stopped = float(above.mean()), f"{above.mean():.1%}", f"{above.sum():,} cells"
    at_root = float(unknown.mean()), f"{unknown.mean():.1%}", f"{unknown.sum():,} at the root"
    shown = f"{confidence:.3f}"
    return (
        KeyFigure("mean_confidence", "Mean confidence", confidence, shown, "where paths stop"),
        KeyFigure("share_stopped", "Stopped above a type", *stopped),
        KeyFigure("share_unknown", "Unknown", *at_root),
    )


def _of_genes(report: GeneReport) -> KeyFigure:
    genes = f"{report.n_measured:,} of {report.n_model:,} genes"
    return KeyFigure(
        "gene_coverage", "Gene coverage", report.coverage, f"{report.coverage:.1%}", genes
    )


def absent_types(result: Annotation) -> str:
    """Name the types of the taxonomy to which no cell leads."""
    absent = np.setdiff1d(result.taxonomy.leaves, result.leaf_nodes)
    return _listed([result.taxonomy.label(int(leaf)) for leaf in absent])


def _listed(names: list[str] | tuple[str, ...]) -> str:
    rest = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {rest:,} more" if rest > 0 else "")
