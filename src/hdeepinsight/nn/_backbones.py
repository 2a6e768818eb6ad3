"""Networks that read a gene image, by name."""

from __future__ import annotations

from hdeepinsight.nn._compact import CompactBackbone
from hdeepinsight.nn._efficientnet import EFFICIENTNETS, EfficientNetBackbone
from hdeepinsight.nn._mlp import MLPBackbone

BACKBONES = ("compact", "mlp", *EFFICIENTNETS)


def make_backbone(
    name: str | None, n_channels: int, side: int, *, n_latent: int = 256
) -> CompactBackbone | MLPBackbone | EfficientNetBackbone | None:
    """Build a backbone.

    Parameters
    ----------
    name
        ``"compact"``, ``"mlp"``, the name of an EfficientNet, or ``None`` for no image at all.
    n_channels, side
        Shape of the gene image.
    n_latent
        Width of the features; EfficientNets have their own.

    Returns
    -------
    A module from images ``(n_cells, n_channels, side, side)`` to ``(n_cells, n_latent)``.

    Raises
    ------
    ValueError
        If there is no backbone of that name.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import make_backbone
    >>> network = make_backbone("compact", n_channels=2, side=16, n_latent=32)
    >>> network(torch.zeros(3, 2, 16, 16)).shape
    torch.Size([3, 32])
    """
    if name is None:
        return None
    if name == "compact":
        return CompactBackbone(n_channels, side, n_latent=n_latent)
    if name == "mlp":
        return MLPBackbone(n_channels, side, n_latent=n_latent)
    if name in EFFICIENTNETS:
        return EfficientNetBackbone(name, n_channels)
    msg = f"There is no backbone {name!r}. Valid are {', '.join(BACKBONES)}, and None."
    raise ValueError(msg)
