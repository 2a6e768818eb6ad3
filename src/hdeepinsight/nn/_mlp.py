"""The control that knows no neighbourhoods: a dense network on all pixels."""

from __future__ import annotations

from torch import Tensor, nn

from hdeepinsight.nn._norm import BatchNorm1d


class MLPBackbone(nn.Module):
    """Two dense layers on the flattened image, so that the place of a gene means nothing.

    Parameters
    ----------
    n_channels, side
        Shape of the gene image.
    n_latent
        Width of the features.
    n_hidden
        Width of the hidden layer.

    Examples
    --------
    >>> import torch
    >>> MLPBackbone(2, 16, n_latent=32)(torch.zeros(5, 2, 16, 16)).shape
    torch.Size([5, 32])
    """

    def __init__(
        self, n_channels: int, side: int, *, n_latent: int = 256, n_hidden: int = 512
    ) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(n_channels * side**2, n_hidden, bias=False),
            BatchNorm1d(n_hidden),
            nn.ReLU(),
            nn.Linear(n_hidden, n_latent, bias=False),
            BatchNorm1d(n_latent),
            nn.ReLU(),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Features ``(n_cells, n_latent)`` of images ``(n_cells, n_channels, side, side)``."""
        latent: Tensor = self.layers(image)
        return latent
