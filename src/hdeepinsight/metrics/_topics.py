"""Evaluate topics from the loadings of any model (topic models, linear decoders, NMF)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.stats import false_discovery_control, hypergeom
from sklearn.preprocessing import normalize

from hdeepinsight._errors import check_integer, invalid


class TopicEnrichment(NamedTuple):
    """Result of `topic_enrichment`: gene sets enriched in the top genes of topics.

    Parameters
    ----------
    table
        One row per topic and set: ``topic`` (position), ``gene_set``, ``overlap``, ``p_adjusted``.
    n_hits
        Number of significant pairs of topic and set.
    n_sets
        Number of distinct sets among them.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.metrics.TopicEnrichment(None, n_hits=4, n_sets=3).uniqueness
    0.75
    """

    table: pd.DataFrame
    n_hits: int
    n_sets: int

    @property
    def uniqueness(self) -> float:
        """Number of distinct sets per hit; 0 without hits."""
        return self.n_sets / max(self.n_hits, 1)


def topic_coherence(
    loadings: ArrayLike,
    genes: Sequence[str],
    gene_sets: Mapping[str, Iterable[str]],
    *,
    n_top: int = 10,
) -> float:
    """Compute the mean co-occurrence of the top genes of each topic.

    Parameters
    ----------
    loadings
        Weights of genes in topics, shape ``(n_topics, n_genes)``.
    genes
        Names of the genes.
    gene_sets
        Documents: gene sets by name, or cells with their detected genes.
    n_top
        Number of top genes per topic.

    Returns
    -------
    float
        Mean normalised pointwise mutual information over pairs of top genes, from -1 to 1. Pairs
        without common documents count as 0.

    Raises
    ------
    ValueError
        If shapes do not match, or no document contains any of these genes.

    References
    ----------
    Lau, Newman and Baldwin, Machine reading tea leaves, EACL 2014.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> loadings = [[9, 8, 0, 0], [0, 0, 9, 8]]
    >>> sets = {"T": ["CD3D", "CD3E"], "B": ["CD79A", "MS4A1"]}
    >>> genes = ["CD3D", "CD3E", "CD79A", "MS4A1"]
    >>> hdi.metrics.topic_coherence(loadings, genes, sets, n_top=2)
    1.0
    """
    top = _top(loadings, len(genes), n_top)
    used = np.unique(top)
    column = {genes[gene]: place for place, gene in enumerate(used)}
    documents = np.zeros((len(gene_sets), len(used)), dtype=np.float32)
    for row, members in enumerate(gene_sets.values()):
        documents[row, [column[gene] for gene in members if gene in column]] = 1
    if not documents.any():
        found = f"{len(gene_sets):,} sets without any of them"
        hint = "Use the same gene names."
        raise invalid("gene_sets", found, "sets that contain top genes of the topics", hint)
    together = (documents.T @ documents).astype(np.float64) / len(documents)
    alone = together.diagonal()
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(together / np.outer(alone, alone)) / -np.log(together)
    information = np.where((together > 0) & (together < 1), information, 0.0)
    rows, columns = np.triu_indices(n_top, k=1)
    places = np.searchsorted(used, top)
    return float(information[places[:, rows], places[:, columns]].mean())


def topic_diversity(loadings: ArrayLike, *, n_top: int = 10) -> float:
    """Compute the fraction of top genes that are top genes of a single topic.

    Parameters
    ----------
    loadings
        Weights of genes in topics, shape ``(n_topics, n_genes)``.
    n_top
        Number of top genes per topic.

    Returns
    -------
    float
        From 0 (all topics have the same top genes) to 1 (no top gene is shared).

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.metrics.topic_diversity([[3, 2, 1], [0, 2, 3]], n_top=2)
    0.5
    """
    top = _top(loadings, np.asarray(loadings).shape[-1], n_top)
    return float((np.unique(top, return_counts=True)[1] == 1).sum() / top.size)


def topic_enrichment(
    loadings: ArrayLike,
    genes: Sequence[str],
    gene_sets: Mapping[str, Iterable[str]],
    *,
    n_top: int = 10,
    fdr: float = 0.01,
) -> TopicEnrichment:
    """Test gene sets for over-representation among the top genes of each topic.

    Parameters
    ----------
    loadings
        Weights of genes in topics, shape ``(n_topics, n_genes)``.
    genes
        Names of the genes, which are also the background.
    gene_sets
        Genes of each set by its name.
    n_top
        Number of top genes per topic.
    fdr
        Threshold of the false discovery rate (Benjamini and Hochberg, over the sets of a topic).

    Returns
    -------
    TopicEnrichment
        Table of all tests, and numbers of significant ones.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> loadings, genes = [[9, 8] + [0] * 98], [f"G{i}" for i in range(100)]
    >>> found = hdi.metrics.topic_enrichment(loadings, genes, {"A": ["G0", "G1"]}, n_top=2)
    >>> found.n_hits, found.table["overlap"].tolist()
    (1, [2])
    """
    top = _top(loadings, len(genes), n_top)
    names, known = list(gene_sets), pd.Index(genes)
    members = np.stack([known.isin(list(gene_sets[name])) for name in names])
    overlap = members[:, top].sum(axis=2).T
    p = hypergeom.sf(overlap - 1, len(genes), members.sum(axis=1), n_top)
    adjusted = false_discovery_control(p, axis=1)
    table = pd.DataFrame(
        {
            "topic": np.repeat(np.arange(len(top)), len(names)),
            "gene_set": np.tile(names, len(top)),
            "overlap": overlap.ravel(),
            "p_adjusted": adjusted.ravel(),
        }
    )
    hits = table[table["p_adjusted"] <= fdr]
    return TopicEnrichment(table, len(hits), hits["gene_set"].nunique())


def topic_stability(loadings: Sequence[ArrayLike]) -> float:
    """Compute the similarity of the topics of several runs.

    Parameters
    ----------
    loadings
        Loadings of at least two runs, each of shape ``(n_topics, n_genes)``.

    Returns
    -------
    float
        Mean cosine similarity of topics matched one to one, over all pairs of runs.

    Raises
    ------
    ValueError
        If there is one run only, or the runs have different shapes.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.metrics.topic_stability([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 2.0], [2.0, 0.0]]])
    1.0
    """
    runs = [np.asarray(run, dtype=np.float64) for run in loadings]
    if len(runs) < 2 or len({run.shape for run in runs}) > 1:
        shapes = [run.shape for run in runs]
        raise invalid("loadings", shapes, "at least two tables of one shape", "Fix n_topics.")
    runs = [normalize(run) for run in runs]
    cosines = [one @ other.T for one, other in combinations(runs, 2)]
    return float(np.mean([each[linear_sum_assignment(-each)].mean() for each in cosines]))


def _top(loadings: ArrayLike, n_genes: int, n_top: int) -> np.ndarray:
    """Return the genes with the largest weights, shape ``(n_topics, n_top)``."""
    table = np.asarray(loadings)
    check_integer("n_top", n_top, 2)
    if table.ndim != 2 or table.shape[1] != n_genes or n_top > n_genes:
        expected = f"a table of {n_genes:,} genes per topic, at least {n_top}"
        raise invalid("loadings", f"shape {table.shape}", expected, "Pass one row per topic.")
    return np.argsort(-table, axis=1, kind="stable")[:, :n_top]
