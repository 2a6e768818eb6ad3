"""Learning without labels: hidden values of genes are told from the other genes of a cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS
from torch import Tensor, nn

from hdeepinsight._errors import batch_column, check_number
from hdeepinsight.data import AlignedQuery
from hdeepinsight.models._base._plan import OneCyclePlan
from hdeepinsight.models._base._registration import BATCH
from hdeepinsight.models._base._training import check_finite
from hdeepinsight.nn import TokenSets

GROUP = "group"
SMOOTHING = 5.0
"""Tokens of the overall distribution of bins that are added to those of every gene."""


def choose_tokens(
    real: Tensor,
    mask_rate: float,
    replace_rate: float,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw the tokens whose value is to be told, and those of them whose value is hidden.

    Parameters
    ----------
    real
        Whether each is a token and no padding, shape ``(n_cells, n_tokens)``.
    mask_rate
        Share of the tokens of a cell that are chosen; at least one is.
    replace_rate
        Share of the chosen ones that are hidden; the others are shown.
    generator
        Source of randomness; torch's global one by default.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.models.sclabelnet import choose_tokens
    >>> chosen, masked = choose_tokens(torch.tensor([[True, True, False]]), 0.01, 1.0)
    >>> int(chosen.sum()), bool((chosen == masked).all())
    (1, True)
    """
    score = torch.rand(real.shape, generator=generator).to(real.device)
    score = score.masked_fill(~real, 2.0)
    chosen = score < mask_rate
    if real.shape[1]:
        least = score.argmin(1, keepdim=True)
        chosen = chosen.scatter(1, least, True) & real
    hidden = torch.rand(real.shape, generator=generator).to(real.device) < replace_rate
    return chosen, chosen & hidden


def value_losses(module: Any, tokens: TokenSets, chosen: Tensor, masked: Tensor) -> Tensor:
    """Compute the cross-entropy of the bin of every chosen token, in the order of the tokens.

    Parameters
    ----------
    module
        A network with ``backbone`` and ``value_head``.
    tokens
        The tokens.
    chosen, masked
        As :func:`choose_tokens` returns them.
    """
    rows, found = [], []
    for some, part in tokens.groups():
        n_tokens = part.genes.shape[1]
        told, hide = (each[some, :n_tokens] for each in (chosen, masked))
        hidden = module.backbone.hidden(module.backbone.embed(part, hide), part.real)[:, 1:]
        bins = part.positions[told].floor().long() - 1
        logits = module.value_head(hidden[told])
        found.append(nn.functional.cross_entropy(logits, bins, reduction="none"))
        rows.append(some[told.nonzero()[:, 0]])
    return torch.cat(found)[torch.cat(rows).argsort(stable=True)]


class PretrainingPlan(OneCyclePlan):
    """Train a network to tell hidden values.

    Parameters
    ----------
    module
        The network.
    measured
        1 for the genes that each file has, shape ``(n_files, n_genes)``.
    mask_rate, replace_rate
        As in :func:`choose_tokens`.
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
        self.rates_ = mask_rate, replace_rate
        self.register_buffer("measured", torch.from_numpy(measured).float(), persistent=False)
        n_bins, shape = module.n_bins, (measured.shape[1], module.n_bins)
        # How often each gene has each bin in the training cells.
        self.register_buffer("bins", torch.zeros(shape), persistent=False)
        self.n_bins = n_bins
        self._held_out: list[tuple[Tensor, Tensor, Tensor]] = []

    def rates(self) -> dict[float, list[nn.Parameter]]:
        """Return what is trained: the encoder, but for what labels alone can train."""
        module = self.module
        used = [*module.backbone.parameters(), *module.value_head.parameters()]
        return {1.0: used}

    def _read(
        self, batch: dict[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[TokenSets, Tensor, Tensor]:
        files = batch[REGISTRY_KEYS.BATCH_KEY].long().ravel()
        tokens = self.module.tokens(batch[REGISTRY_KEYS.X_KEY], self.measured[files])
        chosen, masked = choose_tokens(tokens.real, *self.rates_, generator)
        return tokens, chosen, masked

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a mini-batch."""
        tokens, chosen, masked = self._read(batch)
        real = tokens.real
        at = tokens.genes[real], tokens.positions[real].floor().long() - 1
        self.bins.index_put_(at, self.bins.new_ones(()), accumulate=True)
        losses = value_losses(self.module, tokens, chosen, masked)
        # No loss of cells without tokens, but a graph for the optimiser.
        loss = losses.mean() if len(losses) else 0.0 * self.module.value_head.bias.sum()
        self.log("train_loss", loss, on_epoch=True, on_step=False, batch_size=len(real))
        return loss

    def on_validation_epoch_start(self) -> None:
        """Hide the same tokens of the held-out cells in every epoch."""
        self._generator = torch.Generator().manual_seed(0)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect the losses of held-out cells."""
        tokens, chosen, masked = self._read(batch, self._generator)
        losses = value_losses(self.module, tokens, chosen, masked)
        bins = tokens.positions[chosen].floor().long() - 1
        self._held_out.append((losses, tokens.genes[chosen], bins))

    def on_validation_epoch_end(self) -> None:
        """Log the loss beside its trivial baselines."""
        check_finite(self.module)
        losses, genes, bins = (torch.cat(each) for each in zip(*self._held_out, strict=True))
        self._held_out.clear()
        overall = (self.bins.sum(0) + 1) / (self.bins.sum() + self.n_bins)
        by_gene = self.bins + SMOOTHING * overall
        by_gene = by_gene / by_gene.sum(1, keepdim=True)
        found = {
            "validation_loss": losses.mean(),
            "baseline_all_genes": -overall.log()[bins].mean(),
            "baseline_per_gene": -by_gene.log()[genes, bins].mean(),
        }
        self.log_dict(found, batch_size=len(losses))


def joined(opened: Sequence[AlignedQuery], split_key: str | None) -> tuple[AnnData, np.ndarray]:
    """Put the cells of several files together, sparse, with the genes of a model.

    Parameters
    ----------
    opened
        The files, aligned to the genes of one model.
    split_key
        Column of ``obs`` with the group (a donor) of every cell; none by default.

    Returns
    -------
    A shell of the cells, and whether each file has each gene, shape ``(n_files, n_genes)``.
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
