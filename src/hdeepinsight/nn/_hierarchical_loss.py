"""Adaptive hierarchical focal loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor, nn

from hdeepinsight._errors import check_choice, invalid
from hdeepinsight.taxonomy import TreeAlgebra

Reduction = Literal["cell", "published"]
Weighting: TypeAlias = Literal["adaptive", "fixed"] | Sequence[float]
LEVEL_FLOOR = 0.2
MOMENTUM = 0.9


class AdaptiveHierarchicalFocalLoss(nn.Module):
    r"""Focal loss on the conditional probabilities along each cell's true path.

    The loss of a cell with true node :math:`v` at a level is
    :math:`w_v (1 - p)^\gamma (-\log p)` with :math:`p = P(v \mid parent(v))`. Cells labelled
    above a level, and nodes without siblings, are ignored at this level.

    Parameters
    ----------
    tree
        Algebra of the taxonomy.
    gamma
        Focusing exponent; 0 is the cross-entropy.
    reduction
        ``"cell"`` averages over the cells of a level. ``"published"`` averages over the cells of
        each parent and sums over the parents in the mini-batch, so that levels with many parents
        have more weight.
    weighting
        Weights of the levels: ``"adaptive"`` (uniform initially and updated by
        :meth:`update_level_weights`), ``"fixed"`` (uniform), or one fixed number per level, which
        are divided by their sum.

    Raises
    ------
    ValueError
        If ``reduction`` or ``weighting`` is unknown.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra
    >>> tree = TreeAlgebra(Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []}))
    >>> conditional = tree.conditional_log_probs(torch.zeros(1, 4))
    >>> AdaptiveHierarchicalFocalLoss(tree)(conditional, torch.tensor([3]))
    tensor(0.1733)

    Notes
    -----
    Based on the loss of scHDeepInsight (doi:10.1101/2025.06.23.661045). Differences: node weights
    are outside the focal factor, and level weights are a buffer and thus part of the saved state.
    """

    def __init__(
        self,
        tree: TreeAlgebra,
        *,
        gamma: float = 2.0,
        reduction: Reduction = "cell",
        weighting: Weighting = "adaptive",
    ) -> None:
        super().__init__()
        self.tree = tree
        self.gamma = gamma
        hint = "Use 'cell', or 'published' to reproduce the published loss."
        check_choice("reduction", reduction, get_args(Reduction), hint)
        self.reduction: Reduction = reduction
        self.adaptive = isinstance(weighting, str) and weighting == "adaptive"
        self.level_weights = nn.Buffer(_weights(weighting, tree.node_at_level.shape[1]))
        #: Weight of each node below the root, shape ``(n_edges,)``.
        self.node_weights = nn.Buffer(torch.ones(tree.taxonomy.n_edges))

    def forward(self, conditional: Tensor, nodes: Tensor) -> Tensor:
        """Compute the loss of a mini-batch, the weighted sum over levels.

        Parameters
        ----------
        conditional
            Conditional log-probabilities, shape ``(n_cells, n_edges)``.
        nodes
            Node of each cell's label, shape ``(n_cells,)``; 0, the root, for unlabelled cells.
        """
        return (self.level_weights * self.per_level(conditional, nodes)).sum()

    def per_level(self, conditional: Tensor, nodes: Tensor) -> Tensor:
        """Compute the unweighted loss of each level, shape ``(n_levels,)``.

        Examples
        --------
        >>> import torch
        >>> from hdeepinsight.nn import AdaptiveHierarchicalFocalLoss
        >>> from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra
        >>> tree = TreeAlgebra(Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []}))
        >>> conditional = tree.conditional_log_probs(torch.zeros(1, 4))
        >>> AdaptiveHierarchicalFocalLoss(tree, gamma=0.0).per_level(conditional, torch.tensor([1]))
        tensor([0.6931, 0.0000])
        """
        edges = self.tree.node_at_level[nodes] - 1
        real = edges >= 0
        edges = edges.clamp_min(0)
        groups = self.tree.group_of_edge[edges]
        counted = real & (self.tree.group_size[groups] > 1)
        losses = self.node_weights[edges] * self._focal(conditional.gather(1, edges)) * counted
        if self.reduction == "cell":
            return losses.sum(0) / counted.sum(0).clamp_min(1)
        return self._sum_of_group_means(losses, counted, groups)

    def _focal(self, log_p: Tensor) -> Tensor:
        if self.gamma == 0:
            return -log_p
        # The lower bound keeps the gradient of (1 - p)^gamma finite at p = 1 for gamma < 1.
        return (-torch.expm1(log_p)).clamp_min(1e-7) ** self.gamma * -log_p

    @staticmethod
    def _sum_of_group_means(losses: Tensor, counted: Tensor, groups: Tensor) -> Tensor:
        shape = (int(groups.max()) + 1 if groups.numel() else 0, losses.shape[1])
        sums = losses.new_zeros(shape).scatter_add(0, groups, losses)
        sizes = losses.new_zeros(shape).scatter_add(0, groups, counted.to(losses.dtype))
        return (sums / sizes.clamp_min(1)).sum(0)

    @torch.no_grad()
    def update_level_weights(self, validation_losses: Tensor) -> None:
        """Increase the weights of levels with a high validation loss.

        Parameters
        ----------
        validation_losses
            Unweighted loss of each level on held-out cells, shape ``(n_levels,)``. Ignored if the
            weights are fixed, or the sum is not finite and positive.

        Examples
        --------
        >>> import torch
        >>> from hdeepinsight.nn import AdaptiveHierarchicalFocalLoss
        >>> from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra
        >>> loss = AdaptiveHierarchicalFocalLoss(
        ...     TreeAlgebra(Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []}))
        ... )
        >>> loss.update_level_weights(torch.tensor([0.1, 0.9]))
        >>> loss.level_weights
        tensor([0.4600, 0.5400])
        """
        total = validation_losses.sum()
        if not self.adaptive or not torch.isfinite(total) or total <= 0:
            return
        target = validation_losses / total
        self.level_weights.copy_(
            project_with_floor(MOMENTUM * self.level_weights + (1 - MOMENTUM) * target)
        )


def project_with_floor(weights: Tensor, floor: float = LEVEL_FLOOR) -> Tensor:
    """Project weights onto those that sum to 1 and are each at least ``floor / n_levels``.

    For two levels and the default floor, weights are clipped to [0.1, 0.9].

    Examples
    --------
    >>> import torch
    >>> project_with_floor(torch.tensor([0.97, 0.03]))
    tensor([0.9000, 0.1000])
    """
    lowest = floor / len(weights)
    free = 1.0 - floor
    above = torch.sort(weights - lowest, descending=True).values
    ranks = torch.arange(1, len(weights) + 1, device=weights.device)
    shifts = (above.cumsum(0) - free) / ranks
    shift = shifts[(above >= shifts).nonzero().max()]
    return (weights - lowest - shift).clamp_min(0) + lowest


def inverse_frequency_weights(tree: TreeAlgebra, nodes: Tensor, exponent: float) -> Tensor:
    r"""Compute node weights :math:`n_v^{-\beta}`, normalised to a mean of 1 over cells of siblings.

    Parameters
    ----------
    tree
        Algebra of the taxonomy.
    nodes
        Node of each training cell, shape ``(n_cells,)``.
    exponent
        :math:`\beta`; 0 gives weights of 1, 1 gives all siblings the same total weight.

    Returns
    -------
    Weights, shape ``(n_edges,)``; nodes without cells get 1.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import inverse_frequency_weights
    >>> from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra
    >>> tree = TreeAlgebra(Taxonomy.from_nested({"T": [], "B": []}))
    >>> inverse_frequency_weights(tree, torch.tensor([1, 1, 1, 2]), exponent=1.0)
    tensor([0.6667, 2.0000])
    """
    on_path = tree.node_at_level[nodes]
    sizes = torch.bincount(on_path[on_path > 0] - 1, minlength=tree.taxonomy.n_edges).float()
    raw = torch.where(sizes > 0, sizes.clamp_min(1) ** -exponent, torch.zeros_like(sizes))
    zeros = sizes.new_zeros(len(tree.group_size))
    cells = zeros.scatter_add(0, tree.group_of_edge, sizes)
    weighted = zeros.scatter_add(0, tree.group_of_edge, sizes * raw)
    norm = (cells / weighted.clamp_min(1e-12))[tree.group_of_edge]
    return torch.where(sizes > 0, raw * norm, torch.ones_like(sizes))


def sampling_weights(nodes: np.ndarray, balance: float) -> np.ndarray:
    r"""Compute sampling weights :math:`n^{-\beta}` of cells, for labels of :math:`n` cells.

    Parameters
    ----------
    nodes
        Node of each cell's label, shape ``(n_cells,)``; unlabelled cells, 0, get weight 0.
    balance
        :math:`\beta`; with 1 all labels are sampled equally, with 0 in proportion to their size.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.nn import sampling_weights
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
        Node of each training cell, shape ``(n_cells,)``.
    weights
        Sampling weight of each cell, shape ``(n_cells,)``.

    Returns
    -------
    Correction of the logits, shape ``(n_edges,)``; 0 for nodes without cells.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.nn import log_prior_ratio
    >>> from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra
    >>> tree = TreeAlgebra(Taxonomy.from_nested({"T": [], "B": []}))
    >>> nodes = np.array([1, 1, 1, 2])
    >>> log_prior_ratio(tree, nodes, np.array([1, 1, 1, 3])).exp()
    tensor([1.5000, 0.5000])
    """
    path, groups = tree.node_at_level.cpu().numpy()[nodes], tree.group_of_edge.cpu().numpy()

    def log_shares(weights: np.ndarray) -> np.ndarray:
        repeated = np.broadcast_to(weights[:, None], path.shape)
        sums = np.bincount(path[path > 0], repeated[path > 0], len(groups) + 1)[1:]
        return np.asarray(np.log(sums / np.bincount(groups, sums)[groups]))

    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = log_shares((nodes > 0).astype(float)) - log_shares(weights)
    return torch.from_numpy(np.nan_to_num(ratio)).float()


def _weights(weighting: Weighting, n_levels: int) -> Tensor:
    """Return level weights that sum to 1."""
    if isinstance(weighting, str):
        check_choice("weighting", weighting, ("adaptive", "fixed"), "Or pass a number per level.")
        return torch.full((n_levels,), 1 / n_levels)
    weights = torch.as_tensor(weighting, dtype=torch.float32)
    if len(weights) != n_levels or (weights < 0).any() or weights.sum() <= 0:
        raise invalid("weighting", weighting, f"{n_levels} numbers >= 0, one per level")
    return weights / weights.sum()
