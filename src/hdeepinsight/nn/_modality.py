"""Surface proteins beside the genes: further channels of the image, and their dropout in training.

Training cells are made to look like those of queries: without proteins or RNA, stained otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hdeepinsight._errors import invalid
from hdeepinsight.image import GeneLayout, Raster
from hdeepinsight.nn._augment import Shares
from hdeepinsight.nn._normalize import ProteinNormalizer


@dataclass(frozen=True, kw_only=True)
class ModalityDropout(Shares):
    """Say how proteins, and whole modalities, are hidden and blurred during training.

    Parameters
    ----------
    p_rna_only
        Probability that a cell loses all its proteins.
    p_proteins_only
        Probability that a cell loses all its genes instead.
    p_whole
        Probability that the proteins of any other cell all stay.
    max_rate
        Otherwise the cell's masking rate is drawn from ``U(0, max_rate)`` and proteins drop
        independently at that rate.
    noise
        Standard deviation of the noise on the values of the proteins, which run from 0 to 1.

    Examples
    --------
    >>> import torch
    >>> dropout = ModalityDropout(p_rna_only=0.25, p_proteins_only=0.0, p_whole=1.0)
    >>> rna, proteins = dropout.sample(10_000, 20)
    >>> bool(rna.all()), bool(0.23 < (proteins.sum(1) == 0).float().mean() < 0.27)
    (True, True)

    Notes
    -----
    A network that has always seen both modalities leans on both, and fails without one of them.
    Cells without RNA are rare among queries, and so in training. The noise keeps the network from
    telling types by small differences of a stain, which other donors do not have. Our decisions.
    """

    p_rna_only: float = 0.3
    p_proteins_only: float = 0.1
    p_whole: float = 0.5
    max_rate: float = 0.5
    noise: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.p_rna_only + self.p_proteins_only > 1.0:
            both = (self.p_rna_only, self.p_proteins_only)
            hint = "A cell can lose one of both: lower one probability."
            raise invalid("p_rna_only and p_proteins_only", both, "at most 1 together", hint)

    @classmethod
    def none(cls) -> ModalityDropout:
        """Return the settings under which nothing is hidden or blurred.

        Examples
        --------
        >>> from hdeepinsight.nn import ModalityDropout
        >>> rna, proteins = ModalityDropout.none().sample(5, 3)
        >>> bool(rna.all()), bool(proteins.all())
        (True, True)
        """
        return cls(p_rna_only=0.0, p_proteins_only=0.0, p_whole=1.0, max_rate=0.0, noise=0.0)

    def sample(
        self, n_cells: int, n_proteins: int, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Draw which cells keep their RNA and which proteins each cell keeps.

        Returns
        -------
        Masks ``(n_cells, 1)`` and ``(n_cells, n_proteins)``: 1.0 keeps, 0.0 hides.

        Examples
        --------
        >>> from hdeepinsight.nn import ModalityDropout
        >>> rna, proteins = ModalityDropout().sample(5, 3)
        >>> rna.shape, proteins.shape
        (torch.Size([5, 1]), torch.Size([5, 3]))
        """
        fate, whole, rate = torch.rand(3, n_cells, 1, device=device)
        drop = torch.rand(n_cells, n_proteins, device=device) < self.max_rate * rate
        kept = ~drop | (whole < self.p_whole)
        has_proteins = fate >= self.p_rna_only
        has_rna = ~has_proteins | (fate >= self.p_rna_only + self.p_proteins_only)
        return has_rna.float(), (kept & has_proteins).float()


class ProteinValues(NamedTuple):
    """Normalised proteins of a mini-batch and what of them was measured.

    Parameters
    ----------
    values
        In [0, 1], shape ``(n_cells, n_proteins)``; 0 where not measured.
    measured
        1 where measured, the same shape.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import ProteinValues
    >>> ProteinValues(torch.zeros(2, 3), torch.ones(2, 3)).measured.sum(1)
    tensor([3., 3.])
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

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.image import GeneLayout
    >>> from hdeepinsight.nn import ProteinChannels
    >>> channels = ProteinChannels(GeneLayout(("CD3", "CD19"), [0, 3], side=2)).eval()
    >>> proteins = channels.normalize(torch.tensor([[50.0, 2.0]]), torch.ones(1, 2))
    >>> channels(proteins).shape
    torch.Size([1, 2, 2, 2])
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
        hidden = {"measured": batch["measured"] * has_rna, "proteins_measured": measured * kept}
        return batch | hidden

    def unmeasured(self, n_cells: int, like: Tensor) -> ProteinValues:
        """Return values of cells without proteins, on the device and in the type of ``like``."""
        nothing = torch.zeros(n_cells, self.n_proteins, device=like.device, dtype=like.dtype)
        return ProteinValues(nothing, nothing)

    def forward(self, proteins: ProteinValues) -> Tensor:
        """Channels ``(n_cells, 2, side, side)``."""
        images: Tensor = self.raster(proteins.values, proteins.measured)
        return images
