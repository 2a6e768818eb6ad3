"""Differentiable conversion of expression to gene images."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from hdeepinsight._errors import check_choice
from hdeepinsight.image._layout import GeneLayout

Channels = Literal["masked", "single", "rgb"]
_N_CHANNELS: dict[Channels, int] = {"masked": 2, "single": 1, "rgb": 3}


class Raster(torch.nn.Module):
    """Module that converts expression to images with a fixed gene layout.

    Parameters
    ----------
    layout
        Gene layout.
    channels
        ``"masked"``: values in channel 0, and the mask of measured genes in channel 1, which
        distinguishes genes that are not measured from genes that are not expressed. ``"single"``:
        values only. ``"rgb"``: three copies of the values, as published.

    Attributes
    ----------
    n_genes, side, n_channels
        Number of genes, of pixels along one side, and of channels.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.image import GeneLayout, Raster
    >>> layout = GeneLayout(genes=("CD3E", "MS4A1"), pixel=[0, 3], side=2)
    >>> raster = Raster(layout)
    >>> raster(torch.tensor([[0.5, 0.0]]), torch.tensor([[True, True]]))
    tensor([[[[0.5000, 0.0000],
              [0.0000, 0.0000]],
    <BLANKLINE>
             [[1.0000, 0.0000],
              [0.0000, 1.0000]]]])

    Notes
    -----
    Source: the gene image is that of DeepInsight and scHDeepInsight
    (doi:10.1101/2025.06.23.661045); the mask channel is our design.
    """

    def __init__(self, layout: GeneLayout, channels: Channels = "masked") -> None:
        super().__init__()
        check_choice("channels", channels, get_args(Channels))
        self.channels = channels
        self.n_channels = _N_CHANNELS[channels]
        self.n_genes, self.side = layout.n_genes, layout.side
        self.pixel = torch.nn.Buffer(torch.tensor(layout.pixel), persistent=False)

    def forward(self, values: torch.Tensor, measured: torch.Tensor | None = None) -> torch.Tensor:
        """Convert a mini-batch to images.

        Parameters
        ----------
        values
            Scaled expression in ``[0, 1]``, ``(n_cells, n_genes)``, with genes in layout order; 0
            for genes that were not measured.
        measured
            Mask of measured genes, ``(n_cells, n_genes)`` or ``(n_genes,)``, bool or 0/1; ``None``
            for all genes. Only used with ``"masked"``.

        Returns
        -------
        torch.Tensor
            Images, ``(n_cells, n_channels, side, side)``, in the dtype of `values`. Pixels without
            a gene are 0 in all channels.

        Raises
        ------
        ValueError
            If the number of genes differs from that of the layout.
        """
        if values.ndim != 2 or values.shape[1] != self.n_genes:
            expected = f"values must have the shape (n_cells, {self.n_genes})"
            hint = "Align the genes with the layout."
            raise ValueError(f"{expected}, got {tuple(values.shape)}. {hint}")
        planes = [values]
        if self.channels == "masked":
            mask = values.new_ones(self.n_genes) if measured is None else measured.to(values.dtype)
            planes.append(mask.expand_as(values))
        stacked = torch.stack(planes, dim=1)
        # Flattened images, because gradients of index_copy are much faster for matrices.
        flat = values.new_zeros(len(values) * len(planes), self.side**2)
        drawn = flat.index_copy(1, self.pixel, stacked.flatten(0, 1))
        images = drawn.view(len(values), len(planes), self.side, self.side)
        return images.expand(-1, 3, -1, -1) if self.channels == "rgb" else images

    def extra_repr(self) -> str:
        """Return a one-line summary of the module."""
        return f"{self.n_genes} genes on {self.side} × {self.side}, channels={self.channels!r}"
