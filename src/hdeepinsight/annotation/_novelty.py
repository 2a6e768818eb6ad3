"""Whether a cell is explained by one type of the reference, by two, or by the soup.

And whether it and the cells like it express the markers of their lineage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse

from hdeepinsight.nn import SparseCounts
from hdeepinsight.taxonomy import Taxonomy

#: Share of every profile that is the mean of all: cells carry RNA of their neighbours.
SOUP = 0.05
#: Share of a gene that a type was never seen to express.
FLOOR = 1e-7
#: Other lineages that are tried as the second half of a cell, the most likely ones first.
PARTNERS = 3
#: Largest share of one lineage in the soup: that of a pure query is not told from its cells.
MAX_PURITY = 0.8
#: Counts of a gene below which its ratio between query and reference is not believed.
PSEUDO_COUNTS = 10.0
MAX_RATIO = 20.0
EM_STEPS = 100
#: Counts that are drawn for a simulated droplet; those of deeper ones are scaled from these.
DRAWN_COUNTS = 200
#: Fewer cells do not say how many counts a cell of a type has.
FEW_CELLS = 10
#: Markers of a lineage, by what each of its types exceeds all others, and a share that is 0.
N_MARKERS, MIN_FOLD, FEW_SHARES = 10, 3.0, 2e-5
#: Cells whose counts are added up: one cell has too few of a marker to say that it lacks it.
NEIGHBORS = 15
#: Most by which a study may have more or less of a marker.
MAX_FACTOR = 6.0


@dataclass(frozen=True, eq=False)
class ReferenceBank:
    """Some held-out cells of a reference, and the mean profile of each of its types.

    A model keeps them, so that it can ask of any query how cells that it should know would look at
    the query's depth and genes. The file of the model therefore holds counts of single cells of the
    reference, without their names.

    Parameters
    ----------
    counts
        Raw counts of held-out cells in the genes of the model, shape ``(n_cells, n_genes)``.
    nodes
        Node of each cell's label, shape ``(n_cells,)``.
    shares
        Mean share of each gene among the counts of a cell, per leaf of the tree; of training
        cells; shape ``(n_leaves, n_genes)``.
    n_cells
        Training cells of each leaf, shape ``(n_leaves,)``.

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
    ) -> ReferenceBank:
        """Make one from counts and nodes of training cells and of held-out cells.

        Parameters
        ----------
        taxonomy
            The tree.
        train, held_out
            Raw counts ``(n_cells, n_genes)``, and the node of the label of each cell.
        rows
            Held-out cells to keep; all by default.
        """
        each, nodes = _as_shares(train[0]), np.asarray(train[1])
        shares = np.zeros((taxonomy.n_leaves, each.shape[1]), dtype=np.float32)
        n_cells = np.bincount(nodes, minlength=taxonomy.n_nodes)[taxonomy.leaves]
        for row in np.flatnonzero(n_cells):
            shares[row] = np.asarray(each[nodes == taxonomy.leaves[row]].mean(axis=0)).ravel()
        rows = np.arange(len(held_out[1])) if rows is None else rows
        kept = sparse.csr_matrix(held_out[0][rows]).astype(np.float32)
        return cls(kept, np.asarray(held_out[1])[rows], shares, n_cells)

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
        """Make one from what :meth:`to_dict` gave; tensors are as good as arrays."""
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
    """How well the profiles explain some cells, arrays of shape ``(n_cells,)``.

    Attributes
    ----------
    leaf
        Position of the most likely type among the leaves.
    gain
        By how much an equal mixture of two lineages is more likely than the best single type:
        the logarithm of the ratio, per square root of counts.
    ambient
        By how much the best type is more likely than the soup, likewise.
    depth
        Total counts in the genes compared.
    likelihoods
        Log-likelihoods of the types that the reference has, per count and with a mean of 0 for
        each cell; shape ``(n_cells, n_types)``.
    """

    leaf: np.ndarray
    gain: np.ndarray
    ambient: np.ndarray
    depth: np.ndarray
    likelihoods: np.ndarray


class TypeProfiles:
    r"""Multinomial profiles of the types in the genes of a query.

    Parameters
    ----------
    bank
        Bank of the reference.
    taxonomy
        The tree.
    genes
        Positions of the genes that the query has.

    Notes
    -----
    A cell with counts :math:`x` has log-likelihood :math:`\sum_g x_g \log a_{kg}` under type
    :math:`k`. Cells of a known type gain nothing by a second one. Doublets do, and so do cells of
    a type that the reference lacks, which resemble several types a little. Sums of counts are what
    droplets do to cells, so mixtures are taken of shares, not of logarithms. :meth:`move` scales
    genes by what the whole query has more or less of than its types predict; differences between
    types remain.
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
        # The first level that tells anything apart: a tree may have one lineage.
        levels = taxonomy.node_at_level[leaves].T
        groups = next((each for each in levels if len(np.unique(each)) > 1), levels[0])
        self.group = np.where(groups < 0, leaves, groups)
        self.weights = bank.n_cells / max(bank.n_cells.sum(), 1)
        shares = bank.shares[:, genes].astype(np.float64)
        self.base = _normalise((1 - SOUP) * _normalise(shares) + SOUP * self.weights @ shares)
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
        self.soup = _normalise(self._mixture(weights * self.sizes) @ profiles)
        #: Of the types that the reference has, over the soup: small numbers, for single precision.
        self.log_ratios = np.log(profiles[self.known] / self.soup).astype(np.float32)

    def _mixture(self, weights: np.ndarray) -> np.ndarray:
        """Return the weights of the types in the soup, no lineage with too large a share."""
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
        """Scale the genes to the query, given counts of its cells and the shares of its types."""
        found = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
        expected = found.sum() * _normalise((weights * self.sizes) @ self.base)
        ratio = (found + PSEUDO_COUNTS) / (expected + PSEUDO_COUNTS)
        self._use(_normalise(self.base * np.clip(ratio, 1 / MAX_RATIO, MAX_RATIO)), weights)

    def is_pure(self, weights: np.ndarray) -> bool:
        """Whether nearly all cells are of one lineage, so that empty droplets are like them."""
        return bool(np.bincount(self.group, weights).max() > MAX_PURITY * weights.sum())

    def unmix(self, mean: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return the shares of the types of which a mean profile is a mixture, by likelihood."""
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
        genes = rng.choice(len(self.soup), size=(n_drawn, n_droplets), p=self.soup)
        totals = self.log_ratios.T[genes].cumsum(axis=0, dtype=np.float64)
        mean = self.log_ratios @ self.soup
        found = []
        for depth in depths:
            n = int(min(depth, n_drawn))
            # Deviations from the mean of many counts grow with the square root of their number.
            deviation = (totals[n - 1] - n * mean) * np.sqrt(depth / n)
            found.append((depth * mean + deviation).max(axis=1) / np.sqrt(depth))
        return found

    def explain(self, counts: sparse.csr_matrix) -> Explained:
        """Compare cells with one type, with two, and with the soup.

        Parameters
        ----------
        counts
            Raw counts in ``genes``, shape ``(n_cells, n_genes)``.
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
        order = np.argsort(-np.column_stack(by_group), axis=1)[:, 1 : 1 + PARTNERS]
        leaves, gain = np.column_stack(leaf_of), np.full(len(depth), -np.inf)
        # Mixtures over the best type, for the pairs that occur: few, and each cell looks them up.
        for column in order.T:
            partner = leaves[np.arange(len(depth)), column]
            pairs, pair = np.unique(np.column_stack([best, partner]), axis=0, return_inverse=True)
            one, other = self.profiles[pairs.T]
            share = np.divide(*self.sizes[pairs].T, dtype=np.float32)[:, None]  # of molecules
            share /= 1 + share
            mixed = np.log(share + (1 - share) * (other / one))
            first = (pair.ravel() * counts.shape[1]).astype(counts.indices.dtype)
            place = np.repeat(first, np.diff(counts.indptr)) + counts.indices
            gain = np.maximum(gain, _sums(counts, place, mixed.reshape(-1, 1)).ravel())
        gain = np.where(np.isfinite(gain), gain, 0.0) / scale
        likelihoods = likely / np.maximum(depth, 1.0)[:, None].astype(np.float32)
        likelihoods -= likelihoods.mean(axis=1, keepdims=True)
        return Explained(best, gain, alone / scale, depth, likelihoods)


def _sums(counts: sparse.csr_matrix, places: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Add up rows of a table by the counts of each cell, shape ``(n_cells, n_columns)``."""
    arrays = map(torch.from_numpy, (counts.indptr, places, counts.data))
    weights = torch.from_numpy(np.ascontiguousarray(table))
    return np.asarray(SparseCounts(*arrays).weighted_sums(weights).numpy())


class MarkerSupport:
    """Expression of the markers of their lineage by cells and those like them.

    Natural killer cells without a name of their own are called CD8 T: the most likely type, and no
    second one adds to it. What gives them away is what they lack, CD3.

    Parameters
    ----------
    profiles
        Profiles of the types.
    counts
        Raw counts of some cells in the genes of the profiles, among which others are compared.
    found
        How the profiles explain these cells.
    """

    def __init__(self, profiles: TypeProfiles, counts: sparse.csr_matrix, found: Explained) -> None:
        self.profiles = profiles
        self.lineages = {}
        group, called = profiles.group[profiles.known], profiles.group[found.leaf]
        for lineage in np.unique(called).tolist():
            own, rest = (
                profiles.base[profiles.known[chosen]]
                for chosen in (group == lineage, group != lineage)
            )
            cells = np.flatnonzero(called == lineage)
            if not len(rest) or len(cells) < NEIGHBORS:
                continue
            least = own.min(axis=0)
            fold = least / (rest.max(axis=0) + FEW_SHARES)
            genes = np.flatnonzero(fold >= MIN_FOLD)
            genes = genes[np.argsort(-(least * np.log(fold))[genes])[:N_MARKERS]]
            markers = counts[cells][:, genes].toarray()
            # What the study has more or less of in this lineage as a whole is not lacking.
            expected = found.depth[cells] @ profiles.base[:, genes][found.leaf[cells]]
            factor = (markers.sum(axis=0) + PSEUDO_COUNTS) / (expected + PSEUDO_COUNTS)
            self.lineages[lineage] = (
                found.likelihoods[cells],
                np.column_stack([markers, found.depth[cells]]).astype(np.float32),
                genes,
                np.clip(factor, 1 / MAX_FACTOR, MAX_FACTOR),
            )

    def missing(self, found: Explained) -> np.ndarray:
        """Return how much of its lineage's markers each cell and those like it lack.

        The mean logarithm of expected over found counts, where less is found; 0 is nothing, 0.7 a
        half; 0 too where a lineage has too few cells to say. Shape ``(n_cells,)``.
        """
        called, lack = self.profiles.group[found.leaf], np.zeros(len(found.leaf))
        for lineage, (others, counts, genes, factor) in self.lineages.items():
            cells = np.flatnonzero(called == lineage)
            if not len(cells):
                continue
            # Squared distances, less what all of a cell have in common.
            far = np.square(others).sum(axis=1) - 2 * found.likelihoods[cells] @ others.T
            alike = far <= np.partition(far, NEIGHBORS - 1, axis=1)[:, NEIGHBORS - 1 : NEIGHBORS]
            pooled = alike.astype(np.float32) @ counts
            usual = self.profiles.base[:, genes] * factor
            expected = usual[found.leaf[cells]] * pooled[:, -1:]
            less = np.log((expected + 1.0) / (pooled[:, :-1] + 1.0)).clip(min=0.0)
            weight = expected / (expected + 1.0)
            lack[cells] = (less * weight).sum(axis=1) / weight.sum(axis=1).clip(min=1.0)
        return lack


def thin(counts: sparse.csr_matrix, depth: float, rng: np.random.Generator) -> sparse.csr_matrix:
    """Draw counts of cells as if each had been sequenced to at most a depth.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> cells = csr_matrix([[900.0, 100.0], [3.0, 0.0]])
    >>> thin(cells, 100, np.random.default_rng(0)).toarray().sum(1).tolist()
    [89.0, 3.0]
    """
    counts = sparse.csr_matrix(counts, copy=True)
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    kept = np.minimum(1.0, depth / np.maximum(total, 1.0))
    molecules = np.rint(counts.data).astype(np.int64)
    counts.data = rng.binomial(molecules, np.repeat(kept, np.diff(counts.indptr))).astype(
        np.float32
    )
    counts.eliminate_zeros()
    return counts


def upper_share(values: np.ndarray, null: np.ndarray) -> np.ndarray:
    """Return the share of null values, one more among them, that are as large: p-values.

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


def _as_shares(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    total = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    return sparse.csr_matrix(sparse.diags(1.0 / np.maximum(total, 1.0)) @ counts)


def _normalise(shares: np.ndarray) -> np.ndarray:
    shares = shares + FLOOR
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))
