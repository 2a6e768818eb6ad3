"""Self-training without labels: soft targets, class balance, and a mean teacher."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hdeepinsight._progress import tracked
from hdeepinsight.adaptation._cells import QueryCells, network_probs
from hdeepinsight.adaptation._check import AdaptationOptions
from hdeepinsight.adaptation._layers import (
    Moments,
    NormAdapter,
    insert_adapters,
    record_moments,
    use_adapters,
)
from hdeepinsight.nn import GeneMasking

WARM_UP_STEPS = 20
#: Steps between updates of the targets by the teacher.
REFRESH_STEPS = 50
WEIGHT_DECAY = 1e-4
MAX_MASK_RATE = 0.5
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


@dataclass(eq=False)
class SelfTraining:
    """Training of the adapters of a network on its own predictions and the profiles, in place."""

    module: Any
    cells: QueryCells
    measured: Tensor
    profile: Tensor
    allowed: Tensor
    shrinkage: list[float]
    options: AdaptationOptions
    seed: int

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.mask_rng = torch.Generator().manual_seed(self.seed)
        self.module.requires_grad_(False)
        self.adapters = insert_adapters(self.module, self.shrinkage)
        self.labelled = torch.as_tensor(self.cells.nodes > 0, device=self.measured.device)

    def adapt_statistics(self, mean_probs: Tensor, shares: Tensor) -> None:
        """Adapt the statistics of each batch, with classes weighted as in the reference.

        Equal class weights on both sides remove differences in composition, so that only
        differences in expression remain.
        """
        shares = shares.to(self.measured.device)
        norms = [layer for layer in self.module.modules() if isinstance(layer, NormAdapter)]
        for batch in range(len(self.shrinkage) if norms else 0):
            rows = np.flatnonzero(self.cells.batch == batch)
            share = covered_share(mean_probs[rows], shares) * self.shrinkage[batch]
            weights = balance_classes(mean_probs[rows], shares)
            moments = [Moments() for _ in norms]
            for some, part in self.cells[rows].parts():
                with record_moments(norms, moments, weights[some]), torch.no_grad():
                    self.module.inference(**part.tensors(self.measured))
            for norm, found in zip(norms, moments, strict=True):
                norm.blend(batch, found, self.options.statistics * share)

    def train(self) -> None:
        """Train on the averaged predictions of network and profiles."""
        options = self.options
        if not self.adapters or not options.max_steps:
            return
        teacher, rate = MovingAverage(self.adapters), options.adapter_lr
        optimizer = torch.optim.AdamW(self.adapters, lr=rate, weight_decay=WEIGHT_DECAY)

        def relative_rate(step: int) -> float:
            fall = 0.5 * (1 + np.cos(np.pi * step / options.max_steps))
            return float(min(1.0, (step + 1) / WARM_UP_STEPS) * fall)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, relative_rate)
        queries = _endless(len(self.cells), options.batch_size, self.rng)
        masking = GeneMasking(max_rate=MAX_MASK_RATE)
        steps = range(options.max_steps)
        for step in tracked(steps, "Adapting", len(steps), "steps", size=lambda _: 1):
            if step % REFRESH_STEPS == 0:
                with teacher.in_place():
                    targets = self.targets()
            rows = next(queries)
            with use_adapters(self.module, self.cells.batch[rows]):
                log_probs = self.augmented_log_probs(self.cells[rows], masking)
                part = Targets(*(values[rows] for values in targets))
                torch.autograd.backward(soft_cross_entropy(log_probs, part))
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            teacher.update()

    def targets(self) -> Targets:
        """Return the averaged predictions of network and profiles, restricted by known labels."""
        mean_probs = (network_probs(self.module, self.cells, self.measured) + self.profile) / 2
        found = select_targets(restrict_to_labels(mean_probs, self.allowed))
        return Targets(found.probabilities, found.weights.maximum(self.labelled.to(mean_probs)))

    def augmented_log_probs(self, cells: QueryCells, masking: GeneMasking) -> Tensor:
        """Compute log-probabilities of the leaves for thinned and masked counts."""
        thinned = replace(cells, counts=self.module.thinning.sample(cells.counts, self.rng))
        inputs = thinned.tensors(self.measured)
        seed = int(torch.randint(2**31, (1,), generator=self.mask_rng))
        generator = torch.Generator().manual_seed(seed)
        keep = masking.sample(*thinned.counts.shape, generator=generator).to(self.measured.device)
        logits = self.module.inference(**inputs | {"measured": keep * inputs["measured"]})["logits"]
        log_probs: Tensor = self.module.tree(logits)[:, self.module.tree.leaf_index]
        return log_probs


def _endless(n_cells: int, batch_size: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yield shuffled mini-batches indefinitely, reshuffled after each pass over the cells."""
    size = min(batch_size, n_cells)
    while True:
        order = rng.permutation(n_cells)
        for start in range(0, n_cells - size + 1, size):
            yield order[start : start + size]
