"""Which genes speak for each label: markers, and whether the query expresses them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from hdeepinsight._errors import check_integer, counted
from hdeepinsight.annotation import check_same_cells
from hdeepinsight.data import (
    AlignedQuery,
    CountSource,
    DataLike,
    InputError,
    Modalities,
    draw_evenly,
    is_paired,
    open_counts,
    open_paired,
    open_store,
)
from hdeepinsight.taxonomy import Taxonomy, cell_type

if TYPE_CHECKING:
    from hdeepinsight.annotation import Annotation
    from hdeepinsight.explanation import Explanation
    from hdeepinsight.nn import LeafProfiles

#: Cells of a label below which its markers say nothing, and of each label that are always read.
MIN_CELLS: Final = 10
_ALWAYS: Final = 50
#: Least difference of mean log expression that makes a gene a marker in the reference, and the part
#: of it that the query has to show.
_MARKER: Final = 0.25
_PART: Final = 0.25
#: Least difference, and share of cells, where the reference says nothing about a gene.
_DIFFERENCE, _SHARE = 0.05, 0.02
#: Measured markers without which a label is not judged.
MIN_MARKERS: Final = 2
#: Ribosomal and mitochondrial genes, and others that follow the state of a cell, not its type.
_HOUSEKEEPING: Final = re.compile(
    r"^(MT-|M?RP[SL]\d|EEF1|HSP|FOSB?$|JUN[BD]?$|(MALAT1|NEAT1|TPT1|FTL|FTH1|B2M|ACTB|GAPDH)$)",
    re.IGNORECASE,
)


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
    means, tree, rows = _node_means(model), model.taxonomy, []
    if means is None:
        raise ValueError(
            "The model holds no mean profiles of its reference, from which markers are taken. "
            "Train it with this version."
        )
    for node in range(1, tree.n_nodes):
        for gene, own, other in islice(_markers(tree, means, node), n_genes):
            numbers = own, other, own - other
            rows.append((tree.label(node), tree.path_name(node), gene, *numbers))
    columns = ["label", "path", "gene", "mean", "other_mean", "difference"]
    return pd.DataFrame(rows, columns=columns)


def _node_means(model: ReferenceModel | None) -> pd.DataFrame | None:
    """Average the log expression of the reference under every node, nodes × genes.

    Nodes without cells are NaN; ``None`` is returned where the model kept no profiles.
    """
    if model is not None and not hasattr(model, "profiles_"):
        raise TypeError(
            f"model must be a trained model, got {model!r}. Pass hdi.hub.load_model('pbmc') or "
            "the like."
        )
    if model is None or model.profiles_ is None:
        return None
    n_cells = model.profiles_.n_cells.cpu().numpy().astype(float)
    weights = model.taxonomy.ancestor_matrix.T * n_cells
    with np.errstate(invalid="ignore"):
        weights = weights / weights.sum(axis=1, keepdims=True)
    return pd.DataFrame(weights @ model.profiles_.mean.cpu().numpy(), columns=list(model.genes))


def _markers(tree: Taxonomy, means: pd.DataFrame, node: int) -> Iterator[tuple[str, float, float]]:
    """Yield genes, best first, with the mean of the node and that of the nearest sibling."""
    own, nearest = means.loc[node].to_numpy(), means.loc[rivals(tree, node)].max().to_numpy()
    difference = np.nan_to_num(own - nearest)
    for at in np.argsort(-difference, kind="stable"):
        if difference[at] < _MARKER:
            return
        if not _HOUSEKEEPING.match(means.columns[at]):
            yield means.columns[at], float(own[at]), float(nearest[at])


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
        names, said = self.labels.groupby("verdict")["label"].agg(", ".join), []
        for path in self.contradicted:
            row, own = self.labels.loc[path], self.table[self.table["path"] == path]
            genes = ", ".join(own.loc[own["supports"].notna(), "gene"].iloc[:6])
            said.append(
                f"{row['label']} is contradicted by its own markers: {row['n_supporting']} of "
                f"{row['n_markers']} are as high in its cells as they should be, compared with "
                f"{own['compared_with'].iloc[0]} ({genes})."
            )
        if n := int((self.labels["verdict"] == "supported").sum()):
            others = f"The other {counted(n, 'label is', 'labels are')} supported by theirs."
            said.append(others if said else "No label is contradicted by its own markers.")
        few = {"too few cells": f"fewer than {MIN_CELLS} cells"}
        few["too few markers"] = "their markers were not measured"
        return said + [f"Not judged ({few[v]}): {names[v]}." for v in few if v in names]

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
    tree, reference = result.taxonomy, _node_means(model)
    if model is not None and model.taxonomy.names != tree.names:
        reference = None  # the nodes of one are not those of the other
    n_under = tree.roll_up(np.bincount(result.stop_nodes, minlength=tree.n_nodes))
    # One that only repeats the label above it is the same label.
    own = (v for v in range(1, tree.n_nodes) if tree.label(v) != tree.label(int(tree.parent[v])))
    nodes = sorted((v for v in own if n_under[v]), key=lambda v: tree.ancestors(v).tolist())
    rows = sample_cells(result.stop_nodes, max_cells, seed=seed)
    known = [gene for node in range(1, tree.n_nodes) for gene in _canonical(tree, node)]
    known += [] if reference is None else list(reference.columns)
    known += [] if explanation is None else list(map(str, explanation.genes))
    genes = pd.Index(dict.fromkeys(known), dtype=object)
    values, is_measured = _log_values(open_cells(result, query, rows), genes)
    measured = set(genes[is_measured])
    by: dict[tuple[int, str], list[str]] = {}
    for node in nodes:
        for source, found in _sources(tree, node, reference, explanation, 4 * n_markers).items():
            usable = filter(measured.__contains__, found)
            for gene in found if source == "canonical" else islice(usable, n_markers):
                by.setdefault((node, gene), []).append(source)
    of, own_genes = [node for node, _ in by], [gene for _, gene in by]
    shown = pd.Index(dict.fromkeys(own_genes), dtype=object)
    values = values[:, genes.get_indexer(shown)]
    missing, stops = ~shown.isin(measured), result.stop_nodes[rows]
    inside = tree.node_at_level[stops][:, tree.depth[nodes] - 1] == np.array(nodes, dtype=int)
    sizes = dict(zip(nodes, inside.sum(axis=0).tolist(), strict=True))

    def averages(cells: np.ndarray) -> np.ndarray:
        """Return mean and share of every gene in groups of cells, ``(2, n_groups, n_genes)``."""
        weights = cells / np.maximum(cells.sum(axis=0), 1)
        found = np.stack([(part.T @ weights).T for part in (values, values > 0)])
        return np.where(missing, np.nan, found)

    here = averages(inside)
    elsewhere, compared = np.full_like(here, np.nan), {}
    usual, ahead = np.full((2, len(nodes), len(shown)), np.nan)
    for row, node in enumerate(nodes):
        near = [v for v in rivals(tree, node) if sizes.get(v, 0) >= MIN_CELLS]
        outside = ~inside[:, row] & ~np.isin(stops, [0, *tree.ancestors(node)])
        compared[node] = "the reference"
        if near:
            compared[node] = "the cells of " + ", ".join(map(tree.label, near))
            elsewhere[:, row] = here[:, [nodes.index(v) for v in near]].mean(axis=1)
        elif outside.sum() >= MIN_CELLS:
            compared[node] = "all other cells"
            elsewhere[:, [row]] = averages(outside[:, None])
        if reference is not None:
            rest = near or tree.leaves[~tree.ancestor_matrix[:, node].astype(bool)].tolist()
            usual[row] = reference.loc[node].reindex(shown)
            ahead[row] = usual[row] - reference.loc[rest].mean().reindex(shown)
    at = [nodes.index(node) for node in of], shown.get_indexer(own_genes)
    (mean, share), (other_mean, other_share) = here[:, *at], elsewhere[:, *at]
    table = pd.DataFrame(
        {
            "label": list(map(tree.label, of)),
            "path": list(map(tree.path_name, of)),
            "gene": own_genes,
            "source": [", ".join(sources) for sources in by.values()],
            "compared_with": [compared[node] for node in of],
            "mean": mean,
            "other_mean": other_mean,
            "difference": mean - other_mean,
            "share": share,
            "other_share": other_share,
            "expected_difference": ahead[at],
        }
    )
    supports = _supports(table, np.where(np.isnan(ahead), np.nan, usual)[at])
    table["supports"] = supports.where([sizes[node] >= MIN_CELLS for node in of])
    labels = pd.DataFrame({"label": list(map(tree.label, nodes)), "n_cells": sizes.values()})
    labels.index = pd.Index(map(tree.path_name, nodes), name="path", dtype=object)
    counts = table.groupby("path")["supports"].agg(["count", "sum"]).reindex(labels.index).fillna(0)
    labels[["n_markers", "n_supporting"]] = counts.astype(int)
    few_cells, few_markers = labels["n_cells"] < MIN_CELLS, labels["n_markers"] < MIN_MARKERS
    which = [few_cells, few_markers, 2 * labels["n_supporting"] >= labels["n_markers"]]
    verdicts = ["too few cells", "too few markers", "supported"]
    labels["verdict"] = np.select(which, verdicts, "contradicted")
    return MarkerEvidence(
        table=table,
        labels=labels,
        means=pd.DataFrame(here[0], labels.index, shown),
        shares=pd.DataFrame(here[1], labels.index, shown),
        rows=rows,
        expression=values,
        n_cells=len(result),
    )


def _supports(table: pd.DataFrame, usual: np.ndarray) -> pd.Series:
    """Say whether each gene supports a label; missing where nothing is known.

    Parameters
    ----------
    table
        Columns of :attr:`MarkerEvidence.table` but ``supports``.
    usual
        Mean of each gene in the reference, NaN where it says nothing.
    """
    reaches, ahead = table["mean"] >= _PART * usual, table["expected_difference"]
    more = table["share"] > table["other_share"]
    apart = (table["difference"] >= _DIFFERENCE) & more & (table["share"] >= _SHARE)
    apart = apart.mask(ahead >= _MARKER, reaches & (table["difference"] >= _PART * ahead))
    apart = apart.mask(table["difference"].isna(), reaches)  # there are no other cells
    nothing = table["mean"].isna() | (table["difference"].isna() & np.isnan(usual))
    return apart.astype("boolean").mask(nothing)


def _canonical(tree: Taxonomy, node: int) -> tuple[str, ...]:
    known = cell_type(tree.ontology_ids.get(tree.names[node], ""))
    return () if known is None else known.markers


def _sources(
    tree: Taxonomy, node: int, reference: pd.DataFrame | None, explained: Explanation | None, n: int
) -> dict[str, Iterable[str]]:
    """Return who names markers of a node, and which, the best first; of the reference `n`."""
    named: dict[str, Iterable[str]] = {"canonical": _canonical(tree, node)}
    if reference is not None:
        named["reference"] = (gene for gene, *_ in islice(_markers(tree, reference, node), n))
    wanted = {tree.path_name(node), tree.label(node)}
    if explained is not None and (own := [name for name in explained.nodes if name in wanted]):
        ranked = explained.ranking(own[0], cells="all")
        named["model"] = map(str, ranked.index[ranked["mean"] > 0])
    return named


def _log_values(source: CountSource, genes: pd.Index) -> tuple[sp.csr_matrix, np.ndarray]:
    """Return ``log1p`` of counts per 10,000, ``(n_cells, n_genes)``, and which genes are there."""
    try:
        alignment = source.align(list(genes), min_coverage=0.0, warn_coverage=0.0)
    except ValueError:  # no gene is there
        shape = source.n_obs, len(genes)
        return sp.csr_matrix(shape, dtype=np.float32), np.zeros(len(genes), dtype=bool)
    parts = [sp.csr_matrix((0, len(genes)), dtype=np.float32)]
    for _, block in source.blocks():
        depth = np.maximum(np.asarray(block.sum(axis=1), dtype=np.float64).ravel(), 1e-12)
        parts.append((sp.diags(1e4 / depth) @ alignment.apply(block)).log1p().astype(np.float32))
    return sp.csr_matrix(sp.vstack(parts)), alignment.measured


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
