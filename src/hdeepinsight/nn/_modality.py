"""Surface proteins as additional channels of the image, and modality dropout in training."""

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
    """Settings of the dropout of proteins and modalities in training, and of protein noise.

    Parameters
    ----------
    p_rna_only
        Probability that all proteins of a cell are masked.
    p_proteins_only
        Probability that all genes of a cell are masked instead.
    p_whole
        Probability that any other cell keeps all proteins.
    max_rate
        Otherwise the masking rate of the cell is drawn from ``U(0, max_rate)``, and proteins are
        masked independently at this rate.
    noise
        Standard deviation of the noise added to protein values, which range from 0 to 1.

    Examples
    --------
    >>> import torch
    >>> dropout = ModalityDropout(p_rna_only=0.25, p_proteins_only=0.0, p_whole=1.0)
    >>> rna, proteins = dropout.sample(10_000, 20)
    >>> bool(rna.all()), bool(0.23 < (proteins.sum(1) == 0).float().mean() < 0.27)
    (True, True)

    Notes
    -----
    A network that is always trained with both modalities depends on both, and fails if one of them
    is missing. Queries rarely lack RNA, so that ``p_proteins_only`` is small. The noise prevents
    the network from using small differences in protein values that do not transfer to other
    donors. These steps are not in the paper.
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
            hint = "A cell loses at most one modality: lower one probability."
            raise invalid("p_rna_only and p_proteins_only", both, "at most 1 together", hint)

    @classmethod
    def none(cls) -> ModalityDropout:
        """Return settings without dropout and noise.

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
        """Draw masks of RNA and proteins.

        Returns
        -------
        Masks ``(n_cells, 1)`` of RNA and ``(n_cells, n_proteins)`` of proteins: 1.0 for visible,
        0.0 for masked.

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
    """Normalised proteins of a mini-batch, and their mask.

    Parameters
    ----------
    values
        Values in [0, 1], shape ``(n_cells, n_proteins)``; 0 if not measured.
    measured
        1 for measured proteins, same shape.

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
    """Image channels of surface proteins: normalised values, and a mask.

    Parameters
    ----------
    layout
        Pixel of each protein, on an image of the same size as that of the genes.
    dropout
        Dropout and noise in training.

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
        """Normalise masked raw counts ``(n_cells, n_proteins)``; add noise in training."""
        measured = measured.to(counts.dtype)
        values = self.normalizer(counts, measured)
        if self.training and self.dropout.noise:
            values = values + self.dropout.noise * torch.randn_like(values) * measured
        return ProteinValues(values, measured)

    def hide(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Mask proteins, and whole modalities of some cells, in training."""
        measured = batch["proteins_measured"].to(batch["measured"].dtype)
        has_rna, kept = self.dropout.sample(len(measured), self.n_proteins, measured.device)
        # Cells without proteins keep their genes.
        has_rna = torch.maximum(has_rna, (measured.sum(1, keepdim=True) == 0).to(has_rna.dtype))
        hidden = {"measured": batch["measured"] * has_rna, "proteins_measured": measured * kept}
        return batch | hidden

    def unmeasured(self, n_cells: int, like: Tensor) -> ProteinValues:
        """Return values of cells without proteins, on the device and of the type of ``like``."""
        zeros = torch.zeros(n_cells, self.n_proteins, device=like.device, dtype=like.dtype)
        return ProteinValues(zeros, zeros)

    def forward(self, proteins: ProteinValues) -> Tensor:
        """Draw channels ``(n_cells, 2, side, side)``."""
        images: Tensor = self.raster(proteins.values, proteins.measured)
        return images
