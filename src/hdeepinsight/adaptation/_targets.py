"""Self-training without labels: soft targets, class balance, and a mean teacher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

RARE_FLOOR = 0.2
MAX_WEIGHT = 10.0
ENOUGH_CELLS = 10.0


class Targets(NamedTuple):
    """Soft labels for training.

    ``probabilities`` of the leaves, shape ``(n_cells, n_leaves)``, and ``weights`` of the cells,
    shape ``(n_cells,)``: 0 for cells with low confidence.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.adaptation import Targets
    >>> Targets(torch.eye(2), torch.tensor([1.0, 0.0])).weights
    tensor([1., 0.])
    """

    probabilities: Tensor
    weights: Tensor


def select_targets(
    probabilities: Tensor, *, threshold: float = 0.5, balance: float = 0.25
) -> Targets:
    r"""Select soft targets with a threshold per class.

    A cell is used if its highest probability reaches the threshold, or the median of the cells
    with the same leaf, whichever is lower. So at least half of each class is used, also if the
    network has low confidence in it.

    Parameters
    ----------
    probabilities
        Leaf probabilities, shape ``(n_cells, n_leaves)``.
    threshold
        Maximum threshold of a class.
    balance
        Exponent :math:`\beta` of the weights :math:`n^{-\beta}` of cells in classes of :math:`n`
        cells, normalised to a mean of 1.

    Examples
    --------
    >>> import torch
    >>> select_targets(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.45, 0.55]])).weights > 0
    tensor([True, True, True])
    """
    confidence, best = probabilities.max(dim=1)
    used = torch.zeros_like(best, dtype=torch.bool)
    for leaf in torch.unique(best):
        here = best == leaf
        used |= here & (confidence >= confidence[here].median().clamp_max(threshold))
    sizes = torch.bincount(best[used], minlength=probabilities.shape[1]).to(probabilities) + 1
    weights = sizes**-balance
    weights = weights * sizes.sum() / (weights * sizes).sum()
    return Targets(probabilities, weights[best] * used)


def soft_cross_entropy(log_probs: Tensor, targets: Targets) -> Tensor:
    """Compute the weighted mean cross-entropy of leaves, which equals the sum over sibling groups.

    Parameters
    ----------
    log_probs
        Log-probabilities of the leaves, shape ``(n_cells, n_leaves)``.
    targets
        Targets of the same cells.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.adaptation import Targets, soft_cross_entropy
    >>> targets = Targets(torch.eye(2), torch.tensor([1.0, 0.0]))
    >>> soft_cross_entropy(torch.tensor([[0.5, 0.5], [0.1, 0.9]]).log(), targets)
    tensor(0.6931)
    """
    losses = -(targets.probabilities * log_probs).sum(dim=1)
    return (targets.weights * losses).sum() / targets.weights.sum().clamp_min(1.0)


def restrict_to_labels(probabilities: Tensor, allowed: Tensor) -> Tensor:
    """Restrict probabilities to leaves that are compatible with known labels.

    Parameters
    ----------
    probabilities
        Leaf probabilities, shape ``(n_cells, n_leaves)``.
    allowed
        Whether each leaf is compatible with the label of each cell, same shape; ``True`` for cells
        without a label.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.adaptation import restrict_to_labels
    >>> restrict_to_labels(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[True, False, True]]))
    tensor([[0.7143, 0.0000, 0.2857]])
    """
    kept = (probabilities + 1e-6) * allowed
    return kept / kept.sum(dim=1, keepdim=True).clamp_min(1e-12)


def balance_classes(probabilities: Tensor, shares: Tensor) -> Tensor:
    """Compute cell weights that give the query the class proportions of the reference.

    Parameters
    ----------
    probabilities
        Leaf probabilities, shape ``(n_cells, n_leaves)``.
    shares
        Share of each leaf in the reference, shape ``(n_leaves,)``.

    Returns
    -------
    Weights of the cells, shape ``(n_cells,)``, at most 10. To avoid large weights of absent
    classes, the share of a class is at least one fifth of a uniform share.

    Examples
    --------
    >>> import torch
    >>> nine_to_one = torch.tensor([[1.0, 0.0]] * 9 + [[0.0, 1.0]])
    >>> balance_classes(nine_to_one, torch.tensor([0.5, 0.5]))[[0, 9]]
    tensor([0.5556, 5.0000])
    """
    found = probabilities.mean(dim=0).clamp_min(RARE_FLOOR / len(shares))
    return (probabilities @ (shares / found)).clamp_max(MAX_WEIGHT)


def covered_share(probabilities: Tensor, shares: Tensor) -> float:
    """Compute the share of reference cells whose leaf has about ten or more cells in the query.

    Examples
    --------
    >>> import torch
    >>> covered_share(torch.tensor([[1.0, 0.0]] * 50), torch.tensor([0.25, 0.75]))
    0.25
    """
    return float((shares * (probabilities.sum(dim=0) / ENOUGH_CELLS).clamp_max(1.0)).sum())


class MovingAverage:
    """Exponential moving average of parameters (mean teacher).

    Parameters
    ----------
    parameters
        Parameters of the student.
    decay
        Decay rate, which increases to this value in the first steps.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.adaptation import MovingAverage
    >>> student = torch.zeros(1)
    >>> teacher = MovingAverage([student])
    >>> _ = student.fill_(1.0)
    >>> teacher.update()
    >>> with teacher.in_place():
    ...     student.clone()
    tensor([0.9000])
    >>> student
    tensor([1.])
    """

    def __init__(self, parameters: Iterable[Tensor], decay: float = 0.97) -> None:
        self.parameters = list(parameters)
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.decay, self.n_steps = decay, 0

    @torch.no_grad()
    def update(self) -> None:
        """Update the average with the present parameters."""
        self.n_steps += 1
        keep = min(self.decay, self.n_steps / (9 + self.n_steps))
        for average, parameter in zip(self.average, self.parameters, strict=True):
            average.lerp_(parameter, 1 - keep)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace the parameters by their averages within the block."""
        student = [parameter.detach().clone() for parameter in self.parameters]
        self._set(self.average)
        try:
            yield
        finally:
            self._set(student)

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
