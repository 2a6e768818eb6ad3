"""torchvision's EfficientNets for gene images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hdeepinsight.nn._norm import tolerate_single_cells

EFFICIENTNETS = (
    *(f"efficientnet_b{size}" for size in range(8)),
    "efficientnet_v2_s",
    "efficientnet_v2_m",
    "efficientnet_v2_l",
)


class EfficientNetBackbone(nn.Module):
    """Pooled features of an EfficientNet.

    Parameters
    ----------
    name
        One of ``efficientnet_b0`` to ``efficientnet_b7``, ``efficientnet_v2_s``, ``_m``, ``_l``.
    n_channels
        Channels of the gene image.
    pretrained
        Start from torchvision's ImageNet weights, which torchvision downloads.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import EfficientNetBackbone
    >>> network = EfficientNetBackbone("efficientnet_b0", n_channels=2).eval()
    >>> network(torch.zeros(1, 2, 32, 32)).shape
    torch.Size([1, 1280])

    Notes
    -----
    The first convolution is adapted to the channels of a gene image: expression gets the sum of
    the three colour filters, which gives the same result as three equal channels, and all other
    channels start at zero.
    """

    def __init__(self, name: str, n_channels: int, *, pretrained: bool = False) -> None:
        super().__init__()
        from torchvision.models import get_model

        network = get_model(name, weights="DEFAULT" if pretrained else None)
        self.features = network.features
        tolerate_single_cells(self.features)
        self.features[0][0] = adapt_first_convolution(self.features[0][0], n_channels)
        self.n_latent: int = network.classifier[-1].in_features

    def forward(self, image: Tensor) -> Tensor:
        """Features ``(n_cells, n_latent)`` of images ``(n_cells, n_channels, side, side)``."""
        features: Tensor = self.features(image)
        return features.mean(dim=(2, 3))


def adapt_first_convolution(convolution: nn.Conv2d, n_channels: int) -> nn.Conv2d:
    """Rebuild a convolution for ``n_channels``.

    The first channel then acts as three equal colour channels did; all others start without effect.

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
    adapted = nn.Conv2d(
        n_channels,
        convolution.out_channels,
        kernel_size=convolution.kernel_size,  # type: ignore[arg-type]
        stride=convolution.stride,  # type: ignore[arg-type]
        padding=convolution.padding,  # type: ignore[arg-type]
        bias=convolution.bias is not None,
    )
    with torch.no_grad():
        adapted.weight.zero_()
        adapted.weight[:, 0] = convolution.weight.sum(dim=1)
        if convolution.bias is not None and adapted.bias is not None:
            adapted.bias.copy_(convolution.bias)
    return adapted
