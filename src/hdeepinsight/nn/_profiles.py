"""Profiles of the leaf types: rank correlation, discriminant, and shift between datasets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor, nn
from torch.nn import functional

from hdeepinsight.nn._folded import SparseCounts

if TYPE_CHECKING:
    from hdeepinsight.nn._normalize import CountNormalizer

MARKERS = 200
MIN_MARKERS = 10
MIN_CELLS = 2
#: Divides correlations to give log-odds; estimates from held-out cells are 0.007 to 0.02.
TEMPERATURE = 0.016
COMPARED_CELLS = 10
MIN_LEAVES = 2
#: Smallest share of a query for which a type is compared; fewer cells may all be mislabelled.
MIN_SHARE = 0.001
#: Markers per leaf for the rank correlations that are combined with the network.
N_MARKERS = 100
#: Principal directions of variation within types, and cells that they are computed from.
N_DIRECTIONS, COVARIANCE_CELLS = 10, 2_000
#: Shrinkage of the covariance within types towards a multiple of the identity.
SHRINKAGE = 0.5
#: Weights of the discriminant and of the rank correlations relative to the network, the divisor of
#: the sum, and the cells per type at which the discriminant has half of its weight.
DISCRIMINANT, RANKS, TOTAL, HALF_WEIGHT_CELLS = 0.12, 0.5, 2.0, 10
#: Largest log-odds of the weighted discriminant against its best leaf.
MAX_LOG_ODDS = 3.0
#: Cells of a batch at which half of its shift is removed.
HALF_SHIFT_CELLS = 100


@dataclass(frozen=True, eq=False)
class LeafProfiles:
    """Mean log expression of each leaf of the reference, and variation within leaves.

    Parameters
    ----------
    mean
        Mean of the log values, shape ``(n_leaves, n_genes)``.
    n_cells
        Cells of each leaf, shape ``(n_leaves,)``.
    spread
        Variance within each leaf, summed over genes, shape ``(n_leaves,)``; ``None`` for models
        that were saved without it.
    variance
        Variance of each gene within the leaves, averaged over them, shape ``(n_genes,)``; ``None``
        if the profiles are not combined with a network.
    directions
        Main directions of variation within the leaves, shape ``(n_directions, n_genes)``, scaled
        so that ``directions.T @ directions`` is their part of the covariance.

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
    variance: Tensor | None = None
    directions: Tensor | None = None

    @property
    def shares(self) -> Tensor:
        """Share of every leaf among the cells, shape ``(n_leaves,)``."""
        return self.n_cells / self.n_cells.sum().clamp_min(1)

    def with_covariance(
        self, values: Tensor, leaves: Tensor, measured: Tensor | None = None
    ) -> LeafProfiles:
        """Return the profiles with the covariance within leaves.

        Parameters
        ----------
        values
            Log values of cells that the profiles were computed from, ``(n_cells, n_genes)``.
        leaves
            Leaf of each cell, shape ``(n_cells,)``; -1 for none.
        measured
            1 for the genes that were measured in each cell, shape ``(n_cells, n_genes)``; all by
            default.

        Examples
        --------
        >>> import torch
        >>> from hdeepinsight.nn import LeafSums
        >>> values, leaves = torch.tensor([[1.0, 0.0], [3.0, 0.0]]), torch.tensor([0, 0])
        >>> profiles = LeafSums.of(values, leaves, n_leaves=1).profiles()
        >>> profiles.with_covariance(values, leaves).variance
        tensor([2., 0.])
        """
        known = (leaves >= 0) & (self.n_cells[leaves] >= MIN_CELLS)
        measured = torch.ones_like(values) if measured is None else measured
        values, leaves, measured = values[known], leaves[known], measured[known]
        drawn = torch.zeros_like(self.mean).index_add(0, leaves, measured)
        n_cells = self.n_cells.unsqueeze(1)
        weight = n_cells / (n_cells - 1) / drawn / (drawn > 0).sum(0).clamp_min(1)
        apart = (values - self.mean[leaves]) * measured * weight.sqrt()[leaves]
        apart = torch.where(measured > 0, apart, 0.0)
        inner = (apart @ apart.T).double().numpy()
        most = max(0, len(inner) - N_DIRECTIONS), len(inner) - 1
        axes = eigh(inner, subset_by_index=most)[1] if len(inner) else inner
        directions = torch.from_numpy(axes.T).float() @ apart
        return replace(self, variance=apart.square().sum(0), directions=directions)

    def to_dict(self) -> dict[str, Any]:
        """Return plain tensors, for the model file.

        Examples
        --------
        >>> import torch
        >>> from hdeepinsight.nn import LeafProfiles
        >>> LeafProfiles(torch.eye(2), torch.tensor([6.0, 2.0])).to_dict()["n_cells"]
        tensor([6., 2.])
        """
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LeafProfiles:
        """Rebuild from :meth:`to_dict`.

        Examples
        --------
        >>> import torch
        >>> from hdeepinsight.nn import LeafProfiles
        >>> values = LeafProfiles(torch.eye(2), torch.tensor([6.0, 2.0])).to_dict()
        >>> LeafProfiles.from_dict(values).n_cells
        tensor([6., 2.])
        """
        return cls(**values)


@dataclass(frozen=True, eq=False)
class QueryProfiles:
    """Profiles of the reference pooled with the cells of a query, and the shift of its batches.

    Parameters
    ----------
    profiles
        Mean of each leaf over both, and variance within leaves; ``n_cells`` of the reference.
    shifts
        Shift of the log values of each batch, shape ``(n_batches, n_genes)``.

    Notes
    -----
    The shift of a batch is the mean of its cells minus that of the reference at the same
    proportions of leaves, shrunk to zero with half of its size at 100 cells. After it is removed,
    each cell of the query counts as much as one of the reference. The variance is the mean of that
    within the leaves of the reference and of the query. Our decision.

    Examples
    --------
    A query in which every value is higher by 1:

    >>> import torch
    >>> from hdeepinsight.nn import LeafSums, QueryProfiles
    >>> cells, leaves = torch.eye(2).repeat(900, 1), torch.arange(1800) % 2
    >>> reference = LeafSums.of(cells, leaves, 2).profiles().with_covariance(cells, leaves)
    >>> query = QueryProfiles.of(reference, [LeafSums.of(cells + 1, leaves, 2)])
    >>> query.shifts.round(decimals=2)
    tensor([[0.9500, 0.9500]])
    """

    profiles: LeafProfiles
    shifts: Tensor

    @classmethod
    def of(
        cls, profiles: LeafProfiles, batches: Sequence[LeafSums], share: float = 1.0
    ) -> QueryProfiles:
        """Pool profiles that have a covariance with the cells of a query.

        Parameters
        ----------
        profiles
            Profiles of the reference.
        batches
            Sums of the log values of each batch of the query. Genes that it lacks keep the profiles
            of the reference.
        share
            Weight of the query, from 0 to 1.
        """
        assert profiles.variance is not None
        mean, shifts = profiles.mean.double(), []
        for sums in batches:
            apart = (sums.total - sums.n_measured * mean).sum(0)
            shifts.append(share * apart / (sums.n_cells.sum() + HALF_SHIFT_CELLS))
        query = LeafSums.sum(
            [sums.without(shift) for sums, shift in zip(batches, shifts, strict=True)]
        )
        n_both = profiles.n_cells.unsqueeze(1) + share * query.n_measured
        added = share * (query.total - query.n_measured * mean)
        pooled = mean + added / n_both.clamp_min(1e-9)
        weight = share / 2 * (query.n_measured.sum(0) > 0).float()
        variance = profiles.variance.lerp(query.variance().float(), weight)
        pooled_profiles = replace(profiles, mean=pooled.float(), variance=variance)
        return cls(pooled_profiles, torch.stack(shifts).float())

    def to_dict(self) -> dict[str, Any]:
        """Return plain tensors, for the model file."""
        mean, variance = self.profiles.mean, self.profiles.variance
        return {"mean": mean, "variance": variance, "shifts": self.shifts}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], profiles: LeafProfiles) -> QueryProfiles:
        """Rebuild from :meth:`to_dict` and the profiles of the reference."""
        pooled = replace(profiles, mean=values["mean"], variance=values["variance"])
        return cls(pooled, values["shifts"])


class ProfileMatcher(nn.Module):
    r"""Leaf probabilities from rank correlations with the mean profiles of the reference.

    Parameters
    ----------
    profiles
        Profiles of the reference.
    measured
        1 for the genes of the query, shape ``(n_genes,)``.
    n_markers
        Marker genes per leaf, shared among the other leaves; at least 10 per pair of leaves.
    skip
        Rounds of the best markers to leave out. With ``skip=1``, the second-best markers are used,
        which are independent of those of the first matcher.

    Notes
    -----
    With the ranks of a cell and of profile :math:`k` over the markers, and their Pearson
    correlation :math:`\rho_k` (Spearman's), :math:`P(k) \propto e^{\rho_k / \tau}`,
    :math:`\tau = 0.016`. Ranks are invariant to depth, scale and other monotone distortions, by
    which studies differ most. Rank correlation with reference profiles is due to SingleR
    (doi:10.1038/s41590-018-0276-y); the use of mean profiles without rounds of fine-tuning is our
    decision.

    Examples
    --------
    >>> import torch
    >>> mean = torch.tensor([[5.0, 4.0, 3.0, 0.0, 1.0, 2.0], [0.0, 1.0, 2.0, 5.0, 4.0, 3.0]])
    >>> matcher = ProfileMatcher(LeafProfiles(mean, torch.tensor([9.0, 9.0])), torch.ones(6))
    >>> matcher(torch.tensor([[50.0, 20.0, 10.0, 0.0, 1.0, 2.0]])).exp().round(decimals=3)
    tensor([[1., 0.]])
    """

    def __init__(
        self, profiles: LeafProfiles, measured: Tensor, *, n_markers: int = MARKERS, skip: int = 0
    ) -> None:
        super().__init__()
        known = (profiles.n_cells >= MIN_CELLS).nonzero().ravel()
        genes = _markers(profiles.mean[known], measured, n_markers, skip)
        self.known = nn.Buffer(known)
        self.genes = nn.Buffer(genes)
        column = torch.full(profiles.mean.shape[1:], -1, dtype=torch.int32)
        column[genes] = torch.arange(len(genes), dtype=torch.int32)
        self.column = nn.Buffer(column)
        ranks = _ranks(profiles.mean[known][:, genes])
        ranks = ranks - ranks.mean(dim=1, keepdim=True)
        self.profiles = nn.Buffer(ranks / ranks.norm(dim=1, keepdim=True).clamp_min(1e-9))
        self.n_leaves = len(profiles.n_cells)

    @property
    def is_useful(self) -> bool:
        """Whether there are enough markers and leaves for a comparison."""
        return len(self.genes) >= MIN_MARKERS and len(self.known) > 1

    def forward(self, counts: Tensor | SparseCounts) -> Tensor:
        """Compute leaf log-probabilities ``(n_cells, n_leaves)`` of counts ``(n_cells, n_genes)``.

        Leaves without a profile have -inf.
        """
        cells = counts if isinstance(counts, SparseCounts) else SparseCounts.of_dense(counts)
        matched = (self._correlations(cells) / TEMPERATURE).log_softmax(1)
        scores = matched.new_full((len(cells), self.n_leaves), -torch.inf)
        return scores.index_copy(1, self.known, matched)

    def _correlations(self, counts: SparseCounts) -> Tensor:
        """Correlate ranks with the profiles, from the non-zero counts.

        Zeros share the lowest rank. After it is subtracted, they contribute nothing, and since the
        profiles have mean 0, both sums of a correlation run over the non-zero genes only.
        """
        column = self.column.index_select(0, counts.genes)
        kept = _where((column >= 0) & (counts.values > 0))
        cells, values = (each.index_select(0, kept) for each in (counts.cells, counts.values))
        n_cells, n_genes = len(counts), len(self.genes)
        n_seen = cells.bincount(minlength=n_cells)
        starts = functional.pad(n_seen.cumsum(0), (1, 0))
        whole = values.int()  # which are numbered without sorting
        ranked_by = whole if bool((whole == values).all()) else values
        distinct, number = torch.unique(ranked_by, return_inverse=True)
        key = cells * len(distinct) + number
        size = key.bincount(minlength=n_cells * len(distinct))
        # Twice the rank, minus that of the zeros of the cell.
        place = (2 * size.cumsum(0) - size).index_select(0, key)
        above = place + (n_genes - n_seen - 2 * starts[:-1]).index_select(0, cells)
        square = (above - n_seen.index_select(0, cells)).double().square()
        length = torch.zeros_like(n_seen, dtype=torch.double).index_add_(0, cells, square)
        length = (length + (n_genes - n_seen) * n_seen.double().square()).sqrt().clamp_min(1e-9)
        ranked = SparseCounts(starts.int(), column.index_select(0, kept), above.float())
        return ranked.weighted_sums(self.profiles.T.contiguous()) / length.float().unsqueeze(1)

    def complete(self, network: Tensor, counts: Tensor | SparseCounts, measured: Tensor) -> Tensor:
        """Return leaf probabilities by the profiles, or by the network for leaves without one.

        Parameters
        ----------
        network
            Leaf probabilities by the network, shape ``(n_cells, n_leaves)``. They are kept for
            leaves without a profile, and for cells without measured genes; the remaining
            probability is divided among the other leaves.
        counts
            Raw counts, shape ``(n_cells, n_genes)``.
        measured
            1 for measured genes, shape ``(n_genes,)`` or ``(n_cells, n_genes)``; or 1 for cells
            with any measured gene, shape ``(n_cells, 1)``.

        Examples
        --------
        >>> import torch
        >>> mean = torch.tensor([[5.0, 4.0, 0.0, 1.0], [0.0, 1.0, 5.0, 4.0], [9.0, 9.0, 9.0, 9.0]])
        >>> profiles = LeafProfiles(mean, torch.tensor([9.0, 9.0, 0.0]))  # none of the third leaf
        >>> matcher = ProfileMatcher(profiles, torch.ones(4))
        >>> counts = torch.tensor([[50.0, 20.0, 0.0, 2.0]])
        >>> matcher.complete(torch.tensor([[0.3, 0.3, 0.4]]), counts, torch.ones(4))
        tensor([[0.6000, 0.0000, 0.4000]])
        """
        rest = torch.zeros_like(network).index_copy(1, self.known, network[:, self.known])
        found = self(counts).exp() * rest.sum(dim=1, keepdim=True) + (network - rest)
        has_rna = measured.view(-1, measured.shape[-1]).any(1, keepdim=True)
        return torch.where(has_rna, found, network)


class ProfileEnsemble(nn.Module):
    r"""Combine a network with a linear discriminant and with rank correlations.

    Parameters
    ----------
    profiles
        Profiles of the reference, with the covariance within its leaves.
    measured
        1 for the genes of the query, shape ``(n_genes,)``.
    normalizer
        Normaliser that the log values of the profiles were computed with.
    query
        Profiles of a query, for the cells of its batches; none by default.

    Notes
    -----
    With the log values :math:`y` of a cell, the mean :math:`\mu_k` of leaf :math:`k`, the
    covariance :math:`\Sigma` within leaves and the median :math:`n` of their cells,

    .. math::
        \log P(k) = \tfrac{1}{2} \Bigl(\log P_{network}(k)
        + \max\bigl(\delta_k - \max_j \delta_j, -3\bigr)
        + \tfrac{1}{2} \log P_{ranks}(k)\Bigr) + c, \quad
        \delta_k = \tfrac{0.12\,n}{n + 10}\,
        \bigl(y - \tfrac{1}{2}\mu_k\bigr)^T \Sigma^{-1} \mu_k .

    :math:`\Sigma` consists of ten principal directions and the remaining variance of each gene, and
    is shrunk halfway towards a multiple of the identity. Means and a common covariance need fewer
    cells than the decision boundaries of a network and transfer to other donors; ranks transfer to
    other studies. Our decision; the weights were chosen on development pairs.

    Examples
    --------
    The network is undecided, and the cell is like the first type:

    >>> import torch
    >>> from hdeepinsight.nn import CountNormalizer, LeafSums
    >>> counts, every = torch.eye(2).repeat_interleave(10, dim=1), torch.ones(20)
    >>> counts, leaves = counts.repeat(9, 1) + torch.eye(18, 20), torch.arange(18) % 2
    >>> normalizer = CountNormalizer(20)
    >>> values = normalizer.log_normalize(counts, every)
    >>> profiles = LeafSums.of(values, leaves, 2).profiles().with_covariance(values, leaves)
    >>> combined = ProfileEnsemble(profiles, every, normalizer).reading(counts[:1])
    >>> combined(torch.tensor([[0.5, 0.5]])).round(decimals=2)
    tensor([[1., 0.]])
    """

    def __init__(
        self,
        profiles: LeafProfiles,
        measured: Tensor,
        normalizer: CountNormalizer,
        query: QueryProfiles | None = None,
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.ranks = ProfileMatcher(profiles, measured, n_markers=N_MARKERS)
        slope, offset = _discriminant(profiles, self.ranks.known, measured)
        offset = offset.unsqueeze(0)  # a row for cells of no batch, and one for each batch
        if query is not None:
            of_query, start = _discriminant(query.profiles, self.ranks.known, measured)
            slope = torch.cat([slope, of_query])
            offset = torch.cat([offset, start - query.shifts @ of_query.T])
        self.measured = nn.Buffer(measured)
        self.slope = nn.Buffer(slope.T.contiguous())
        self.offset = nn.Buffer(offset)
        library_gene = normalizer.library_gene.cpu()
        self.tallied = nn.Buffer(torch.stack([torch.ones_like(measured), library_gene], 1))
        self.target = nn.Buffer(normalizer.target_for(measured.to(normalizer.scale)))

    def reading(
        self,
        counts: Tensor | SparseCounts,
        shift: Tensor | None = None,
        batch: np.ndarray | None = None,
    ) -> Callable[..., Tensor]:
        """Return a function that combines these cells' leaf probabilities by any network.

        Its second argument multiplies the weight of the discriminant. Leaves without a profile keep
        their probabilities, as do cells of which no gene was counted. A batch correction ``shift``
        is added to the log values; the ranks are those of the counts. Cells of a ``batch`` of the
        query, -1 for none, are compared with its profiles.
        """
        if not self.ranks.is_useful:
            return network_alone
        if isinstance(counts, SparseCounts):
            total, library = counts.weighted_sums(self.tallied).T
            logged = counts.log_normalized(library, self.target)
            found, seen = logged.weighted_sums(self.slope), total > 0
        else:
            values = self.normalizer.log_normalize(counts.float(), self.measured)
            values = values if shift is None else (values + shift).clamp_min(0.0)
            found, seen = values @ self.slope, counts.any(1)
        row = torch.zeros(len(found), dtype=torch.long, device=found.device)
        if batch is not None and len(self.offset) > 1:
            row = torch.as_tensor(batch, device=found.device) + 1
        n_known = self.offset.shape[1]
        found = torch.where(row.unsqueeze(1) > 0, found[:, -n_known:], found[:, :n_known])
        found = found + self.offset[row]
        found = (found - found.amax(1, keepdim=True)).clamp_min(-MAX_LOG_ODDS)
        ranks = RANKS * self.ranks(counts)[:, self.ranks.known]

        def combined(leaves: Tensor, discriminant: float = 1.0) -> Tensor:
            network = leaves[:, self.ranks.known]
            together = (network.clamp_min(1e-9).log() + discriminant * found + ranks) / TOTAL
            together = together.softmax(1) * network.sum(1, keepdim=True)
            together = leaves.index_copy(1, self.ranks.known, together)
            return torch.where(seen.unsqueeze(1), together, leaves)

        return combined


def network_alone(leaves: Tensor, discriminant: float = 1.0) -> Tensor:
    """Return the leaf probabilities by a network as they are, in the form of a combination.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import network_alone
    >>> network_alone(torch.tensor([[0.5, 0.5]]))
    tensor([[0.5000, 0.5000]])
    """
    return leaves.detach()


def _discriminant(profiles: LeafProfiles, known: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the slopes ``(n_known, n_genes)`` and offsets of the weighted discriminant."""
    variance, directions = profiles.variance, profiles.directions
    assert variance is not None
    assert directions is not None
    mean, directions = profiles.mean[known] * measured, directions * measured
    variance = variance * measured
    rest = (variance - directions.square().sum(0)).clamp_min(0.0)
    level = variance.sum() / measured.sum().clamp_min(1.0)
    diagonal = ((1 - SHRINKAGE) * rest + SHRINKAGE * level).clamp_min(1e-9)
    # The inverse of a diagonal plus a product of few rows (Woodbury).
    directions = directions * (1 - SHRINKAGE) ** 0.5
    scaled, slope = directions / diagonal, mean / diagonal
    inner = torch.eye(len(directions)) + scaled @ directions.T
    slope = slope - (slope @ directions.T) @ torch.linalg.solve(inner, scaled)
    n_cells = float(profiles.n_cells[known].median()) if len(known) else 0.0
    slope = slope * DISCRIMINANT * n_cells / (n_cells + HALF_WEIGHT_CELLS)
    return slope, -(mean * slope).sum(1) / 2


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
    """Average ranks within each row, ties shared; twice as large, from 0 on."""
    # scipy.stats.rankdata does the same, but takes half a second to import.
    ordered, place = values.sort(dim=1)
    number = torch.arange(values.shape[1], device=values.device)
    differs = functional.pad(ordered[:, 1:] != ordered[:, :-1], (1, 1), value=True)
    first = torch.where(differs[:, :-1], number, 0).cummax(dim=1).values
    last = torch.where(differs[:, 1:], number, len(number)).flip(1).cummin(dim=1).values.flip(1)
    return torch.empty_like(values).scatter_(1, place, (first + last).to(values))


def _where(found: Tensor) -> Tensor:
    if found.is_cpu:  # NumPy is several times as fast
        return torch.from_numpy(np.flatnonzero(found.numpy()))
    return found.nonzero().ravel()


@dataclass(frozen=True, eq=False)
class LeafSums:
    """Sums of log values per leaf, which can be added over disjoint sets of cells.

    Parameters
    ----------
    n_cells
        Cells of each leaf, shape ``(n_leaves,)``.
    total
        Sum of their log values, shape ``(n_leaves, n_genes)``.
    squares
        Sum of their squared log values, shape ``(n_leaves, n_genes)``.
    n_measured
        Cells of each leaf in which each gene was measured, shape ``(n_leaves, n_genes)``.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import LeafSums
    >>> values, leaves = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0, 1])
    >>> sums = LeafSums.of(values, leaves, n_leaves=2)
    >>> (sums + sums).n_cells
    tensor([4., 2.], dtype=torch.float64)
    """

    n_cells: Tensor
    total: Tensor
    squares: Tensor
    n_measured: Tensor

    @classmethod
    def of(
        cls, values: Tensor, leaves: Tensor, n_leaves: int, measured: Tensor | None = None
    ) -> LeafSums:
        """Sum the log values ``(n_cells, n_genes)`` of each leaf; -1 for none.

        Instead of the leaf of each cell, ``leaves`` may be probabilities of the leaves, shape
        ``(n_cells, n_leaves)``, which divide every cell among them. Genes that were not measured in
        these cells are 0 in ``measured``, shape ``(n_genes,)``, and in ``values``; by default all
        were.

        Examples
        --------
        >>> import torch
        >>> from hdeepinsight.nn import LeafSums
        >>> values, leaves = (
        ...     torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]]),
        ...     torch.tensor([0, 0, -1]),
        ... )
        >>> LeafSums.of(values, leaves, n_leaves=2).n_cells
        tensor([2., 0.], dtype=torch.float64)
        """
        if leaves.ndim == 1:
            values, leaves = values[leaves >= 0], leaves[leaves >= 0]
        values = values.double()
        measured = torch.ones(values.shape[1]) if measured is None else measured.cpu()
        if leaves.ndim > 1:
            shares = leaves.to(values)
            n_cells, total = shares.sum(0), shares.T @ values
            squares = shares.T @ values.square()
        else:
            n_cells = leaves.bincount(minlength=n_leaves).double()
            nothing = values.new_zeros(n_leaves, values.shape[1])
            total = nothing.index_add(0, leaves, values)
            squares = nothing.index_add(0, leaves, values.square())
        return cls(n_cells, total, squares, n_cells.unsqueeze(1) * measured.double())

    @classmethod
    def sum(cls, parts: Sequence[LeafSums]) -> LeafSums:
        """Add the sums of disjoint sets of cells.

        Examples
        --------
        >>> import torch
        >>> from hdeepinsight.nn import LeafSums
        >>> one = LeafSums.of(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]), n_leaves=2)
        >>> LeafSums.sum([one, one, one]).n_cells
        tensor([6., 6.], dtype=torch.float64)
        """
        first, *others = parts
        return sum(others, start=first)

    def __add__(self, other: LeafSums) -> LeafSums:
        return LeafSums(*(own + more for own, more in self._pairs(other)))

    def __sub__(self, other: LeafSums) -> LeafSums:
        return LeafSums(*(own - less for own, less in self._pairs(other)))

    def _pairs(self, other: LeafSums) -> Iterator[tuple[Tensor, Tensor]]:
        return ((getattr(self, each.name), getattr(other, each.name)) for each in fields(self))

    def without(self, shift: Tensor) -> LeafSums:
        """Return the sums of the cells after a shift ``(n_genes,)`` of all is removed."""
        total = self.total - self.n_measured * shift
        return replace(self, total=total, squares=self.squares - shift * (self.total + total))

    def variance(self) -> Tensor:
        """Compute the variance of each gene within leaves, averaged over those with cells."""
        enough = self.n_cells >= MIN_CELLS
        n_cells = self.n_cells[enough].unsqueeze(1)
        around = self.squares[enough] - self.total[enough].square() / n_cells
        found = around.clamp_min(0.0) / (n_cells - 1)
        return found.sum(0) / max(1, len(found))

    def profiles(self) -> LeafProfiles:
        """Compute the means over the cells that measured each gene, and the variance within leaves.

        The mean of a gene that was not measured in any cell of a leaf is that of the other leaves.

        Examples
        --------
        >>> import torch
        >>> from hdeepinsight.nn import LeafSums
        >>> values, leaves = (
        ...     torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]]),
        ...     torch.tensor([0, 0, 1]),
        ... )
        >>> profiles = LeafSums.of(values, leaves, n_leaves=2).profiles()
        >>> profiles.mean
        tensor([[2., 0.],
                [0., 2.]])
        >>> profiles.spread
        tensor([1., 0.])
        """
        n_measured = self.n_measured.clamp_min(1)
        mean = self.total / n_measured
        spread = (self.squares / n_measured - mean.square()).sum(1)
        is_known = self.n_measured > 0
        others = (mean * is_known).sum(0) / is_known.sum(0).clamp_min(1)
        is_absent = ~is_known & (self.n_cells > 0).unsqueeze(1)
        mean = torch.where(is_absent, others, mean)
        return LeafProfiles(mean.float(), self.n_cells.float(), spread.float())


def profile_shift(query: LeafProfiles, reference: LeafProfiles, measured: Tensor) -> float | None:
    r"""Compute the squared distance between datasets, relative to that between types.

    Parameters
    ----------
    query, reference
        Profiles of disjoint cells.
    measured
        1 for the genes to compare, shape ``(n_genes,)`` or ``(n_leaves, n_genes)``.

    Returns
    -------
    The distance, averaged over the leaves with at least ten cells on both sides and one in a
    thousand of the query. It is 1 if the datasets are as far apart as types of the reference are
    from their centre, and its expectation is 0 for samples of the same cells. ``None`` if fewer
    than two leaves can be compared.

    Examples
    --------
    The same cells, and cells in which every gene is higher by 1:

    >>> import torch
    >>> from hdeepinsight.nn import LeafSums, profile_shift
    >>> leaves = torch.arange(40) % 2
    >>> cells = torch.eye(2)[leaves]
    >>> one, moved = (LeafSums.of(x, leaves, n_leaves=2).profiles() for x in (cells, cells + 1))
    >>> profile_shift(one, one, torch.ones(2)), profile_shift(moved, one, torch.ones(2))
    (0.0, 4.0)

    Notes
    -----
    For leaf :math:`k` with mean :math:`\mu_k`, sum of variances :math:`s_k` and :math:`n_k` cells
    on either side,

    .. math::
        d_k = \lVert \mu_k - \mu'_k \rVert^2 - \frac{s_k}{n_k - 1} - \frac{s'_k}{n'_k - 1}

    is an unbiased estimate, also for few cells. Each type is compared with itself, so that the
    proportions of the types do not matter. Our decision.
    """
    if query.spread is None or reference.spread is None:
        return None
    enough = max(COMPARED_CELLS, MIN_SHARE * float(query.n_cells.sum()))
    both = (query.n_cells >= enough) & (reference.n_cells >= COMPARED_CELLS)
    if int(both.sum()) < MIN_LEAVES:
        return None
    measured = measured.expand_as(query.mean)[both]
    apart = ((query.mean - reference.mean)[both] * measured).square().sum(1)
    for side in (query, reference):
        assert side.spread is not None
        apart = apart - side.spread[both] / (side.n_cells[both] - 1)
    types = reference.mean[both] * measured
    between = (types - types.mean(0)).square().sum(1).mean()
    return float(apart.mean() / between.clamp_min(1e-12))


def usual_shift(batches: Sequence[LeafSums]) -> float | None:
    """Compute the median shift between a batch of a reference and its other batches.

    ``None`` if there is only one batch, or if no batches can be compared.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import LeafSums, usual_shift
    >>> leaves = torch.arange(40) % 2
    >>> batch = LeafSums.of(torch.eye(2)[leaves], leaves, n_leaves=2)
    >>> usual_shift([batch, batch]), usual_shift([batch])
    (0.0, None)
    """
    everything = LeafSums.sum(batches)
    shifts = []
    for batch in batches:
        others = everything - batch
        measured = ((batch.n_measured > 0) & (others.n_measured > 0)).float()
        shifts.append(profile_shift(batch.profiles(), others.profiles(), measured))
    known = [shift for shift in shifts if shift is not None]
    return float(torch.tensor(known).quantile(0.5)) if known else None
