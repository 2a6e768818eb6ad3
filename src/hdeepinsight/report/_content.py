"""Everything that a report says, gathered once for people and machines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hdeepinsight.annotation import check_nodes, check_same_cells
from hdeepinsight.report import _labels, _notes, _pictures, _trust
from hdeepinsight.report._clusters import cluster_table
from hdeepinsight.report._methods import methods
from hdeepinsight.report._table import plain

if TYPE_CHECKING:
    from hdeepinsight.annotation import Annotation, Evaluation
    from hdeepinsight.report._pictures import Picture
    from hdeepinsight.report._table import Table

__all__ = ["Content", "gather"]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What the page shows; ``None`` stands for what an annotation does not carry."""

    result: Annotation
    key_figures: tuple[_notes.KeyFigure, ...]
    composition: tuple[Table, ...]
    labels: Table
    stops: Table
    sets: _trust.Sets | None
    novelty: tuple[Table, ...]
    evaluation: Evaluation | None
    scores: Table | None
    clusters: Table
    has_clusters: bool
    pictures: dict[str, Picture]
    methods: str
    references: list[str]

    @property
    def tables(self) -> list[Table]:
        """All tables, in the order of the page."""
        sets = () if self.sets is None else (self.sets.table,)
        scores = () if self.scores is None else (self.scores,)
        trust = (*sets, *self.novelty, *scores)
        return [*self.composition, self.labels, self.stops, *trust, self.clusters]

    def to_dict(self) -> dict[str, Any]:
        """Give the figures in plain types, for the machine-readable part."""
        result = self.result
        reports = {"input_report": result.input_report, "gene_report": result.gene_report}
        return plain(
            {
                "n_cells": len(result),
                "threshold": result.threshold,
                "decoder": result.decoder,
                "levels": result.taxonomy.level_names,
                "key_figures": {figure.key: figure.value for figure in self.key_figures},
                **{name: report and report.to_dict() for name, report in reports.items()},
                "decisions": [decision.to_dict() for decision in result.decisions],
                "evaluation": self.evaluation and self.evaluation.to_dict(),
                "tables": {table.key: table.to_dict() for table in self.tables},
                "methods": self.methods,
                "references": self.references,
                "recipe": result.recipe,
            }
        )


def gather(
    result: Annotation,
    *,
    clusters: Any | None = None,
    embedding: Any | None = None,
    true_nodes: np.ndarray | None = None,
) -> Content:
    """Gather what a report says; see :func:`hdeepinsight.report.write`."""
    given = {"clusters": clusters, "embedding": embedding, "true_nodes": true_nodes}
    for name, values in given.items():
        if values is not None:
            check_same_cells(result.obs_names, values, name)
    known = _known_nodes(result, true_nodes)
    evaluation, scores = (None, None) if known is None else _trust.scores(result, known)
    paragraph, references = methods(result, compared=known is not None)
    return Content(
        result=result,
        key_figures=_notes.key_figures(result),
        composition=_labels.composition(result),
        labels=_labels.labels(result),
        stops=_labels.stops(result),
        sets=_trust.label_sets(result),
        novelty=_trust.novelty(result),
        evaluation=evaluation,
        scores=scores,
        clusters=cluster_table(result, clusters),
        has_clusters=clusters is not None,
        pictures=_drawn(result, embedding, known),
        methods=paragraph,
        references=references,
    )


def _known_nodes(result: Annotation, true_nodes: np.ndarray | None) -> np.ndarray | None:
    """Known node of every cell, or ``None`` where none is known."""
    if true_nodes is None:
        return None
    nodes = check_nodes(result.taxonomy, true_nodes, len(result))
    return nodes if (nodes > 0).any() else None


def _drawn(
    result: Annotation, embedding: Any | None, true_nodes: np.ndarray | None
) -> dict[str, Picture]:
    """Draw what can be drawn, by name."""
    found: dict[str, Picture | None] = {}
    if len(result):
        found["taxonomy"] = _pictures.taxonomy(result)
    if embedding is not None:
        found["embedding"] = _pictures.embedding(result, _plane(embedding))
        found["confidence"] = _pictures.confidence(result, _plane(embedding))
    if true_nodes is not None:
        found["reliability"] = _pictures.reliability(result, true_nodes)
        found["confusion"] = _pictures.confusion(result, true_nodes)
    return {name: picture for name, picture in found.items() if picture is not None}


def _plane(embedding: Any) -> np.ndarray:
    """First two coordinates of every cell, shape ``(n_cells, 2)``."""
    coordinates = np.asarray(embedding, dtype=np.float64)
    if coordinates.ndim != 2 or coordinates.shape[1] < 2:
        msg = (
            f"embedding has the shape {coordinates.shape}. Valid are two or more columns of "
            "numbers, one row a cell. Pass adata.obsm['X_umap'] or the like."
        )
        raise ValueError(msg)
    return coordinates[:, :2]
