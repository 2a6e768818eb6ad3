"""Module of DPDCAN: an autoencoder of counts whose loss is computed separately for each cell."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from scvi import REGISTRY_KEYS
from scvi.distributions._negative_binomial import log_zinb_positive
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn

from hdeepinsight.models._base._unlabeled import SIZE_FACTOR
from hdeepinsight.nn import CountHeads

Heads = Literal["projected", "full", "compact"]
TARGET_DEPTH = 1e4
#: Weight of the reconstruction loss; the contrastive loss has the rest.
RECONSTRUCTION_WEIGHT = 0.8


class ResidualMap(nn.Module):
    """Residual block that is the identity at initialisation."""

    def __init__(self, n_features: int, n_hidden: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(n_features, n_hidden), nn.Linear(n_hidden, n_features)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        return torch.add(x, self.out(torch.tanh(self.hidden(x))))


class DPDCANNetwork(nn.Module):
    """Encoder and decoder; :meth:`forward` returns the losses of each cell.

    The network is deterministic, and cells do not interact (there are no batch statistics).

    Parameters
    ----------
    n_genes, n_latent, hidden, heads
        As in :class:`DPDCAN`.
    """

    centre: Tensor
    directions: Tensor

    def __init__(self, n_genes: int, n_latent: int, hidden: Sequence[int], heads: Heads) -> None:
        super().__init__()
        self.is_projected = heads == "projected"
        self.encoder: nn.Module
        self.decoder: nn.Module
        if self.is_projected:
            self.register_buffer("centre", torch.zeros(n_genes))
            self.register_buffer("directions", torch.zeros(n_latent, n_genes))
            self.encoder = ResidualMap(n_latent, hidden[-1])
            self.decoder = ResidualMap(n_latent, hidden[-1])
        else:
            self.encoder = _tanh_layers([n_genes, *hidden], n_latent)
            inner = _tanh_layers([n_latent, *hidden[:0:-1]], hidden[0])
            self.decoder = nn.Sequential(inner, nn.Tanh())
            self.counts = CountHeads(hidden[0], n_genes, per_cell=heads == "full")

    def features(self, values: Tensor) -> Tensor:
        """Return the inputs of the encoder for log values, ``(n_cells, n_genes)``.

        They do not depend on trainable weights. Projections are scaled to the order of 1.
        """
        if not self.is_projected:
            return values
        scale: float = len(self.directions) ** 0.5
        residuals = nn.functional.normalize(values, dim=-1) - self.centre
        return nn.functional.linear(residuals, self.directions) * scale

    def forward(self, features: Tensor, views: Tensor, counts: Tensor, depth: Tensor) -> Tensor:
        """Compute the reconstruction and contrastive losses of each cell, ``(n_cells, 2)``.

        Parameters
        ----------
        features, views
            Features of the cells, ``(n_cells, n_features)``, and of two masked views of each,
            ``(n_cells, 2, n_features)``.
        counts, depth
            Counts ``(n_cells, n_genes)``, and their depth ``(n_cells, 1)``.
        """
        z = self.encoder(features)
        if self.is_projected:
            loss = (self.decoder(z) - features).square().mean(dim=1)
        else:
            mean, dispersion, zeros = self.counts(self.decoder(z), depth / TARGET_DEPTH)
            # The distribution object validates its arguments, which vmap does not support.
            loss = -log_zinb_positive(counts, mean, dispersion, zeros).mean(dim=1)
        one, two = self.encoder(views).unbind(dim=1)
        return torch.stack([loss, -nn.functional.cosine_similarity(one, two, dim=1)], dim=1)


class DPDCANModule(BaseModuleClass):  # type: ignore[misc]
    """scvi-tools module of the network, with augmentation.

    Parameters
    ----------
    n_genes, n_latent, hidden, heads
        As in :class:`DPDCAN`.
    """

    #: Probability that a gene is masked in a view.
    mask_probability = 0.2

    def __init__(self, n_genes: int, n_latent: int, hidden: Sequence[int], heads: Heads) -> None:
        super().__init__()
        self.network = DPDCANNetwork(n_genes, n_latent, hidden, heads)
        shares = [RECONSTRUCTION_WEIGHT, 1 - RECONSTRUCTION_WEIGHT]
        self.register_buffer("weights", torch.tensor(shares))

    def prepare(self, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the inputs of the network, with two random views of each cell."""
        given = self._get_inference_input(tensors)
        values = log_values(**given)
        kept = torch.rand(len(values), 2, values.shape[1], device=values.device)
        views = values[:, None] * (kept >= self.mask_probability)
        parts = self.network.features(values), self.network.features(views)
        return (*parts, given["counts"], given["depth"])

    def _get_inference_input(self, tensors: Any) -> dict[str, Tensor]:
        counts = tensors[REGISTRY_KEYS.X_KEY]
        depth = tensors.get(SIZE_FACTOR, counts.sum(dim=1, keepdim=True))
        return {"counts": counts, "depth": depth}

    def _get_generative_input(self, tensors: Any, inference_outputs: Any) -> dict[str, Any]:
        return {"tensors": tensors}

    @auto_move_data  # type: ignore[untyped-decorator]
    def inference(self, counts: Tensor, depth: Tensor) -> dict[str, Tensor]:
        """Compute the latent representation, ``(n_cells, n_latent)``."""
        return {"z": self.network.encoder(self.network.features(log_values(counts, depth)))}

    @auto_move_data  # type: ignore[untyped-decorator]
    def generative(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of each cell, ``(n_cells, 2)``."""
        return {"losses": self.network(*self.prepare(tensors))}

    def loss(self, tensors: Any, inference_outputs: Any, generative_outputs: Any) -> LossOutput:
        """Compute the weighted mean loss; the mini-batch may be empty."""
        losses = generative_outputs["losses"]
        n_cells = max(len(losses), 1)
        total = (losses @ self.weights).sum() / n_cells
        return LossOutput(total, losses[:, 0], n_obs_minibatch=n_cells)


def log_values(counts: Tensor, depth: Tensor) -> Tensor:
    """Compute log1p of counts per 10,000; cells without counts are 0."""
    return torch.log1p(counts * (TARGET_DEPTH / depth.clamp_min(1.0)))


def _tanh_layers(widths: Sequence[int], n_out: int) -> nn.Sequential:
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], n_out))
