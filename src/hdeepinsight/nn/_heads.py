"""From features to one logit a node below the root."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hdeepinsight.nn._norm import BatchNorm1d

if TYPE_CHECKING:
    from hdeepinsight.taxonomy import TreeAlgebra


class LinearHead(nn.Module):
    """One affine map for all nodes.

    Parameters
    ----------
    n_latent
        Width of the features.
    tree
        Algebra of the taxonomy.
    dropout
        Dropout rate on the features.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import LinearHead
    >>> from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra
    >>> tree = TreeAlgebra(Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []}))
    >>> LinearHead(16, tree)(torch.zeros(2, 16)).shape
    torch.Size([2, 4])
    """

    def __init__(self, n_latent: int, tree: TreeAlgebra, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(n_latent, tree.taxonomy.n_edges)

    def forward(self, latent: Tensor, nodes: Tensor | None = None) -> Tensor:
        """Logits, shape ``(n_cells, n_edges)``, of features ``(n_cells, n_latent)``."""
        logits: Tensor = self.linear(self.dropout(latent))
        return logits


class PerParentHead(nn.Module):
    """The published head: a small network for the base level and one more for every parent.

    Parameters
    ----------
    n_latent
        Width of the features.
    tree
        Algebra of the taxonomy.
    dropout
        Dropout rate after every hidden layer.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import PerParentHead
    >>> from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra
    >>> tree = TreeAlgebra(Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []}))
    >>> head = PerParentHead(16, tree).eval()
    >>> len(head.networks), head(torch.zeros(2, 16)).shape
    (2, torch.Size([2, 4]))

    Notes
    -----
    In training, the batch-norm statistics of a parent's network see the cells of that parent
    alone; in the published code they see all cells though its loss does not.
    """

    def __init__(self, n_latent: int, tree: TreeAlgebra, *, dropout: float = 0.3) -> None:
        super().__init__()
        self.tree = tree
        sizes = torch.bincount(tree.group_of_edge).tolist()
        self.networks = nn.ModuleList(
            _network(n_latent, [1024] if group == 0 else [1024, 512], size, dropout)
            for group, size in enumerate(sizes)
        )

    def forward(self, latent: Tensor, nodes: Tensor | None = None) -> Tensor:
        """Logits, shape ``(n_cells, n_edges)``; ``nodes`` are the labels of training cells."""
        logits = latent.new_zeros(len(latent), self.tree.taxonomy.n_edges)
        for group, network in enumerate(self.networks):
            edges = (self.tree.group_of_edge == group).nonzero().ravel()
            rows = self._rows(group, nodes, latent)
            # Also without rows: a batch of unlabelled cells then still has a (zero) gradient.
            logits[rows.unsqueeze(1), edges] = network(latent[rows]).to(logits.dtype)
        return logits

    def _rows(self, group: int, nodes: Tensor | None, latent: Tensor) -> Tensor:
        if nodes is None or not self.training:
            return torch.arange(len(latent), device=latent.device)
        on_path = self.tree.node_at_level[nodes]
        groups = self.tree.group_of_edge[(on_path - 1).clamp_min(0)]
        return ((groups == group) & (on_path > 0)).any(1).nonzero().ravel()


def _network(n_in: int, hidden: list[int], n_out: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(n_in, width), BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout)]
        n_in = width
    return nn.Sequential(*layers, nn.Linear(n_in, n_out))
