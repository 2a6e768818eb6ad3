"""Surface proteins as further channels of the gene image."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from hdeepinsight.image import Raster
from hdeepinsight.nn import ModalityDropout, ProteinNormalizer

if TYPE_CHECKING:
    from hdeepinsight.image import GeneLayout


class ProteinValues(NamedTuple):
    """Normalised proteins of a mini-batch and what of them was measured.

    Parameters
    ----------
    values
        In [0, 1], shape ``(n_cells, n_proteins)``; 0 where not measured.
    measured
        1 where measured, the same shape.
    """

    values: Tensor
    measured: Tensor


class ProteinChannels(nn.Module):
    """Normalise the proteins of a mini-batch and draw them: values, and what was measured.

    Parameters
    ----------
    layout
        Pixel of every protein, on an image of the genes' side.
    dropout
        How modalities are hidden and blurred in training.
    """

    n_channels = 2

    def __init__(self, layout: GeneLayout, dropout: ModalityDropout | None = None) -> None:
        super().__init__()
        self.n_proteins = layout.n_genes
        self.normalizer = ProteinNormalizer(layout.n_genes)
        self.raster = Raster(layout, channels="masked")
        self.dropout = dropout or ModalityDropout()

    def normalize(self, counts: Tensor, measured: Tensor) -> ProteinValues:
        """Values of raw counts ``(n_cells, n_proteins)`` under a mask; in training with noise."""
        measured = measured.to(counts.dtype)
        values = self.normalizer(counts, measured)
        if self.training and self.dropout.noise:
            values = values + self.dropout.noise * torch.randn_like(values) * measured
        return ProteinValues(values, measured)

    def hide(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Hide proteins, and all proteins or all genes of some cells, in training."""
        measured = batch["proteins_measured"].to(batch["measured"].dtype)
        has_rna, kept = self.dropout.sample(len(measured), self.n_proteins, measured.device)
        # A cell that has no proteins anyway keeps its genes.
        has_rna = torch.maximum(has_rna, (measured.sum(1, keepdim=True) == 0).to(has_rna.dtype))
        return {
            **batch,
            "measured": batch["measured"] * has_rna,
            "proteins_measured": measured * kept,
        }

    def unmeasured(self, n_cells: int, like: Tensor) -> ProteinValues:
        """Return values of cells without proteins, on the device and in the type of ``like``."""
        nothing = torch.zeros(n_cells, self.n_proteins, device=like.device, dtype=like.dtype)
        return ProteinValues(nothing, nothing)

    def forward(self, proteins: ProteinValues) -> Tensor:
        """Channels ``(n_cells, 2, side, side)``."""
        images: Tensor = self.raster(proteins.values, proteins.measured)
        return images
