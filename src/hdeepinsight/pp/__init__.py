"""Prepare data: look at it, recover counts, match genes."""

from hdeepinsight.data import (
    GeneAlignment,
    GeneReport,
    InputReport,
    RecoveredCounts,
    align_genes,
    inspect_input,
    recover_counts,
)

__all__ = [
    "GeneAlignment",
    "GeneReport",
    "InputReport",
    "RecoveredCounts",
    "align_genes",
    "inspect_input",
    "recover_counts",
]
