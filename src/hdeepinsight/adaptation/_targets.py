"""Learning without labels: targets from two views of a cell, and a slowly moving teacher."""

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
    """Soft labels to learn from.

    ``probabilities`` of the leaves, shape ``(n_cells, n_leaves)``, and ``weights`` of the cells,
    shape ``(n_cells,)``: 0 for those of too little confidence.

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
    r"""Soft targets with a threshold of its own for every class.

    A cell counts if its best probability reaches the threshold, or the median of the cells with
    the same best leaf, whichever is lower: half of every class takes part, however timid the
    network is about it.

    Parameters
    ----------
    probabilities
        Of the leaves, shape ``(n_cells, n_leaves)``.
    threshold
        Highest threshold of a class.
    balance
        Cells of a class with :math:`n` cells weigh :math:`n^{-\beta}`, 1 on average.

    Examples
    --------
    >>> import torch
    >>> select_targets(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.45, 0.55]])).weights > 0
    tensor([True, True, True])
    """
    confidence, best = probabilities.max(dim=1)
    sure = torch.zeros_like(best, dtype=torch.bool)
    for leaf in torch.unique(best):
        here = best == leaf
        sure |= here & (confidence >= confidence[here].median().clamp_max(threshold))
    sizes = torch.bincount(best[sure], minlength=probabilities.shape[1]).to(probabilities) + 1
    weights = sizes**-balance
    weights = weights * sizes.sum() / (weights * sizes).sum()
    return Targets(probabilities, weights[best] * sure)


def soft_cross_entropy(log_probs: Tensor, targets: Targets) -> Tensor:
    """Weighted mean cross-entropy of leaves; equal to the sum over sibling groups.

    Parameters
    ----------
    log_probs
        Log-probability of the leaves, shape ``(n_cells, n_leaves)``.
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
    """Probabilities given what is known: leaves that a label rules out get 0.

    Parameters
    ----------
    probabilities
        Of the leaves, shape ``(n_cells, n_leaves)``.
    allowed
        Whether each leaf fits the label of each cell, same shape; a cell without a label allows
        all.

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
    """Weights that give the classes of a query the proportions of the reference.

    Parameters
    ----------
    probabilities
        Of the leaves, shape ``(n_cells, n_leaves)``.
    shares
        Share of every leaf in the reference, shape ``(n_leaves,)``.

    Returns
    -------
    Weights of the cells, shape ``(n_cells,)``, at most 10. A class that seems to be missing is not
    conjured up: its share counts as at least a fifth of a uniform one.

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
    """Share of the reference's cells whose leaf the query has too, about ten cells or more.

    Examples
    --------
    >>> import torch
    >>> covered_share(torch.tensor([[1.0, 0.0]] * 50), torch.tensor([0.25, 0.75]))
    0.25
    """
    return float((shares * (probabilities.sum(dim=0) / ENOUGH_CELLS).clamp_max(1.0)).sum())


class MovingAverage:
    """Exponential average of parameters: the teacher of a student that learns from itself.

    Parameters
    ----------
    parameters
        The student's.
    decay
        Share of the past that a step keeps; less in the first steps.

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
        """Take one step towards the student."""
        self.n_steps += 1
        keep = min(self.decay, self.n_steps / (9 + self.n_steps))
        for average, parameter in zip(self.average, self.parameters, strict=True):
            average.lerp_(parameter, 1 - keep)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the teacher where the student is, for the time of the block."""
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
