"""Which genes speak for each label: markers, and whether the query expresses them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, cast, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from hdeepinsight._errors import check_integer
from hdeepinsight.annotation import check_same_cells
from hdeepinsight.data import (
    AlignedQuery,
    CountSource,
    DataLike,
    GeneAlignment,
    InputError,
    Modalities,
    align_genes,
    draw_evenly,
    is_paired,
    open_counts,
    open_paired,
    open_store,
)
from hdeepinsight.taxonomy import CellType as CellType
from hdeepinsight.taxonomy import cell_type as cell_type

if TYPE_CHECKING:
    from hdeepinsight.annotation import Annotation
    from hdeepinsight.explanation import Explanation
    from hdeepinsight.nn import LeafProfiles
    from hdeepinsight.taxonomy import Taxonomy

#: Cells of a label below which its markers say nothing, and of each label that are always read.
MIN_CELLS: Final = 10
_ALWAYS: Final = 50
#: Least difference of mean log expression that makes a gene a marker in the reference, and the part
#: of it that the query has to show.
_MARKER: Final = 0.25
_PART: Final = 0.25
#: Where the best genes were not measured, so many times as many are gone through for others.
_CANDIDATES: Final = 4
#: Least difference, and share of cells, where the reference says nothing about a gene.
_DIFFERENCE, _SHARE = 0.05, 0.02
#: Measured markers without which a label is not judged.
MIN_MARKERS: Final = 2
#: Ribosomal and mitochondrial genes, and others that follow the state of a cell, not its type.
_HOUSEKEEPING: Final = re.compile(
    r"^(MT-|M?RP[SL]\d|EEF1|HSP|FOSB?$|JUN[BD]?$|(MALAT1|NEAT1|TPT1|FTL|FTH1|B2M|ACTB|GAPDH)$)",
    re.IGNORECASE,
)

Verdict = Literal["supported", "contradicted", "too few cells", "too few markers"]


class ReferenceModel(Protocol):
    """A model with the mean expression of its reference, such as every trained classifier.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> model: hdi.tl.ReferenceModel = hdi.hub.pull("pbmc")
    >>> model.profiles_.mean.shape
    torch.Size([8, 2048])
    """

    taxonomy: Any
    genes: Any
    profiles_: LeafProfiles | None


def marker_genes(model: ReferenceModel, *, n_genes: int = 10) -> pd.DataFrame:
    """Rank the genes that mark each node in the reference of a model.

    Parameters
    ----------
    model
        A trained model; it keeps mean expression profiles of its reference.
    n_genes
        Genes of each node, at most.

    Returns
    -------
    Table with a row per node and gene, best first: ``label``, ``path``, ``gene``, mean log
    expression (``log1p`` of counts per 10,000) in the reference's cells of the node (``mean``) and
    in those of the sibling that has most of it (``other_mean``), and their ``difference``.
    Genes that follow the state of a cell (ribosomal, mitochondrial, heat shock) are left out.

    Raises
    ------
    ValueError
        If the model has no profiles, as models of before they were kept, or `n_genes` is not
        positive.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> table = hdi.tl.marker_genes(hdi.hub.pull("pbmc"), n_genes=3)
    >>> table.loc[table["label"] == "B", "gene"].tolist()
    ['CD74', 'CD79A', 'HLA-DRA']
    """
    check_integer("n_genes", n_genes, hint="Omit it to use 10.")
    profiles = _Profiles.of(model)
    if profiles is None:
        raise ValueError(
            "The model holds no mean profiles of its reference, from which markers are taken. "
            "Train it with this version."
        )
    tree, rows = profiles.taxonomy, []
    for node in range(1, tree.n_nodes):
        for gene, own, other in islice(profiles.markers(node), n_genes):
            difference = own - other
            rows.append((tree.label(node), tree.path_name(node), gene, own, other, difference))
    columns = ["label", "path", "gene", "mean", "other_mean", "difference"]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True, eq=False)
class _Profiles:
    """Mean log expression of every leaf, ``(n_leaves, n_genes)``, and its cells ``(n_leaves,)``."""

    taxonomy: Taxonomy
    mean: pd.DataFrame
    n_cells: np.ndarray

    @classmethod
    def of(cls, model: ReferenceModel | None) -> _Profiles | None:
        if model is None:
            return None
        if not hasattr(model, "profiles_"):
            raise TypeError(
                f"model must be a trained model, got {model!r}. Pass hdi.hub.load_model('pbmc') or "
                "the like."
            )
        if model.profiles_ is None:
            return None
        mean = pd.DataFrame(model.profiles_.mean.cpu().numpy(), columns=list(model.genes))
        return cls(model.taxonomy, mean, model.profiles_.n_cells.cpu().numpy().astype(float))

    def of_node(self, node: int) -> np.ndarray | None:
        """Return the mean over the reference's cells of a node; ``None`` if it had none."""
        weights = self.n_cells * self.leaves_under(node)
        return weights @ self.mean.to_numpy() / weights.sum() if weights.any() else None

    def leaves_under(self, node: int) -> np.ndarray:
        """Return whether each leaf is at or under a node, bool, ``(n_leaves,)``."""
        return np.asarray(self.taxonomy.ancestor_matrix[:, node], dtype=bool)

    def markers(self, node: int) -> Iterator[tuple[str, float, float]]:
        """Yield genes, best first, with the mean of the node and that of the nearest sibling."""
        own = self.of_node(node)
        siblings = map(self.of_node, rivals(self.taxonomy, node))
        others = [mean for mean in siblings if mean is not None]
        if own is None or not others:
            return
        nearest, genes = np.max(others, axis=0), self.mean.columns
        for at in np.argsort(nearest - own, kind="stable"):
            if own[at] - nearest[at] < _MARKER:
                return
            if not _HOUSEKEEPING.match(genes[at]):
                yield genes[at], float(own[at]), float(nearest[at])


def rivals(taxonomy: Taxonomy, node: int) -> list[int]:
    """Return the siblings of a node, or where it has none those of the nearest node above it."""
    while node:
        siblings = [v for v in taxonomy.children(int(taxonomy.parent[node])) if v != node]
        if siblings:
            return list(map(int, siblings))
        node = int(taxonomy.parent[node])
    return []


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MarkerEvidence:
    """Markers of the labels of an annotation, and what the query says of them.

    Parameters
    ----------
    table
        One row per label and marker: ``label``, ``path``, ``gene``, ``source`` (``"canonical"``,
        ``"reference"``, ``"model"``, or several), ``compared_with``, mean log expression
        (``log1p`` of counts per 10,000) and share of expressing cells in the cells of the label
        (``mean``, ``share``) and in those it is compared with (``other_mean``, ``other_share``),
        their ``difference``, the one of the reference (``expected_difference``), and whether the
        gene ``supports`` the label. Missing where the query did not measure the gene.
    labels
        One row per label, indexed by its path: ``label``, ``n_cells`` that were read, ``n_markers``
        that could be judged, ``n_supporting``, and the ``verdict``.
    means, shares
        Mean log expression, and share of expressing cells, of every label (index: paths) and
        marker (columns: genes).
    rows
        Positions of the cells that were read, ascending.
    expression
        Their log expression of the markers, CSR, ``(n_read, n_genes)``, columns as in ``means``.
    n_cells
        Cells of the annotation.

    Examples
    --------
    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
    >>> evidence = hdi.tl.marker_evidence(model.annotate(query), query, model)
    >>> evidence.labels.loc["B", "verdict"], evidence.supporting("B")[:2]
    ('supported', ['MS4A1', 'CD79A'])
    """

    table: pd.DataFrame
    labels: pd.DataFrame
    means: pd.DataFrame
    shares: pd.DataFrame
    rows: np.ndarray
    expression: sp.csr_matrix
    n_cells: int

    @property
    def contradicted(self) -> list[str]:
        """Paths of the labels whose markers are mostly not higher in their cells."""
        return list(self.labels.index[self.labels["verdict"] == "contradicted"])

    def supporting(self, label: str) -> list[str]:
        """Return the genes that support a label, named by its path or name, best known first."""
        own = self.table[(self.table["path"] == label) | (self.table["label"] == label)]
        return list(own.loc[own["supports"].fillna(value=False).astype(bool), "gene"])

    def sentences(self) -> list[str]:
        """Say in words which labels their markers support, and which they contradict.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
        >>> evidence = hdi.tl.marker_evidence(model.annotate(query), query, model)
        >>> evidence.sentences()[0]
        'No label is contradicted by its own markers.'
        """
        of = {
            verdict: self.labels.index[self.labels["verdict"] == verdict]
            for verdict in get_args(Verdict)
        }
        said = [
            f"{row['label']} is contradicted by its own markers: {row['n_supporting']} of "
            f"{row['n_markers']} are as high in its cells as they should be, compared with "
            f"{self._compared(str(path))} ({', '.join(self._judged(str(path))[:6])})."
            for path, row in self.labels.loc[of["contradicted"]].iterrows()
        ]
        if not said and len(of["supported"]):
            said = ["No label is contradicted by its own markers."]
        elif n := len(of["supported"]):
            others = "label is" if n == 1 else "labels are"
            said.append(f"The other {n} {others} supported by theirs.")
        reasons = {
            "too few cells": f"fewer than {MIN_CELLS} cells",
            "too few markers": "their markers were not measured",
        }
        for verdict, reason in reasons.items():
            if len(of[cast("Verdict", verdict)]):
                names = ", ".join(self.labels.loc[of[cast("Verdict", verdict)], "label"])
                said.append(f"Not judged ({reason}): {names}.")
        return said

    def _judged(self, path: str) -> list[str]:
        own = self.table[self.table["path"] == path]
        return list(own.loc[own["supports"].notna(), "gene"])

    def _compared(self, path: str) -> str:
        return str(self.table.loc[self.table["path"] == path, "compared_with"].iloc[0])

    def __repr__(self) -> str:
        counts = self.labels["verdict"].value_counts()
        found = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
        return (
            f"MarkerEvidence of {len(self.labels)} labels ({found}) by {self.means.shape[1]} genes "
            f"in {len(self.rows):,} of {self.n_cells:,} cells"
        )


def marker_evidence(
    result: Annotation,
    query: DataLike | AlignedQuery | Any,
    model: ReferenceModel | None = None,
    *,
    explanation: Explanation | None = None,
    n_markers: int = 5,
    max_cells: int = 20_000,
    seed: int = 0,
) -> MarkerEvidence:
    """Look up whether the cells of each label express the markers of that label.

    Parameters
    ----------
    result
        The annotation, whoever made it.
    query
        The annotated cells: AnnData, MuData, path, or opened query.
    model
        The model, for the markers of its reference (:func:`marker_genes`) and for the difference
        that they make there; without it the common markers of Cell Ontology types remain.
    explanation
        Attributions of the model, from ``model.explain``; the leading genes of every explained
        node are looked up too.
    n_markers
        Genes of the reference, and of the explanation, per label.
    max_cells
        Cells to read at most: up to 50 of every label, then at random. The values are not
        inspected again; where they are and what they are stands in ``result.input_report``.
    seed
        Of the choice of cells.

    Returns
    -------
    A table per label and gene, the numbers per label, and those labels that are contradicted.

    Raises
    ------
    ValueError
        If the query has other cells than the annotation, or a setting is not positive.
    TypeError
        If the model is none, such as the name of one.

    Notes
    -----
    Every label, at every level, is judged at the branching that leads to it: cells that stop at or
    under it against those of its siblings, each sibling with equal weight; where the query has
    fewer than ten such cells, against all others. A gene supports the label if it reaches a quarter
    of the mean, and of the difference, that the reference shows (a difference of 0.05, and 2 % of
    the cells, where the reference is silent). A label is contradicted where fewer than half of its
    two or more measured markers support it. These limits are our decision.

    Examples
    --------
    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
    >>> evidence = hdi.tl.marker_evidence(model.annotate(query), query, model)
    >>> evidence.contradicted
    []
    """
    check_integer("n_markers", n_markers, 0, hint="Omit it to use 5.")
    check_integer("max_cells", max_cells, hint="Omit it to use 20000.")
    tree, profiles = result.taxonomy, _Profiles.of(model)
    if profiles is not None and profiles.taxonomy.names != tree.names:
        profiles = None  # the nodes of one are not those of the other
    n_under = tree.roll_up(np.bincount(result.stop_nodes, minlength=tree.n_nodes))
    nodes = sorted(
        (np.flatnonzero(n_under[1:]) + 1).tolist(), key=lambda v: tree.ancestors(v).tolist()
    )
    # One that only repeats the label above it is the same label.
    nodes = [v for v in nodes if tree.label(v) != tree.label(int(tree.parent[v]))]
    rows = sample_cells(result.stop_nodes, max_cells, seed=seed)
    cells = _Cells.of(result, query, rows, _known(tree, profiles, explanation))
    named = {
        node: _sources(tree, node, profiles, explanation, n_markers, cells.measured)
        for node in nodes
    }
    genes = list(dict.fromkeys(gene for own in named.values() for gene in own))
    values = cells.log_values(genes)
    stops, under = result.stop_nodes[rows], _under(tree)
    inside = under[stops][:, nodes]  # cells × labels
    size = inside.sum(axis=0)
    missing = ~np.isin(genes, list(cells.measured))
    means, shares = (_averages(part, inside) for part in (values, values > 0))
    means[:, missing] = shares[:, missing] = np.nan
    place = {node: i for i, node in enumerate(nodes)}
    lines, labels = [], []
    for node, own in named.items():
        near = [v for v in rivals(tree, node) if v in place and size[place[v]] >= MIN_CELLS]
        if near:
            which = [place[v] for v in near]
            others = means[which].mean(axis=0), shares[which].mean(axis=0)
            compared = "the cells of " + ", ".join(map(tree.label, near))
        else:
            outside = ~(under[stops, node] | under[node][stops])[:, None]
            others = tuple(_averages(part, outside)[0] for part in (values, values > 0))
            compared = "all other cells"
            if outside.sum() < MIN_CELLS:
                others, compared = (np.full(len(genes), np.nan),) * 2, "the reference"
        others[0][missing] = others[1][missing] = np.nan
        expected = _expected(profiles, node, near)
        n_cells, judged = int(size[place[node]]), []
        names = tree.label(node), tree.path_name(node)
        for gene, k in zip(own, pd.Index(genes).get_indexer(list(own)), strict=True):
            mean, share = means[place[node], k], shares[place[node], k]
            difference, more = mean - others[0][k], share - others[1][k]
            mark = expected.get(gene, (np.nan, np.nan))
            enough = n_cells >= MIN_CELLS
            supports = _supports(mean, share, difference, more, *mark) if enough else None
            judged += [] if supports is None else [supports]
            numbers = mean, others[0][k], difference, share, others[1][k], mark[1]
            lines.append((*names, gene, ", ".join(own[gene]), compared, *numbers, supports))
        labels.append((*names, n_cells, len(judged), sum(judged), _verdict(n_cells, judged)))
    paths = list(map(tree.path_name, nodes))
    return MarkerEvidence(
        table=pd.DataFrame(lines, columns=_COLUMNS).astype({"supports": "boolean"}),
        labels=pd.DataFrame(labels, columns=_LABELS).set_index("path"),
        means=pd.DataFrame(means, index=paths, columns=genes),
        shares=pd.DataFrame(shares, index=paths, columns=genes),
        rows=rows,
        expression=values,
        n_cells=len(result),
    )


_LABELS: Final = ["label", "path", "n_cells", "n_markers", "n_supporting", "verdict"]
_COLUMNS: Final = [
    "label", "path", "gene", "source", "compared_with", "mean", "other_mean", "difference",
    "share", "other_share", "expected_difference", "supports",
]  # fmt: skip


def _averages(values: sp.csr_matrix, inside: np.ndarray) -> np.ndarray:
    """Average values ``(n_cells, n_genes)`` over some cells ``(n_cells, n_groups)`` of a group."""
    total = np.asarray((values.astype(np.float64).T @ inside.astype(np.float64)).T)
    return np.asarray(total / np.maximum(inside.sum(axis=0), 1)[:, None])


def _supports(
    mean: float, share: float, difference: float, more: float, own: float, ahead: float
) -> bool | None:
    """Say whether a gene supports a label; ``None`` where nothing is known."""
    if np.isnan(mean):
        return None
    if np.isnan(difference):  # there are no other cells
        return None if np.isnan(own) else bool(mean >= _PART * own)
    if ahead >= _MARKER:
        return bool(difference >= _PART * ahead and mean >= _PART * own)
    return bool(difference >= _DIFFERENCE and more > 0 and share >= _SHARE)


def _verdict(n_cells: int, judged: list[bool]) -> Verdict:
    if n_cells < MIN_CELLS:
        return "too few cells"
    if len(judged) < MIN_MARKERS:
        return "too few markers"
    return "supported" if 2 * sum(judged) >= len(judged) else "contradicted"


def _canonical(tree: Taxonomy, node: int) -> tuple[str, ...]:
    known = cell_type(tree.ontology_ids.get(tree.names[node], ""))
    return () if known is None else known.markers


def _known(
    tree: Taxonomy, profiles: _Profiles | None, explanation: Explanation | None
) -> list[str]:
    """Return all genes that may speak for a label."""
    of_model = [] if profiles is None else profiles.mean.columns
    explained = [] if explanation is None else map(str, explanation.genes)
    common = (gene for node in range(1, tree.n_nodes) for gene in _canonical(tree, node))
    return list(dict.fromkeys([*of_model, *explained, *common]))


def _sources(
    tree: Taxonomy,
    node: int,
    profiles: _Profiles | None,
    explanation: Explanation | None,
    n_markers: int,
    measured: set[str],
) -> dict[str, list[str]]:
    """Return the markers of a node, best known first, and who names each of them."""
    named: dict[str, Iterable[str]] = {"canonical": _canonical(tree, node)}
    if profiles is not None:
        best = (gene for gene, _, _ in islice(profiles.markers(node), _CANDIDATES * n_markers))
        named["reference"] = islice((gene for gene in best if gene in measured), n_markers)
    if explanation is not None:
        wanted = {tree.path_name(node), tree.label(node)}
        if own := [name for name in explanation.nodes if name in wanted]:
            ranked = explanation.ranking(own[0], cells="all")
            speaking = map(str, ranked.index[ranked["mean"] > 0])
            named["model"] = islice((gene for gene in speaking if gene in measured), n_markers)
    found: dict[str, list[str]] = {}
    for source, genes in named.items():
        for gene in genes:
            found.setdefault(gene, []).append(source)
    return found


def _expected(
    profiles: _Profiles | None, node: int, near: list[int]
) -> dict[str, tuple[float, float]]:
    """Return mean and difference of each gene in the reference."""
    if profiles is None:
        return {}
    outside = near or profiles.taxonomy.leaves[~profiles.leaves_under(node)].tolist()
    rest = [mean for other in outside if (mean := profiles.of_node(other)) is not None]
    own = profiles.of_node(node)
    if own is None or not rest:
        return {}
    numbers = zip(own.tolist(), (own - np.mean(rest, axis=0)).tolist(), strict=True)
    return dict(zip(profiles.mean.columns, numbers, strict=True))


def _under(tree: Taxonomy) -> np.ndarray:
    """Return whether each node is at or under each other one, bool, ``(n_nodes, n_nodes)``."""
    under = np.eye(tree.n_nodes, dtype=bool)
    for node in range(1, tree.n_nodes):  # parents come before their children
        under[node] |= under[tree.parent[node]]
    return under


def sample_cells(nodes: np.ndarray, max_cells: int, *, seed: int = 0) -> np.ndarray:
    """Draw cells: up to fifty of every label in any case, then at random.

    Parameters
    ----------
    nodes
        Node where the label of each cell stops, shape ``(n_cells,)``.
    max_cells
        Cells to draw at most.
    seed
        Of the choice.

    Returns
    -------
    Positions, ascending.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.tl import sample_cells
    >>> sample_cells(np.array([1] * 99 + [2]), 60)[-1]
    np.int64(99)
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(nodes))
    first = np.zeros(len(nodes), dtype=bool)
    first[order] = pd.Series(nodes[order]).groupby(nodes[order]).cumcount().to_numpy() < _ALWAYS
    return draw_evenly(np.zeros(len(nodes), dtype=np.int8), max_cells, rng, first=first)


@dataclass(frozen=True, eq=False)
class _Cells:
    """Counts of some cells, and where genes are among their columns."""

    source: CountSource
    alignment: GeneAlignment | None
    genes: pd.Index
    n_cells: int

    @classmethod
    def of(cls, result: Annotation, query: Any, rows: np.ndarray, genes: list[str]) -> _Cells:
        """Open the counts of some cells; those of the others are not looked at."""
        source, alignment = open_cells(result, query, rows), None
        if genes:
            try:
                alignment = align_genes(source.var, genes, min_coverage=0.0, warn_coverage=0.0)
            except ValueError:  # no gene is there
                alignment = None
        return cls(source, alignment, pd.Index(genes), len(rows))

    @property
    def measured(self) -> set[str]:
        return set() if self.alignment is None else set(self.genes[self.alignment.measured])

    def log_values(self, genes: list[str]) -> sp.csr_matrix:
        """Return ``log1p`` of counts per 10,000, CSR, shape ``(n_cells, n_genes)``."""
        if self.alignment is None:
            return sp.csr_matrix((self.n_cells, len(genes)), dtype=np.float32)
        parts, columns = [], self.genes.get_indexer(genes)
        for _, block in self.source.blocks():
            depth = np.maximum(np.asarray(block.sum(axis=1), dtype=np.float64).ravel(), 1e-12)
            chosen = self.alignment.apply(block)[:, columns]
            parts.append((sp.diags(1e4 / depth) @ chosen).log1p().astype(np.float32))
        return sp.csr_matrix(sp.vstack(parts)) if parts else sp.csr_matrix((0, len(genes)))


def open_cells(result: Annotation, query: Any, rows: np.ndarray) -> CountSource:
    """Open the counts of some annotated cells, without a look at the others.

    Parameters
    ----------
    result
        The annotation, whose input report says which matrix was read.
    query
        The annotated cells: AnnData, MuData, path, or opened query.
    rows
        Positions of the cells to read, ascending.

    Raises
    ------
    ValueError
        If the query has other cells than the annotation.
    InputError
        If there is no RNA, or no counts can be recovered.

    Examples
    --------
    >>> import warnings
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> query = hdi.datasets.demo().query
    >>> result = hdi.hub.pull("pbmc").annotate(query)
    >>> hdi.tl.open_cells(result, query, np.arange(3)).n_obs
    3
    """
    if isinstance(query, AlignedQuery):
        check_same_cells(result.obs_names, query.obs_names.to_series(), "query")
        return query.source.take(rows)
    if is_paired(query):
        query = Modalities().rna_of(open_paired(query))
        if query is None:
            raise InputError("The MuData has no RNA.", "Counts of RNA are needed.", "Add them.")
    store = open_store(query)
    check_same_cells(result.obs_names, store.obs.index.to_series(), "query")
    slot = "X" if result.input_report is None else result.input_report.layer
    matrix = store.slots[slot]().take(rows)
    blocks = [sp.csr_matrix(block) for _, block in matrix.blocks(4096)]
    # Only these cells are inspected: they may be logs, from which counts are recovered.
    return open_counts(AnnData(sp.vstack(blocks, "csr"), var=store.genes(slot == ".raw")))
