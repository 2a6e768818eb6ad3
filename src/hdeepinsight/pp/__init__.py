"""Prepare data: look at it, recover counts, match genes, correct batch effects."""

from hdeepinsight.data import (
    GeneAlignment,
    GeneReport,
    InputReport,
    align_genes,
    inspect_input,
    recover_counts,
)
from hdeepinsight.pp._stacas import StacasConfig, StacasReport, StacasResult, stacas

__all__ = [
    "GeneAlignment",
    "GeneReport",
    "InputReport",
    "StacasConfig",
    "StacasReport",
    "StacasResult",
    "align_genes",
    "inspect_input",
    "recover_counts",
    "stacas",
]
