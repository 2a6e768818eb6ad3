"""Analyse annotations, ours or another tool's: refine, vote, combine, audit."""

from hdeepinsight.tl._audit import audit_labels
from hdeepinsight.tl._audit_result import LabelAudit
from hdeepinsight.tl._consensus import Consensus, consensus
from hdeepinsight.tl._lambda_path import lambda_path
from hdeepinsight.tl._mde import mde
from hdeepinsight.tl._refine import refine
from hdeepinsight.tl._refinement import Refinement
from hdeepinsight.tl._representation import expression_pca
from hdeepinsight.tl._vote import Vote, vote

__all__ = [
    "Consensus",
    "LabelAudit",
    "Refinement",
    "Vote",
    "audit_labels",
    "consensus",
    "expression_pca",
    "lambda_path",
    "mde",
    "refine",
    "vote",
]
