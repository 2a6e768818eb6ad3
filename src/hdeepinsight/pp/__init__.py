"""Preprocessing: inspect input, recover counts, align genes, correct batches, mask entries."""

from hdeepinsight.data import (
    GeneAlignment,
    GeneReport,
    InputReport,
    align_genes,
    inspect_input,
    recover_counts,
)
from hdeepinsight.pp._corrected_gram import CorrectedPCA, corrected_gram, corrected_gram_pca
from hdeepinsight.pp._masks import (
    DropoutMask,
    MissingEntries,
    PanelMask,
    estimate_dropout_mask,
    panel_mask,
)
from hdeepinsight.pp._stacas import StacasConfig, StacasReport, StacasResult, stacas

__all__ = [
    "CorrectedPCA",
    "DropoutMask",
    "GeneAlignment",
    "GeneReport",
    "InputReport",
    "MissingEntries",
    "PanelMask",
    "StacasConfig",
    "StacasReport",
    "StacasResult",
    "align_genes",
    "corrected_gram",
    "corrected_gram_pca",
    "estimate_dropout_mask",
    "inspect_input",
    "panel_mask",
    "recover_counts",
    "stacas",
]
