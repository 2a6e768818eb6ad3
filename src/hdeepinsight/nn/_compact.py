"""A small network for small, sparse gene images, in which position keeps its meaning."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hdeepinsight.nn._norm import BatchNorm1d

PATCH = 4


class CompactBackbone(nn.Module):
    """Own filters for every patch of the image, then one dense layer over all patches.

    Parameters
    ----------
    n_channels
        Channels of the gene image.
    side
        Side of the image, a multiple of the patch.
    n_latent
        Width of the features.
    n_filters
        Filters a patch.

    Raises
    ------
    ValueError
        If the side is no multiple of the patch.

    Examples
    --------
    >>> import torch
    >>> CompactBackbone(2, 16, n_latent=32)(torch.zeros(5, 2, 16, 16)).shape
    torch.Size([5, 32])

    Notes
    -----
    In a photograph a cat may sit anywhere, so filters are shared over positions and pooled. In a
    gene image a pixel *is* a gene: neighbourhoods carry meaning, absolute positions even more.
    Filters are therefore local (a patch sees neighbouring genes) but not shared.
    """

    def __init__(
        self,
        n_channels: int,
        side: int,
        *,
        n_latent: int = 256,
        n_filters: int = 32,
    ) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.patches = PatchFilters(n_channels, side, n_filters)
        # One scale a filter over all patches, so that a patch of silent genes is not blown up.
        self.norm = BatchNorm1d(n_filters)
        self.dense = nn.Linear(n_filters * self.patches.n_patches, n_latent, bias=False)
        self.dense_norm = BatchNorm1d(n_latent)

    def forward(self, image: Tensor) -> Tensor:
        """Features ``(n_cells, n_latent)`` of images ``(n_cells, n_channels, side, side)``."""
        local = torch.relu(self.norm(self.patches(image))).flatten(1)
        latent: Tensor = torch.relu(self.dense_norm(self.dense(local)))
        return latent


class PatchFilters(nn.Module):
    """A linear map of its own for every patch, shape ``(n_cells, n_filters, n_patches)``."""

    def __init__(self, n_channels: int, side: int, n_filters: int) -> None:
        super().__init__()
        if side < PATCH or side % PATCH:
            msg = (
                f"The image has side {side}; valid are multiples of {PATCH}, the side of a patch. "
                f"Make the gene layout with side={max(PATCH, -(-side // PATCH) * PATCH)}."
            )
            raise ValueError(msg)
        self.per_side = side // PATCH
        self.n_patches = self.per_side**2
        n_inputs = n_channels * PATCH**2
        # He's rule for inputs of which about three in ten are not zero, halved.
        scale = 0.5 * math.sqrt(2 / (0.3 * n_inputs))
        self.weight = nn.Parameter(torch.randn(self.n_patches, n_inputs, n_filters) * scale)
        self.bias = nn.Parameter(torch.zeros(n_filters, self.n_patches))

    def forward(self, image: Tensor) -> Tensor:
        n_cells, channels = image.shape[:2]
        grid = image.reshape(n_cells, channels, self.per_side, PATCH, self.per_side, PATCH)
        patches = grid.permute(2, 4, 0, 1, 3, 5).reshape(self.n_patches, n_cells, -1)
        return torch.bmm(patches, self.weight).permute(1, 2, 0) + self.bias
