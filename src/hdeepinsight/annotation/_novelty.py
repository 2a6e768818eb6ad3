"""Scores of cells for novelty, doublets and empty droplets, from profiles of the reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch.nn.functional import embedding_bag

from hdeepinsight.nn import GenePanels, SparseCounts, thin_counts
from hdeepinsight.taxonomy import Taxonomy

#: Share of ambient RNA, the mean of all types, in every profile.
AMBIENT_SHARE = 0.05
#: Share of a gene that no training cell of a type expresses.
MIN_SHARE = 1e-7
#: Other lineages that are tried as the second half of a doublet, the most likely first.
N_PARTNERS = 3
#: Largest share of one lineage in empty droplets: those of a sorted population resemble its cells.
MAX_PURITY = 0.82
#: Counts added to found and expected counts of a gene.
PSEUDO_COUNTS = 10.0
#: Largest ratio of a gene between query and reference, for all cells and for markers of a lineage.
MAX_RATIO, MAX_MARKER_RATIO = 20.0, 6.0
EM_STEPS = 100
#: Counts that are drawn for a simulated droplet; those of deeper ones are scaled from these.
DRAWN_COUNTS = 100
#: Fewest cells from which the counts per cell of a type, or the variation of cells, are estimated.
FEW_CELLS, MIN_VARYING = 10, 20
#: Markers of a lineage: each of its types expresses them more than all others by `MIN_FOLD`, or by
#: `LOW_FOLD` if there are fewer than `FEW_MARKERS`.
N_MARKERS, MIN_FOLD = 10, 3.0
FEW_MARKERS, LOW_FOLD = 5, 2.0
#: Genes that are most specific for any type.
N_SPECIFIC = 100
#: Share of a gene that is added before ratios of profiles.
PSEUDO_SHARE = 2e-5
#: Similarity below which cells do not look like the reference, as for a whole query.
UNLIKE = 0.67
#: Least similarity that is expected of cells of the reference.
MIN_REACHED = 0.5
#: Cells whose counts are pooled: one cell has too few counts to show that it lacks a marker.
N_NEIGHBORS = 15
#: Fewest simulated doublets per half of the cells, as a number and per cell, and the largest share
#: of doublets in a query.
MIN_DOUBLETS, MIN_PAIRS, MAX_DOUBLETS = 10, 0.05, 0.25
#: Largest estimated share of other cells that are called doublets, and the smallest share of
#: simulated doublets above a threshold from which the share of doublets is estimated.
FALSE_ALARMS, MIN_RECALL = 0.05, 0.4
#: Shrinkage of the covariance of standardised features.
RIDGE = 0.01


@dataclass(frozen=True, eq=False)
class ReferenceBank:
    """Held-out cells of a reference, and the mean profile of each of its types.

    A model keeps them to compare a query with cells of known types at the depth and genes of the
    query. The model file therefore contains counts of single cells of the reference, without their
    names.

    Parameters
    ----------
    counts
        Raw counts of held-out cells in the genes of the model, shape ``(n_cells, n_genes)``.
    nodes
        Node of each cell's label, shape ``(n_cells,)``.
    shares
        Mean over the training cells of each leaf of the share of each gene in the counts of a
        cell, shape ``(n_leaves, n_genes)``.
    n_cells
        Number of training cells of each leaf, shape ``(n_leaves,)``.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from hdeepinsight.annotation import ReferenceBank
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": [], "B": []})
    >>> counts = csr_matrix(np.array([[8.0, 2.0], [0.0, 5.0]] * 30))
    >>> bank = ReferenceBank.draw(
    ...     tree, (counts, tree.encode(["T", "B"] * 30)), (counts[:4], [1, 2, 1, 2])
    ... )
    >>> bank
    ReferenceBank of 4 held-out cells and 2 types
    >>> bank.shares.round(1).tolist()
    [[0.800000011920929, 0.20000000298023224], [0.0, 1.0]]
    """

    counts: sparse.csr_matrix
    nodes: np.ndarray
    shares: np.ndarray
    n_cells: np.ndarray

    @classmethod
    def draw(
        cls,
        taxonomy: Taxonomy,
        train: tuple[sparse.csr_matrix, Any],
        held_out: tuple[sparse.csr_matrix, Any],
        rows: np.ndarray | None = None,
        panels: tuple[GenePanels, GenePanels] | None = None,
        seed: int = 0,
    ) -> ReferenceBank:
        """Collect profiles of training cells, and counts of held-out cells.

        Counts of genes that were not measured in a held-out cell are drawn from the profile of its
        type, so that it can be compared with cells of any query.

        Parameters
        ----------
        taxonomy
            The tree.
        train, held_out
            Raw counts, shape ``(n_cells, n_genes)``, and the node of each cell's label.
        rows
            Held-out cells to keep; all by default.
        panels
            Genes that were measured in the cells of ``train`` and ``held_out``; all by default.
        seed
            Seed of the counts of other genes.
        """
        leaves, n_leaves = pd.Index(taxonomy.leaves), taxonomy.n_leaves
        known, own = panels or [GenePanels.one(*counts.shape) for counts, _ in (train, held_out)]
        leaf = leaves.get_indexer(train[1])
        shares = known.mean_shares(train[0], leaf, n_leaves)
        n_cells = np.bincount(leaf[leaf >= 0], minlength=n_leaves)
        rows = np.arange(len(held_out[1])) if rows is None else rows
        kept, nodes = held_out[0][rows], np.asarray(held_out[1])[rows]
        kept = own[rows].complete(kept, shares, leaves.get_indexer(nodes), seed)
        return cls(sparse.csr_matrix(kept).astype(np.float32), nodes, shares, n_cells)

    def to_dict(self) -> dict[str, torch.Tensor]:
        """Return plain tensors, for the model file.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> sorted(hdi.hub.pull("pbmc").bank_.to_dict())
        ['counts', 'genes', 'n_cells', 'n_genes', 'nodes', 'shares', 'starts']
        """
        kept = self.counts
        small = kept.data.size == 0 or kept.data.max() < 2**15
        return {
            "counts": torch.from_numpy(np.rint(kept.data).astype(np.int16 if small else np.int64)),
            "genes": torch.from_numpy(kept.indices.astype(np.int32)),
            "starts": torch.from_numpy(kept.indptr.astype(np.int64)),
            "n_genes": torch.tensor(kept.shape[1]),
            "nodes": torch.from_numpy(self.nodes.astype(np.int64)),
            "shares": torch.from_numpy(self.shares.astype(np.float32)),
            "n_cells": torch.from_numpy(self.n_cells.astype(np.int64)),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ReferenceBank:
        """Restore a bank from the output of :meth:`to_dict`, as tensors or arrays."""
        found = {name: np.asarray(value) for name, value in data.items()}
        shape = (len(found["nodes"]), int(found["n_genes"]))
        parts = (found["counts"].astype(np.float32), found["genes"], found["starts"])
        counts = sparse.csr_matrix(parts, shape=shape)
        return cls(counts, found["nodes"], found["shares"], found["n_cells"])

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        return f"ReferenceBank of {len(self)} held-out cells and {len(self.shares)} types"


class Explained(NamedTuple):
    """Fit of cells to the profiles of the types, arrays of shape ``(n_cells,)``.

    Attributes
    ----------
    leaf
        Position of the most likely type among the leaves.
    gain
        Log-likelihood ratio of the best mixture of two lineages to the best type, divided by the
        square root of the counts.
    ambient
        Log-likelihood ratio of the best type to empty droplets, divided likewise.
    depth
        Total counts in the genes of the profiles.
    n_genes
        Number of genes with counts.
    likelihoods
        Log-likelihoods per count of the types of the reference, with mean 0 per cell; shape
        ``(n_cells, n_types)``.
    """

    leaf: np.ndarray
    gain: np.ndarray
    ambient: np.ndarray
    depth: np.ndarray
    n_genes: np.ndarray
    likelihoods: np.ndarray


class TypeProfiles:
    r"""Multinomial profiles of the types in the genes of a query.

    Parameters
    ----------
    bank
        Held-out cells and profiles of the reference.
    taxonomy
        The tree.
    genes
        Positions of the genes that the query has, shape ``(n_query_genes,)``.
    counts
        Raw counts of cells of the query in these genes, shape ``(n_cells, n_query_genes)``.

    Notes
    -----
    A cell with counts :math:`x` has log-likelihood :math:`\sum_g x_g \log a_{kg}` under type
    :math:`k` with shares :math:`a_{kg}`. A second type does not raise the likelihood of cells of a
    known type. It does for doublets, and for cells of a type that the reference lacks, which
    resemble several types a little. :meth:`move` multiplies each gene by its ratio between the
    whole query and what its types predict; differences between types remain.
    """

    def __init__(
        self,
        bank: ReferenceBank,
        taxonomy: Taxonomy,
        genes: np.ndarray,
        counts: sparse.csr_matrix,
    ) -> None:
        self.genes = genes
        self.known = np.flatnonzero(bank.n_cells > 0)
        leaves = np.asarray(taxonomy.leaves)
        # The first level with several nodes: a tree may have one lineage.
        levels = taxonomy.node_at_level[leaves].T
        groups = next((each for each in levels if len(np.unique(each)) > 1), levels[0])
        self.group = np.where(groups < 0, leaves, groups)
        self.weights = bank.n_cells / max(bank.n_cells.sum(), 1)
        shares = bank.shares[:, genes].astype(np.float64)
        self.base = _normalise(
            (1 - AMBIENT_SHARE) * _normalise(shares) + AMBIENT_SHARE * self.weights @ shares
        )
        depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        likely = np.asarray(counts @ np.log(self.base[self.known]).T)
        leaf = self.known[likely.argmax(axis=1)]
        self.sizes = np.full(len(leaves), np.median(depth))
        for called, among in ((self.group[leaf], self.group), (leaf, np.arange(len(leaves)))):
            for each in np.unique(called):
                own = depth[called == each]
                if len(own) >= FEW_CELLS:
                    self.sizes[among == each] = np.median(own)
        self._use(self.base, self.weights)

    def _use(self, profiles: np.ndarray, weights: np.ndarray) -> None:
        self.profiles = profiles.astype(np.float32)
        self.ambient = _normalise(self._mixture(weights * self.sizes) @ profiles)
        # Relative to empty droplets, because small numbers suffice for single precision.
        self.log_ratios = np.log(profiles[self.known] / self.ambient).astype(np.float32)

    def _mixture(self, weights: np.ndarray) -> np.ndarray:
        """Return weights of the types in empty droplets, with no lineage above `MAX_PURITY`."""
        mixture = weights / max(weights.sum(), 1e-12)
        for group in np.unique(self.group):
            own = self.group == group
            if mixture[own].sum() > MAX_PURITY:
                rest = np.where(own, 0.0, self.weights)
                if rest.sum() > 0:
                    mixture = np.where(own, mixture * MAX_PURITY / mixture[own].sum(), 0.0)
                    mixture += (1 - MAX_PURITY) * rest / rest.sum()
        return np.asarray(mixture)

    def move(self, counts: sparse.csr_matrix, weights: np.ndarray) -> None:
        """Scale the genes to counts of cells of the query, given the shares of its types."""
        found = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
        expected = found.sum() * _normalise((weights * self.sizes) @ self.base)
        ratio = (found + PSEUDO_COUNTS) / (expected + PSEUDO_COUNTS)
        self._use(_normalise(self.base * np.clip(ratio, 1 / MAX_RATIO, MAX_RATIO)), weights)

    def is_pure(self, weights: np.ndarray) -> bool:
        """Return whether one lineage dominates, so that empty droplets resemble its cells."""
        return bool(np.bincount(self.group, weights).max() > MAX_PURITY * weights.sum())

    def variation(self, counts: sparse.csr_matrix) -> float | None:
        """Return how much cells vary in their likelihoods under the types.

        It is their mean variance over all directions, relative to draws of as many counts from the
        mean profile of the cells: 1 for empty droplets. ``None`` for few cells or one type.
        """
        depth = np.asarray(counts.sum(axis=1), dtype=np.float64)
        mean = np.asarray(counts.sum(axis=0)).ravel() / depth.sum()
        ratios = np.log(self.base[self.known] / self.base[self.known].mean(axis=0))
        ratios -= (ratios @ mean)[:, None]
        expected, axes = np.linalg.eigh((ratios * mean) @ ratios.T)
        used = expected > 1e-6
        if len(depth) < MIN_VARYING or not used.any():
            return None
        scores = (counts @ ratios.T) / np.sqrt(depth) @ axes[:, used]
        return float((np.square(scores).mean(axis=0) / expected[used]).mean())

    def unmix(self, mean: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the shares of the types that explain a mean profile best, by EM."""
        weights = np.where(self.weights > 0, weights + 0.01, 0.0)
        for _ in range(EM_STEPS):
            weights = weights * ((mean / (weights @ self.base)) @ self.base.T)
            weights /= weights.sum()
        return np.asarray(weights)

    def empty_droplets(
        self, depths: np.ndarray, n_droplets: int, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """Simulate `Explained.ambient` of empty droplets, drawn from the mixture of all types.

        Parameters
        ----------
        depths
            Counts per droplet, shape ``(n_depths,)``.
        n_droplets
            Droplets of each depth.
        rng
            Source of the draws, which all depths share.
        """
        n_drawn = int(min(depths.max(), DRAWN_COUNTS))
        genes = rng.choice(len(self.ambient), size=(n_drawn, n_droplets), p=self.ambient)
        totals = self.log_ratios.T[genes].cumsum(axis=0, dtype=np.float64)
        mean = self.log_ratios @ self.ambient
        found = []
        for depth in depths:
            n = int(min(depth, n_drawn))
            # Deviations from the mean of many counts grow with the square root of their number.
            deviation = (totals[n - 1] - n * mean) * np.sqrt(depth / n)
            found.append((depth * mean + deviation).max(axis=1) / np.sqrt(depth))
        return found

    def explain(self, counts: sparse.csr_matrix, n_partners: int = N_PARTNERS) -> Explained:
        """Fit one type, mixtures of two lineages, and empty droplets to each cell.

        Parameters
        ----------
        counts
            Raw counts in the genes of the profiles, shape ``(n_cells, n_query_genes)``.
        n_partners
            Other lineages that are tried in mixtures; without any, the gain is 0.
        """
        counts = sparse.csr_matrix(counts, dtype=np.float32)
        depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        scale = np.sqrt(np.maximum(depth, 1.0))
        known = self.known
        likely = _sums(counts, counts.indices, self.log_ratios.T)
        best, alone = known[likely.argmax(axis=1)], likely.max(axis=1)
        by_group, leaf_of = [], []
        for group in np.unique(self.group[known]):
            own = np.flatnonzero(self.group[known] == group)
            by_group.append(likely[:, own].max(axis=1))
            leaf_of.append(known[own[likely[:, own].argmax(axis=1)]])
        order = np.argsort(-np.column_stack(by_group), axis=1)[:, 1 : 1 + n_partners]
        leaves, gain = np.column_stack(leaf_of), np.full(len(depth), -np.inf)
        # Log ratios of mixtures to the best type, once for each pair that occurs.
        for column in order.T:
            partner = leaves[np.arange(len(depth)), column]
            pairs, pair = np.unique(best * len(self.sizes) + partner, return_inverse=True)
            one, other = np.divmod(pairs, len(self.sizes))
            # Share of the molecules of the first cell.
            share = (self.sizes[one] / self.sizes[other]).astype(np.float32)[:, None]
            share /= 1 + share
            mixed = np.log(share + (1 - share) * (self.profiles[other] / self.profiles[one]))
            first = (pair * counts.shape[1]).astype(counts.indices.dtype)
            place = np.repeat(first, np.diff(counts.indptr)) + counts.indices
            gain = np.maximum(gain, _sums(counts, place, mixed.reshape(-1, 1)).ravel())
        gain = np.where(np.isfinite(gain), gain, 0.0) / scale
        likelihoods = likely / np.maximum(depth, 1.0)[:, None].astype(np.float32)
        likelihoods -= likelihoods.mean(axis=1, keepdims=True)
        return Explained(best, gain, alone / scale, depth, np.diff(counts.indptr), likelihoods)


def _sums(counts: sparse.csr_matrix, places: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Return sums of rows of a table, weighted by counts; shape ``(n_cells, n_columns)``."""
    arrays = map(torch.from_numpy, (counts.indptr, places, counts.data))
    weights = torch.from_numpy(np.ascontiguousarray(table))
    return np.asarray(SparseCounts(*arrays).weighted_sums(weights).numpy())


class DoubletDetector:
    """Linear discriminant of the cells of a query and of doublets simulated from them.

    A doublet is the sum of two cells that the profiles assign to different lineages. Features are
    the log-likelihoods of all types, the gain of a second lineage, the most likely type, and the
    numbers of counts and genes. Cells that the first discriminant calls doublets are not used to
    simulate those of the second.

    Parameters
    ----------
    profiles
        Profiles of the types.
    counts
        Raw counts of cells of the query in the genes of the profiles.
    found
        How the profiles explain these cells.
    kept
        Whether each cell may be used to simulate doublets.
    rng
        Source of the pairs.

    Attributes
    ----------
    threshold
        Score above which a cell is called a doublet, such that this is estimated to be wrong for at
        most 5 % of the other cells. The share of doublets in the query, needed for the estimate, is
        the largest that the scores of cells and of simulated doublets allow, at most 25 %.
    power
        Share of simulated doublets found; ``None`` with too few pairs of lineages, where no cell is
        called a doublet.
    """

    def __init__(
        self,
        profiles: TypeProfiles,
        counts: sparse.csr_matrix,
        found: Explained,
        kept: np.ndarray,
        rng: np.random.Generator,
    ) -> None:
        self.n_leaves, self.threshold = len(profiles.sizes), 0.0
        self.power: float | None = None
        cells, group = self._features(found), profiles.group[found.leaf]
        self.centre, self.spread = cells.mean(axis=0), cells.std(axis=0) + 1e-9
        self.direction, n_cells = np.zeros(cells.shape[1]), len(cells)
        # Each half is scored by the discriminant of the other.
        half = rng.permutation(n_cells) % 2
        for _ in range(2):
            pool = np.flatnonzero(kept)
            if not len(pool):
                return
            one, other = rng.choice(pool, size=(2, 6 * n_cells))
            pairs = (group[one] != group[other]) & (half[one] == half[other])
            one, other = one[pairs][:n_cells], other[pairs][:n_cells]
            n_pairs = np.bincount(half[one], minlength=2).min()
            if n_pairs < max(MIN_DOUBLETS, MIN_PAIRS * n_cells):
                return
            doublets = self._features(profiles.explain(counts[one] + counts[other]))
            directions = [
                self._discriminate(cells[half == k], doublets[half[one] == k]) for k in (1, 0)
            ]
            own = np.where(half == 0, *(self._project(cells, each) for each in directions))
            made = np.where(half[one] == 0, *(self._project(doublets, each) for each in directions))
            self.direction = np.mean(directions, axis=0)
            shares = np.linspace(0.95, 0.05, 19)  # of the doublets above each threshold
            thresholds = np.quantile(made, 1 - shares)
            above = (own[:, None] > thresholds).mean(axis=0)
            # The highest scores are of simulated doublets that contain a real one.
            true = min((above / shares)[shares >= MIN_RECALL].min(), MAX_DOUBLETS)
            wrong = (above - true * shares) / (1 - true)
            first = min(int((wrong > FALSE_ALARMS).sum()), len(shares) - 1)
            self.threshold, self.power = float(thresholds[first]), float(shares[first])
            kept = own <= self.threshold

    def score(self, found: Explained) -> np.ndarray:
        """Return scores of cells minus the threshold; shape ``(n_cells,)``."""
        return self._project(self._features(found), self.direction) - self.threshold

    def _features(self, found: Explained) -> np.ndarray:
        sizes = np.log1p(np.column_stack([found.depth, found.n_genes]))
        leaf = np.eye(self.n_leaves)[found.leaf]
        return np.column_stack([found.likelihoods, found.gain, found.ambient, sizes, leaf])

    def _project(self, features: np.ndarray, direction: np.ndarray) -> np.ndarray:
        return np.asarray((features - self.centre) / self.spread @ direction)

    def _discriminate(self, cells: np.ndarray, doublets: np.ndarray) -> np.ndarray:
        """Return the direction that separates doublets from cells best."""
        one, other = ((each - self.centre) / self.spread for each in (cells, doublets))
        inner = (np.cov(one.T, bias=True) + np.cov(other.T, bias=True)) / 2
        difference = other.mean(axis=0) - one.mean(axis=0)
        return np.linalg.solve(inner + RIDGE * np.eye(len(inner)), difference)


class MarkerEvidence:
    """Expression of markers by cells, pooled with the cells most like them.

    Cells of a type that the reference lacks are called by the most similar type, and may gain
    nothing from a second one: natural killer cells are called CD8 T. They lack markers of that
    lineage (CD3), and express markers of others.

    Parameters
    ----------
    profiles
        Profiles of the types.
    counts
        Raw counts of the cells that are pooled, in the genes of the profiles.
    found
        How the profiles explain these cells.
    """

    def __init__(self, profiles: TypeProfiles, counts: sparse.csr_matrix, found: Explained) -> None:
        self.profiles = profiles
        known = profiles.base[profiles.known]
        group, called = profiles.group[profiles.known], profiles.group[found.leaf]
        highest, median = known.max(axis=0), np.median(known, axis=0)
        specificity = np.sqrt(highest) * np.log((highest + PSEUDO_SHARE) / (median + PSEUDO_SHARE))
        self.specific = np.argsort(-specificity)[:N_SPECIFIC]
        specific = counts[:, self.specific].toarray()
        self.lineages, factors, rng = {}, [], np.random.default_rng(0)
        for lineage in np.unique(called).tolist():
            own, rest = known[group == lineage], known[group != lineage]
            cells = np.flatnonzero(called == lineage)
            if not len(rest) or len(cells) < N_NEIGHBORS:
                continue
            lowest = own.min(axis=0)
            fold = lowest / (rest.max(axis=0) + PSEUDO_SHARE)
            # A small panel may have few clear markers of a lineage.
            low = np.sort(fold)[-min(FEW_MARKERS, len(fold))].clip(LOW_FOLD, MIN_FOLD)
            markers = np.flatnonzero(fold >= low)
            markers = markers[np.argsort(-(lowest * np.log(fold))[markers])[:N_MARKERS]]
            genes = np.concatenate([markers, self.specific])
            found_counts = np.hstack([counts[cells][:, markers].toarray(), specific[cells]])
            expected = found.depth[cells] @ profiles.base[:, genes][found.leaf[cells]]
            factor = (found_counts.sum(axis=0) + PSEUDO_COUNTS) / (expected + PSEUDO_COUNTS)
            factors.append(factor[len(markers) :])
            # Cells of a missing type may be all that a label has, and lack its markers.
            mean = profiles.base[found.leaf[cells]].mean(axis=0)
            drawn = rng.multinomial(int(found.depth[cells].sum()), mean / mean.sum())
            reached = max(log_correlation(drawn, mean), MIN_REACHED)
            if log_correlation(mean_share(counts[cells]), mean) < UNLIKE * reached:
                factor = np.ones_like(factor)
            self.lineages[lineage] = (
                found.likelihoods[cells],
                np.column_stack([found.depth[cells], found_counts]).astype(np.float32),
                markers,
                # Other differences of the whole lineage are attributed to the study.
                np.clip(factor[: len(markers)], 1 / MAX_MARKER_RATIO, MAX_MARKER_RATIO),
            )
        # One of all lineages, too; with a single one, a new type would be corrected away.
        is_shared = len(factors) > 1
        self.shift = np.median(factors, axis=0) if is_shared else np.ones(len(self.specific))

    def measure(self, found: Explained) -> tuple[np.ndarray, np.ndarray]:
        """Return mean log ratios of expected to found counts, shape ``(n_cells,)``.

        The first is for markers of the lineage of a cell, where less is found than expected (0.7
        if half is missing). The second is for the genes most specific for any type, where more is
        found. Both are 0 in lineages with too few cells.
        """
        called, base = self.profiles.group[found.leaf], self.profiles.base
        missing, excess = np.zeros((2, len(found.leaf)))
        for lineage, (others, counts, markers, factor) in self.lineages.items():
            cells = np.flatnonzero(called == lineage)
            if not len(cells):
                continue
            # Squared distances, up to a constant per cell.
            far = np.square(others).sum(axis=1) - 2 * found.likelihoods[cells] @ others.T
            nearest = torch.from_numpy(far).topk(N_NEIGHBORS, largest=False, sorted=False).indices
            pooled = embedding_bag(nearest, torch.from_numpy(counts), mode="sum").numpy()
            leaf, depth, pooled = found.leaf[cells], pooled[:, :1], pooled[:, 1:] + 1.0
            expected = (base[:, markers] * factor)[leaf] * depth
            less = np.log((expected + 1.0) / pooled[:, : len(markers)]).clip(min=0.0)
            weight = expected / (expected + 1.0)
            missing[cells] = (less * weight).sum(axis=1) / weight.sum(axis=1).clip(min=1.0)
            expected = (base[:, self.specific] * self.shift)[leaf] * depth
            more = np.log(pooled[:, len(markers) :] / (expected + 1.0)).clip(min=0.0)
            excess[cells] = more.mean(axis=1)
        return missing, excess


def thin(counts: sparse.csr_matrix, depth: float, rng: np.random.Generator) -> sparse.csr_matrix:
    """Downsample the counts of each cell to a depth, if it has more.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> cells = csr_matrix([[900.0, 100.0], [3.0, 0.0]])
    >>> thin(cells, 100, np.random.default_rng(0)).toarray().sum(1).tolist()
    [89.0, 3.0]
    """
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    thinned = thin_counts(counts, np.minimum(1.0, depth / np.maximum(total, 1.0)), rng)
    thinned.eliminate_zeros()
    return thinned


def upper_share(values: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return p-values: the share of null values, and of the value itself, that are as large.

    Examples
    --------
    >>> import numpy as np
    >>> upper_share(np.array([0.0, 9.0]), np.arange(9.0)).tolist()
    [1.0, 0.1]
    """
    null = np.sort(null)
    above = len(null) - np.searchsorted(null, values, side="left")
    return np.asarray((1 + above) / (len(null) + 1))


def mean_share(counts: sparse.csr_matrix) -> np.ndarray:
    """Return the mean over cells of the share of each gene, shape ``(n_genes,)``."""
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    return np.asarray(counts.T @ (1.0 / np.maximum(total, 1.0))) / max(len(total), 1)


def log_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Correlate two profiles on the logarithms of their shares."""
    if len(one) < 3:
        return 0.0
    logs = np.log(one / max(one.sum(), 1e-12) + 1e-5), np.log(other / other.sum() + 1e-5)
    return float(np.nan_to_num(np.corrcoef(*logs)[0, 1]))


def _normalise(shares: np.ndarray) -> np.ndarray:
    shares = shares + MIN_SHARE
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))
