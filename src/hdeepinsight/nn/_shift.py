"""How far the expression of two sets of cells is apart, type by type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from hdeepinsight.nn._profiles import LeafProfiles

MIN_CELLS = 10
MIN_LEAVES = 2


@dataclass(frozen=True, eq=False)
class LeafSums:
    """What means and variances of log values are made from; sums of disjoint cells add up.

    Parameters
    ----------
    n_cells
        Cells of each leaf, shape ``(n_leaves,)``.
    total
        Sum of their log values, shape ``(n_leaves, n_genes)``.
    squares
        Sum of their squared log values over cells and genes, shape ``(n_leaves,)``.
    """

    n_cells: Tensor
    total: Tensor
    squares: Tensor

    @classmethod
    def of(cls, values: Tensor, leaves: Tensor, n_leaves: int) -> LeafSums:
        """Sum the log values ``(n_cells, n_genes)`` of each leaf; -1 is none."""
        values, leaves = values[leaves >= 0].double(), leaves[leaves >= 0]
        nothing = values.new_zeros(n_leaves)
        return cls(
            n_cells=nothing.index_add(0, leaves, torch.ones_like(values[:, 0])),
            total=values.new_zeros(n_leaves, values.shape[1]).index_add(0, leaves, values),
            squares=nothing.index_add(0, leaves, values.square().sum(1)),
        )

    @classmethod
    def sum(cls, parts: Sequence[LeafSums]) -> LeafSums:
        """Add up sets of cells that have none in common."""
        first, *others = parts
        return reduce(add, others, first)

    def __add__(self, other: LeafSums) -> LeafSums:
        return LeafSums(
            self.n_cells + other.n_cells, self.total + other.total, self.squares + other.squares
        )

    def __sub__(self, other: LeafSums) -> LeafSums:
        return LeafSums(
            self.n_cells - other.n_cells, self.total - other.total, self.squares - other.squares
        )

    def profiles(self) -> LeafProfiles:
        """Means, and how far the cells of a leaf spread around theirs."""
        n_cells = self.n_cells.clamp_min(1)
        mean = self.total / n_cells.unsqueeze(1)
        spread = self.squares / n_cells - mean.square().sum(1)
        return LeafProfiles(mean.float(), self.n_cells.float(), spread.float())


def profile_shift(query: LeafProfiles, reference: LeafProfiles, measured: Tensor) -> float | None:
    r"""Squared distance of the means of a type, against that between types.

    Parameters
    ----------
    query, reference
        Profiles of disjoint cells.
    measured
        1 for the genes to compare, shape ``(n_genes,)``.

    Returns
    -------
    The distance, averaged over the leaves with ten cells on both sides; 1 is as far as types of
    the reference are from their centre, and 0 is expected of samples of the same cells. ``None``
    where fewer than two leaves can be compared.

    Notes
    -----
    For leaf :math:`k` with mean :math:`\mu_k`, sum of variances :math:`s_k` and :math:`n_k` cells
    on either side,

    .. math::
        d_k = \lVert \mu_k - \mu'_k \rVert^2 - \frac{s_k}{n_k - 1} - \frac{s'_k}{n'_k - 1}

    is an unbiased estimate: few cells do not look far away because they are few. Types are
    compared each with itself, so that their proportions do not matter. Our decision.
    """
    if query.spread is None or reference.spread is None:
        return None
    both = (query.n_cells >= MIN_CELLS) & (reference.n_cells >= MIN_CELLS)
    if int(both.sum()) < MIN_LEAVES:
        return None
    apart = ((query.mean - reference.mean)[both] * measured).square().sum(1)
    for side in (query, reference):
        assert side.spread is not None
        apart = apart - side.spread[both] / (side.n_cells[both] - 1)
    types = reference.mean[both] * measured
    between = (types - types.mean(0)).square().sum(1).mean()
    return float(apart.mean() / between.clamp_min(1e-12))


def usual_shift(batches: Sequence[LeafSums]) -> float | None:
    """How far a batch of a reference usually is from its other batches: the median.

    ``None`` where there is one batch, or none can be compared.
    """
    everything = LeafSums.sum(batches)
    measured = torch.ones(everything.total.shape[1])
    shifts = [
        profile_shift(batch.profiles(), (everything - batch).profiles(), measured)
        for batch in batches
    ]
    known = [shift for shift in shifts if shift is not None]
    return float(torch.tensor(known).quantile(0.5)) if known else None
