"""Refine, combine, audit and evaluate annotations of any tool, and reduce references."""

from hdeepinsight.nn import gaussian_noise_sd
from hdeepinsight.taxonomy import CellType, cell_type
from hdeepinsight.tl._audit import LabelAudit, audit_labels
from hdeepinsight.tl._consensus import Consensus, consensus
from hdeepinsight.tl._contradictions import contradictions
from hdeepinsight.tl._coresets import herding, k_center, select_cells
from hdeepinsight.tl._distill import distill
from hdeepinsight.tl._distillation_report import distillation_report
from hdeepinsight.tl._dp_pca import PrivateProjection, dp_pca
from hdeepinsight.tl._evidence import (
    MarkerEvidence,
    marker_evidence,
    marker_genes,
    open_cells,
    sample_cells,
)
from hdeepinsight.tl._marker_lists import MarkersLike, read_markers
from hdeepinsight.tl._markers import MarkerScorer, score_markers
from hdeepinsight.tl._refine import RefineConfig, Refinement, lambda_path, refine
from hdeepinsight.tl._representation import expression_pca, mde
from hdeepinsight.tl._score_tables import read_scores
from hdeepinsight.tl._simulate import simulate_cells
from hdeepinsight.tl._terms import term_probabilities
from hdeepinsight.tl._vote import Vote, vote

__all__ = [
    "CellType",
    "Consensus",
    "LabelAudit",
    "MarkerEvidence",
    "MarkerScorer",
    "MarkersLike",
    "PrivateProjection",
    "RefineConfig",
    "Refinement",
    "Vote",
    "audit_labels",
    "cell_type",
    "consensus",
    "contradictions",
    "distill",
    "distillation_report",
    "dp_pca",
    "expression_pca",
    "gaussian_noise_sd",
    "herding",
    "k_center",
    "lambda_path",
    "marker_evidence",
    "marker_genes",
    "mde",
    "open_cells",
    "read_markers",
    "read_scores",
    "refine",
    "sample_cells",
    "score_markers",
    "select_cells",
    "simulate_cells",
    "term_probabilities",
    "vote",
]
