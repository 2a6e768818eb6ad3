"""Clusters vote down the tree; below where they agree the cells decide."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import MiniBatchKMeans

from hdeepinsight import annotation
from hdeepinsight._errors import check_integer, invalid, one_column
from hdeepinsight.annotation import Annotation
from hdeepinsight.tl._inputs import class_scores
from hdeepinsight.tl._representation import as_anndata, coordinates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from hdeepinsight.data import AlignedQuery
    from hdeepinsight.taxonomy import Taxonomy

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Vote:
    """Where each cluster's vote ended, and what that makes of its cells.

    Parameters
    ----------
    taxonomy
        The tree.
    obs_names
        Names of the cells, shape ``(n_cells,)``.
    clusters
        Cluster of every cell, shape ``(n_cells,)``.
    before
        Node probabilities before the vote, shape ``(n_cells, n_nodes)``.
    table
        One row per cluster: ``n_cells``, ``node`` (index), ``path`` (its name) and ``share`` (of
        the votes that went through the node).

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
    """

    taxonomy: Taxonomy
    obs_names: pd.Index
    clusters: NDArray[Any]
    before: Floats
    table: pd.DataFrame

    @cached_property
    def node_probabilities(self) -> Floats:
        """Node probabilities after the vote, ``(n_cells, n_nodes)``.

        A cell has the share of its cluster's votes at the cluster's node, and its own proportions
        inside and outside of it. Cells alone in their cluster, or whose cluster found no majority,
        keep their probabilities.
        """
        rows = self.table.loc[self.clusters]
        node, share = rows["node"].to_numpy(), rows["share"].to_numpy()
        settles = np.flatnonzero((node > 0) & (rows["n_cells"].to_numpy() > 1))
        below = self.taxonomy.ancestor_matrix
        own = self.before[np.ix_(settles, self.taxonomy.leaves)]
        leaves = _settled(own, below[:, node[settles]].T, share[settles, None])
        result = self.before.copy()
        result[settles] = leaves @ below
        return result

    @property
    def changed(self) -> pd.Series:
        """Whether the cell's most probable leaf is another one than before the vote."""
        both = (self.before, self.node_probabilities)
        old, new = (annotation.most_probable_leaf(self.taxonomy, each) for each in both)
        return pd.Series(old != new, index=self.obs_names, name="changed")

    def annotation(self, *, threshold: float | None = 0.5) -> Annotation:
        """Give the result as an annotation.

        Parameters
        ----------
        threshold
            A cell's path stops at the deepest node with more than this probability.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> cells = ad.AnnData(obs=pd.DataFrame({"cluster": list("aaabb")}, index=list("12345")))
        >>> labels = pd.Series(["CD4", "CD4", "B", "B", "B"], index=list("12345"))
        >>> result = hdi.tl.vote(cells, labels, clusters="cluster", taxonomy=tree)
        >>> result.annotation().labels["stop_label"].tolist()
        ['CD4', 'CD4', 'CD4', 'B', 'B']
        """
        return Annotation(
            taxonomy=self.taxonomy,
            obs_names=self.obs_names,
            node_probabilities=self.node_probabilities,
            threshold=annotation.next_above(threshold),
            recipe={"vote": f"{len(self.table)} clusters"},
        )

    def to_table(self) -> pd.DataFrame:
        """Give labels in the columns that CellTypist's majority voting writes.

        Returns
        -------
        Table with ``predicted_labels`` (of the cell alone), ``over_clustering``,
        ``majority_voting`` (where the cluster's vote ended, ``"Heterogeneous"`` where it found no
        majority) and ``conf_score`` (of the cell alone).

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> cells = ad.AnnData(obs=pd.DataFrame({"cluster": list("aaa")}, index=list("123")))
        >>> labels = pd.Series(["CD4", "CD4", "B"], index=list("123"))
        >>> table = hdi.tl.vote(cells, labels, clusters="cluster", taxonomy=tree).to_table()
        >>> table["predicted_labels"].tolist(), table["majority_voting"].tolist()
        (['CD4', 'CD4', 'B'], ['CD4', 'CD4', 'CD4'])
        """
        table = replace(self.annotation(), node_probabilities=self.before).to_table("celltypist")
        names = annotation.node_names(self.taxonomy, "Heterogeneous")
        voted = annotation.node_categories(names, self.table["node"].loc[self.clusters].to_numpy())
        table.insert(1, "over_clustering", pd.Categorical(self.clusters.astype(str)))
        table.insert(2, "majority_voting", voted)
        return table

    def to_adata(self, adata: AnnData, *, key_added: str = "vote", overwrite: bool = False) -> None:
        """Write the annotation, and the clusters to ``obs["<key>_cluster"]``.

        Parameters
        ----------
        adata
            Object with these cells, in this order.
        key_added, overwrite
            As in `Annotation.to_adata`.

        Raises
        ------
        ValueError
            If the cells are not the same, or a name is taken.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> cells = ad.AnnData(obs=pd.DataFrame({"cluster": list("aaa")}, index=list("123")))
        >>> labels = pd.Series(["CD4", "CD4", "B"], index=list("123"))
        >>> hdi.tl.vote(cells, labels, clusters="cluster", taxonomy=tree).to_adata(cells)
        >>> cells.obs["vote_stop_label"].tolist()
        ['CD4', 'CD4', 'CD4']
        """
        result = self.annotation()
        clusters = {"cluster": pd.Categorical(self.clusters.astype(str))}
        added = annotation.annotation_additions(result, adata, clusters)
        added.write(adata, key_added, result.to_dict(), overwrite=overwrite)

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
    key_added: str | None = None,
) -> Vote:
    """Let the cells of a cluster vote, level by level.

    From the root on, a cluster's vote moves to the child that more than ``threshold`` of all its
    cells have on their path, and stops where there is none: its cells take that node and decide by
    themselves below it.

    Parameters
    ----------
    adata
        The cells, as an AnnData or as an opened query.
    probabilities
        Scores as in `refine`, or a Series of labels at any depth.
    clusters
        Column of ``obs``, or a cluster for every cell. By default cells are over-clustered by
        k-means on ``use_rep``.
    classes, taxonomy
        As in `refine`; a taxonomy is needed unless an ``Annotation`` brings it.
    threshold
        Share of the cluster that a child must exceed, from 0.5 to 1.
    use_rep, cells_per_cluster, seed
        Of the over-clustering: coordinates, mean size of a cluster, and seed.
    key_added
        Write the result under this prefix; nothing is written by default.

    Returns
    -------
    Vote

    Raises
    ------
    KeyError
        If a key is not there.
    ValueError
        If there is no taxonomy, not one cluster per cell in their order, or the threshold is out of
        range.

    Notes
    -----
    A majority vote over an over-clustering is due to CellTypist (Domínguez Conde et al. 2022,
    doi:10.1126/science.abl5197); the descent of the tree is our decision.

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
    target = as_anndata(adata, key_added)
    if not 0.5 <= threshold < 1:
        expected = "a share >= 0.5 and < 1, which one child alone can exceed"
        raise invalid("threshold", threshold, expected, "Omit it to use 0.5.")
    scores = class_scores(adata, probabilities, classes=classes, taxonomy=taxonomy)
    if scores.taxonomy is None or scores.nodes is None:
        raise ValueError(
            "Found no taxonomy, a tree whose nodes are the classes. Pass taxonomy=, for example "
            "hdi.Taxonomy.from_nested({name: [] for name in classes})."
        )
    tree = scores.taxonomy
    if clusters is None:
        check_integer("cells_per_cluster", cells_per_cluster, hint="Omit it to use 10.")
        points = coordinates(adata, use_rep)
        n_clusters = max(1, round(len(points) / cells_per_cluster))
        model = MiniBatchKMeans(n_clusters, n_init=3, random_state=seed)
        groups = np.asarray(model.fit_predict(points).astype(str))
    else:
        if isinstance(clusters, str):
            hint = "Name a column of clusters, or omit clusters."
            clusters = one_column(adata.obs, clusters, hint=hint)
        annotation.check_same_cells(pd.Index(adata.obs_names), clusters, "clusters")
        column = pd.Series(np.asarray(clusters))
        if n_without := int(column.isna().sum()):
            raise ValueError(
                f"Found {n_without} of {len(column)} cells without a cluster, and the cells of one "
                "cluster vote together. Leave these cells out, or name a cluster for them."
            )
        groups = np.asarray(column.astype(str), dtype=str)
    mass = annotation.node_mass(tree, scores.probabilities(), scores.nodes)
    chosen = np.where(scores.values.any(axis=1), scores.nodes[scores.values.argmax(axis=1)], 0)
    found = np.unique(groups)
    rows = [_descend(tree, chosen[groups == group], threshold) for group in found]
    table = pd.DataFrame(rows, index=pd.Index(found, name="cluster"))
    result = Vote(
        taxonomy=tree,
        obs_names=pd.Index(adata.obs_names),
        clusters=groups,
        before=annotation.node_probabilities(tree, mass),
        table=table,
    )
    if target is not None:
        result.to_adata(target, key_added=str(key_added))
    return result


def _descend(taxonomy: Taxonomy, nodes: NDArray[np.int64], threshold: float) -> dict[str, Any]:
    """Return the node where the votes of one cluster end."""
    share = taxonomy.roll_up(np.bincount(nodes, minlength=taxonomy.n_nodes)) / len(nodes)
    node = 0
    while len(children := taxonomy.children(node)):
        best = children[share[children].argmax()]
        if share[best] <= threshold:
            break
        node = int(best)
    path = taxonomy.path_name(node)
    return {"n_cells": len(nodes), "node": node, "path": path, "share": float(share[node])}


def _settled(leaves: Floats, inside: NDArray[np.bool_], share: Floats) -> Floats:
    """Return leaf probabilities of cells with a share, ``(n_cells, 1)``, inside a branch."""
    settled = np.zeros_like(leaves)
    for where, total in ((inside, share), (~inside, 1.0 - share)):
        part = leaves * where
        mass = part.sum(axis=1, keepdims=True)
        equal = where / np.maximum(where.sum(axis=1, keepdims=True), 1)
        settled += total * np.where(mass > 0, part / np.where(mass > 0, mass, 1.0), equal)
    # Where nothing is outside of the branch, the branch has all of it.
    return np.asarray(settled / settled.sum(axis=1, keepdims=True))
