"""Backbones for gene images: compact, dense, and torchvision's EfficientNets."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from hdeepinsight._errors import check_choice, invalid
from hdeepinsight.nn._norm import BatchNorm1d, tolerate_single_cells

PATCH = 4
EFFICIENTNETS = (
    *(f"efficientnet_b{size}" for size in range(8)),
    *(f"efficientnet_v2_{size}" for size in "sml"),
)
BACKBONES = ("compact", "mlp", *EFFICIENTNETS)


class CompactBackbone(nn.Module):
    """Backbone with separate filters for each patch of the image, and a dense layer.

    Parameters
    ----------
    n_channels
        Channels of the gene image.
    side
        Side length of the image, a multiple of the patch size.
    n_latent
        Number of features.
    n_filters
        Filters per patch.

    Raises
    ------
    ValueError
        If the side length is not a multiple of the patch size.

    Examples
    --------
    >>> import torch
    >>> CompactBackbone(2, 16, n_latent=32)(torch.zeros(5, 2, 16, 16)).shape
    torch.Size([5, 32])

    Notes
    -----
    In photographs, objects may be anywhere, so that filters are shared over positions. In a gene
    image each pixel is a specific gene, and its absolute position is informative. Filters are
    therefore local (a patch contains neighbouring genes) but not shared.
    """

    def __init__(
        self, n_channels: int, side: int, *, n_latent: int = 128, n_filters: int = 32
    ) -> None:
        super().__init__()
        self.n_latent = n_latent
        self.patches = PatchFilters(n_channels, side, n_filters)
        # One scale per filter over all patches, so that patches of silent genes are not amplified.
        self.norm = BatchNorm1d(n_filters)
        self.dense = nn.Linear(n_filters * self.patches.n_patches, n_latent, bias=False)
        self.dense_norm = BatchNorm1d(n_latent)

    def forward(self, image: Tensor) -> Tensor:
        """Compute features ``(n_cells, n_latent)`` of gene images."""
        local = torch.relu(self.norm(self.patches(image))).flatten(1)
        return torch.relu(self.dense_norm(self.dense(local)))


class PatchFilters(nn.Module):
    """Separate linear map of each patch, with output ``(n_cells, n_filters, n_patches)``."""

    def __init__(self, n_channels: int, side: int, n_filters: int) -> None:
        super().__init__()
        if side < PATCH or side % PATCH:
            hint = f"Fit the gene layout with side={max(PATCH, -(-side // PATCH) * PATCH)}."
            raise invalid("The side of an image", side, f"a multiple of {PATCH}", hint)
        self.per_side = side // PATCH
        self.n_patches = self.per_side**2
        n_inputs = n_channels * PATCH**2
        # Half of He initialisation, for inputs of which about 30 % are non-zero.
        scale = 0.5 * math.sqrt(2 / (0.3 * n_inputs))
        self.weight = nn.Parameter(torch.randn(self.n_patches, n_inputs, n_filters) * scale)
        self.bias = nn.Parameter(torch.zeros(n_filters, self.n_patches))

    def forward(self, image: Tensor) -> Tensor:
        n_cells, channels = image.shape[:2]
        grid = image.reshape(n_cells, channels, self.per_side, PATCH, self.per_side, PATCH)
        patches = grid.permute(2, 4, 0, 1, 3, 5).reshape(self.n_patches, n_cells, -1)
        bias = self.bias.t().unsqueeze(1)
        # Filters stay contiguous in memory, which makes the normalisation over them fastest.
        return torch.baddbmm(bias, patches, self.weight).permute(1, 2, 0)


class MLPBackbone(nn.Module):
    """Backbone with two dense layers on the flattened image, without spatial structure.

    Parameters
    ----------
    n_channels, side
        Shape of the gene image.
    n_latent
        Number of features.
    n_hidden
        Width of the hidden layer.

    Examples
    --------
    >>> import torch
    >>> MLPBackbone(2, 16, n_latent=32)(torch.zeros(5, 2, 16, 16)).shape
    torch.Size([5, 32])
    """

    def __init__(
        self, n_channels: int, side: int, *, n_latent: int = 128, n_hidden: int = 512
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
        """Compute features ``(n_cells, n_latent)`` of gene images."""
        latent: Tensor = self.layers(image)
        return latent


class EfficientNetBackbone(nn.Module):
    """Backbone with the pooled features of an EfficientNet.

    Parameters
    ----------
    name
        One of ``efficientnet_b0`` to ``efficientnet_b7``, ``efficientnet_v2_s``, ``_m``, ``_l``.
    n_channels
        Channels of the gene image.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import EfficientNetBackbone
    >>> network = EfficientNetBackbone("efficientnet_b0", n_channels=2).eval()
    >>> network(torch.zeros(1, 2, 32, 32)).shape
    torch.Size([1, 1280])

    Notes
    -----
    The first convolution is adapted to the channels of a gene image: the filter of expression is
    the sum of the three colour filters, which is equivalent to three equal channels, and the
    filters of all other channels are initialised with zeros.
    """

    def __init__(self, name: str, n_channels: int) -> None:
        super().__init__()
        from torchvision.models import get_model

        network = get_model(name, weights=None)
        self.features = network.features
        tolerate_single_cells(self.features)
        self.features[0][0] = adapt_first_convolution(self.features[0][0], n_channels)
        self.n_latent: int = network.classifier[-1].in_features

    def forward(self, image: Tensor) -> Tensor:
        """Compute features ``(n_cells, n_latent)`` of gene images."""
        features: Tensor = self.features(image)
        return features.mean(dim=(2, 3))


def adapt_first_convolution(convolution: nn.Conv2d, n_channels: int) -> nn.Conv2d:
    """Adapt a convolution of three colour channels to ``n_channels``.

    The first channel is equivalent to three equal colour channels; all others initially have no
    effect.

    Examples
    --------
    >>> import torch
    >>> colours = torch.nn.Conv2d(3, 8, kernel_size=3)
    >>> adapted = adapt_first_convolution(colours, 2)
    >>> grey = torch.rand(1, 1, 5, 5)
    >>> other = torch.cat([grey, torch.rand(1, 1, 5, 5)], dim=1)
    >>> torch.allclose(adapted(other), colours(grey.expand(1, 3, 5, 5)), atol=1e-5)
    True
    """
    if n_channels == convolution.in_channels:
        return convolution
    weight = torch.zeros(len(convolution.weight), n_channels, *convolution.kernel_size)
    weight[:, 0] = convolution.weight.detach().sum(dim=1)
    adapted = copy.deepcopy(convolution)
    adapted.in_channels, adapted.weight = n_channels, nn.Parameter(weight)
    return adapted


def make_backbone(
    name: str | None, n_channels: int, side: int, *, n_latent: int = 128
) -> CompactBackbone | MLPBackbone | EfficientNetBackbone | None:
    """Create a backbone.

    Parameters
    ----------
    name
        ``"compact"``, ``"mlp"``, the name of an EfficientNet, or ``None`` for no image.
    n_channels, side
        Shape of the gene image.
    n_latent
        Number of features; fixed for EfficientNets.

    Returns
    -------
    A module from images ``(n_cells, n_channels, side, side)`` to ``(n_cells, n_latent)``.

    Raises
    ------
    ValueError
        If the name is unknown.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import make_backbone
    >>> network = make_backbone("compact", n_channels=2, side=16, n_latent=32)
    >>> network(torch.zeros(3, 2, 16, 16)).shape
    torch.Size([3, 32])
    """
    check_choice("backbone", name, (*BACKBONES, None))
    if name == "compact":
        return CompactBackbone(n_channels, side, n_latent=n_latent)
    if name == "mlp":
        return MLPBackbone(n_channels, side, n_latent=n_latent)
    return None if name is None else EfficientNetBackbone(name, n_channels)
