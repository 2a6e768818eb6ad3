"""Check whether annotated cells express the marker genes of their labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from hdeepinsight import data
from hdeepinsight._errors import check_integer, counted, invalid
from hdeepinsight.annotation import Annotation, check_same_cells, class_nodes
from hdeepinsight.taxonomy import Taxonomy, cell_type
from hdeepinsight.tl._inputs import rna_of
from hdeepinsight.tl._marker_lists import MarkersLike, read_markers

#: Minimum number of cells of an assessed label.
MIN_CELLS: Final = 10
#: Number of cells per label that are always read.
_ALWAYS: Final = 50
#: Minimum difference of mean log expression of a marker in the reference, and the fraction of this
#: difference that is required in the query.
_MARKER: Final = 0.25
_PART: Final = 0.25
#: Minimum difference, and fraction of expressing cells, for genes without reference values.
_DIFFERENCE, _SHARE = 0.05, 0.02
#: Minimum number of measured markers of an assessed label.
MIN_MARKERS: Final = 2
#: Ribosomal, mitochondrial and other genes that reflect the state of a cell rather than its type.
_HOUSEKEEPING: Final = re.compile(
    r"^(MT-|M?RP[SL]\d|EEF1|HSP|FOSB?$|JUN[BD]?$|(MALAT1|NEAT1|TPT1|FTL|FTH1|B2M|ACTB|GAPDH)$)",
    re.IGNORECASE,
)


def marker_genes(model: Any, *, n_genes: int = 10) -> pd.DataFrame:
    """Rank the marker genes of each node in the reference of a model.

    Parameters
    ----------
    model
        Trained model, which stores mean expression profiles of its reference.
    n_genes
        Maximum number of genes per node.

    Returns
    -------
    pandas.DataFrame
        One row per node and gene, best first: ``label``, ``path``, ``gene``, mean log expression
        (``log1p`` of counts per 10,000) in reference cells of the node (``mean``) and of the
        sibling with the highest mean (``other_mean``), and their ``difference``. Genes that reflect
        the state of a cell (ribosomal, mitochondrial, heat shock) are excluded.

    Raises
    ------
    ValueError
        If the model has no profiles because it was saved by an old version, or `n_genes` is not
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
        hint = "Train it with this version."
        raise ValueError(f"model must have mean profiles of its reference, got none. {hint}")
    for node in range(1, tree.n_nodes):
        for gene, own, other in islice(_markers(tree, means, node), n_genes):
            numbers = own, other, own - other
            rows.append((tree.label(node), tree.path_name(node), gene, *numbers))
    columns = ["label", "path", "gene", "mean", "other_mean", "difference"]
    return pd.DataFrame(rows, columns=columns)


def _node_means(model: Any) -> pd.DataFrame | None:
    """Compute the mean log expression of the reference at or below each node, nodes × genes.

    Nodes without cells are NaN. ``None`` is returned if the model has no profiles.
    """
    if model is not None and not hasattr(model, "profiles_"):
        hint = "Pass a model such as hdi.hub.load_model('pbmc')."
        raise TypeError(f"model must be a trained model, got {model!r}. {hint}")
    if model is None or model.profiles_ is None:
        return None
    n_cells = model.profiles_.n_cells.cpu().numpy().astype(float)
    weights = model.taxonomy.ancestor_matrix.T * n_cells
    with np.errstate(invalid="ignore"):
        weights = weights / weights.sum(axis=1, keepdims=True)
    return pd.DataFrame(weights @ model.profiles_.mean.cpu().numpy(), columns=list(model.genes))


def _markers(tree: Taxonomy, means: pd.DataFrame, node: int) -> Iterator[tuple[str, float, float]]:
    """Yield genes, best first, with the mean of the node and the highest mean of its rivals."""
    own, nearest = means.loc[node].to_numpy(), means.loc[rivals(tree, node)].max().to_numpy()
    difference = np.nan_to_num(own - nearest)
    for at in np.argsort(-difference, kind="stable"):
        if difference[at] < _MARKER:
            return
        if not _HOUSEKEEPING.match(means.columns[at]):
            yield means.columns[at], float(own[at]), float(nearest[at])


def rivals(taxonomy: Taxonomy, node: int) -> list[int]:
    """Return the siblings of a node, or of its closest ancestor with siblings."""
    for own in reversed(taxonomy.ancestors(node).tolist()):
        group = taxonomy.children(int(taxonomy.parent[own])).tolist()
        if len(group) > 1:
            return [sibling for sibling in group if sibling != own]
    return []


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MarkerEvidence:
    """Result of `marker_evidence`: expression of marker genes in the cells of each label.

    Parameters
    ----------
    table
        One row per label and marker: ``label``, ``path``, ``gene``, ``source`` (``"canonical"``,
        ``"reference"``, or both), ``compared_with``, mean log expression
        (``log1p`` of counts per 10,000) and fraction of expressing cells in the cells of the label
        (``mean``, ``share``) and in the cells for comparison (``other_mean``, ``other_share``), the
        ``difference`` of the means, that of the reference (``expected_difference``), and whether
        the gene ``supports`` the label. Missing if the gene was not measured in the query.
    labels
        One row per label, indexed by its path: ``label``, ``n_cells`` (cells read), ``n_markers``
        (markers assessed), ``n_supporting``, and the ``verdict``.
    means, shares
        Mean log expression, and fraction of expressing cells, per label (index: paths) and marker
        (columns: genes).
    rows
        Sorted positions of the cells that were read, shape ``(n_read,)``.
    expression
        Log expression of markers in these cells, CSR, ``(n_read, n_genes)``, columns as in
        ``means``.
    n_cells
        Number of cells of the annotation.

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
        """Paths of the labels with fewer than half of their markers supporting them."""
        return list(self.labels.index[self.labels["verdict"] == "contradicted"])

    def supporting(self, label: str) -> list[str]:
        """Return the genes that support a label, given by path or name, the best known first.

        Raises
        ------
        ValueError
            If no cell has the label.
        """
        if label not in self.labels.index and label not in set(self.labels["label"]):
            raise invalid("label", label, "a label of these cells", "See evidence.labels.")
        own = self.table[(self.table["path"] == label) | (self.table["label"] == label)]
        return list(own.loc[own["supports"].fillna(value=False).astype(bool), "gene"])

    def sentences(self) -> list[str]:
        """Describe in sentences which labels are supported or contradicted by their markers.

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
        names, texts = self.labels.groupby("verdict")["label"].agg(", ".join), []
        for path in self.contradicted:
            row, own = self.labels.loc[path], self.table[self.table["path"] == path]
            genes = ", ".join(own.loc[own["supports"].notna(), "gene"].iloc[:6])
            texts.append(
                f"{row['label']} is contradicted by its own markers: {row['n_supporting']} of "
                f"{row['n_markers']} are as high in its cells as expected, compared with "
                f"{own['compared_with'].iloc[0]} ({genes})."
            )
        if n := int((self.labels["verdict"] == "supported").sum()):
            others = f"The other {counted(n, 'label is', 'labels are')} supported by their markers."
            texts.append(others if texts else "No label is contradicted by its own markers.")
        few = {"too few cells": f"fewer than {MIN_CELLS} cells"}
        few["too few markers"] = "too few markers measured"
        return texts + [f"Not assessed ({few[v]}): {names[v]}." for v in few if v in names]

    def __repr__(self) -> str:
        counts = self.labels["verdict"].value_counts()
        found = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
        return (
            f"MarkerEvidence of {len(self.labels)} labels ({found}) by {self.means.shape[1]} genes "
            f"in {len(self.rows):,} of {self.n_cells:,} cells"
        )


def marker_evidence(
    result: Annotation,
    query: data.DataLike | data.AlignedQuery | Any,
    model: Any = None,
    *,
    markers: MarkersLike | None = None,
    n_markers: int = 5,
    max_cells: int = 20_000,
    seed: int = 0,
) -> MarkerEvidence:
    """Check whether the cells of each label express the marker genes of that label.

    Parameters
    ----------
    result
        Annotation by any tool.
    query
        Annotated cells: AnnData, MuData, path, or opened query.
    model
        Model with markers of its reference (:func:`marker_genes`) and their expected differences.
        Without a model, only the common markers of Cell Ontology types and ``markers`` are used.
    markers
        Own marker genes of nodes of the taxonomy, in any form that `read_markers` takes; negative
        markers are not used. Pass the result to :func:`hdeepinsight.report.write` as ``evidence``.
    n_markers
        Number of genes per label from the reference.
    max_cells
        Maximum number of cells to read: up to 50 per label, and the rest at random. The matrix and
        its scale are those of ``result.input_report`` and not determined again.
    seed
        Random seed of the choice of cells.

    Returns
    -------
    MarkerEvidence
        Tables per label and gene and per label.

    Raises
    ------
    ValueError
        If the cells of query and annotation differ, a type in ``markers`` is not in the taxonomy,
        or a setting is out of range.
    TypeError
        If ``model`` is not a model, for example the name of a model.

    Notes
    -----
    Each label at each level is compared with its siblings: the cells labelled at or below it with
    the mean of its siblings; or, if no sibling has ten cells in the query, with all other cells. A
    gene supports the label if both its mean and the difference reach a quarter of those in the
    reference (without reference values: a difference of 0.05, and 2 % of the cells). A label is
    contradicted if it has two or more measured markers and fewer than half of them support it.
    These limits are our design.

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
        reference = None  # the nodes of model and annotation differ
    n_under = tree.roll_up(np.bincount(result.stop_nodes, minlength=tree.n_nodes))
    nodes = [node for node in tree.distinct_nodes if n_under[node]]
    rows = sample_cells(result.stop_nodes, max_cells, seed=seed)
    listed = _listed_markers(tree, markers)
    known = [gene for own_genes in listed.values() for gene in own_genes]
    known += [] if reference is None else list(reference.columns)
    genes = pd.Index(dict.fromkeys(known), dtype=object)
    values, is_measured = _log_values(open_cells(result, query, rows), genes)
    measured = set(genes[is_measured])
    if reference is not None:
        for node in nodes:
            best = [gene for gene, *_ in islice(_markers(tree, reference, node), 4 * n_markers)]
            for gene in [gene for gene in best if gene in measured][:n_markers]:
                listed[node][gene] = (*listed[node].get(gene, ()), "reference")
    sources = {(node, gene): found for node in nodes for gene, found in listed[node].items()}
    of, own_genes = [node for node, _ in sources], [gene for _, gene in sources]
    shown = pd.Index(dict.fromkeys(own_genes), dtype=object)
    values = values[:, genes.get_indexer(shown)]
    missing, stops = ~shown.isin(measured), result.stop_nodes[rows]
    inside = tree.node_at_level[stops][:, tree.depth[nodes] - 1] == np.array(nodes, dtype=int)
    sizes = dict(zip(nodes, inside.sum(axis=0).tolist(), strict=True))

    def averages(cells: np.ndarray) -> np.ndarray:
        """Return mean and fraction of expressing cells per group, ``(2, n_groups, n_genes)``."""
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
            "source": list(map(", ".join, sources.values())),
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
    labels["verdict"] = _verdicts(labels)
    return MarkerEvidence(
        table=table,
        labels=labels,
        means=pd.DataFrame(here[0], labels.index, shown),
        shares=pd.DataFrame(here[1], labels.index, shown),
        rows=rows,
        expression=values,
        n_cells=len(result),
    )


def _verdicts(labels: pd.DataFrame) -> np.ndarray:
    """Judge each label by its numbers of cells, of measured markers and of supporting ones."""
    few_cells, few_markers = labels["n_cells"] < MIN_CELLS, labels["n_markers"] < MIN_MARKERS
    which = [few_cells, few_markers, 2 * labels["n_supporting"] >= labels["n_markers"]]
    verdicts = ["too few cells", "too few markers", "supported"]
    return np.select(which, verdicts, "contradicted")


def _supports(table: pd.DataFrame, usual: np.ndarray) -> pd.Series:
    """Determine whether each gene supports its label; missing if this is unknown.

    Parameters
    ----------
    table
        Columns of :attr:`MarkerEvidence.table` except ``supports``.
    usual
        Mean of each gene in the reference, NaN if unknown.
    """
    reaches, ahead = table["mean"] >= _PART * usual, table["expected_difference"]
    more = table["share"] > table["other_share"]
    supports = (table["difference"] >= _DIFFERENCE) & more & (table["share"] >= _SHARE)
    supports = supports.mask(ahead >= _MARKER, reaches & (table["difference"] >= _PART * ahead))
    supports = supports.mask(table["difference"].isna(), reaches)  # no cells for comparison
    unknown = table["mean"].isna() | (table["difference"].isna() & np.isnan(usual))
    return supports.astype("boolean").mask(unknown)


def _listed_markers(
    tree: Taxonomy, markers: MarkersLike | None
) -> dict[int, dict[str, tuple[str, ...]]]:
    """Return the curated and the given marker genes of each node, each with its sources."""
    found: dict[int, dict[str, tuple[str, ...]]] = {}
    for node in range(1, tree.n_nodes):
        known = cell_type(tree.ontology_ids.get(tree.names[node], ""))
        found[node] = dict.fromkeys(() if known is None else known.markers, ("canonical",))
    if markers is not None:
        table = read_markers(markers)
        names = table["type"].unique()
        node_of = dict(zip(names, class_nodes(tree, names).tolist(), strict=True))
        for name, gene in table.loc[table["sign"] > 0, ["type", "gene"]].itertuples(index=False):
            own = found[node_of[name]]
            own[gene] = (*own.get(gene, ()), "given")
    return found


def _log_values(source: data.CountSource, genes: pd.Index) -> tuple[sp.csr_matrix, np.ndarray]:
    """Return ``log1p`` of counts per 10,000, ``(n_cells, n_genes)``, and the measured genes."""
    try:
        alignment = source.align(list(genes), min_coverage=0.0, warn_coverage=0.0)
    except ValueError:  # no gene was measured
        shape = source.n_obs, len(genes)
        return sp.csr_matrix(shape, dtype=np.float32), np.zeros(len(genes), dtype=bool)
    parts = [sp.csr_matrix((0, len(genes)), dtype=np.float32)]
    for _, block in source.blocks():
        parts.append(data.log_normalize(alignment.apply(block), totals=block.sum(axis=1)))
    return sp.csr_matrix(sp.vstack(parts)), alignment.measured


def sample_cells(nodes: np.ndarray, max_cells: int, *, seed: int = 0) -> np.ndarray:
    """Draw up to fifty cells of each label, and further cells at random.

    Parameters
    ----------
    nodes
        Node of each cell's label, shape ``(n_cells,)``.
    max_cells
        Maximum number of cells.
    seed
        Random seed.

    Returns
    -------
    numpy.ndarray
        Sorted positions of the cells.

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
    return data.draw_evenly(np.zeros(len(nodes), dtype=np.int8), max_cells, rng, first=first)


def open_cells(result: Annotation, query: Any, rows: np.ndarray) -> data.CountSource:
    """Open the counts of a subset of annotated cells without reading the other cells.

    Parameters
    ----------
    result
        Annotation, whose input report contains the matrix that was read.
    query
        Annotated cells: AnnData, MuData, path, or opened query.
    rows
        Sorted positions of the cells to read.

    Raises
    ------
    ValueError
        If the cells of query and annotation differ.
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
    if isinstance(query, data.AlignedQuery):
        check_same_cells(result.obs_names, query.obs_names.to_series(), "query")
        return query.source.take(rows)
    store = data.open_store(rna_of(query))
    check_same_cells(result.obs_names, store.obs.index.to_series(), "query")
    slot = "X" if result.input_report is None else result.input_report.layer
    matrix = store.at(slot).take(rows)
    blocks = [sp.csr_matrix(block) for _, block in matrix.blocks(4096)]
    # Counts are recovered here if the matrix contains log values.
    return data.open_counts(AnnData(sp.vstack(blocks, "csr"), var=store.genes(slot == ".raw")))
