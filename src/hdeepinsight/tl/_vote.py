"""Combine labels: majority votes of clusters, and the consensus of several annotations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import MiniBatchKMeans

from hdeepinsight import annotation
from hdeepinsight._errors import check_integer, invalid, one_column, refuse_unused
from hdeepinsight.annotation import Annotation
from hdeepinsight.data import AlignedQuery
from hdeepinsight.taxonomy import Taxonomy
from hdeepinsight.tl._inputs import class_scores, leaf_table
from hdeepinsight.tl._representation import coordinates

Floats = NDArray[np.float64]
Nodes = NDArray[np.int64]
Source: TypeAlias = Annotation | pd.Series | pd.DataFrame


@dataclass(frozen=True, eq=False, kw_only=True)
class Vote(Annotation):
    """Annotation by the majority votes of clusters, computed by `vote`.

    Cells are labelled at the deepest node with a probability above 0.5. The node of a cluster has
    the fraction of votes as its probability. The probabilities of leaves below it, and of all other
    leaves, keep their proportions. Cells in clusters of one cell or without a majority keep their
    probabilities.

    Parameters
    ----------
    clusters
        Cluster of each cell, shape ``(n_cells,)``.
    before
        Node probabilities before the vote, shape ``(n_cells, n_nodes)``.
    table
        One row per cluster: ``n_cells``, ``node`` (index), ``path`` (its name) and ``share``
        (fraction of the cells at or below the node).

    Examples
    --------
    >>> import anndata as ad
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> cells = ad.AnnData(obs=pd.DataFrame({"cluster": list("aaabb")}, index=list("12345")))
    >>> labels = pd.Series(["CD4", "CD4", "B", "B", "B"], index=list("12345"))
    >>> result = hdi.tl.vote(cells, labels, clusters="cluster", taxonomy=tree)
    >>> result
    Vote of 2 clusters of 5 cells: 1 labels changed, 0 clusters stop above a type
    >>> result.changed.tolist()
    [False, False, True, False, False]
    >>> result.labels["stop_label"].tolist()
    ['CD4', 'CD4', 'CD4', 'B', 'B']
    """

    clusters: NDArray[Any]
    before: Floats
    table: pd.DataFrame

    @property
    def changed(self) -> pd.Series:
        """Whether the vote changed the cell's most probable leaf, bool, shape ``(n_cells,)``."""
        both = (self.before, self.node_probabilities)
        old, new = (annotation.most_probable_leaf(self.taxonomy, each) for each in both)
        return pd.Series(old != new, index=self.obs_names, name="changed")

    def to_frame(self, *, fill: bool = True, details: bool = False) -> pd.DataFrame:
        """Return the table of the annotation, and the clusters as ``"cluster"``."""
        return super().to_frame(fill=fill, details=details).assign(cluster=self.clusters)

    def to_adata(self, adata: AnnData, *, key_added: str = "vote", **how: bool) -> None:
        """Write the annotation, and the clusters as ``obs["<key>_cluster"]``.

        Parameters
        ----------
        adata
            Object with the same cells in the same order.
        key_added, **how
            As in `Annotation.to_adata`.

        Raises
        ------
        ValueError
            If the cells are not the same, or a key exists.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> cells = ad.AnnData(obs=pd.DataFrame({"cluster": list("aaabb")}, index=list("12345")))
        >>> labels = pd.Series(["CD4", "CD4", "B", "B", "B"], index=list("12345"))
        >>> hdi.tl.vote(cells, labels, clusters="cluster", taxonomy=tree).to_adata(cells)
        >>> cells.obs[["vote_cluster", "vote_stop_label"]].iloc[2].tolist()
        ['a', 'CD4']
        """
        super().to_adata(adata, key_added=key_added, **how)

    def __repr__(self) -> str:
        stopped = int((~np.isin(self.table["node"], self.taxonomy.leaves)).sum())
        return (
            f"Vote of {len(self.table)} clusters of {len(self.obs_names)} cells: "
            f"{int(self.changed.sum())} labels changed, {stopped} clusters stop above a type"
        )


def vote(
    adata: AnnData | AlignedQuery,
    probabilities: str | pd.DataFrame | pd.Series | ArrayLike | Annotation,
    *,
    clusters: str | ArrayLike | None = None,
    classes: Sequence[str] | None = None,
    taxonomy: Taxonomy | None = None,
    threshold: float = 0.5,
    use_rep: str | NDArray[np.floating] = "X_pca",
    cells_per_cluster: int = 10,
    seed: int = 0,
) -> Vote:
    """Label the cells of each cluster by a majority vote at each level of the taxonomy.

    Starting at the root, a cluster descends to the child to which more than ``threshold`` of its
    cells belong, and stops if there is no such child. Its cells are assigned to that node. Below
    it, they keep their own probabilities.

    Parameters
    ----------
    adata
        Cells, as an AnnData or as an opened query.
    probabilities
        Scores as in `refine`, or a Series of labels at any depth.
    clusters
        Column of ``obs``, or an array with the cluster of each cell. By default, cells are
        over-clustered by k-means on ``use_rep``.
    classes, taxonomy
        As in `refine`; a taxonomy is required unless ``probabilities`` is an ``Annotation``.
    threshold
        Fraction of the cluster that a child must exceed, from 0.5 to 1.
    use_rep, cells_per_cluster, seed
        Coordinates, mean cluster size and random seed of the over-clustering.

    Returns
    -------
    Vote
        Node of each cluster and probabilities of the cells.

    Raises
    ------
    KeyError
        If a key does not exist.
    ValueError
        If there is no taxonomy, clusters do not match the cells in the same order, or the threshold
        is out of range.

    Notes
    -----
    Majority voting over an over-clustering is due to CellTypist (Domínguez Conde et al. 2022,
    doi:10.1126/science.abl5197); the descent along the tree is our design.

    Examples
    --------
    >>> import anndata as ad
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> cells = ad.AnnData(obs=pd.DataFrame({"cluster": list("aaaa")}, index=list("1234")))
    >>> labels = pd.Series(["CD4", "CD4", "CD8", "B"], index=list("1234"))
    >>> result = hdi.tl.vote(cells, labels, clusters="cluster", taxonomy=tree)
    >>> result.table.reset_index().values.tolist()
    [['a', 4, 1, 'T', 0.75]]
    """
    if not 0.5 <= threshold < 1:
        expected = "a fraction >= 0.5 and < 1, so that a single child can exceed it"
        raise invalid("threshold", threshold, expected, "Omit it to use 0.5.")
    scores = class_scores(adata, probabilities, classes=classes, taxonomy=taxonomy)
    if scores.taxonomy is None or scores.nodes is None:
        hint = "Pass taxonomy=, such as hdi.Taxonomy.from_nested({name: [] for name in classes})."
        raise ValueError(f"Classes must be nodes of a taxonomy, got no taxonomy. {hint}")
    tree = scores.taxonomy
    if clusters is None:
        check_integer("cells_per_cluster", cells_per_cluster, hint="Omit it to use 10.")
        points = coordinates(adata, use_rep)
        n_clusters = max(1, round(len(points) / cells_per_cluster))
        model = MiniBatchKMeans(n_clusters, n_init=3, random_state=seed)
        groups = np.asarray(model.fit_predict(points).astype(str))
    else:
        others = {"use_rep": str(use_rep) != "X_pca", "cells_per_cluster": cells_per_cluster != 10}
        refuse_unused({**others, "seed": seed != 0}, "with clusters")
        if isinstance(clusters, str):
            hint = "Pass the name of a column of clusters, or omit clusters."
            clusters = one_column(adata.obs, clusters, hint=hint)
        annotation.check_same_cells(pd.Index(adata.obs_names), clusters, "clusters")
        column = pd.Series(np.asarray(clusters))
        if n_without := int(column.isna().sum()):
            missing = f"{n_without} of {len(column)} cells without a cluster"
            hint = "Remove these cells, or assign them to a cluster."
            raise ValueError(f"Each cell must have a cluster, got {missing}. {hint}")
        groups = np.asarray(column.astype(str), dtype=str)
    mass = annotation.node_mass(tree, scores.probabilities(), scores.nodes)
    chosen = np.where(scores.values.any(axis=1), scores.nodes[scores.values.argmax(axis=1)], 0)
    counts = pd.crosstab(groups, chosen, rownames=["cluster"])
    sums = tree.roll_up(counts.reindex(columns=range(tree.n_nodes), fill_value=0).to_numpy())
    shares = sums / sums[:, :1]
    node = annotation.decode(tree, shares, threshold=annotation.next_above(threshold)).stop
    share = shares[np.arange(len(node)), node]
    columns = {"n_cells": sums[:, 0], "node": node, "path": list(map(tree.path_name, node))}
    table = pd.DataFrame(columns, index=counts.index).assign(share=share)
    before = annotation.node_probabilities(tree, mass)
    return Vote(
        taxonomy=tree,
        obs_names=pd.Index(adata.obs_names),
        node_probabilities=_voted(tree, before, table.loc[groups]),
        threshold=annotation.next_above(0.5),
        recipe={"vote": f"{len(table)} clusters"},
        clusters=groups,
        before=before,
        table=table,
    )


def _voted(taxonomy: Taxonomy, before: Floats, rows: pd.DataFrame) -> Floats:
    """Return node probabilities after the vote, given the row of the table for each cell."""
    node, share = rows["node"].to_numpy(), rows["share"].to_numpy()
    voted = np.flatnonzero((node > 0) & (rows["n_cells"].to_numpy() > 1))
    below = taxonomy.ancestor_matrix
    own = before[np.ix_(voted, taxonomy.leaves)]
    inside, leaves = below[:, node[voted]].T, np.zeros_like(own)
    for branch, total in ((inside, share[voted, None]), (~inside, 1.0 - share[voted, None])):
        part = own * branch
        mass = part.sum(axis=1, keepdims=True)
        equal = branch / np.maximum(branch.sum(axis=1, keepdims=True), 1)
        leaves += total * np.where(mass > 0, part / np.where(mass > 0, mass, 1.0), equal)
    result = before.copy()
    # Normalise, since the branch may contain all leaves although its share is below 1.
    result[voted] = (leaves / leaves.sum(axis=1, keepdims=True)) @ below
    return result


@dataclass(frozen=True, eq=False, kw_only=True)
class Consensus(Annotation):
    """Annotation by the pooled probabilities of several annotations, computed by `consensus`.

    Parameters
    ----------
    weights
        Weights of the annotations, which sum to 1.
    nodes
        Node assigned by each annotation, 0 for none; shape ``(n_cells, n_annotations)``.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> one = pd.Series(["CD4", "B"], index=["a", "b"])
    >>> other = pd.Series(["CD8", "B"], index=["a", "b"])
    >>> result = hdi.tl.consensus(one, other, taxonomy=tree)
    >>> result
    Consensus of 2 annotations: mean agreement level_1 100.0%, level_2 50.0%
    >>> result.labels["stop_label"].tolist()
    ['T', 'B']
    """

    weights: Floats
    nodes: Nodes

    @cached_property
    def agreement(self) -> pd.DataFrame:
        """Weighted fraction of annotations that agree with the pooled label, per cell and level.

        Annotations that do not reach a level are ignored; missing if none does.
        """
        table = self.taxonomy.node_at_level
        pooled, own = table[self.leaf_nodes], table[self.nodes]
        weight = self.weights[None, :, None] * (own >= 0)
        agreed = (weight * (own == pooled[:, None, :])).sum(axis=1)
        total = weight.sum(axis=1)
        share = np.divide(agreed, total, out=np.full(agreed.shape, np.nan), where=total > 0)
        return pd.DataFrame(share, index=self.obs_names, columns=list(self.taxonomy.level_names))

    def to_frame(self, *, fill: bool = True, details: bool = False) -> pd.DataFrame:
        """Return the table of the annotation, and the agreement as ``"agreement_<level>"``."""
        table = super().to_frame(fill=fill, details=details)
        return table.join(self.agreement.add_prefix("agreement_"))

    def to_adata(self, adata: AnnData, *, key_added: str = "consensus", **how: bool) -> None:
        """Write the annotation, and the agreement as ``obs["<key>_agreement_<level>"]``.

        Parameters
        ----------
        adata
            Object with the same cells in the same order.
        key_added, **how
            As in `Annotation.to_adata`.

        Raises
        ------
        ValueError
            If the cells are not the same, or a key exists.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> cells = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))
        >>> one = pd.Series(["CD4", "B"], index=["a", "b"])
        >>> other = pd.Series(["CD8", "B"], index=["a", "b"])
        >>> hdi.tl.consensus(one, other, taxonomy=tree).to_adata(cells)
        >>> (
        ...     cells.obs["consensus_stop_label"].tolist(),
        ...     cells.obs["consensus_agreement_level_2"].tolist(),
        ... )
        (['T', 'B'], [0.5, nan])
        """
        super().to_adata(adata, key_added=key_added, **how)

    def __repr__(self) -> str:
        mean = ", ".join(f"{name} {value:.1%}" for name, value in self.agreement.mean().items())
        return f"Consensus of {self.nodes.shape[1]} annotations: mean agreement {mean}"


def consensus(
    *annotations: Source,
    taxonomy: Taxonomy | None = None,
    weights: Sequence[float] | None = None,
    threshold: float | None = 0.5,
) -> Consensus:
    """Pool several annotations of the same cells.

    Parameters
    ----------
    annotations
        Each an ``Annotation``, a Series of labels (at any depth; missing labels, "Unknown" and
        similar words of other tools are ignored), or a table of class probabilities. The index
        contains the names of the cells. Labels and columns are resolved by the taxonomy.
    taxonomy
        Taxonomy of all labels; by default that of the first ``Annotation``.
    weights
        One non-negative weight per annotation; equal by default.
    threshold
        Cells are labelled at the deepest node with a pooled probability above this threshold.

    Returns
    -------
    Consensus
        Pooled probabilities and agreement.

    Raises
    ------
    ValueError
        If there is no taxonomy, cells differ, weights do not fit, or the
        threshold is below 0.5.
    TypeError
        If an annotation is of another type.

    Notes
    -----
    Probabilities are pooled linearly within each sibling group: the probability of a parent is
    divided among its children in proportion to the weighted sum of the mass that the annotations
    assign to each child. An annotation that ends at the parent does not affect this division. If
    all annotations reach the leaves, the result is the weighted mean of their probabilities.
    Source: our design.

    Examples
    --------
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> one = pd.Series(["CD4", "B"], index=["a", "b"])
    >>> other = pd.Series(["T", "B"], index=["a", "b"])
    >>> third = pd.Series(["B", None], index=["a", "b"])
    >>> result = hdi.tl.consensus(one, other, third, taxonomy=tree)
    >>> result.labels["stop_label"].tolist()
    ['CD4', 'B']
    >>> result.agreement.round(2).values.tolist()
    [[0.67, 1.0], [1.0, nan]]
    """
    annotation.check_decoding(threshold)
    if not annotations:
        raise ValueError("consensus needs at least one annotation, got none. Pass one or more.")
    for each in annotations:
        if not isinstance(each, (Annotation, pd.Series, pd.DataFrame)):
            forms = "an Annotation, a Series of labels or a DataFrame of probabilities"
            hint = "Pass one of these, with names of cells as index."
            raise TypeError(f"annotations must be {forms}, got a {type(each).__name__}. {hint}")
    trees = [each.taxonomy for each in annotations if isinstance(each, Annotation)]
    tree = taxonomy or next(iter(trees), None)
    if tree is None:
        raise ValueError("Labels must belong to a taxonomy, got none. Pass taxonomy=.")
    obs_names, n = _names_of(annotations[0]), len(annotations)
    given = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    valid = given.shape == (n,) and np.isfinite(given).all() and (given >= 0).all()
    if not valid or given.sum() == 0:
        expected = f"{n} numbers >= 0, one per annotation and not all 0"
        raise invalid("weights", given.tolist(), expected, "Correct them, or omit them.")
    read = [_read_source(each, obs_names, tree) for each in annotations]
    share = given / given.sum()
    pooled = sum(weight * mass for weight, (mass, _) in zip(share, read, strict=True))
    return Consensus(
        taxonomy=tree,
        obs_names=obs_names,
        weights=share,
        node_probabilities=annotation.node_probabilities(tree, np.asarray(pooled)),
        nodes=np.column_stack([nodes for _, nodes in read]),
        threshold=annotation.next_above(threshold),
        recipe={"consensus": share.tolist()},
    )


def _names_of(source: Source) -> pd.Index:
    """Return the names of the cells of an annotation, a Series or a table."""
    return pd.Index(source.obs_names if isinstance(source, Annotation) else source.index)


def _read_source(source: Source, obs_names: pd.Index, taxonomy: Taxonomy) -> tuple[Floats, Nodes]:
    """Return the mass at or below each node, ``(n_cells, n_nodes)``, and the node of each cell."""
    found = _names_of(source)
    order = found.get_indexer(obs_names) if found.is_unique else np.full(len(obs_names), -1)
    if len(found) != len(obs_names) or (order < 0).any():
        n_shared = int((order >= 0).sum())
        raise ValueError(
            f"All annotations must have the same cells with unique names, got {len(obs_names)} and "
            f"{len(found)} cells, {n_shared} of them shared. Select the shared cells."
        )
    if isinstance(source, pd.Series):
        nodes = annotation.label_nodes(taxonomy, source.iloc[order])
        values, columns = np.eye(taxonomy.n_nodes)[nodes], np.arange(taxonomy.n_nodes)
        values[:, 0] = 0.0  # unlabelled cells have no mass
        return annotation.node_mass(taxonomy, values, columns), nodes
    table = leaf_table(source) if isinstance(source, Annotation) else source
    values = table.to_numpy(dtype=np.float64)[order]
    classes = annotation.class_nodes(taxonomy, list(map(str, table.columns)))
    values, nodes = annotation.normalise_classes(values, classes, taxonomy)
    if isinstance(source, Annotation):  # its most probable leaves are already known
        leaf = np.searchsorted(source.taxonomy.leaves, source.leaf_nodes[order])
        return annotation.node_mass(taxonomy, values, nodes), classes[leaf]
    chosen = np.where(values.any(axis=1), nodes[values.argmax(axis=1)], 0)
    return annotation.node_mass(taxonomy, values, nodes), chosen
