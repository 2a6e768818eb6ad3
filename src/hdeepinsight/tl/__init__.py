"""Analyse annotations, ours or another tool's: refine, vote, combine, audit."""

from hdeepinsight.tl._audit import audit_labels
from hdeepinsight.tl._audit_result import LabelAudit

__all__ = ["LabelAudit", "audit_labels"]
