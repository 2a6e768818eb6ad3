"""Learning labels: rare types are drawn more often, and the encoder moves slowly or not at all."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from scvi.dataloaders import AnnDataLoader, DataSplitter
from torch import Tensor, nn
from torch.nn import Parameter
from torch.utils.data import BatchSampler, WeightedRandomSampler, default_convert

from hdeepinsight.models._base._plan import HierarchicalPlan
from hdeepinsight.taxonomy import TreeAlgebra

Finetune = Literal["full", "head", "published"]


def sampling_weights(nodes: np.ndarray, balance: float) -> np.ndarray:
    r"""Return weights :math:`n^{-\beta}` of cells whose label :math:`n` of them have.

    Parameters
    ----------
    nodes
        Node of every cell's label, shape ``(n_cells,)``; unlabelled cells, 0, get no weight.
    balance
        :math:`\beta`; with 1 every label is drawn equally often, with 0 as often as it is there.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.models.sclabelnet import sampling_weights
    >>> sampling_weights(np.array([0, 1, 1, 2]), 1.0).tolist()
    [0.0, 0.5, 0.5, 1.0]
    """
    sizes = np.bincount(nodes)[nodes].astype(float)
    return np.where(nodes > 0, sizes**-balance, 0.0)


def log_prior_ratio(tree: TreeAlgebra, nodes: np.ndarray, weights: np.ndarray) -> Tensor:
    r"""Compute :math:`\log\pi - \log q`, natural and sampled shares of nodes among siblings.

    Parameters
    ----------
    tree
        Algebra of the taxonomy.
    nodes
        Node of every training cell, shape ``(n_cells,)``.
    weights
        Weight of every cell in the sampling, shape ``(n_cells,)``.

    Returns
    -------
    What is added to the logits, shape ``(n_edges,)``; 0 for nodes without cells.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.models.sclabelnet import log_prior_ratio
    >>> from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra
    >>> tree = TreeAlgebra(Taxonomy.from_nested({"T": [], "B": []}))
    >>> nodes = np.array([1, 1, 1, 2])
    >>> log_prior_ratio(tree, nodes, np.array([1, 1, 1, 3])).exp()
    tensor([1.5000, 0.5000])
    """
    path = tree.node_at_level.cpu()[torch.from_numpy(nodes)]
    groups, logs = tree.group_of_edge.cpu(), []
    for weight in (np.where(nodes > 0, 1.0, 0.0), weights):
        repeated = torch.from_numpy(weight).unsqueeze(1).expand(path.shape)
        sums = torch.zeros(len(groups) + 1, dtype=torch.float64)
        sums.index_add_(0, path[path > 0], repeated[path > 0].double())
        total = torch.zeros(len(tree.group_size), dtype=torch.float64)
        total.index_add_(0, groups, sums[1:])
        logs.append((sums[1:] / total[groups]).log())
    return (logs[0] - logs[1]).nan_to_num(0.0).float()


class BalancedSplitter(DataSplitter):  # type: ignore[misc]
    """Draw training cells by weights, with replacement; held-out cells come once, in order.

    Parameters
    ----------
    adata_manager
        Manager of the cells.
    weights
        Weight of every cell, shape ``(n_cells,)``.
    **loading
        As in :class:`scvi.dataloaders.DataSplitter`.
    """

    def __init__(self, adata_manager: Any, weights: np.ndarray, **loading: Any) -> None:
        super().__init__(adata_manager, **loading)
        self.weights = weights

    def train_dataloader(self) -> AnnDataLoader:
        """Return the loader of the training cells, as many draws as there are cells."""
        weights = self.weights[self.train_idx]
        options = dict(self.data_loader_kwargs)
        size = options.pop("batch_size")
        sampler = WeightedRandomSampler(weights.tolist(), len(weights))
        return AnnDataLoader(
            self.adata_manager,
            indices=self.train_idx,
            sampler=BatchSampler(sampler, size, bool(self.drop_last)),
            collate_fn=_only,
            load_sparse_tensor=self.load_sparse_tensor,
            pin_memory=self.pin_memory,
            **options,
        )


def _only(batches: list[Any]) -> Any:
    """Return the one mini-batch, which the sampler gave whole."""
    return default_convert(batches[0])  # type: ignore[no-untyped-call]


class FinetuningPlan(HierarchicalPlan):
    """Train head and encoder, each at a rate of its own, or only some of it.

    Parameters
    ----------
    module, taxonomy, node_of_code, columns, unseen_by, query, measured
        As in :class:`~hdeepinsight.models.HierarchicalPlan`.
    log_prior
        What is added to the logits at prediction, shape ``(n_edges,)``.
    finetune
        ``"full"``, ``"head"``, or ``"published"``: the last normalisation, the second-to-last block
        and the head.
    encoder_share
        Learning rate of the encoder as a share of that of the head.
    lr
        Peak of the learning rate.
    **kwargs
        As in :class:`~hdeepinsight.models.OneCyclePlan`.
    """

    def __init__(
        self,
        module: Any,
        taxonomy: Any,
        node_of_code: np.ndarray,
        columns: np.ndarray | None = None,
        unseen_by: np.ndarray | None = None,
        query: Any = None,
        measured: np.ndarray | None = None,
        log_prior: Tensor | None = None,
        finetune: Finetune = "full",
        encoder_share: float = 1.0,
        lr: float = 6e-3,
        **kwargs: Any,
    ) -> None:
        tables = node_of_code, columns, unseen_by, query, measured
        super().__init__(module, taxonomy, *tables, lr=lr, **kwargs)
        self.log_prior, self.finetune, self.encoder_share = log_prior, finetune, encoder_share

    def rates(self) -> dict[float, list[Parameter]]:
        """Return what is trained by the share of the learning rate that it is trained at."""
        encoder = self.module.backbone
        parts: dict[Finetune, list[nn.Module]] = {
            "full": [encoder],
            "head": [],
            "published": [encoder.norm, encoder.blocks[-2:][0]],
        }
        encoder.requires_grad_(False)
        for part in parts[self.finetune]:
            part.requires_grad_()
        trained = [p for p in encoder.parameters() if p.requires_grad]
        head = [*self.module.head.parameters()]
        if self.encoder_share == 1.0:
            return {1.0: head + trained}
        return {1.0: head, self.encoder_share: trained}

    def on_fit_start(self) -> None:
        """Give predictions on held-out cells the natural shares of the types."""
        super().on_fit_start()
        if self.log_prior is not None:
            self.module.log_prior.copy_(self.log_prior)

    def on_fit_end(self) -> None:
        """Let the whole network be trained again."""
        super().on_fit_end()
        self.module.requires_grad_()
