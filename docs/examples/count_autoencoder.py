"""A count autoencoder as a model of hdeepinsight: a module that computes, a class that wires."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.distributions import ZeroInflatedNegativeBinomial
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn

from hdeepinsight.models import CountModel, UnlabeledMixin


class CountAutoencoderModule(BaseModuleClass):
    """Autoencoder of log counts with a zero-inflated negative binomial likelihood.

    Parameters
    ----------
    n_genes, n_hidden, n_latent
        Widths of input, hidden layers and latent space.
    contrast
        Weight of the penalty on cells whose latent positions point the same way.
    """

    def __init__(self, n_genes: int, n_hidden: int, n_latent: int, contrast: float) -> None:
        super().__init__()
        self.contrast = contrast
        self.encoder = nn.Sequential(
            nn.Linear(n_genes, n_hidden), nn.Tanh(), nn.Linear(n_hidden, n_latent)
        )
        self.decoder = nn.Sequential(nn.Linear(n_latent, n_hidden), nn.Tanh())
        self.mean, self.dispersion, self.dropout = (nn.Linear(n_hidden, n_genes) for _ in range(3))

    def _get_inference_input(self, tensors: dict[str, Tensor], **_: Any) -> dict[str, Tensor]:
        return {"counts": tensors[REGISTRY_KEYS.X_KEY]}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], **_: Any
    ) -> dict[str, Tensor]:
        return inference_outputs

    @auto_move_data
    def inference(self, counts: Tensor) -> dict[str, Tensor]:
        """Return latent positions ``(n_cells, n_latent)`` and depths ``(n_cells, 1)``."""
        depth = counts.sum(dim=1, keepdim=True).clamp_min(1.0) / 1e4
        return {"z": self.encoder(torch.log1p(counts / depth)), "depth": depth}

    @auto_move_data
    def generative(self, z: Tensor, depth: Tensor) -> dict[str, Any]:
        """Return the distribution of the counts of every cell and gene."""
        hidden = self.decoder(z)
        return {
            "px": ZeroInflatedNegativeBinomial(
                mu=self.mean(hidden).clamp(-12, 12).exp() * depth,
                theta=nn.functional.softplus(self.dispersion(hidden)).clamp(1e-4, 1e4),
                zi_logits=self.dropout(hidden),
            )
        }

    def loss(
        self,
        tensors: dict[str, Tensor],
        inference_outputs: dict[str, Tensor],
        generative_outputs: dict[str, Any],
    ) -> LossOutput:
        """Negative log-likelihood, and the mean squared cosine between cells."""
        reconstruction = -generative_outputs["px"].log_prob(tensors[REGISTRY_KEYS.X_KEY]).sum(1)
        directions = nn.functional.normalize(inference_outputs["z"], dim=1)
        likeness = (directions @ directions.T).square().mean()
        return LossOutput(
            loss=reconstruction.mean() + self.contrast * likeness,
            reconstruction_loss=reconstruction,
            n_obs_minibatch=len(reconstruction),
        )


class CountAutoencoder(UnlabeledMixin, CountModel):
    """Latent positions of cells from their counts, without labels.

    Parameters
    ----------
    adata
        Reference that was registered by ``CountAutoencoder.setup_anndata``.
    registry
        Registry of a saved model, or of a datamodule.
    n_hidden, n_latent, contrast
        As in :class:`CountAutoencoderModule`.
    seed
        Seed of weights, split and training.
    """

    _module_cls = CountAutoencoderModule

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: Mapping[str, Any] | None = None,
        *,
        n_hidden: int = 256,
        n_latent: int = 32,
        contrast: float = 0.1,
        seed: int | None = None,
    ) -> None:
        super().__init__(adata, registry, seed=seed)
        self.init_params_ = self._get_init_params(locals())
        if adata is not None:
            self._read_genes()  # in the order of the model
        torch.manual_seed(self.seed)
        self.module = self._module_cls(len(self.genes), n_hidden, n_latent, contrast)
