"""Annotate cells by lists of marker genes, without a reference, labels or a trained model."""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import softmax

from hdeepinsight import annotation, data
from hdeepinsight._errors import counted, examples
from hdeepinsight.taxonomy import Taxonomy
from hdeepinsight.tl._inputs import rna_of
from hdeepinsight.tl._marker_lists import BLOOD, MarkersLike, markers_taxonomy, read_markers

Floats = NDArray[np.float64]

#: Maximum number of cells, evenly spaced, to which the mixture is fitted.
_FITTED = 20_000
#: Depths are rounded to powers of this, so that cells of equal depth share their logarithms.
_DEPTH_STEP = 1.05
#: Lower bound of the rate of a marker, and upper bound of the rate of a negative marker, as
#: multiples of the rate in other types.
_FOLD, _LACKED = 2.0, 0.25
#: Prior weight, as a fraction of all cells, of the mean of expressing cells for the rate in a type.
_PRIOR_OWN = 0.01
#: Prior weight, as a fraction of all cells, and prior rate in other types, relative to the type.
_PRIOR_WEIGHT, _PRIOR_OTHER = 0.1, 0.05
_MIN_SHARE = 1e-4
#: Reasons for a label at an inner node, and for no label.
_NO_MARKER = "types below have no marker gene in the file"
_NO_TYPE = "expresses the markers of no type"
#: Fractions of cells without a type above which the verdict is yellow, or red.
_SOME, _MOST = 0.15, 0.5
#: Minimum fraction of the marker genes that must have been measured.
MIN_COVERAGE = 0.1
_EM_STEPS, _EM_TOL = 60, 1e-4
#: Exponents of the likelihood to choose from, and number of random halves of the markers.
_EXPONENTS = np.geomspace(0.05, 1.0, 13)
_N_HALVES = 8


class _MarkerCounts:
    """Sparse counts of marker genes, grouped by the depth of the cells."""

    def __init__(self, counts: sp.csr_matrix, depth: Floats) -> None:
        power = np.round(np.log(depth) / np.log(_DEPTH_STEP))
        levels, code = np.unique(power, return_inverse=True)
        self.counts, self.depth = counts, _DEPTH_STEP**power
        self.groups = [
            (_DEPTH_STEP**level, rows, counts[rows])
            for level, rows in ((x, np.flatnonzero(code == i)) for i, x in enumerate(levels))
        ]

    def log_likelihood(self, rates: Floats, genes: NDArray[np.bool_] | None = None) -> Floats:
        """Compute the log-likelihood of each type, ``(n_cells, n_types)``, for a mask of genes.

        Counts have a geometric distribution, which is negative binomial with dispersion 1.
        """
        found = np.empty((self.counts.shape[0], len(rates)))
        used = np.ones(rates.shape[1]) if genes is None else genes.astype(np.float64)
        for depth, rows, counts in self.groups:
            mean = depth * rates
            per_count = np.log(mean / (1.0 + mean)) * used
            found[rows] = counts @ per_count.T - (np.log1p(mean) * used).sum(axis=1)
        return found


def _fit(cells: _MarkerCounts, signs: NDArray[np.int8]) -> tuple[Floats, Floats]:
    """Fit rates ``(n_types, n_genes)`` and proportions ``(n_types,)`` by an EM algorithm."""
    marks = signs > 0
    total = cells.depth.sum()
    mean = np.maximum(np.asarray(cells.counts.sum(axis=0)).ravel() / total, 1e-6)
    # Start at the mean of expressing cells, so that a type with most of the cells is found, too.
    expressing = np.asarray((cells.counts > 0).T @ cells.depth).ravel()
    high = mean * total / np.maximum(expressing, 1e-9)
    own = np.where(marks, high, 0.0)
    is_marker = marks.any(axis=0)
    other = np.where(is_marker, 0.2 * mean, mean)
    shares = np.full(len(signs), 1.0 / len(signs))
    rates = np.empty(signs.shape)
    for _ in range(_EM_STEPS):
        rates = np.where(marks, np.maximum(own, _FOLD * other), other)
        rates = np.where(signs < 0, _LACKED * rates, rates)
        belongs = softmax(cells.log_likelihood(rates) + np.log(shares), axis=1)
        updated = np.maximum(belongs.mean(axis=0), _MIN_SHARE)
        updated /= updated.sum()
        change = np.abs(updated - shares).max()
        shares = updated
        sums = np.asarray(cells.counts.T @ belongs).T
        depths = belongs.T @ cells.depth
        own = (sums + _PRIOR_OWN * total * high) / (depths + _PRIOR_OWN * total)[:, None]
        most = np.where(marks, own, 0.0).max(axis=0)
        # If nearly all cells are of one type, this prior keeps its markers low in other types.
        weight = np.where(is_marker, _PRIOR_WEIGHT * total, 0.01)
        prior = np.where(is_marker, _PRIOR_OTHER * most, mean)
        free = (depths[:, None] * ~marks).sum(axis=0)
        other = ((sums * ~marks).sum(axis=0) + weight * prior) / (free + weight)
        other = np.where(is_marker, np.minimum(other, most / _FOLD), other)
        if change < _EM_TOL:
            break
    return rates, shares


def _exponent(cells: _MarkerCounts, rates: Floats, shares: Floats) -> float:
    """Choose the exponent of the likelihood for which random halves of the markers agree best."""
    rng = np.random.default_rng(0)
    gain = np.zeros(len(_EXPONENTS))
    prior = np.log(shares)
    for _ in range(_N_HALVES):
        half = rng.permutation(np.arange(rates.shape[1]) % 2).astype(bool)
        one, two = (cells.log_likelihood(rates, genes) for genes in (half, ~half))
        for i, exponent in enumerate(_EXPONENTS):
            first = softmax(exponent * one + prior, axis=1)
            second = softmax(exponent * two + prior, axis=1)
            together = np.maximum((first * second / shares).sum(axis=1), 1e-300)
            by_chance = (first.mean(axis=0) * second.mean(axis=0) / shares).sum()
            gain[i] += np.log(together).mean() - np.log(by_chance)
    return float(_EXPONENTS[gain.argmax()])


class MarkerScorer:
    """Annotator based on a list of marker genes, for use in `hdeepinsight.annotate`.

    Parameters
    ----------
    markers
        ``"blood"``, a dict, or a file; see `read_markers`.
    taxonomy
        Taxonomy in which the types are names, synonyms or paths; by default it is built from the
        paths in the list.

    Attributes
    ----------
    table
        Output of `read_markers`, and the ``node`` of each type.

    Raises
    ------
    ValueError
        If the list is empty or invalid, or a type is not in the taxonomy.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> scorer = hdi.tl.MarkerScorer("blood")
    >>> scorer
    MarkerScorer(blood: 24 types, 186 genes)
    >>> result = hdi.annotate(hdi.datasets.pbmc3k()[:300].copy(), markers=scorer, refine="off")
    >>> len(result), result.taxonomy.level_names
    (300, ('lineage', 'cell_type', 'subtype'))
    """

    def __init__(self, markers: MarkersLike = BLOOD, taxonomy: Taxonomy | None = None) -> None:
        self.markers, table = markers, read_markers(markers)
        self.taxonomy = taxonomy or markers_taxonomy(table)
        names = table["type"].unique()
        nodes = dict(zip(names, annotation.class_nodes(self.taxonomy, names), strict=True))
        self.table = table.assign(node=table["type"].map(nodes))

    def __repr__(self) -> str:
        types, genes = self.table["type"].nunique(), self.table["gene"].nunique()
        return f"MarkerScorer({self._name}: {counted(types, 'type')}, {counted(genes, 'gene')})"

    @property
    def _name(self) -> str:
        is_name = isinstance(self.markers, str | os.PathLike)
        return str(self.markers) if is_name else type(self.markers).__name__

    def open(
        self,
        adata: Any,
        *,
        layer: str | None = None,
        use_raw: bool = False,
        scale: data.ScaleMode = "auto",
        fold_case: bool = False,
    ) -> data.AlignedQuery:
        """Open a query for the genes of the list, up to 90 % of which may be missing.

        Parameters
        ----------
        adata
            AnnData, MuData, path, or a query that was opened for any genes.
        layer, use_raw, scale, fold_case
            How the matrix is read, as in `hdeepinsight.annotate`.

        Raises
        ------
        InputError
            If fewer than a tenth of the genes were measured, or the matrix has no counts.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> scorer = hdi.tl.MarkerScorer({"T": ["CD3D"], "B": ["CD79A", "NOT_A_GENE"]})
        >>> scorer.open(hdi.datasets.demo().query).alignment.report.missing
        ('NOT_A_GENE',)
        """
        genes = self.table["gene"].unique().tolist()
        if isinstance(adata, data.AlignedQuery):
            source: data.CountSource = adata.source
        else:
            rna = rna_of(adata)
            source = data.open_counts(rna, layer=layer, use_raw=use_raw, scale=scale, sampled=True)
        try:
            aligned = source.align(genes, min_coverage=0.0, warn_coverage=0.0, fold_case=fold_case)
        except data.GeneMatchError as error:
            raise data.InputError(
                f"None of the {counted(len(genes), 'marker gene')} ({examples(genes)}) is in the "
                f"file, which has {examples(source.var_names)}.",
                "At least one gene for each of two types is required.",
                error.do_next,
            ) from error
        report = aligned.report
        if report.coverage < MIN_COVERAGE:
            raise data.InputError(
                f"Only {report.n_measured:,} of the {counted(len(genes), 'marker gene')} are in "
                f"the file ({report.coverage:.1%}); missing: {examples(report.missing)}.",
                f"At least {MIN_COVERAGE:.0%} are required.",
                "Check that the list matches the tissue and species, or remove types that cannot "
                "occur and genes that were not measured.",
            )
        return data.AlignedQuery(source, aligned, data.ExtraInputs(), tuple(genes))

    def annotate(
        self,
        adata: Any,
        *,
        decoder: annotation.Decoder = "joint",
        threshold: float | None = 0.5,
        keep: list[sp.csr_matrix] | None = None,
    ) -> annotation.Annotation:
        """Annotate cells; see `score_markers`.

        Parameters
        ----------
        adata
            Cells, as in :meth:`open`.
        decoder, threshold
            As in `hdeepinsight.annotate`.
        keep
            List to which the counts of all genes are appended, block by block.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> scorer = hdi.tl.MarkerScorer({"T": ["CD3D", "CD3E"], "Mono": ["LYZ", "CST3"]})
        >>> len(scorer.annotate(hdi.datasets.demo().query))
        210
        """
        annotation.check_decoding(threshold, decoder)
        opened, tree = self.open(adata), self.taxonomy
        genes = pd.Index(opened.genes)
        measured = dict(zip(genes, opened.alignment.measured, strict=True))
        table = self.table[self.table["gene"].map(measured)].sort_values("node", kind="stable")
        states, shared, left_out = _states(tree, self.table, table)
        # The last type has no markers and stands for cells of other types.
        signs = np.zeros((len(states) + 1, len(genes)), dtype=np.int8)
        for node, gene, sign in table[["node", "gene", "sign"]].itertuples(index=False):
            under = [node in tree.ancestors(state) for state in states]
            signs[:-1][under, genes.get_loc(gene)] = sign  # deeper types override
        used = (signs != 0).any(axis=0)
        counts, depth = _read_counts(opened, keep)
        counts, is_filled = counts[:, used].astype(np.float64), depth > 0
        filled = np.flatnonzero(is_filled)
        depth = np.where(depth > 0, depth / depth[filled].mean(), 1.0)
        fitted = filled[data.spread_rows(len(filled), _FITTED)]
        sample = _MarkerCounts(counts[fitted], depth[fitted])
        rates, shares = _fit(sample, signs[:, used])
        exponent = _exponent(sample, rates, shares)
        likelihood = np.zeros((len(depth), len(shares)))  # empty cells get the proportions
        likelihood[filled] = _MarkerCounts(counts[filled], depth[filled]).log_likelihood(rates)
        logits = exponent * likelihood + np.log(shares)
        is_none = is_filled & (softmax(logits, axis=1)[:, -1] >= 0.5)
        belongs = softmax(logits[:, :-1], axis=1)
        mass = tree.roll_up(belongs @ shared)
        # A type divided equally among children must not be labelled below its node.
        depth_of = np.where(shared.max(axis=1) < 1.0, tree.depth[states], annotation.NO_LIMIT)
        supported = np.where(is_none, 0, depth_of[belongs.argmax(axis=1)])
        reasons = np.where(
            supported < annotation.NO_LIMIT, np.where(is_none, _NO_TYPE, _NO_MARKER), ""
        )
        supported[~is_filled], reasons = 0, np.where(is_filled, reasons, annotation.NO_COUNTS)
        names = [*map(tree.path_name, states.tolist()), "none of these"]
        verdict, without = None, is_none.mean() if len(is_none) else 0.0
        if without > _SOME:
            verdict = annotation.Verdict(
                light="red" if without > _MOST else "yellow",
                sentences=(f"{without:.1%} of the cells express the markers of no listed type.",),
                figures={"none": without},
            )
        return annotation.Annotation(
            taxonomy=tree,
            obs_names=opened.obs_names,
            node_probabilities=annotation.node_probabilities(tree, mass),
            threshold=annotation.next_above(threshold),
            decoder=decoder,
            supported_depth=supported,
            stop_reasons=reasons.astype(object),
            verdict=verdict,
            input_report=opened.source.report,
            gene_report=opened.alignment.report,
            recipe={
                "markers": self._name,
                "exponent": exponent,
                "shares": dict(zip(names, shares.tolist(), strict=True)),
                "left_out": left_out,
            },
        )


def score_markers(
    adata: Any,
    markers: MarkersLike = BLOOD,
    taxonomy: Taxonomy | None = None,
    *,
    threshold: float | None = 0.5,
    decoder: annotation.Decoder = "joint",
    layer: str | None = None,
    use_raw: bool = False,
    scale: data.ScaleMode = "auto",
    fold_case: bool = False,
) -> annotation.Annotation:
    r"""Annotate cells by marker genes, with probabilities calibrated without labels.

    Parameters
    ----------
    adata
        Cells with raw counts: AnnData, MuData, path, or an opened query. Not modified.
    markers
        ``"blood"``, a dict, or a file; see `read_markers`.
    taxonomy
        Taxonomy in which the types are names, synonyms or paths; by default it is built from the
        paths in the list.
    threshold, decoder
        As in `hdeepinsight.annotate`.
    layer, use_raw, scale, fold_case
        How the matrix is read, as in `hdeepinsight.annotate`.

    Returns
    -------
    Annotation
        Its ``gene_report`` lists missing markers; its ``recipe`` contains the list, the
        ``exponent``, the ``shares`` (proportions) of the types, and types that were ``left_out``.
        Cells that express the markers of no type are ``Unknown``; if they are more than 15 %, there
        is a verdict. Cells of a type that is not in the list but shares markers with a listed type,
        such as natural killer cells with T cells, may get the label of that type. There are no
        novelty scores.

    Raises
    ------
    InputError
        If the matrix has no counts, or no marker was measured.
    ValueError
        If the list is empty or invalid, a type is not in the taxonomy, or fewer than two types have
        a measured marker.

    Warns
    -----
    UserWarning
        If a type is left out because none of its markers was measured.

    Notes
    -----
    Cell :math:`i` with depth :math:`s_i` (its total count divided by the mean) has counts
    :math:`x_{ig}` of gene :math:`g` from a geometric distribution with mean
    :math:`s_i\,\mu_{kg}` if it is of type :math:`k`. Markers of a type and of its ancestors have a
    separate rate, at least twice the rate shared by all other types; negative markers have at most
    a quarter of the shared rate. Rates and proportions :math:`\pi` are fitted by an EM algorithm.
    Two priors separate the types if nearly all cells are of a single type: a hundredth of the cells
    shifts the rate of a type towards the mean of expressing cells, and a tenth shifts the shared
    rate towards a twentieth of the highest rate of a type. An inner node with descendants without
    measured markers is an additional type that favours none of its children, and cells that lack
    the markers of all types are another one. Real counts vary more than in this model. Therefore,

    .. math:: p_{ik} \propto \pi_k \exp\Big(\tau \sum_g \log p(x_{ig} \mid s_i\,\mu_{kg})\Big),

    where :math:`\tau \le 1` is chosen such that random halves A and B of the markers predict each
    other best: it maximises the mean of :math:`\log \sum_k p^A_{ik}\, p^B_{ik} / \pi_k` minus its
    logarithm for halves of different cells. The model with a rate per type and marker is that of
    CellAssign (Zhang et al. 2019, doi:10.1038/s41592-019-0529-1); the taxonomy, the exponent and
    the limits are our design.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> query = hdi.datasets.demo().query
    >>> markers = {"T": ["CD3D", "CD3E"], "B": ["CD79A", "CD79B"], "Mono": ["LYZ", "CST3"]}
    >>> result = hdi.tl.score_markers(query, markers)
    >>> result.labels["cell_type"].value_counts().to_dict()
    {'Mono': 109, 'T': 68, 'B': 33}
    """
    scorer = MarkerScorer(markers, taxonomy)
    reading: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "scale": scale}
    opened = scorer.open(adata, fold_case=fold_case, **reading)
    return scorer.annotate(opened, decoder=decoder, threshold=threshold)


def _read_counts(
    opened: data.AlignedQuery, keep: list[sp.csr_matrix] | None
) -> tuple[sp.csr_matrix, Floats]:
    """Return counts of the listed genes, and total counts per cell; append the blocks to `keep`."""
    parts = [sp.csr_matrix((0, len(opened.genes)), dtype=np.float32)]
    totals = [np.zeros(0)]
    for _, block in opened.source.blocks():
        parts.append(opened.alignment.apply(block))
        totals.append(np.asarray(block.sum(axis=1), dtype=np.float64).ravel())
        if keep is not None:
            keep.append(sp.csr_matrix(block))
    return sp.csr_matrix(sp.vstack(parts)), np.concatenate(totals)


def _states(
    tree: Taxonomy, listed: pd.DataFrame, there: pd.DataFrame
) -> tuple[NDArray[np.int64], Floats, list[str]]:
    """Return the nodes to distinguish, their mass per node, and the types without markers.

    The nodes are the deepest ones with measured markers, and their ancestors with other descendants
    that have none. The mass of such an ancestor is divided equally among its children. The second
    result has the shape ``(n_states, n_nodes)``. There is a warning about types without markers.
    """
    marked = there.loc[there["sign"] > 0, "node"]
    held = tree.roll_up(np.bincount(marked, minlength=tree.n_nodes)) > 0
    known = tree.roll_up(np.bincount(listed["node"], minlength=tree.n_nodes)) > 0
    states, shared = [], []
    for node in range(1, tree.n_nodes):
        children = tree.children(node)
        inner = held[children].any()
        if held[node] and (not inner or (~held[children] & known[children]).any()):
            states.append(node)
            shared.append(np.zeros(tree.n_nodes))
            shared[-1][children if inner else node] = 1.0 / max(len(children) if inner else 1, 1)
    without = listed.loc[~held[listed["node"]], "type"].unique().tolist()
    if len(states) < 2:
        found = f"{counted(len(states), 'such type')}; without one: "
        found += f"{examples(without, 10) or 'none'}. Add markers, or check the gene names."
        raise ValueError(f"At least two types must have a marker gene in the file, got {found}")
    if without:
        message = f"{counted(len(without), 'type')} left out, with no marker gene in the file: "
        message += f"{examples(without, 10)}. Their cells get the label of an ancestor or of a "
        message += "similar type. Add markers that were measured."
        warnings.warn(message, UserWarning, stacklevel=4)
    return np.array(states), np.array(shared), without
