"""Temperatures: how much to cool the logits of a level so that confidence means something."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

if TYPE_CHECKING:
    from hdeepinsight.taxonomy import TreeAlgebra

BOUNDS = (0.05, 20.0)


def fit_temperatures(tree: TreeAlgebra, logits: Tensor, nodes: Tensor) -> Tensor:
    """One temperature a level, by the conditional log-loss of held-out cells.

    Parameters
    ----------
    tree
        Algebra of the taxonomy.
    logits
        Logits of held-out cells, shape ``(n_cells, n_edges)``.
    nodes
        Node of every cell's label, shape ``(n_cells,)``.

    Returns
    -------
    Temperatures, shape ``(n_levels,)``; 1 for a level without cells to fit it on.

    Examples
    --------
    Logits that are twice too large are cooled by a factor of two:

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
    """Bounded search: the log-loss is convex in the inverse temperature."""

    def log_loss(inverse: float) -> float:
        conditional = tree.conditional_log_probs(logits * inverse)
        return float(-conditional.gather(1, edges.unsqueeze(1)).mean())

    bounds = (1 / BOUNDS[1], 1 / BOUNDS[0])
    best = minimize_scalar(log_loss, bounds=bounds, method="bounded").x
    return 1.0 / (best if log_loss(best) < log_loss(1.0) else 1.0)
