"""Output layers: logits of all nodes with their temperatures, and parameters of counts."""

from __future__ import annotations

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from hdeepinsight.nn._norm import BatchNorm1d
from hdeepinsight.taxonomy import TreeAlgebra

BOUNDS = (0.05, 20.0)


class LinearHead(nn.Module):
    """Linear classification head for all nodes.

    Parameters
    ----------
    n_latent
        Number of features.
    tree
        Algebra of the taxonomy.
    dropout
        Dropout rate of the features.

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
        """Compute logits, shape ``(n_cells, n_edges)``, from features ``(n_cells, n_latent)``."""
        logits: Tensor = self.linear(self.dropout(latent))
        return logits


class PerParentHead(nn.Module):
    """Published classification head: one small network for the first level and one per parent.

    Parameters
    ----------
    n_latent
        Number of features.
    tree
        Algebra of the taxonomy.
    dropout
        Dropout rate after each hidden layer.

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
    In training, the batch statistics of a parent's network are computed from the cells of this
    parent alone; in the published code from all cells, although the loss uses only those cells.
    """

    def __init__(self, n_latent: int, tree: TreeAlgebra, *, dropout: float = 0.3) -> None:
        super().__init__()
        self.tree = tree
        sizes = torch.bincount(tree.group_of_edge).tolist()
        self.networks = nn.ModuleList()
        for group, size in enumerate(sizes):
            layers: list[nn.Module] = []
            n_in = n_latent
            for width in [1024] if group == 0 else [1024, 512]:
                norm = BatchNorm1d(width)
                layers += [nn.Linear(n_in, width), norm, nn.ReLU(), nn.Dropout(dropout)]
                n_in = width
            self.networks.append(nn.Sequential(*layers, nn.Linear(n_in, size)))

    def forward(self, latent: Tensor, nodes: Tensor | None = None) -> Tensor:
        """Compute logits, ``(n_cells, n_edges)``; ``nodes`` are the labels of training cells."""
        logits = latent.new_zeros(len(latent), self.tree.taxonomy.n_edges)
        for group, network in enumerate(self.networks):
            edges = (self.tree.group_of_edge == group).nonzero().ravel()
            rows = self._rows(group, nodes, latent)
            # Also without rows, so that a batch of unlabelled cells has a (zero) gradient.
            logits[rows.unsqueeze(1), edges] = network(latent[rows]).to(logits.dtype)
        return logits

    def _rows(self, group: int, nodes: Tensor | None, latent: Tensor) -> Tensor:
        if nodes is None or not self.training:
            return torch.arange(len(latent), device=latent.device)
        on_path = self.tree.node_at_level[nodes]
        groups = self.tree.group_of_edge[(on_path - 1).clamp_min(0)]
        return ((groups == group) & (on_path > 0)).any(1).nonzero().ravel()


def fit_temperatures(tree: TreeAlgebra, logits: Tensor, nodes: Tensor) -> Tensor:
    """Fit one temperature per level by the conditional log-loss of held-out cells.

    Parameters
    ----------
    tree
        Algebra of the taxonomy.
    logits
        Logits of held-out cells, shape ``(n_cells, n_edges)``.
    nodes
        Node of each cell's label, shape ``(n_cells,)``.

    Returns
    -------
    Temperatures, shape ``(n_levels,)``; 1 for levels without labelled cells.

    Examples
    --------
    Logits that are too large by a factor of two get a temperature of two:

    >>> import torch
    >>> from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra
    >>> tree = TreeAlgebra(Taxonomy.from_nested({"T": [], "B": []}))
    >>> share = torch.tensor([[0.9, 0.1]]).expand(10, 2)
    >>> nodes = torch.tensor([1] * 9 + [2])
    >>> fit_temperatures(tree, 2 * share.log(), nodes).round(decimals=3)
    tensor([2.])

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural networks.
    """
    edges = tree.node_at_level[nodes] - 1
    temperatures = torch.ones(edges.shape[1])
    for level in range(edges.shape[1]):
        here = edges[:, level] >= 0
        here &= tree.group_size[tree.group_of_edge[edges[:, level].clamp_min(0)]] > 1
        if here.any():
            temperatures[level] = _fit_one(tree, logits[here].double(), edges[here, level])
    return temperatures


def _fit_one(tree: TreeAlgebra, logits: Tensor, edges: Tensor) -> float:
    """Minimise the log-loss, which is convex in the inverse temperature."""

    def log_loss(inverse: float) -> float:
        conditional = tree.conditional_log_probs(logits * inverse)
        return float(-conditional.gather(1, edges.unsqueeze(1)).mean())

    best = minimize_scalar(log_loss, bounds=(1 / BOUNDS[1], 1 / BOUNDS[0]), method="bounded").x
    return 1.0 / (best if log_loss(best) < log_loss(1.0) else 1.0)


MEAN_BOUNDS = (1e-5, 1e6)
DISPERSION_BOUNDS = (1e-4, 1e4)


class CountHeads(nn.Module):
    """Output layers from hidden features to a zero-inflated negative binomial.

    Parameters
    ----------
    n_hidden, n_genes
        Number of hidden features and of genes.
    per_cell
        Whether dispersion and zero inflation depend on the cell; otherwise each gene has one
        parameter of each.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import CountHeads
    >>> heads = CountHeads(8, 5, per_cell=False)
    >>> [tuple(part.shape) for part in heads(torch.zeros(2, 8), torch.ones(2, 1))]
    [(2, 5), (5,), (5,)]
    """

    def __init__(self, n_hidden: int, n_genes: int, *, per_cell: bool = True) -> None:
        super().__init__()
        self.mean = nn.Linear(n_hidden, n_genes)
        self.dispersion: nn.Linear | nn.Parameter
        self.zeros: nn.Linear | nn.Parameter
        for name in ("dispersion", "zeros"):
            one_each = nn.Parameter(torch.zeros(n_genes))
            setattr(self, name, nn.Linear(n_hidden, n_genes) if per_cell else one_each)

    def forward(self, hidden: Tensor, size_factor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute parameters from features ``(n_cells, n_hidden)`` and depths ``(n_cells, 1)``.

        Returns
        -------
        Mean at the depth of the cell, shape ``(n_cells, n_genes)``; inverse dispersion and logits
        of zero inflation, each of the same shape or ``(n_genes,)``.
        """
        mean = self.mean(hidden).exp().clamp(*MEAN_BOUNDS) * size_factor
        dispersion, zeros = (
            part(hidden) if isinstance(part, nn.Linear) else part
            for part in (self.dispersion, self.zeros)
        )
        dispersion = nn.functional.softplus(dispersion).clamp(*DISPERSION_BOUNDS)
        return mean, dispersion, zeros
