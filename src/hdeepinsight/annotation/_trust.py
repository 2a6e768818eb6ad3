"""What can be believed of the labels of one query: cell by cell, split by split, as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from hdeepinsight._errors import check_choice
from hdeepinsight.annotation._decode import Reject, most_probable_leaf
from hdeepinsight.annotation._novelty import (
    Explained,
    MarkerSupport,
    ReferenceBank,
    TypeProfiles,
    mean_share,
    thin,
    upper_share,
)
from hdeepinsight.data import AlignedQuery, GeneReport
from hdeepinsight.nn import LeafProfiles, ProfileMatcher
from hdeepinsight.taxonomy import Taxonomy

Predict = Callable[[sparse.csr_matrix], np.ndarray]

#: Depths of the query at which the bank is looked at: the medians of its quarters.
DEPTHS = 4
#: Empty droplets that are simulated at each of the depths that double from least to most.
DROPLETS = 400
#: Share of the reference's own cells that no lineage, no type is allowed to recognise.
ALPHA_LINEAGE, ALPHA_TYPE = 0.02, 0.02
#: Likewise by markers of the lineage alone, where three in four of their counts are missing.
ALPHA_MARKERS, MAX_LACK = 0.005, 1.3
#: Lack of markers, and doubt about a lineage, that are put down to the study.
ALLOWANCE, MIN_DOUBT = 0.2, 0.3
ALPHA_AMBIENT = 0.005
#: Of cells with many counts, that may pass for doublets; and share of doublets to be found.
ALPHA_DOUBLET, MIN_POWER = 0.05, 0.7
#: Most that a query's shift may excuse: half of a type may be shifted, a new type is more.
MAX_CENTRE = 2.0
#: Share of wrong labels among those of a type that are given, on held-out reference cells.
MAX_ERROR = 0.15
#: Excess, over the reference, of cells of a type that markers contradict.
MAX_EXCESS = 0.1
#: Fewer cells do not say whether a split works.
MIN_CELLS = 20
#: Most that one held-out cell counts, where its type is frequent in the query.
MAX_WEIGHT = 5.0
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
#: Correlation with the expected mean below which a query is foreign, above which it is familiar.
UNLIKE, ALIKE = 0.67, 0.85
#: Distance from empty droplets, in that of held-out cells, below which a query has no types.
INDISTINCT = 0.42
FEW_COUNTS = 100
NO_LIMIT = np.iinfo(np.int32).max

#: Why a cell has no label, nor a most probable leaf: nothing that the model reads was counted.
NO_COUNTS = "no counts"
FOREIGN = "the query does not look like the reference"
TOO_SHALLOW = "too few counts to tell it from an empty droplet"
AMBIENT = "like an empty droplet"
NO_LINEAGE = "recognised by no lineage"
NO_TYPE = "recognised by no type of its lineage"


class QueryJudge:
    """Judge the cells of a query by how the reference's own cells would look in it.

    Held-out cells of the reference are cut to the genes of the query, thinned to its depths, and
    read by the same network and the same profiles. What they get is the yardstick.

    Parameters
    ----------
    bank
        Held-out cells and profiles of the reference.
    taxonomy
        The tree.
    measured
        Whether the query has each gene of the model, bool, shape ``(n_genes,)``.
    sample
        Counts of cells of the query, drawn evenly, in the genes of the model.
    probabilities
        Node probabilities of these cells by the network, shape ``(n_cells, n_nodes)``.
    predict
        The network: from counts in the genes of the model to node probabilities.
    second
        Another opinion, by markers that the network's labels do not rest on, of the same form;
        ``None`` where there is none.
    adapted
        Whether ``probabilities`` are those of the network once adapted. What markers contradict in
        the labels before that is not given after it: adapting follows markers, so that they are no
        second opinion on it.
    seed
        Seed of thinning and simulation.

    Attributes
    ----------
    similarity
        Correlation of the query's mean expression with that of the mixture of types which the
        network finds in it, on the logarithms of shares; 1 is what the reference's own cells reach
        in as many cells and counts.
    distinctness
        By how much one type explains the median cell better than the mixture of all does, over what
        held-out cells reach: near 0 for empty droplets, and where each gene was shuffled across
        cells.
    is_foreign
        Whether one of these is too low for any label to be believed.
    splits
        Nodes that are not given in this query, and why.

    Examples
    --------
    A model that held cells out makes one for every query that it annotates:

    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> result = hdi.hub.pull("pbmc").annotate(hdi.datasets.demo().query)
    >>> result.verdict.light
    'yellow'
    """

    def __init__(
        self,
        bank: ReferenceBank,
        taxonomy: Taxonomy,
        measured: np.ndarray,
        sample: sparse.csr_matrix,
        probabilities: np.ndarray,
        predict: Predict,
        second: Predict | None = None,
        *,
        adapted: bool = False,
        seed: int = 0,
    ) -> None:
        self.taxonomy, self.rng = taxonomy, np.random.default_rng(seed)
        self.genes = np.flatnonzero(measured)
        self.leaves = np.asarray(taxonomy.leaves)
        counts = sparse.csr_matrix(sample)[:, self.genes]
        # A cell that is there many times, as where files were joined twice, is one cell.
        sums = counts @ self.rng.random(counts.shape[1])
        seen = np.sort(np.unique(sums, return_index=True)[1])
        seen = seen[sums[seen] > 0]
        counts, sample, probabilities = counts[seen], sample[seen], probabilities[seen]
        self.profiles = TypeProfiles(bank, taxonomy, self.genes, counts)
        depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        self.edges = np.quantile(depth, np.linspace(0, 1, DEPTHS + 1)[1:-1])
        bins = self._bin(depth)
        self.levels = [
            float(np.median(depth[bins == b] if (bins == b).any() else depth))
            for b in range(DEPTHS)
        ]
        self.median_depth = float(np.median(depth))
        cut = sparse.csr_matrix(bank.counts @ sparse.diags(measured.astype(np.float32)))
        self.nodes, self.position = bank.nodes, pd.Index(self.leaves).get_indexer(bank.nodes)
        self.views = [thin(cut, level, self.rng) for level in self.levels]
        self.known = [np.asarray(predict(view)) for view in self.views]
        self._fit_explained(counts, probabilities, bins)
        self.similarity = self._similarity(counts, probabilities)
        self.is_foreign = self.similarity < UNLIKE or self.distinctness < INDISTINCT
        self.splits: dict[int, str] = {}
        self._fit_thresholds(probabilities[:, self.leaves].mean(axis=0))
        if second is not None:
            known = np.concatenate([np.asarray(second(view)) for view in self.views])
            by_markers = np.asarray(second(sample))
            for called in [predict(sample), probabilities] if adapted else [probabilities]:
                self._fit_contradictions(np.asarray(called), by_markers, known)

    # ------------------------------------------------------------------------------ one cell

    def _bin(self, depth: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.edges, depth, side="right")

    def _fit_explained(
        self, counts: sparse.csr_matrix, probabilities: np.ndarray, bins: np.ndarray
    ) -> None:
        """Learn what mixtures gain for known cells, and what the query's shift adds to that."""
        leaf_known, gain_known, doubt = [], [], []
        self.null_missing: list[np.ndarray] = []
        for view, known in zip(self.views, self.known, strict=True):
            cells = view[:, self.genes]
            found = self.profiles.explain(cells)
            leaf_known.append(found.leaf)
            gain_known.append(found.gain)
            doubt.append(self._doubt(known, found.leaf))
            self.null_missing.append(MarkerSupport(self.profiles, cells, found).missing(found))
        self.null_doubt = np.concatenate(doubt)
        n_leaves, at = len(self.leaves), np.repeat(np.arange(DEPTHS), len(self.nodes))
        self.usual = self._by_type(leaf_known, gain_known)
        self.null_gain = self._scaled(np.concatenate(leaf_known), np.concatenate(gain_known), at)
        self.centre, self.stretch = np.zeros(n_leaves), np.ones(n_leaves)
        low, middle, upper = np.quantile(self.null_gain, [0.25, 0.5, 0.75])
        usual = np.array([middle - low, upper - middle])
        by_network = probabilities[:, self.leaves]
        weights = by_network.mean(axis=0)
        usual_cells = np.ones(len(bins), dtype=bool)
        high = np.quantile(self.null_gain, 0.95)
        for _ in range(3):  # from the second time on without the cells that no single type explains
            self.profiles.move(counts[usual_cells], weights)
            found = self.profiles.explain(counts)
            scaled = self._scaled(found.leaf, found.gain, bins)
            for leaf in range(n_leaves):
                own_cells = scaled[found.leaf == leaf]
                if len(own_cells) >= MIN_CELLS // 2:
                    low, middle, upper = np.quantile(own_cells, [0.25, 0.5, 0.75])
                    self.centre[leaf] = np.clip(middle, -MAX_CENTRE, MAX_CENTRE)
                    times = (np.array([middle - low, upper - middle]) / usual).min()
                    self.stretch[leaf] = np.clip(times, 1.0, MAX_CENTRE)
            kept = self._score(found) <= high
            usual_cells = kept if kept.sum() >= MIN_CELLS else np.ones_like(kept)
            by_profile = np.bincount(found.leaf[usual_cells], minlength=n_leaves)
            weights = self._fitting(
                mean_share(counts[usual_cells]),
                by_network[usual_cells].mean(axis=0),
                by_profile / usual_cells.sum(),
            )
        found = self.profiles.explain(counts)
        # Empty droplets alone may be called by one name, too, but have few counts.
        self.is_pure = self.median_depth > FEW_COUNTS and self.profiles.is_pure(weights)
        self.support = MarkerSupport(self.profiles, counts, found)
        depth = found.depth
        n_depths = int(np.ceil(np.log2(depth.max() / depth.min()))) + 1
        self.droplet_depths = np.unique(np.geomspace(depth.min(), depth.max(), n_depths).round())
        self.droplets = self.profiles.empty_droplets(self.droplet_depths, DROPLETS, self.rng)
        self.distinctness = self._distinctness(found, bins)
        self.power = self._doublet_power(counts[usual_cells], found.leaf[usual_cells])

    def _doublet_power(self, counts: sparse.csr_matrix, leaf: np.ndarray) -> float | None:
        """Return the share of doublets of these cells that is found, if there are two lineages."""
        one, other = self.rng.integers(len(leaf), size=(2, 2 * DROPLETS))
        two = np.flatnonzero(self.profiles.group[leaf[one]] != self.profiles.group[leaf[other]])
        if len(two) < MIN_CELLS:
            return None
        both = self.profiles.explain(counts[one[two]] + counts[other[two]])
        return float((upper_share(self._score(both), self.null_gain) <= ALPHA_DOUBLET).mean())

    def _by_type(self, leaves: list[np.ndarray], values: list[np.ndarray]) -> np.ndarray:
        """Return median and spread of held-out cells, by depth and type; of few by lineage."""
        group, found = self.profiles.group, np.zeros((DEPTHS, len(self.leaves), 2))
        for (b, leaf), _ in np.ndenumerate(found[..., 0]):
            alike = leaves[b] == leaf, group[leaves[b]] == group[leaf]
            own = [values[b][each] for each in alike if each.sum() >= MIN_CELLS // 2]
            middle, high = np.quantile([*own, values[b]][0], [0.5, 0.84])
            found[b, leaf] = middle, max(high - middle, 1e-6)
        return found

    def _nearest(self, depth: np.ndarray) -> np.ndarray:
        """Return which of the simulated empty droplets have about as many counts."""
        steps = np.sqrt(self.droplet_depths[1:] * self.droplet_depths[:-1])
        return np.searchsorted(steps, depth)

    def _distinctness(self, found: Explained, bins: np.ndarray) -> float:
        """Return how far the median cell is from empty droplets, over what held-out cells reach."""
        middle = np.array([np.median(droplets) for droplets in self.droplets])
        known = [self.profiles.explain(view[:, self.genes]) for view in self.views]
        far = [each.ambient - middle[self._nearest(each.depth)] for each in known]
        usual = self._by_type([each.leaf for each in known], far)[bins, found.leaf, 0]
        told = usual > np.median([np.std(droplets) for droplets in self.droplets])
        # Held-out cells are like empty droplets too, or the cells of one lineage are.
        if self.is_pure or told.sum() < min(MIN_CELLS, len(told)):
            return 1.0
        excess = found.ambient - middle[self._nearest(found.depth)]
        return float(np.median(excess[told] / usual[told]))

    def _fitting(self, mean: np.ndarray, *weights: np.ndarray) -> np.ndarray:
        """Return the shares of types whose mixture resembles the mean of the query most.

        Beside the shares that the cells are called by: those of which the mean is a mixture. In a
        file of empty droplets alone, every droplet may be called by one name.
        """
        weights += (self.profiles.unmix(mean, np.mean(weights, axis=0)),)
        fits = [_log_correlation(mean, each @ self.profiles.base) for each in weights]
        return weights[int(np.argmax(fits))]

    def _scaled(self, leaf: np.ndarray, gain: np.ndarray, bins: np.ndarray) -> np.ndarray:
        usual = self.usual[bins, leaf]
        return np.asarray((gain - usual[:, 0]) / usual[:, 1])

    def _score(self, found: Explained) -> np.ndarray:
        """Return gains in spreads of held-out cells, less what the query's shift adds to a type."""
        scaled = self._scaled(found.leaf, found.gain, self._bin(found.depth))
        return np.asarray((scaled - self.centre[found.leaf]) / self.stretch[found.leaf])

    def _doubt(self, probabilities: np.ndarray, leaf: np.ndarray) -> np.ndarray:
        """Return how doubtful the lineage is: above 1 where network and profiles disagree."""
        tree = self.taxonomy
        lineages = np.flatnonzero(tree.depth == 1)
        among = probabilities[:, lineages]
        chosen = lineages[among.argmax(axis=1)]
        differ = chosen != tree.node_at_level[self.leaves[leaf], 0]
        return np.asarray(1.0 - among.max(axis=1) + differ)

    def measure(
        self, counts: sparse.csr_matrix, probabilities: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Measure cells of the query.

        Parameters
        ----------
        counts
            Raw counts in the genes of the model, shape ``(n_cells, n_genes)``.
        probabilities
            Node probabilities by the network, shape ``(n_cells, n_nodes)``.

        Returns
        -------
        Columns of `Annotation.novelty`, the counts of each cell (``depth``), and whether no lineage
        recognises it (``no_lineage``); arrays of shape ``(n_cells,)``.
        """
        found = self.profiles.explain(sparse.csr_matrix(counts)[:, self.genes])
        bins = self._bin(found.depth)
        score = self._score(found)
        by_type = upper_share(score, self.null_gain)
        doubt = self._doubt(probabilities, found.leaf)
        by_doubt = np.where(doubt < MIN_DOUBT, 1.0, upper_share(doubt, self.null_doubt))
        unlike = np.maximum(by_type, by_doubt) <= ALPHA_LINEAGE
        lack = self.support.missing(found)
        by_markers, ambient = np.ones((2, len(bins)))
        for b, null in enumerate(self.null_missing):
            by_markers[bins == b] = upper_share(lack[bins == b] - ALLOWANCE, null)
        nearest = self._nearest(found.depth)
        for level, droplets in enumerate(self.droplets):
            here = nearest == level
            ambient[here] = upper_share(found.ambient[here], droplets)
        # Empty droplets have fewer counts than most cells, doublets more.
        doublet = (by_type <= ALPHA_DOUBLET) & (found.depth >= self.median_depth)
        return {
            "lineage_p_value": by_markers,
            "type_p_value": by_type,
            "doublet_score": score,
            "ambient_score": ambient,
            "is_doublet": doublet,
            "is_ambient": (ambient > ALPHA_AMBIENT) & ~doublet & (not self.is_pure),
            "depth": found.depth,
            "no_lineage": unlike | ((by_markers <= ALPHA_MARKERS) & (lack >= MAX_LACK)),
        }

    # ------------------------------------------------------------------------------ splits

    def _fit_thresholds(self, weights: np.ndarray) -> None:
        """Choose the least confidence at which held-out cells have few wrong labels.

        Types of held-out cells count as often as the query seems to have them.
        """
        tree, position = self.taxonomy, self.position
        held = np.bincount(position[position >= 0], minlength=len(self.leaves))
        often = np.clip(weights * held.sum() / np.maximum(held, 1), 1 / MAX_WEIGHT, MAX_WEIGHT)
        often = np.tile(np.where(position >= 0, often[position], 1.0), DEPTHS)
        self.thresholds = np.full((DEPTHS, tree.n_nodes), 0.5)
        nodes = np.tile(self.nodes, DEPTHS)
        probabilities = np.concatenate(self.known)
        bins = np.repeat(np.arange(DEPTHS), len(self.nodes))
        path = np.column_stack([np.zeros(len(nodes), dtype=int), tree.node_at_level[nodes]])
        for parent, children in zip(tree.inner_nodes, tree.groups, strict=True):
            called = _most_probable(probabilities, children)
            below = path[:, min(tree.depth[parent] + 1, path.shape[1] - 1)]
            inside = path[:, tree.depth[parent]] == parent
            labelled = (nodes > 0) & (~inside | np.isin(below, children))
            reached = probabilities[:, parent] >= 0.5
            for child in children.tolist():
                given = labelled & reached & (called == child)
                wrong, sure = below != child, probabilities[:, child]
                for b in range(DEPTHS):
                    here = given & (bins == b)
                    if here.sum() < MIN_CELLS:
                        here = given
                    self.thresholds[b, child] = _least(sure[here], wrong[here], often[here])

    def _fit_contradictions(
        self, probabilities: np.ndarray, second: np.ndarray, known_second: np.ndarray
    ) -> None:
        """Find types that markers contradict more often in the query than in the reference."""
        tree, known = self.taxonomy, np.concatenate(self.known)
        for parent, children in zip(tree.inner_nodes[1:], tree.groups[1:], strict=True):
            called, known_called, *others = (
                _most_probable(each, children)
                for each in (probabilities, known, second, known_second)
            )
            differ, usual = called != others[0], known_called != others[1]
            here, there = probabilities[:, parent] >= 0.5, known[:, parent] >= 0.5
            names = " and ".join(tree.label(int(child)) for child in children)
            said = "markers contradict"
            together = children, f"{names} are not told apart in this query: {said}", "the"
            alone = [(np.array([c]), said, f"the {tree.label(c)}") for c in children.tolist()]
            for nodes, start, whose in (together, *alone):
                if self.splits.keys() >= set(nodes.tolist()):
                    continue
                mine, theirs = here & np.isin(called, nodes), there & np.isin(known_called, nodes)
                if _exceeds(differ[mine], usual[theirs]):
                    reason = f"{start} {differ[mine].mean():.0%} of {whose} labels"
                    self.splits |= dict.fromkeys(nodes.tolist(), reason)

    # ------------------------------------------------------------------------------ the stop

    def stops(
        self, columns: dict[str, np.ndarray], probabilities: np.ndarray, leaf: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return how deep each label may go, and why no deeper.

        Parameters
        ----------
        columns
            What :meth:`measure` returned.
        probabilities
            Node probabilities, shape ``(n_cells, n_nodes)``.
        leaf
            Node of the most probable leaf of each cell, shape ``(n_cells,)``.

        Returns
        -------
        Depth, int32: 0 for no label, 1 for the lineage alone, `NO_LIMIT` where nothing stops it;
        and the reason, empty where nothing does; shape ``(n_cells,)``.
        """
        n_cells, tree = len(leaf), self.taxonomy
        depth = np.full(n_cells, NO_LIMIT, dtype=np.int32)
        reasons = np.full(n_cells, "", dtype=object)

        def stop(cells: np.ndarray, level: int, reason: str) -> None:
            cells = cells & (depth > level)
            depth[cells], reasons[cells] = level, reason

        bins = self._bin(columns["depth"])
        for level in range(tree.max_depth, 0, -1):
            node = tree.node_at_level[leaf, level - 1]
            on_path = node > 0
            safe = np.where(on_path, node, 0)
            sure = probabilities[np.arange(n_cells), safe]
            unsure = on_path & (sure < self.thresholds[bins, safe]) & (sure >= 0.5)
            for child in np.unique(safe[unsure]).tolist():
                reason = f"{tree.label(child)} would be wrong too often at this confidence"
                stop(unsure & (safe == child), level - 1, reason)
            for child in np.intersect1d(np.unique(safe[on_path]), list(self.splits)).tolist():
                stop(on_path & (safe == child), level - 1, self.splits[child])
        stop(columns["type_p_value"] <= ALPHA_TYPE, 1, NO_TYPE)
        stop(columns["no_lineage"], 0, NO_LINEAGE)
        shallow = columns["depth"] < FEW_COUNTS
        stop(columns["is_ambient"] & shallow, 0, TOO_SHALLOW)
        stop(columns["is_ambient"] & ~shallow, 0, AMBIENT)
        if self.is_foreign:
            depth[:], reasons[:] = 0, FOREIGN
        blind = columns["depth"] == 0  # of genes; proteins may have been read
        depth[blind], reasons[blind] = NO_LIMIT, ""
        return depth, reasons

    def foreign_share(self, counts: sparse.csr_matrix, probabilities: np.ndarray) -> float:
        """Return the share of cells that get no label, arguments as of :meth:`measure`."""
        columns = self.measure(counts, probabilities)
        leaf = most_probable_leaf(self.taxonomy, probabilities)
        return float((self.stops(columns, probabilities, leaf)[0] == 0).mean())

    @property
    def findings(self) -> tuple[str, ...]:
        """What is not told apart in this query, one sentence each."""
        reasons = dict.fromkeys(self.splits.values())
        return tuple(f"{reason[0].upper()}{reason[1:]}." for reason in reasons)

    # ------------------------------------------------------------------------------ the whole

    def figures(self, columns: dict[str, np.ndarray], depth: np.ndarray) -> dict[str, float]:
        """Return the figures of the verdict, of what :meth:`measure` and :meth:`stops` returned.

        ``similarity``; ``distinctness``; ``doublet_power``, the share of doublets of its own cells
        that is found, where it has two lineages; ``median_depth``; and of the cells the shares
        ``unrecognised`` (by any lineage), ``ambient``, ``doublets`` and ``stopped`` (above their
        type for what is not a matter of probability).
        """
        judged = columns["depth"] > 0
        of_cells = {
            "unrecognised": columns["no_lineage"] & ~columns["is_ambient"],
            "ambient": columns["is_ambient"],
            "doublets": columns["is_doublet"],
            "stopped": depth < NO_LIMIT,
        }
        return {
            "similarity": self.similarity,
            "distinctness": self.distinctness,
            **({} if self.power is None else {"doublet_power": self.power}),
            "median_depth": float(np.median(columns["depth"])) if len(depth) else 0.0,
            **{
                name: float(found[judged].mean()) if judged.any() else 0.0
                for name, found in of_cells.items()
            },
        }

    def _similarity(self, counts: sparse.csr_matrix, probabilities: np.ndarray) -> float:
        """Correlate means of query and expected mixture, over what known cells would reach."""
        weights = probabilities[:, self.leaves].mean(axis=0)
        expected = weights @ self.profiles.base
        found = mean_share(counts)
        # As many cells of the bank, of the same types at the same depths.
        chance = np.where(self.position >= 0, weights[self.position] + 1e-6, 1e-6)
        size = DEPTHS, -(-counts.shape[0] // DEPTHS)
        drawn = self.rng.choice(len(self.nodes), size=size, p=chance / chance.sum())
        pairs = zip(self.views, drawn, strict=True)
        same = sparse.vstack([view[:, self.genes][rows] for view, rows in pairs])
        mixed = np.bincount(self.position[drawn].ravel().clip(0), minlength=len(self.leaves))
        reached = _log_correlation(mean_share(same), mixed / mixed.sum() @ self.profiles.base)
        return min(_log_correlation(found, expected) / max(reached, 0.5), 1.0)


def marker_opinion(
    profiles: LeafProfiles | None, taxonomy: Taxonomy, measured: np.ndarray
) -> Predict | None:
    """Return what labels cells by the ranks of markers, past the best ones if there are enough.

    Parameters
    ----------
    profiles
        Mean profiles of the reference; ``None`` where a model has none.
    taxonomy
        The tree.
    measured
        Whether the query has each gene of the model, bool, shape ``(n_genes,)``.

    Returns
    -------
    From counts in the genes of the model to node probabilities; ``None`` where there are too few
    markers.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> from hdeepinsight.annotation import marker_opinion
    >>> model = hdi.hub.pull("pbmc")
    >>> every = np.ones(len(model.genes), dtype=bool)
    >>> opinion = marker_opinion(model.profiles_, model.taxonomy, every)
    >>> opinion(model.bank_.counts[:3]).shape == (3, model.taxonomy.n_nodes)
    True
    """
    if profiles is None:
        return None
    genes = torch.from_numpy(measured.astype(np.float32))
    matchers = (ProfileMatcher(profiles, genes, skip=skip) for skip in (1, 0))
    matcher = next((each for each in matchers if each.is_useful), None)
    if matcher is None:
        return None
    above = torch.from_numpy(np.asarray(taxonomy.ancestor_matrix, dtype=np.float32))

    def opinion(counts: sparse.csr_matrix) -> np.ndarray:
        return np.asarray((matcher(torch.from_numpy(counts.toarray())).exp() @ above).numpy())

    return opinion


def _most_probable(probabilities: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    return np.asarray(nodes[probabilities[:, nodes].argmax(axis=1)])


def _log_correlation(one: np.ndarray, other: np.ndarray) -> float:
    if len(one) < 3:
        return 0.0
    logs = np.log(one / max(one.sum(), 1e-12) + 1e-5), np.log(other / other.sum() + 1e-5)
    return float(np.nan_to_num(np.corrcoef(*logs)[0, 1]))


def _least(confidence: np.ndarray, wrong: np.ndarray, often: np.ndarray) -> float:
    """Return the least confidence above which few labels are wrong; 0.5 where too few say."""
    if len(wrong) < MIN_CELLS:
        return 0.5
    for threshold in CONFIDENCES:
        given = confidence >= threshold
        if not given.any() or np.average(wrong[given], weights=often[given]) <= MAX_ERROR:
            return threshold
    return CONFIDENCES[-1]


def _exceeds(differ: np.ndarray, usual: np.ndarray) -> bool:
    """Say whether a share is higher than usual by more than sampling and `MAX_EXCESS` explain."""
    if len(differ) < MIN_CELLS:
        return False
    share = differ.mean()
    error = np.sqrt(share * (1 - share) / len(differ))
    return bool(
        share - 1.64 * error > (usual.mean() if len(usual) >= MIN_CELLS // 2 else 0.0) + MAX_EXCESS
    )


Light = Literal["green", "yellow", "red"]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How far the labels of a query can be believed, before any of them is looked at.

    Parameters
    ----------
    light
        ``"green"``: the query looks like the reference; ``"yellow"``: in part; ``"red"``: it does
        not, and its labels should not be used without other evidence.
    sentences
        One sentence per finding, with its figure; the first one is the summary.
    figures
        What the sentences rest on, by name.

    Raises
    ------
    ValueError
        If there is no such light.

    Examples
    --------
    >>> verdict = Verdict(
    ...     light="red",
    ...     sentences=("The query does not look like the reference.", "No lineage fits 99.0%."),
    ...     figures={"unrecognised": 0.99},
    ... )
    >>> print(verdict)
    RED: The query does not look like the reference.
      No lineage fits 99.0%.
    """

    light: Light
    sentences: tuple[str, ...]
    figures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("light", self.light, get_args(Light))
        object.__setattr__(self, "sentences", tuple(self.sentences))

    def __str__(self) -> str:
        return f"{self.light.upper()}: " + "\n  ".join(self.sentences)

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict in plain types.

        Examples
        --------
        >>> Verdict(light="green", sentences=("It fits.",)).to_dict()
        {'light': 'green', 'sentences': ['It fits.'], 'figures': {}}
        """
        figures = {name: float(value) for name, value in self.figures.items()}
        return asdict(self) | {"sentences": list(self.sentences), "figures": figures}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """Make one from what :meth:`to_dict` gave, also after a file.

        Examples
        --------
        >>> verdict = Verdict(light="green", sentences=("It fits.",))
        >>> Verdict.from_dict(verdict.to_dict()) == verdict
        True
        """
        light: Any = str(data["light"])
        figures = {str(name): float(value) for name, value in data.get("figures", {}).items()}
        return cls(light=light, sentences=tuple(map(str, data["sentences"])), figures=figures)


#: What is said of a step that was taken, and of one that was not.
STEPS = {
    "profiles": ("Network combined with mean profiles of the types", "Network used alone"),
    "adapt": ("Model adapted to the query", "Model not adapted to the query"),
    "refine": (
        "Labels smoothed over the neighbour graph",
        "Labels not smoothed over the neighbour graph",
    ),
    "vote": ("Labels voted on by clusters", "No vote of clusters"),
    "page": ("Page written", "No page written"),
}


@dataclass(frozen=True, kw_only=True)
class Decision:
    """One step that could be taken or left, decided without labels of the query.

    Parameters
    ----------
    step
        Name of the step, such as ``"adapt"`` or ``"refine"``.
    applied
        Whether the result contains it.
    reason
        Why, in a sentence.
    figures
        What the reason rests on, by name.

    Examples
    --------
    >>> print(Decision(step="refine", applied=False, reason="210 cells are too few for a graph"))
    Labels not smoothed over the neighbour graph: 210 cells are too few for a graph.
    """

    step: str
    applied: bool
    reason: str
    figures: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the decision in plain types.

        Examples
        --------
        >>> from hdeepinsight.annotation import Decision
        >>> Decision(step="adapt", applied=True, reason="the donors differ.").to_dict()
        {'step': 'adapt', 'applied': True, 'reason': 'the donors differ.', 'figures': {}}
        """
        return vars(self) | {"figures": dict(self.figures)}

    def __str__(self) -> str:
        done, left = STEPS.get(self.step, (f"{self.step} applied", f"{self.step} left out"))
        return f"{done if self.applied else left}: {self.reason}."


#: Share of cells without a lineage that makes a verdict red, or yellow.
MOST, MANY = 0.5, 0.15
#: Share of the reference's expression below which labels are less certain.
FEW_GENES = 0.5
WORTH_SAYING = 0.01
SHARES = {
    "unrecognised": "of the cells are recognised as none of {lineages}.",
    "ambient": "of the cells cannot be told from empty droplets.",
    "doublets": "of the cells look like two lineages at once: doublets, or types that are missing.",
}


def verdict(
    genes: GeneReport,
    taxonomy: Taxonomy,
    figures: Mapping[str, float],
    *,
    seen: np.ndarray,
    findings: Sequence[str] = (),
) -> Verdict:
    """Put into words whether a query looks like what a model knows.

    Parameters
    ----------
    genes
        How its genes match those of the model.
    taxonomy
        The tree.
    figures
        What :meth:`QueryJudge.figures` returned; empty for a model without held-out cells.
    seen
        Whether anything of what the model reads was counted in each cell, shape ``(n_cells,)``.
    findings
        Further sentences, such as :attr:`QueryJudge.findings`.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.data import align_genes
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> report = align_genes(["NKG7", "CD3D"], ["CD3D", "NKG7"]).report
    >>> tree = Taxonomy.from_nested({"T": [], "B": []})
    >>> figures = {"similarity": 0.2, "unrecognised": 0.4, "ambient": 0.0, "doublets": 0.0}
    >>> print(verdict(report, tree, figures, seen=np.ones(3, dtype=bool)))
    RED: The query does not look like the reference: are these cells of T and B?
      Its mean expression correlates 0.20 with that of its labels; below 0.67 none can be trusted.
      40.0% of the cells are recognised as none of T and B.
    """
    found = {**figures, "gene_coverage": genes.coverage, "no_counts": float((~seen).mean())}
    lineages = _listed([taxonomy.label(int(node)) for node in taxonomy.children(0)])
    similarity, points = figures.get("similarity", 1.0), []
    distinctness = figures.get("distinctness", 1.0)
    foreign = similarity < UNLIKE or distinctness < INDISTINCT
    lost = figures.get("unrecognised", 0.0) + figures.get("ambient", 0.0)
    in_part = similarity < ALIKE or lost > MANY or genes.coverage < FEW_GENES
    light: Light = "yellow" if in_part or findings or not figures else "green"
    if foreign or lost > MOST:
        light = "red"
    if similarity < ALIKE:
        points.append(
            f"Its mean expression correlates {similarity:.2f} with that of its labels; "
            f"below {UNLIKE} none can be trusted."
        )
    if distinctness < INDISTINCT:
        points.append(
            f"Its cells are {distinctness:.2f} times as far from the mixture of all types as those "
            f"of the reference; below {INDISTINCT} none is told from an empty droplet."
        )
    for name, text in SHARES.items():
        if figures.get(name, 0.0) >= WORTH_SAYING and not (foreign and name != "unrecognised"):
            points.append(f"{figures[name]:.1%} {text.format(lineages=lineages)}")
    power = figures.get("doublet_power", 1.0)
    if power < MIN_POWER and not foreign:
        points.append(
            f"Of doublets made of its own cells {power:.0%} are found: by these genes and counts, "
            "others look like one cell."
        )
    points += () if foreign else findings
    if genes.coverage < FEW_GENES:
        points.append(f"Its genes carry {genes.coverage:.1%} of the reference's expression.")
    if not seen.all():
        points.append(f"{int((~seen).sum()):,} cells have no counts of what the model reads.")
    summary = {
        "green": "The query looks like the reference.",
        "yellow": "The query looks like the reference only in part.",
        "red": f"The query does not look like the reference: are these cells of {lineages}?",
    }[light]
    if not figures:
        summary = "Nothing is known of how the query fits: no held-out cells to compare, or no RNA."
    return Verdict(light=light, sentences=(summary, *points), figures=found)


def judgement(
    judge: QueryJudge | None,
    columns: dict[str, np.ndarray],
    probabilities: np.ndarray,
    *,
    taxonomy: Taxonomy,
    opened: AlignedQuery,
    seen: np.ndarray,
    reject: Reject = "auto",
) -> dict[str, Any]:
    """Return what an :class:`Annotation` says of a query and its labels beside probabilities.

    Parameters
    ----------
    judge
        Judge of the query; ``None`` where there is none.
    columns
        What its ``measure`` returned of all cells.
    probabilities
        Node probabilities, shape ``(n_cells, n_nodes)``.
    taxonomy
        The tree.
    opened
        The query.
    seen
        Whether anything of what the model reads was counted in each cell, shape ``(n_cells,)``;
        where nothing was, there is no label.
    reject
        ``"off"`` stops no other label; what was found is said all the same.

    Returns
    -------
    ``obs_names``, ``input_report``, ``gene_report``, ``verdict``, ``novelty``, ``supported_depth``
    and ``stop_reasons``.

    Examples
    --------
    Of a model without held-out cells, nothing is known of how a query fits:

    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> from hdeepinsight.annotation import judgement
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
    >>> table, seen = np.ones((query.n_obs, model.taxonomy.n_nodes)), np.ones(query.n_obs, bool)
    >>> options = {"taxonomy": model.taxonomy, "opened": model.open(query), "seen": seen}
    >>> found = judgement(None, {}, table, **options)
    >>> found["verdict"].light, found["novelty"]
    ('yellow', None)
    """
    figures: dict[str, float] = {}
    findings: tuple[str, ...] = ()
    depth, reasons = np.full(len(seen), NO_LIMIT), np.full(len(seen), "", dtype=object)
    if judge is not None:
        leaf = most_probable_leaf(taxonomy, probabilities)
        depth, reasons = judge.stops(columns, probabilities, leaf)
        figures, findings = judge.figures(columns, depth), judge.findings
    report = opened.gene_report
    if not seen.all():
        text = f"{int((~seen).sum()):,} cells have no counts of what the model reads: they stay"
        report = replace(report, messages=(*report.messages, f"{text} Unknown."))
    said = verdict(report, taxonomy, figures, seen=seen, findings=findings)
    if reject == "off":
        depth[:], reasons[:] = NO_LIMIT, ""
    depth[~seen], reasons[~seen] = 0, NO_COUNTS
    limited = (depth < NO_LIMIT).any()
    table = pd.DataFrame(columns, index=opened.obs_names) if columns else None
    return {
        "obs_names": opened.obs_names,
        "input_report": opened.input_report,
        "gene_report": report,
        "verdict": said,
        "novelty": None if table is None else table.drop(columns=["depth", "no_lineage"]),
        "supported_depth": depth if limited else None,
        "stop_reasons": reasons if limited else None,
    }


def _listed(names: list[str], most: int = 8) -> str:
    if len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
