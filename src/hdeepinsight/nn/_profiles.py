"""A second opinion: which mean profile of the reference a cell resembles, by ranks of markers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MARKERS = 200
MIN_MARKERS = 10
MIN_CELLS = 2
TEMPERATURE = 0.016
"""Makes correlations with rival types into log-odds; held-out reference cells gave 0.007–0.02."""


@dataclass(frozen=True, eq=False)
class LeafProfiles:
    """Mean log expression of every leaf of the reference, and how many cells it had.

    Parameters
    ----------
    mean
        Mean of the log values, shape ``(n_leaves, n_genes)``.
    n_cells
        Cells of each leaf, shape ``(n_leaves,)``.
    spread
        Sum over the genes of the variance within each leaf, shape ``(n_leaves,)``; ``None`` in
        models that were saved without it.

    Examples
    --------
    >>> import torch
    >>> profiles = LeafProfiles(torch.eye(3), torch.tensor([6.0, 2.0, 0.0]))
    >>> profiles.shares
    tensor([0.7500, 0.2500, 0.0000])
    """

    mean: Tensor
    n_cells: Tensor
    spread: Tensor | None = None

    @property
    def shares(self) -> Tensor:
        """Share of every leaf among the cells, shape ``(n_leaves,)``."""
        return self.n_cells / self.n_cells.sum().clamp_min(1)

    def to_dict(self) -> dict[str, Any]:
        """Plain tensors, for the model file.

        Examples
        --------
        >>> import torch
        >>> from hdeepinsight.nn import LeafProfiles
        >>> LeafProfiles(torch.eye(2), torch.tensor([6.0, 2.0])).to_dict()["n_cells"]
        tensor([6., 2.])
        """
        return {"mean": self.mean, "n_cells": self.n_cells, "spread": self.spread}


class ProfileMatcher(nn.Module):
    r"""Probability of every leaf, from rank correlations with the mean profiles of the reference.

    Parameters
    ----------
    profiles
        Profiles of the reference.
    measured
        1 for the genes of the query, shape ``(n_genes,)``.
    n_markers
        Genes that are best at telling one leaf from one other, at least 10 a pair.
    skip
        Pass over so many rounds of the best markers: with ``skip=1`` the second best ones decide,
        as a referee who has seen nothing of what the first matcher saw.

    Notes
    -----
    With the ranks of a cell and of profile :math:`k` over the markers, and their Pearson
    correlation :math:`\\rho_k` (Spearman's), :math:`P(k) \\propto e^{\\rho_k / \\tau}`,
    :math:`\\tau = 0.016`. Ranks do not feel depth, scale or any monotone distortion, which is
    where studies differ most. The idea of ranking cells against reference profiles is SingleR's
    (doi:10.1038/s41590-018-0276-y); mean profiles instead of single cells, and no rounds of
    fine-tuning, are our decisions.

    Examples
    --------
    >>> import torch
    >>> mean = torch.tensor([[5.0, 4.0, 3.0, 0.0, 1.0, 2.0], [0.0, 1.0, 2.0, 5.0, 4.0, 3.0]])
    >>> matcher = ProfileMatcher(LeafProfiles(mean, torch.tensor([9.0, 9.0])), torch.ones(6))
    >>> matcher(torch.tensor([[50.0, 20.0, 10.0, 0.0, 1.0, 2.0]])).exp().round(decimals=3)
    tensor([[1., 0.]])
    """

    genes: Tensor
    profiles: Tensor
    known: Tensor

    def __init__(
        self, profiles: LeafProfiles, measured: Tensor, *, n_markers: int = MARKERS, skip: int = 0
    ) -> None:
        super().__init__()
        known = (profiles.n_cells >= MIN_CELLS).nonzero().ravel()
        genes = _markers(profiles.mean[known], measured, n_markers, skip)
        self.register_buffer("known", known)
        self.register_buffer("genes", genes)
        self.register_buffer("profiles", _standardise(_ranks(profiles.mean[known][:, genes])))
        self.n_leaves = len(profiles.n_cells)

    @property
    def is_useful(self) -> bool:
        """Whether there are markers enough to say anything."""
        return len(self.genes) >= MIN_MARKERS and len(self.known) > 1

    def forward(self, counts: Tensor) -> Tensor:
        """Log-probabilities ``(n_cells, n_leaves)`` of counts ``(n_cells, n_genes)``.

        Leaves without a profile have -inf.
        """
        cells = _standardise(_ranks(counts[:, self.genes].float()))
        matched = (cells @ self.profiles.T / TEMPERATURE).log_softmax(1)
        scores = matched.new_full((len(counts), self.n_leaves), -torch.inf)
        return scores.index_copy(1, self.known, matched)


def _markers(mean: Tensor, measured: Tensor, n_markers: int, skip: int) -> Tensor:
    """Union over ordered pairs of leaves of the genes that are higher in the first one."""
    n_leaves, n_genes = mean.shape
    each = min(max(MIN_MARKERS, n_markers // max(1, n_leaves - 1)), n_genes)
    chosen = torch.zeros(n_genes, dtype=torch.bool, device=mean.device)
    for leaf in mean:
        higher = (leaf - mean) * measured.to(mean)
        best = higher.topk(min(each * (skip + 1), n_genes), dim=1)
        rounds = slice(each * skip, None)
        chosen[best.indices[:, rounds][best.values[:, rounds] > 0]] = True
    return chosen.nonzero().ravel()


def _ranks(values: Tensor) -> Tensor:
    """Average ranks within each row, ties shared."""
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values, right=False)
    return (below + torch.searchsorted(ordered, values, right=True)).float()


def _standardise(values: Tensor) -> Tensor:
    centred = values - values.mean(dim=1, keepdim=True)
    length: Tensor = centred.norm(dim=1, keepdim=True)
    return centred / length.clamp_min(1e-9)
