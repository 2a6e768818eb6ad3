"""Types of cells from lists of marker genes alone: no reference, no labels, no trained model."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import softmax

from hdeepinsight._errors import counted, examples
from hdeepinsight.annotation import (
    NO_LIMIT,
    Annotation,
    Decoder,
    Verdict,
    check_decoding,
    class_nodes,
    next_above,
    node_probabilities,
)
from hdeepinsight.data import (
    AlignedQuery,
    CountSource,
    ExtraInputs,
    GeneMatchError,
    InputError,
    Modalities,
    ScaleMode,
    is_paired,
    open_counts,
    open_paired,
    spread_rows,
)
from hdeepinsight.tl._marker_lists import BLOOD, MarkersLike, markers_taxonomy, read_markers

if TYPE_CHECKING:
    from hdeepinsight.taxonomy import Taxonomy

Floats = NDArray[np.float64]

#: Cells, from all over the file, that the mixture is fitted to.
_FITTED = 20_000
#: Depths are rounded to powers of this, so that cells of one depth share their logarithms.
_DEPTH_STEP = 1.05
#: A marker is expressed at this many times the rate of other types at least, and a gene that a type
#: lacks at this part of it at most.
_FOLD, _LACKED = 2.0, 0.25
#: Share of all cells by which the rate in a type is drawn to that of cells that express the gene.
_PRIOR_OWN = 0.01
#: Share of all cells by which the rate in other types is drawn to a part of the rate in the type.
_PRIOR_WEIGHT, _PRIOR_OTHER = 0.1, 0.05
_MIN_SHARE = 1e-4
#: Why a label stops at a node that is a type of its own, and why a cell gets none.
_NO_MARKER = "types below have no marker gene in the file"
_NO_TYPE = "expresses the markers of no type"
#: Shares of cells without a type above which the verdict is yellow, and red.
_SOME, _MOST = 0.15, 0.5
#: Share of the marker genes below which a file is refused.
MIN_COVERAGE = 0.1
_EM_STEPS, _EM_TOL = 60, 1e-4
#: Exponents of the likelihood, and ways to halve the markers by which one is chosen.
_EXPONENTS = np.geomspace(0.05, 1.0, 13)
_N_HALVES = 8


class _Counts:
    """Counts of markers, sparse, in groups of cells of like depth."""

    def __init__(self, counts: sp.csr_matrix, depth: Floats) -> None:
        power = np.round(np.log(depth) / np.log(_DEPTH_STEP))
        levels, code = np.unique(power, return_inverse=True)
        self.counts, self.depth = counts, _DEPTH_STEP**power
        self.groups = [
            (_DEPTH_STEP**level, rows, counts[rows])
            for level, rows in ((x, np.flatnonzero(code == i)) for i, x in enumerate(levels))
        ]

    def log_likelihood(self, rates: Floats, genes: NDArray[np.bool_] | None = None) -> Floats:
        """Log-likelihood of each type, ``(n_cells, n_types)``, by all genes or some of them.

        Counts have the geometric distribution: the negative binomial one of dispersion 1.
        """
        found = np.empty((self.counts.shape[0], len(rates)))
        used = np.ones(rates.shape[1]) if genes is None else genes.astype(np.float64)
        for depth, rows, counts in self.groups:
            mean = depth * rates
            per_count = np.log(mean / (1.0 + mean)) * used
            found[rows] = counts @ per_count.T - (np.log1p(mean) * used).sum(axis=1)
        return found


def _fit(cells: _Counts, signs: NDArray[np.int8]) -> tuple[Floats, Floats]:
    """Fit rates ``(n_types, n_genes)`` and shares ``(n_types,)`` by expectation maximisation."""
    marks = signs > 0
    total = cells.depth.sum()
    mean = np.maximum(np.asarray(cells.counts.sum(axis=0)).ravel() / total, 1e-6)
    # Begin with a gene's mean where it is expressed, so that even a type of most cells is found.
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
        moved = np.abs(updated - shares).max()
        shares = updated
        sums = np.asarray(cells.counts.T @ belongs).T
        depths = belongs.T @ cells.depth
        own = (sums + _PRIOR_OWN * total * high) / (depths + _PRIOR_OWN * total)[:, None]
        most = np.where(marks, own, 0.0).max(axis=0)
        # Where nearly all cells are of one type, the others still have to lack its markers.
        weight = np.where(is_marker, _PRIOR_WEIGHT * total, 0.01)
        prior = np.where(is_marker, _PRIOR_OTHER * most, mean)
        free = (depths[:, None] * ~marks).sum(axis=0)
        other = ((sums * ~marks).sum(axis=0) + weight * prior) / (free + weight)
        other = np.where(is_marker, np.minimum(other, most / _FOLD), other)
        if moved < _EM_TOL:
            break
    return rates, shares


def _exponent(cells: _Counts, rates: Floats, shares: Floats) -> float:
    """Choose the exponent of the likelihood by which two halves of the markers agree best."""
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


@dataclass(frozen=True, eq=False, repr=False)
class MarkerScorer:
    """A list of marker genes in the place of a model, as `hdeepinsight.annotate` takes one.

    Parameters
    ----------
    markers
        ``"blood"``, a dict, or a file; see `read_markers`.
    taxonomy
        Tree of the types, in which they are names, synonyms or paths; by default that which the
        paths in the list say.

    Attributes
    ----------
    table
        The list as `read_markers` gives it, and the ``node`` of each type.

    Raises
    ------
    ValueError
        If the list is empty or broken, or a type is not in the taxonomy.

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

    markers: MarkersLike = BLOOD
    taxonomy: Taxonomy = field(default=None)  # type: ignore[assignment]
    table: pd.DataFrame = field(init=False)

    def __post_init__(self) -> None:
        table = read_markers(self.markers)
        tree = self.taxonomy or markers_taxonomy(table)
        names = table["type"].unique()
        nodes = dict(zip(names, class_nodes(tree, names).tolist(), strict=True))
        object.__setattr__(self, "taxonomy", tree)
        object.__setattr__(self, "table", table.assign(node=table["type"].map(nodes)))

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
        scale: ScaleMode = "auto",
        fold_case: bool = False,
    ) -> AlignedQuery:
        """Open a query for the genes of the list, of which any number may be missing.

        Parameters
        ----------
        adata
            AnnData, MuData, path, or a query that was opened before, for whatever genes.
        layer, use_raw, scale, fold_case
            How it is read, as in `hdeepinsight.annotate`.

        Raises
        ------
        InputError
            If fewer than a tenth of the genes are there, or the matrix does not hold counts.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> scorer = hdi.tl.MarkerScorer({"T": ["CD3D"], "B": ["CD79A", "NOT_A_GENE"]})
        >>> scorer.open(hdi.datasets.demo().query).alignment.report.missing
        ('NOT_A_GENE',)
        """
        genes = self.table["gene"].unique().tolist()
        if isinstance(adata, AlignedQuery):
            source: CountSource = adata.source
        else:
            rna = Modalities().rna_of(open_paired(adata)) if is_paired(adata) else adata
            if rna is None:
                raise InputError("The MuData has no RNA.", "Counts of RNA are needed.", "Add them.")
            source = open_counts(rna, layer=layer, use_raw=use_raw, scale=scale, sampled=True)
        try:
            alignment = source.align(
                genes, min_coverage=0.0, warn_coverage=0.0, fold_case=fold_case
            )
        except GeneMatchError as error:
            raise InputError(
                f"None of the {counted(len(genes), 'marker gene')} ({examples(genes)}) is in the "
                f"file, which has {examples(source.var_names)}.",
                "One gene or more of two types at least is needed.",
                error.do_next,
            ) from error
        report = alignment.report
        if report.coverage < MIN_COVERAGE:
            raise InputError(
                f"Only {report.n_measured:,} of the {counted(len(genes), 'marker gene')} are in "
                f"the file ({report.coverage:.1%}); not there: {examples(report.missing)}.",
                f"At least {MIN_COVERAGE:.0%} are needed, or what is left says nothing.",
                "Check that the list is of this tissue and species, or leave out of it what these "
                "cells cannot be and what was not measured.",
            )
        return AlignedQuery(source, alignment, ExtraInputs(), tuple(genes))

    def annotate(
        self,
        adata: Any,
        *,
        decoder: Decoder = "joint",
        threshold: float | None = 0.5,
        keep: list[sp.csr_matrix] | None = None,
    ) -> Annotation:
        """Label cells; see `score_markers`.

        Parameters
        ----------
        adata
            The cells, as in :meth:`open`.
        decoder, threshold
            As in `hdeepinsight.annotate`.
        keep
            List to which the counts of all genes are added, block by block.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> scorer = hdi.tl.MarkerScorer({"T": ["CD3D", "CD3E"], "Mono": ["LYZ", "CST3"]})
        >>> len(scorer.annotate(hdi.datasets.demo().query))
        210
        """
        check_decoding(threshold, decoder)
        opened, tree = self.open(adata), self.taxonomy
        genes = pd.Index(opened.genes)
        measured = dict(zip(genes, opened.alignment.measured, strict=True))
        table = self.table[self.table["gene"].map(measured)].sort_values("node", kind="stable")
        states, shared, left_out = _states(tree, self.table, table)
        # The last type has no marker: cells that are none of the others.
        signs = np.zeros((len(states) + 1, len(genes)), dtype=np.int8)
        for node, gene, sign in table[["node", "gene", "sign"]].itertuples(index=False):
            under = [node in tree.ancestors(state) for state in states]
            signs[:-1][under, genes.get_loc(gene)] = sign  # the deeper type has the last word
        used = (signs != 0).any(axis=0)
        parts, totals = [sp.csr_matrix((0, len(genes)), dtype=np.float32)], [np.zeros(0)]
        for _, block in opened.source.blocks():
            parts.append(opened.alignment.apply(block))
            totals.append(np.asarray(block.sum(axis=1), dtype=np.float64).ravel())
            if keep is not None:
                keep.append(sp.csr_matrix(block))
        counts, depth = (
            sp.csr_matrix(sp.vstack(parts))[:, used].astype(np.float64),
            np.concatenate(totals),
        )
        filled = np.flatnonzero(depth)
        depth = np.where(depth > 0, depth / depth[filled].mean(), 1.0)
        fitted = filled[spread_rows(len(filled), _FITTED)]
        some = _Counts(counts[fitted], depth[fitted])
        rates, shares = _fit(some, signs[:, used])
        exponent = _exponent(some, rates, shares)
        likelihood = np.zeros((len(depth), len(shares)))  # of empty cells only shares are known
        likelihood[filled] = _Counts(counts[filled], depth[filled]).log_likelihood(rates)
        logits = exponent * likelihood + np.log(shares)
        is_none = softmax(logits, axis=1)[:, -1] >= 0.5
        belongs = softmax(logits[:, :-1], axis=1)
        mass = tree.roll_up(belongs @ shared)
        # Equal shares of two children come near the threshold, and say nothing of either.
        depth_of = np.where(shared.max(axis=1) < 1.0, tree.depth[states], NO_LIMIT)
        supported = np.where(is_none, 0, depth_of[belongs.argmax(axis=1)])
        reasons = np.where(supported < NO_LIMIT, np.where(is_none, _NO_TYPE, _NO_MARKER), "")
        names = [*map(tree.path_name, states.tolist()), "none of these"]
        verdict, without = None, is_none.mean() if len(is_none) else 0.0
        if without > _SOME:
            said = f"{without:.1%} of the cells express the markers of no type in the list."
            verdict = Verdict(
                light="red" if without > _MOST else "yellow",
                sentences=(said,),
                figures={"none": without},
            )
        return Annotation(
            taxonomy=tree,
            obs_names=opened.obs_names,
            node_probabilities=node_probabilities(tree, mass),
            threshold=next_above(threshold),
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
    decoder: Decoder = "joint",
    layer: str | None = None,
    use_raw: bool = False,
    scale: ScaleMode = "auto",
    fold_case: bool = False,
) -> Annotation:
    r"""Label cells by marker genes, with probabilities that are calibrated without labels.

    Parameters
    ----------
    adata
        Cells with raw counts: AnnData, MuData, path, or an opened query. It is not changed.
    markers
        ``"blood"``, a dict, or a file; see `read_markers`.
    taxonomy
        Tree of the types, in which they are names, synonyms or paths; by default that which the
        paths in the list say.
    threshold, decoder
        As in `hdeepinsight.annotate`.
    layer, use_raw, scale, fold_case
        How the data is read, as in `hdeepinsight.annotate`.

    Returns
    -------
    The annotation. Its ``gene_report`` names the markers that are missing; its ``recipe`` says
    which list was used, the ``exponent``, the ``shares`` of the types, and types that were
    ``left_out``. A cell that expresses the markers of no type is ``Unknown``; it has a verdict
    where more than 15 % are. One of a type that shares markers with a type of the list, such as a
    natural killer cell with T cells, gets that label. There is no novelty.

    Raises
    ------
    InputError
        If the matrix does not hold counts, or no marker is in the file.
    ValueError
        If the list is empty or broken, a type is not in the taxonomy, or fewer than two types have
        a marker that is in the file.

    Warns
    -----
    UserWarning
        If a type is left out, because none of its markers is in the file.

    Notes
    -----
    Cell :math:`i` of depth :math:`s_i` (all its counts, by the mean) has counts
    :math:`x_{ig}` of gene :math:`g` from a geometric distribution with mean
    :math:`s_i\,\mu_{kg}` if it is of type :math:`k`. Markers of a type and of all types above it
    have a rate of their own, at least twice the one that all other types share; genes that a type
    lacks have a quarter of that at most. Rates and shares :math:`\pi` are fitted by expectation
    maximisation. Two priors keep types apart in a file of nearly one type alone: as many cells as a
    hundredth of the file draw a type's rate to the mean of cells that express the gene, and a tenth
    draw the shared rate to a twentieth of the highest rate of a type. A node some of whose types
    have no marker in the file is one more type, which speaks for none of them, and cells that lack
    the markers of all types are one more. Real counts scatter
    more than that, so that

    .. math:: p_{ik} \propto \pi_k \exp\Big(\tau \sum_g \log p(x_{ig} \mid s_i\,\mu_{kg})\Big),

    where :math:`\tau \le 1` makes two random halves A, B of the markers predict each other best: it
    maximises the mean of :math:`\log \sum_k p^A_{ik}\, p^B_{ik} / \pi_k` less its logarithm for
    halves of different cells. The form with a rate per type and marker is that of CellAssign (Zhang
    et al. 2019, doi:10.1038/s41592-019-0529-1); tree, exponent and limits are our decision.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> query = hdi.datasets.demo().query
    >>> markers = {"T": ["CD3D", "CD3E"], "B": ["CD79A", "CD79B"], "Mono": ["LYZ", "CST3"]}
    >>> result = hdi.tl.score_markers(query, markers)
    >>> result.labels["cell_type"].value_counts().to_dict()
    {'Mono': 109, 'T': 68, 'B': 33}
    """
    scorer = MarkerScorer(markers, taxonomy)  # type: ignore[arg-type]
    reading: dict[str, Any] = {"layer": layer, "use_raw": use_raw, "scale": scale}
    opened = scorer.open(adata, fold_case=fold_case, **reading)
    return scorer.annotate(opened, decoder=decoder, threshold=threshold)


def _states(
    tree: Taxonomy, listed: pd.DataFrame, there: pd.DataFrame
) -> tuple[NDArray[np.int64], Floats, list[str]]:
    """Return the nodes that are told apart, and what is left out, of which it warns.

    These are the deepest nodes that a marker speaks for, and those above them that have types
    without a marker under them too: such a node stands for none of its children more than for
    another. The second result is the share of each child in a node, ``(n_states, n_nodes)``.
    """
    marked = np.zeros(tree.n_nodes, dtype=np.int64)
    marked[there.loc[there["sign"] > 0, "node"]] = 1
    held = tree.roll_up(marked) > 0
    known = np.zeros(tree.n_nodes, dtype=np.int64)
    known[listed["node"]] = 1
    known = tree.roll_up(known)
    states, shared = [], []
    for node in range(1, tree.n_nodes):
        children = tree.children(node)
        inner = held[children].any()
        if held[node] and (not inner or (~held[children] & (known[children] > 0)).any()):
            states.append(node)
            shared.append(np.zeros(tree.n_nodes))
            shared[-1][children if inner else node] = 1.0 / max(len(children) if inner else 1, 1)
    without = listed.loc[~held[listed["node"]], "type"].unique().tolist()
    if len(states) < 2:
        raise ValueError(
            "Two types or more must have a marker gene in the file, got "
            f"{counted(len(states), 'such type')}; without one: {examples(without, 10) or 'none'}. "
            "Add types and markers, or check the names of the genes."
        )
    if without:
        warnings.warn(
            f"{counted(len(without), 'type')} left out, with no marker gene in the file: "
            f"{examples(without, 10)}. Their cells get the label above or the nearest one; add "
            "markers that were measured.",
            UserWarning,
            stacklevel=4,
        )
    return np.array(states), np.array(shared), without
