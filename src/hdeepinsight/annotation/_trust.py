"""Comparison of a query with held-out cells of the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from hdeepinsight.annotation import _novelty as novelty
from hdeepinsight.annotation._decode import most_probable, most_probable_leaf
from hdeepinsight.nn import LeafProfiles, ProfileMatcher
from hdeepinsight.taxonomy import Taxonomy

Predict = Callable[[sparse.csr_matrix], np.ndarray]

#: Held-out cells are thinned to this many depths: the medians of the quarters of the query.
N_DEPTHS = 4
#: Simulated empty droplets of each depth.
N_SIMULATED = 400
#: P-values up to which a cell has no lineage, or no type.
ALPHA_LINEAGE, ALPHA_TYPE = 0.02, 0.02
#: `lineage_p_value` up to which a cell has no lineage, if the mean log ratio for its markers of
#: expected to found counts is at least `MIN_MISSING` (seven in ten counts are missing).
ALPHA_MARKERS, MIN_MISSING = 0.005, 1.2
#: Log ratio of expected to found counts that is attributed to the study.
STUDY_EFFECT = 0.2
#: Weight of the excess of specific genes, relative to the lack of markers.
EXCESS_WEIGHT = 3.0
#: Uncertainty of the lineage below which a cell has one.
MIN_UNCERTAINTY = 0.3
#: P-value above which a cell cannot be distinguished from an empty droplet.
ALPHA_AMBIENT = 0.005
#: Largest correction for the shift of the query, in spreads of the held-out cells. If half of the
#: cells of a type deviate by more, they are a new type.
MAX_SHIFT = 2.0
#: Largest share of wrong labels among held-out cells, per type.
MAX_ERROR = 0.15
#: Largest share of labels that markers contradict, in excess of the reference.
MAX_EXCESS = 0.1
#: Fewest cells from which a threshold or a share is estimated.
MIN_CELLS = 20
#: Largest weight of a held-out cell of a type that is frequent in the query.
MAX_WEIGHT = 5.0
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
#: Distinctness and variation below which the query does not look like the reference.
INDISTINCT, MIN_VARIATION = 0.42, 1.3
#: Counts below which the depth of a cell explains why it looks like an empty droplet.
FEW_COUNTS = 100
#: Depth of labels that nothing stops.
NO_LIMIT = np.iinfo(np.int32).max

FOREIGN = "the query does not look like the reference"
TOO_SHALLOW = "the cell has too few counts to distinguish it from an empty droplet"
AMBIENT = "the cell looks like an empty droplet"
NO_LINEAGE = "the cell matches no lineage of the reference"
NO_TYPE = "the cell matches no type of its lineage"


class QueryComparison:
    """Comparison of the cells of a query with held-out cells of the reference.

    The held-out cells are restricted to the genes of the query, thinned to its depths, and passed
    through the same network and profiles. Their scores are the null distributions.

    Parameters
    ----------
    bank
        Held-out cells and profiles of the reference.
    taxonomy
        The tree.
    measured
        Whether the query has each gene of the model, bool, shape ``(n_genes,)``.
    sample
        Raw counts of a random sample of the query's cells, shape ``(n_cells, n_genes)``.
    probabilities
        Node probabilities of these cells by the network, shape ``(n_cells, n_nodes)``.
    predict
        Function from raw counts to node probabilities by the network.
    predict_by_markers
        The same by markers that the labels of the network do not depend on; ``None`` if there are
        too few.
    adapted
        Whether the network was adapted to the query. Adaptation uses markers, so they are no
        independent check of its result: splits that markers contradict before it stay stopped.
    seed
        Seed of thinning and simulation.

    Attributes
    ----------
    similarity
        Correlation of the query's mean expression (logarithm of shares) with that of the mixture
        of types that the network finds, relative to as many held-out cells, at most 1.
    distinctness
        Excess of the log-likelihood of one type over the mixture of all types for the median cell,
        relative to held-out cells. It is near 0 for empty droplets, and for cells with every gene
        shuffled across cells.
    variation
        Mean variance of the likelihoods of the types, relative to draws from the mean profile of
        the query. It is near 1 for empty droplets alone; ``None`` for few cells.
    is_foreign
        Whether one of them is too low, so that no label is reliable.
    splits
        Reason for each node whose label is not given in this query.

    Examples
    --------
    A model with held-out cells makes one for every query that it annotates:

    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> result = hdi.hub.pull("pbmc").annotate(hdi.datasets.demo().query)
    >>> result.verdict.light
    'yellow'
    """

    def __init__(
        self,
        bank: novelty.ReferenceBank,
        taxonomy: Taxonomy,
        measured: np.ndarray,
        sample: sparse.csr_matrix,
        probabilities: np.ndarray,
        predict: Predict,
        predict_by_markers: Predict | None = None,
        *,
        adapted: bool = False,
        seed: int = 0,
    ) -> None:
        self.taxonomy, self.rng = taxonomy, np.random.default_rng(seed)
        self.genes = np.flatnonzero(measured)
        self.leaves = np.asarray(taxonomy.leaves)
        counts = sparse.csr_matrix(sample)[:, self.genes]
        # Duplicated cells, as in files that were joined twice, count once, and the order of cells
        # does not matter.
        sums = counts @ self.rng.random(counts.shape[1])
        kept = np.unique(sums, return_index=True)[1]
        kept = kept[sums[kept] > 0]
        counts, sample, probabilities = counts[kept], sample[kept], probabilities[kept]
        self.profiles = novelty.TypeProfiles(bank, taxonomy, self.genes, counts)
        self.variation = self.profiles.variation(counts)
        depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        self.edges = np.quantile(depth, np.linspace(0, 1, N_DEPTHS + 1)[1:-1])
        bins = self._bin(depth)
        self.nodes, self.position = bank.nodes, pd.Index(self.leaves).get_indexer(bank.nodes)
        held_out = sparse.csr_matrix(bank.counts @ sparse.diags(measured.astype(np.float32)))
        thinned = [
            novelty.thin(held_out, float(np.median(own if len(own) else depth)), self.rng)
            for own in (depth[bins == b] for b in range(N_DEPTHS))
        ]
        self.held_out = [cells[:, self.genes] for cells in thinned]
        self.known = [np.asarray(predict(cells)) for cells in thinned]
        self._fit_null()
        found = self._fit_shift(counts, probabilities[:, self.leaves], bins)
        self.evidence = novelty.MarkerEvidence(self.profiles, counts, found)
        excess = np.median(self.evidence.measure(found)[1]) - self.usual_excess
        self.study_excess = max(float(excess), 0.0)
        self._simulate_droplets(found.depth)
        self.distinctness = self._distinctness(found, bins)
        self.similarity = self._similarity(counts, probabilities[:, self.leaves].mean(axis=0))
        self.is_foreign = looks_foreign(self._measures)
        self._fit_thresholds(probabilities[:, self.leaves].mean(axis=0))
        self.splits: dict[int, str] = {}
        if predict_by_markers is not None:
            null = np.concatenate([np.asarray(predict_by_markers(cells)) for cells in thinned])
            by_markers = np.asarray(predict_by_markers(sample))
            for by_network in [predict(sample), probabilities] if adapted else [probabilities]:
                self._fit_contradictions(np.asarray(by_network), by_markers, null)

    @property
    def _measures(self) -> dict[str, float]:
        found = {name: getattr(self, name) for name in ("similarity", "distinctness", "variation")}
        return {name: value for name, value in found.items() if value is not None}

    def _bin(self, depth: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.edges, depth, side="right")

    # ------------------------------------------------------------------------------ novelty

    def _fit_null(self) -> None:
        """Compute the null distributions from the held-out cells."""
        found = [self.profiles.explain(cells) for cells in self.held_out]
        leaf, gain = [each.leaf for each in found], [each.gain for each in found]
        bins = np.repeat(np.arange(N_DEPTHS), len(self.nodes))
        by_depth = [
            novelty.MarkerEvidence(self.profiles, cells, each).measure(each)
            for cells, each in zip(self.held_out, found, strict=True)
        ]
        self.null_evidence = [missing + EXCESS_WEIGHT * excess for missing, excess in by_depth]
        self.usual_excess = np.median([excess for _, excess in by_depth])
        self.null_uncertainty = np.concatenate(list(map(self._uncertainty, self.known, leaf)))
        self.usual_gain = self._by_type(leaf, gain)
        self.null_gain = self._scaled(np.concatenate(leaf), np.concatenate(gain), bins)

    def _fit_shift(
        self, counts: sparse.csr_matrix, by_network: np.ndarray, bins: np.ndarray
    ) -> novelty.Explained:
        """Estimate how the query shifts profiles and gains; return how its cells are explained."""
        low, middle, upper = np.quantile(self.null_gain, [0.25, 0.5, 0.75])
        spread, limit = np.array([middle - low, upper - middle]), np.quantile(self.null_gain, 0.95)
        n_leaves, weights = len(self.leaves), by_network.mean(axis=0)
        self.centre, self.stretch = np.zeros(n_leaves), np.ones(n_leaves)
        kept = np.ones(len(bins), dtype=bool)
        for _ in range(3):  # after the first step without the cells that no single type explains
            self.profiles.move(counts[kept], weights)
            found = self.profiles.explain(counts)
            scaled = self._scaled(found.leaf, found.gain, bins)
            for leaf in range(n_leaves):
                own = scaled[found.leaf == leaf]
                if len(own) >= MIN_CELLS // 2:
                    low, middle, upper = np.quantile(own, [0.25, 0.5, 0.75])
                    self.centre[leaf] = np.clip(middle, -MAX_SHIFT, MAX_SHIFT)
                    ratio = (np.array([middle - low, upper - middle]) / spread).min()
                    self.stretch[leaf] = np.clip(ratio, 1.0, MAX_SHIFT)
            kept = self._score(found) <= limit
            if kept.sum() < MIN_CELLS:
                kept[:] = True
            by_profile = np.bincount(found.leaf[kept], minlength=n_leaves) / kept.sum()
            mean, by_called = novelty.mean_share(counts[kept]), by_network[kept].mean(axis=0)
            # All droplets of a file of empty ones may get one label, so a mixture competes.
            by_mean = self.profiles.unmix(mean, (by_called + by_profile) / 2)
            mixtures = by_called, by_profile, by_mean
            fits = [novelty.log_correlation(mean, each @ self.profiles.base) for each in mixtures]
            weights = mixtures[int(np.argmax(fits))]
        found = self.profiles.explain(counts)
        self.is_pure = self.profiles.is_pure(weights)
        self.doublets = novelty.DoubletDetector(self.profiles, counts, found, kept, self.rng)
        return found

    def _simulate_droplets(self, depth: np.ndarray) -> None:
        """Simulate empty droplets at depths that double from the least to the most."""
        n_depths = int(np.ceil(np.log2(depth.max() / depth.min()))) + 1
        depths = np.unique(np.geomspace(depth.min(), depth.max(), n_depths).round())
        self.droplets = self.profiles.empty_droplets(depths, N_SIMULATED, self.rng)
        self.droplet_edges = np.sqrt(depths[1:] * depths[:-1])

    def _distinctness(self, found: novelty.Explained, bins: np.ndarray) -> float:
        median = np.array([np.median(droplets) for droplets in self.droplets])

        def excess(cells: novelty.Explained) -> np.ndarray:
            usual = median[np.searchsorted(self.droplet_edges, cells.depth)]
            return np.asarray(cells.ambient - usual)

        known = [self.profiles.explain(cells, n_partners=0) for cells in self.held_out]
        by_type = self._by_type([each.leaf for each in known], list(map(excess, known)))
        usual = by_type[bins, found.leaf, 0]
        is_distinct = usual > np.median([np.std(droplets) for droplets in self.droplets])
        # Not assessed if held-out cells look like empty droplets, or if cells of one lineage do.
        if self.is_pure or is_distinct.sum() < min(MIN_CELLS, len(usual)):
            return 1.0
        return float(np.median(excess(found)[is_distinct] / usual[is_distinct]))

    def _by_type(self, leaves: list[np.ndarray], values: list[np.ndarray]) -> np.ndarray:
        """Return median and spread per depth and type; for few cells of the lineage or of all."""
        group, found = self.profiles.group, np.zeros((N_DEPTHS, len(self.leaves), 2))
        for b, leaf in np.ndindex(found.shape[:2]):
            same = leaves[b] == leaf, group[leaves[b]] == group[leaf]
            own = [values[b][cells] for cells in same if cells.sum() >= MIN_CELLS // 2]
            middle, high = np.quantile([*own, values[b]][0], [0.5, 0.84])
            found[b, leaf] = middle, max(high - middle, 1e-6)
        return found

    def _scaled(self, leaf: np.ndarray, gain: np.ndarray, bins: np.ndarray) -> np.ndarray:
        usual = self.usual_gain[bins, leaf]
        return np.asarray((gain - usual[:, 0]) / usual[:, 1])

    def _score(self, found: novelty.Explained) -> np.ndarray:
        """Return gains in spreads of the held-out cells, corrected for the shift of the query."""
        scaled = self._scaled(found.leaf, found.gain, self._bin(found.depth))
        return np.asarray((scaled - self.centre[found.leaf]) / self.stretch[found.leaf])

    def _uncertainty(self, probabilities: np.ndarray, leaf: np.ndarray) -> np.ndarray:
        """Return one minus the lineage probability, plus 1 if the profiles disagree on it."""
        lineages = np.flatnonzero(self.taxonomy.depth == 1)
        among = probabilities[:, lineages]
        chosen = lineages[among.argmax(axis=1)]
        differs = chosen != self.taxonomy.node_at_level[self.leaves[leaf], 0]
        return np.asarray(1.0 - among.max(axis=1) + differs)

    def measure(
        self, counts: sparse.csr_matrix, probabilities: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Compute novelty, doublet and empty-droplet scores of cells of the query.

        Parameters
        ----------
        counts
            Raw counts in the genes of the model, shape ``(n_cells, n_genes)``.
        probabilities
            Node probabilities by the network, shape ``(n_cells, n_nodes)``.

        Returns
        -------
        Columns of `Annotation.novelty`, the counts of each cell (``depth``), and whether it matches
        no lineage (``no_lineage``); arrays of shape ``(n_cells,)``.
        """
        found = self.profiles.explain(sparse.csr_matrix(counts)[:, self.genes])
        score, (missing, excess) = self._score(found), self.evidence.measure(found)
        evidence = missing - STUDY_EFFECT + EXCESS_WEIGHT * (excess - self.study_excess)
        p_type = novelty.upper_share(score, self.null_gain)
        uncertainty = self._uncertainty(probabilities, found.leaf)
        p_uncertain = novelty.upper_share(uncertainty, self.null_uncertainty)
        p_uncertain[uncertainty < MIN_UNCERTAINTY] = 1.0
        p_lineage, p_ambient = np.ones((2, len(score)))
        bins = self._bin(found.depth)
        for b, null in enumerate(self.null_evidence):
            p_lineage[bins == b] = novelty.upper_share(evidence[bins == b], null)
        nearest = np.searchsorted(self.droplet_edges, found.depth)
        for i, droplets in enumerate(self.droplets):
            p_ambient[nearest == i] = novelty.upper_share(found.ambient[nearest == i], droplets)
        doublet_score = self.doublets.score(found)
        is_doublet = doublet_score > 0
        lacks_markers = (p_lineage <= ALPHA_MARKERS) & (missing >= MIN_MISSING)
        return {
            "lineage_p_value": p_lineage,
            "type_p_value": p_type,
            "doublet_score": doublet_score,
            "ambient_score": p_ambient,
            "is_doublet": is_doublet,
            "is_ambient": (p_ambient > ALPHA_AMBIENT) & ~is_doublet & (not self.is_pure),
            "depth": found.depth,
            "no_lineage": (np.maximum(p_type, p_uncertain) <= ALPHA_LINEAGE) | lacks_markers,
        }

    # ------------------------------------------------------------------------------ splits

    def _fit_thresholds(self, weights: np.ndarray) -> None:
        """Choose the lowest confidence per depth and node at which few held-out labels are wrong.

        Held-out cells are weighted by the frequency of their type in the query.
        """
        tree, position = self.taxonomy, self.position
        held = np.bincount(position[position >= 0], minlength=len(self.leaves))
        weight = np.clip(weights * held.sum() / np.maximum(held, 1), 1 / MAX_WEIGHT, MAX_WEIGHT)
        weight = np.tile(np.where(position >= 0, weight[position], 1.0), N_DEPTHS)
        self.thresholds = np.full((N_DEPTHS, tree.n_nodes), 0.5)
        nodes, probabilities = np.tile(self.nodes, N_DEPTHS), np.concatenate(self.known)
        bins = np.repeat(np.arange(N_DEPTHS), len(self.nodes))
        path = np.column_stack([np.zeros(len(nodes), dtype=int), tree.node_at_level[nodes]])
        for parent, children in zip(tree.inner_nodes, tree.groups, strict=True):
            called = most_probable(probabilities, children)
            truth = path[:, min(tree.depth[parent] + 1, path.shape[1] - 1)]
            is_inside = path[:, tree.depth[parent]] == parent
            is_labelled = (nodes > 0) & (~is_inside | np.isin(truth, children))
            given = is_labelled & (probabilities[:, parent] >= 0.5)
            for b, child in np.ndindex(N_DEPTHS, len(children)):
                cells = given & (called == children[child])
                if (cells & (bins == b)).sum() >= MIN_CELLS:
                    cells &= bins == b
                confidence = probabilities[cells, children[child]]
                wrong = truth[cells] != children[child]
                self.thresholds[b, children[child]] = _threshold(confidence, wrong, weight[cells])

    def _fit_contradictions(
        self, by_network: np.ndarray, by_markers: np.ndarray, null_by_markers: np.ndarray
    ) -> None:
        """Find types that markers contradict more often in the query than in the reference."""
        tree, null = self.taxonomy, np.concatenate(self.known)
        for parent, children in zip(tree.inner_nodes[1:], tree.groups[1:], strict=True):
            called, null_called = (most_probable(each, children) for each in (by_network, null))
            differs = called != most_probable(by_markers, children)
            null_differs = null_called != most_probable(null_by_markers, children)
            given, null_given = (each[:, parent] >= 0.5 for each in (by_network, null))
            names = " and ".join(tree.label(int(child)) for child in children)
            text = f"{names} cannot be told apart in this query: markers contradict {{}} of the"
            texts = [text, *(f"markers contradict {{}} of the {tree.label(c)}" for c in children)]
            for text, nodes in zip(texts, [children, *children[:, None]], strict=True):
                if self.splits.keys() >= set(nodes.tolist()):
                    continue
                found = differs[given & np.isin(called, nodes)]
                usual = null_differs[null_given & np.isin(null_called, nodes)]
                if len(found) < MIN_CELLS:
                    continue
                share = found.mean()
                allowed = MAX_EXCESS + (usual.mean() if len(usual) >= MIN_CELLS // 2 else 0.0)
                if share - 1.64 * np.sqrt(share * (1 - share) / len(found)) > allowed:
                    reason = f"{text.format(f'{share:.0%}')} labels"
                    self.splits |= dict.fromkeys(nodes.tolist(), reason)

    # ------------------------------------------------------------------------------ results

    def stops(
        self, columns: dict[str, np.ndarray], probabilities: np.ndarray, leaf: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the depth to which each label is supported, and the reason.

        Parameters
        ----------
        columns
            Output of :meth:`measure`.
        probabilities
            Node probabilities, shape ``(n_cells, n_nodes)``.
        leaf
            Node of the most probable leaf of each cell, shape ``(n_cells,)``.

        Returns
        -------
        Depth, int32: 0 for no label, 1 for the lineage alone, `NO_LIMIT` if nothing stops it; and
        the reason, empty if nothing does; shape ``(n_cells,)``.
        """
        n_cells, tree = len(leaf), self.taxonomy
        depth = np.full(n_cells, NO_LIMIT, dtype=np.int32)
        reasons = np.full(n_cells, "", dtype=object)

        def stop(cells: np.ndarray, level: int, reason: str) -> None:
            cells = cells & (depth > level)
            depth[cells], reasons[cells] = level, reason

        bins = self._bin(columns["depth"])
        for level in range(tree.max_depth, 0, -1):
            node = tree.node_at_level[leaf, level - 1].clip(0)
            confidence = probabilities[np.arange(n_cells), node]
            is_unsure = (confidence < self.thresholds[bins, node]) & (confidence >= 0.5)
            for child in np.unique(node[node > 0]).tolist():
                reason = f"more than {MAX_ERROR:.0%} of the {tree.label(child)} labels are wrong"
                stop(is_unsure & (node == child), level - 1, f"{reason} at this confidence")
                if child in self.splits:
                    stop(node == child, level - 1, self.splits[child])
        stop(columns["type_p_value"] <= ALPHA_TYPE, 1, NO_TYPE)
        stop(columns["no_lineage"], 0, NO_LINEAGE)
        stop(columns["is_ambient"] & (columns["depth"] < FEW_COUNTS), 0, TOO_SHALLOW)
        stop(columns["is_ambient"], 0, AMBIENT)
        if self.is_foreign:
            depth[:], reasons[:] = 0, FOREIGN
        no_rna = columns["depth"] == 0  # proteins may have been measured
        depth[no_rna], reasons[no_rna] = NO_LIMIT, ""
        return depth, reasons

    def foreign_share(self, counts: sparse.csr_matrix, probabilities: np.ndarray) -> float:
        """Return the share of cells that get no label; parameters as for :meth:`measure`."""
        columns = self.measure(counts, probabilities)
        leaf = most_probable_leaf(self.taxonomy, probabilities)
        return float((self.stops(columns, probabilities, leaf)[0] == 0).mean())

    @property
    def findings(self) -> tuple[str, ...]:
        """Splits that are not given in this query, one sentence each."""
        reasons = dict.fromkeys(self.splits.values())
        return tuple(f"{reason[0].upper()}{reason[1:]}." for reason in reasons)

    def figures(self, columns: dict[str, np.ndarray], depth: np.ndarray) -> dict[str, float]:
        """Return the figures of the verdict.

        Parameters
        ----------
        columns
            Output of :meth:`measure`.
        depth
            Depths that :meth:`stops` returned.

        Returns
        -------
        ``similarity``; ``distinctness``; ``variation``, if there are enough cells;
        ``doublet_power``, the share of doublets found that were simulated from the query, unless it
        has only one lineage; ``median_depth``; and the shares of cells that match no lineage
        (``unrecognised``), look like empty droplets (``ambient``) or doublets (``doublets``), and
        whose label is stopped above the type (``stopped``).
        """
        found = self._measures
        if self.doublets.power is not None:
            found["doublet_power"] = self.doublets.power
        found["median_depth"] = float(np.median(columns["depth"])) if len(depth) else 0.0
        shares = {
            "unrecognised": columns["no_lineage"] & ~columns["is_ambient"],
            "ambient": columns["is_ambient"],
            "doublets": columns["is_doublet"],
            "stopped": depth < NO_LIMIT,
        }
        has_rna = columns["depth"] > 0
        for name, cells in shares.items():
            found[name] = float(cells[has_rna].sum() / max(has_rna.sum(), 1))
        return found

    def _similarity(self, counts: sparse.csr_matrix, weights: np.ndarray) -> float:
        found = novelty.log_correlation(novelty.mean_share(counts), weights @ self.profiles.base)
        # As many held-out cells of the same types at the same depths.
        chance = np.where(self.position >= 0, weights[self.position] + 1e-6, 1e-6)
        size = N_DEPTHS, -(-counts.shape[0] // N_DEPTHS)
        drawn = self.rng.choice(len(self.nodes), size=size, p=chance / chance.sum())
        known = novelty.mean_share(
            sparse.vstack([a[b] for a, b in zip(self.held_out, drawn, strict=True)])
        )
        mixed = np.bincount(self.position[drawn].ravel().clip(0), minlength=len(self.leaves))
        reached = novelty.log_correlation(known, mixed / mixed.sum() @ self.profiles.base)
        return min(found / max(reached, novelty.MIN_REACHED), 1.0)


def looks_foreign(figures: Mapping[str, float]) -> bool:
    """Return whether a figure of a comparison is so low that no label is reliable."""
    limits = {"similarity": novelty.UNLIKE, "distinctness": INDISTINCT, "variation": MIN_VARIATION}
    return any(figures.get(name, limit) < limit for name, limit in limits.items())


def marker_predictor(
    profiles: LeafProfiles | None, taxonomy: Taxonomy, measured: np.ndarray
) -> Predict | None:
    """Return a function that labels cells by ranks of markers.

    It passes over the best markers, which the network is likely to use, if there are enough others.

    Parameters
    ----------
    profiles
        Mean profiles of the reference; ``None`` for a model without any.
    taxonomy
        The tree.
    measured
        Whether the query has each gene of the model, bool, shape ``(n_genes,)``.

    Returns
    -------
    Function from raw counts in the genes of the model to node probabilities; ``None`` if there are
    too few markers.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> from hdeepinsight.annotation import marker_predictor
    >>> model = hdi.hub.pull("pbmc")
    >>> every = np.ones(len(model.genes), dtype=bool)
    >>> predict = marker_predictor(model.profiles_, model.taxonomy, every)
    >>> predict(model.bank_.counts[:3]).shape == (3, model.taxonomy.n_nodes)
    True
    """
    if profiles is None:
        return None
    genes = torch.from_numpy(measured.astype(np.float32))
    matchers = (ProfileMatcher(profiles, genes, skip=skip) for skip in (1, 0))
    matcher = next((each for each in matchers if each.is_useful), None)
    if matcher is None:
        return None
    ancestors = torch.from_numpy(np.asarray(taxonomy.ancestor_matrix, dtype=np.float32))

    def predict(counts: sparse.csr_matrix) -> np.ndarray:
        blocks = (counts[k : k + 256] for k in range(0, counts.shape[0], 256))  # saves memory
        parts = (torch.from_numpy(block.toarray()) for block in blocks)
        found = [matcher(part).exp() @ ancestors for part in parts]
        return np.asarray(torch.cat(found).numpy())

    return predict


def _threshold(confidence: np.ndarray, wrong: np.ndarray, weight: np.ndarray) -> float:
    """Return the lowest confidence above which few labels are wrong; 0.5 for few cells."""
    if len(wrong) < MIN_CELLS:
        return 0.5
    for threshold in CONFIDENCES:
        given = confidence >= threshold
        if not given.any() or np.average(wrong[given], weights=weight[given]) <= MAX_ERROR:
            return threshold
    return CONFIDENCES[-1]
