"""What a model itself knows: cells, scores, genes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hdeepinsight.annotation import Evaluation, evaluate_annotation

if TYPE_CHECKING:
    from anndata import AnnData

    from hdeepinsight.annotation import Annotation
    from hdeepinsight.models import SCHDeepInsight

__all__ = ["GeneFacts", "ModelFacts", "Scored", "draw_reliability", "facts_of"]

HELD_OUT: Final = "held-out cells of the reference"
_ENSEMBL = re.compile(r"ENS[A-Z]{0,6}G\d{11}(\.\d+)?")
_MOST_POINTS = (100, 500, 1000, 2000)


@dataclass(frozen=True)
class Scored:
    """Scores on one labelled dataset, with confidence and correctness of every cell's type."""

    name: str
    evaluation: Evaluation
    confidence: np.ndarray
    correct: np.ndarray


@dataclass(frozen=True)
class GeneFacts:
    """Genes of a model.

    Parameters
    ----------
    n_genes
        How many.
    n_ensembl
        How many have Ensembl identifiers; the others are taken for symbols.
    share_of_top
        Share of the reference's expression that the most expressed genes carry, by their number.
    """

    n_genes: int
    n_ensembl: int
    share_of_top: dict[int, float]


@dataclass(frozen=True)
class ModelFacts:
    """What the card says without being told."""

    model: SCHDeepInsight
    genes: GeneFacts
    scored: list[Scored] = field(default_factory=list)
    n_cells: np.ndarray | None = None


def facts_of(model: SCHDeepInsight, labelled: Mapping[str, AnnData]) -> ModelFacts:
    """Gather what is known of a model.

    Parameters
    ----------
    model
        Trained model; with its reference attached there are cells per type and held-out scores.
    labelled
        Further labelled data to score, by name.
    """
    own = model.adata
    data: dict[str, Any] = {}
    held_out = model.validation_indices_
    if own is not None and held_out is not None and len(held_out):
        data[HELD_OUT] = own[held_out]
    scored = [_score(model, name, adata) for name, adata in (data | dict(labelled)).items()]
    n_nodes = model.taxonomy.n_nodes
    n_cells = None if own is None else np.bincount(model.label_nodes(own), minlength=n_nodes)
    return ModelFacts(model, _genes(model), scored, n_cells)


def draw_reliability(scored: Scored, path: Path) -> None:
    """Write the reliability picture of one dataset as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from hdeepinsight.pl import reliability

    figure = Figure(figsize=(4.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    reliability(scored.confidence, scored.correct, ax=figure.subplots())
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _score(model: SCHDeepInsight, name: str, adata: AnnData) -> Scored:
    annotation = model.annotate(adata)
    nodes = model.label_nodes(adata)
    confidence, correct = _confidence(annotation, nodes)
    return Scored(name, evaluate_annotation(annotation, nodes), confidence, correct)


def _confidence(annotation: Annotation, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability of the decoded type and whether it is right, for cells labelled with a type."""
    taxonomy = annotation.taxonomy
    rows = np.flatnonzero(np.isin(nodes, taxonomy.leaves))
    leaf = annotation.leaf_nodes[rows]
    confidence = np.clip(annotation.node_probabilities[rows, leaf], 0.0, 1.0)
    return confidence, leaf == nodes[rows]


def _genes(model: SCHDeepInsight) -> GeneFacts:
    genes = model.layout.genes
    shares = np.sort(model.module.normalizer.mean_share.detach().cpu().numpy())[::-1]
    total = float(shares.sum()) or 1.0
    numbers = [n for n in _MOST_POINTS if n < len(genes)]
    return GeneFacts(
        n_genes=len(genes),
        n_ensembl=sum(_ENSEMBL.fullmatch(str(gene)) is not None for gene in genes),
        share_of_top={n: float(shares[:n].sum()) / total for n in numbers},
    )
