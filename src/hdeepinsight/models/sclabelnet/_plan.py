"""Module of SCLabelNet and its training: masked values without labels, then labels, balanced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.dataloaders import AnnDataLoader, DataSplitter
from scvi.module.base import auto_move_data
from torch import Tensor
from torch.nn import Parameter
from torch.utils.data import WeightedRandomSampler

from hdeepinsight._errors import batch_column, check_number
from hdeepinsight.data import AlignedQuery
from hdeepinsight.models._base._classifier import TreeModule
from hdeepinsight.models._base._plan import HierarchicalPlan, OneCyclePlan
from hdeepinsight.models._base._registration import BATCH
from hdeepinsight.models._base._training import check_finite
from hdeepinsight.nn import GeneTokenClassifier, TokenSets, choose_tokens, masked_value_losses

Finetune = Literal["full", "head", "published"]

GROUP = "group"
SCORES = "validation_loss", "baseline_all_genes", "baseline_per_gene"
#: Pseudocounts from the overall distribution of bins, added to the bins of each gene.
SMOOTHING = 5.0


class GeneTokenModule(GeneTokenClassifier, TreeModule):
    """Trainable classifier of gene tokens."""

    inference = auto_move_data(GeneTokenClassifier.inference)


class PretrainingPlan(OneCyclePlan):
    """Training plan that predicts masked values.

    Parameters
    ----------
    module
        Module to train.
    measured
        1 for the genes that each file has, shape ``(n_files, n_genes)``.
    mask_rate, replace_rate
        As in :func:`~hdeepinsight.nn.choose_tokens`.
    lr
        Peak of the learning rate.
    **kwargs
        As in :class:`~hdeepinsight.models.OneCyclePlan`.
    """

    bins: Tensor

    def __init__(
        self,
        module: Any,
        measured: np.ndarray,
        *,
        mask_rate: float,
        replace_rate: float,
        lr: float = 4e-3,
        **kwargs: Any,
    ) -> None:
        for name, rate in (("mask_rate", mask_rate), ("replace_rate", replace_rate)):
            check_number(name, rate, 0.0, 1.0)
        super().__init__(module, lr=lr, **kwargs)
        self.shares = mask_rate, replace_rate
        self.register_buffer("measured", torch.from_numpy(measured).float(), persistent=False)
        # How often each gene has each bin in the training cells.
        n_bins = module.value_head.out_features
        bins = torch.zeros(measured.shape[1], n_bins)
        self.register_buffer("bins", bins, persistent=False)
        self._held_out: list[tuple[Tensor, Tensor, Tensor]] = []

    def rates(self) -> dict[float, list[Parameter]]:
        """Return the parameters of the encoder and of the head for values."""
        network = self.module
        return {1.0: [*network.backbone.parameters(), *network.value_head.parameters()]}

    def _losses(
        self, batch: dict[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[TokenSets, Tensor, Tensor]:
        """Return the tokens of a mini-batch, those that are predicted, and their losses."""
        network, files = self.module, batch[REGISTRY_KEYS.BATCH_KEY].long().ravel()
        tokens = network.tokens(batch[REGISTRY_KEYS.X_KEY], self.measured[files])
        chosen, masked = choose_tokens(tokens.real, *self.shares, generator)
        parts = network.backbone, network.value_head
        return tokens, chosen, masked_value_losses(*parts, tokens, chosen, masked)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Compute the loss of a mini-batch."""
        tokens, _, losses = self._losses(batch)
        real = tokens.real
        at = tokens.genes[real], tokens.bins[real].long() - 1
        self.bins.index_put_(at, self.bins.new_ones(()), accumulate=True)
        # Without tokens the loss is 0, but the optimiser needs a graph.
        loss = losses.mean() if len(losses) else 0.0 * self.module.value_head.bias.sum()
        self.log("train_loss", loss, on_epoch=True, on_step=False, batch_size=len(real))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Mask the same tokens of the held-out cells in each epoch."""
        self._generator = torch.Generator().manual_seed(0)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Compute the losses of held-out cells."""
        tokens, chosen, losses = self._losses(batch, self._generator)
        self._held_out.append((losses, tokens.genes[chosen], tokens.bins[chosen].long() - 1))

    def on_validation_epoch_end(self) -> None:
        """Log the loss and its baselines."""
        check_finite(self.module)
        losses, genes, bins = (torch.cat(each) for each in zip(*self._held_out, strict=True))
        self._held_out.clear()
        overall = (self.bins.sum(0) + 1) / (self.bins.sum() + self.bins.shape[1])
        by_gene = self.bins + SMOOTHING * overall
        by_gene = by_gene / by_gene.sum(1, keepdim=True)
        baselines = -overall.log()[bins].mean(), -by_gene.log()[genes, bins].mean()
        found = dict(zip(SCORES, (losses.mean(), *baselines), strict=True))
        self.log_dict(found, batch_size=len(losses))


def joined(opened: Sequence[AlignedQuery], split_key: str | None) -> tuple[AnnData, np.ndarray]:
    """Concatenate the cells of several files, sparse, with the genes of a model.

    Parameters
    ----------
    opened
        Files, aligned to the genes of the model.
    split_key
        Column of ``obs`` with the group (donor) of each cell, or ``None``.

    Returns
    -------
    Shell AnnData of the cells, and whether each file has each gene, shape
    ``(n_files, n_genes)``.
    """
    files = np.repeat(np.arange(len(opened)), [each.n_obs for each in opened])
    counts = sparse.vstack([each.read() for each in opened], format="csr")
    index = pd.RangeIndex(len(files)).astype(str)
    obs = pd.DataFrame({BATCH: files, f"{BATCH}_name": pd.Categorical(files)}, index=index)
    if split_key is not None:
        columns = [batch_column(each.obs, split_key).astype(str) for each in opened]
        obs[GROUP] = np.concatenate(columns)
    var = pd.DataFrame(index=pd.Index(opened[0].genes, dtype=object))
    return AnnData(counts, obs=obs, var=var), np.stack([each.measured for each in opened])


class BalancedSplitter(DataSplitter):  # type: ignore[misc]
    """Data splitter that draws training cells by weight with replacement.

    Parameters
    ----------
    adata_manager
        Manager of the cells.
    weights
        Weight of each cell, shape ``(n_cells,)``.
    **loading
        As in :class:`scvi.dataloaders.DataSplitter`.
    """

    def __init__(self, adata_manager: Any, weights: np.ndarray, **loading: Any) -> None:
        super().__init__(adata_manager, **loading)
        self.weights = weights

    def train_dataloader(self) -> AnnDataLoader:
        """Return the loader of the training cells, with one draw per cell."""
        loader: Any = super().train_dataloader()
        weights = self.weights[self.train_idx].tolist()
        loader.sampler.sampler = WeightedRandomSampler(weights, len(weights))
        return loader


class FinetuningPlan(HierarchicalPlan):
    """Training plan of the classifier, with a separate learning rate for the encoder.

    Parameters
    ----------
    module
        Module to train.
    log_prior
        Correction of the logits at prediction, shape ``(n_edges,)``.
    finetune
        Trained part: ``"full"``, ``"head"``, or ``"published"``, the last normalisation, the
        second-to-last block and the head.
    encoder_rate
        Learning rate of the encoder as a fraction of that of the head.
    *args, lr, **kwargs
        As in :class:`~hdeepinsight.models.HierarchicalPlan`.
    """

    def __init__(
        self,
        module: Any,
        log_prior: Tensor,
        finetune: Finetune,
        encoder_rate: float,
        *args: Any,
        lr: float = 6e-3,
        **kwargs: Any,
    ) -> None:
        super().__init__(module, *args, lr=lr, **kwargs)
        self.log_prior, self.finetune, self.encoder_rate = log_prior, finetune, encoder_rate

    def rates(self) -> dict[float, list[Parameter]]:
        """Return the trainable parameters, grouped by their factor of the learning rate."""
        encoder = self.module.backbone.requires_grad_(self.finetune == "full")
        if self.finetune == "published":
            for part in (encoder.norm, encoder.blocks[-2:][0]):
                part.requires_grad_()
        trained = [p for p in encoder.parameters() if p.requires_grad]
        head = [*self.module.head.parameters(), *self.module.linear.parameters()]
        if self.encoder_rate == 1.0:
            return {1.0: head + trained}
        return {1.0: head, self.encoder_rate: trained}

    def on_fit_start(self) -> None:
        """Set the prior correction that validation and prediction use."""
        super().on_fit_start()
        self.module.log_prior.copy_(self.log_prior)

    def on_fit_end(self) -> None:
        """Unfreeze the whole network."""
        super().on_fit_end()
        self.module.requires_grad_()
