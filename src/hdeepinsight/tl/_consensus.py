"""One annotation from several, and how far they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from hdeepinsight import annotation
from hdeepinsight._keys import UNKNOWN_TERM
from hdeepinsight.annotation import Annotation, node_probabilities
from hdeepinsight.tl._inputs import leaf_table

if TYPE_CHECKING:
    from anndata import AnnData

    from hdeepinsight.taxonomy import Taxonomy

Floats = NDArray[np.float64]
Nodes = NDArray[np.int64]
Source: TypeAlias = Annotation | pd.Series | pd.DataFrame


@dataclass(frozen=True, eq=False, kw_only=True)
class Consensus:
    """What several annotations say together.

    Parameters
    ----------
    taxonomy
        The tree.
    obs_names
        Names of the cells, shape ``(n_cells,)``.
    names
        Names of the annotations.
    weights
        Their weights, sum 1.
    node_probabilities
        Pooled probability of every node, shape ``(n_cells, n_nodes)``.
    nodes
        Node that each annotation gives each cell, 0 for none; ``(n_cells, n_annotations)``.
    threshold
        A cell's path stops at the deepest node with more than this pooled probability.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> one = pd.Series(["CD4", "B"], index=["a", "b"], name="one")
    >>> other = pd.Series(["CD8", "B"], index=["a", "b"], name="other")
    >>> result = hdi.tl.consensus(one, other, taxonomy=tree)
    >>> result
    Consensus of one, other: mean agreement level_1 100.0%, level_2 50.0%
    >>> result.pairs["agreement"].tolist()
    [1.0, 0.0]
    """

    taxonomy: Taxonomy
    obs_names: pd.Index
    names: tuple[str, ...]
    weights: Floats
    node_probabilities: Floats
    nodes: Nodes
    threshold: float | None = 0.5

    def annotation(self) -> Annotation:
        """Give the pooled probabilities as an annotation.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> one = pd.Series(["CD4", "B"], index=["a", "b"])
        >>> other = pd.Series(["CD8", "B"], index=["a", "b"])
        >>> result = hdi.tl.consensus(one, other, taxonomy=tree)
        >>> result.annotation().labels["stop_label"].tolist()
        ['T', 'B']
        """
        return Annotation(
            taxonomy=self.taxonomy,
            obs_names=self.obs_names,
            node_probabilities=self.node_probabilities,
            threshold=annotation.next_above(self.threshold),
            recipe={"consensus": dict(zip(self.names, self.weights.tolist(), strict=True))},
        )

    @cached_property
    def labels(self) -> pd.DataFrame:
        """Pooled labels, one column a level and then ``stop_label``."""
        return self.annotation().labels

    @cached_property
    def agreement(self) -> pd.DataFrame:
        """Share of the weight that agrees with the pooled label, a row a cell, a column a level.

        Only annotations that reach the level count; missing where none does.
        """
        table = self.taxonomy.node_at_level
        pooled, own = table[self.annotation().leaf_nodes], table[self.nodes]
        speaks = own >= 0
        weight = self.weights[None, :, None] * speaks
        agreed = (weight * (own == pooled[:, None, :])).sum(axis=1)
        total = weight.sum(axis=1)
        share = np.divide(agreed, total, out=np.full(agreed.shape, np.nan), where=total > 0)
        return pd.DataFrame(share, index=self.obs_names, columns=list(self.taxonomy.level_names))

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Agreement of every pair at every level, as ``n_cells``, ``agreement``, Cohen's ``kappa``.

        Cells count where both reach the level. Kappa is missing where there is no cell, or where
        both give one and the same label throughout.
        """
        table, rows = self.taxonomy.node_at_level[self.nodes], {}
        for (one, first), (other, second) in combinations(enumerate(self.names), 2):
            for level, name in enumerate(self.taxonomy.level_names):
                both = table[:, [one, other], level]
                both = both[(both >= 0).all(axis=1)]
                (a, b), varied = both.T, len(np.unique(both)) > 1
                # Kappa divides by the disagreement expected by chance, 0 for a single label.
                rows[first, second, name] = {
                    "n_cells": len(a),
                    "agreement": float((a == b).mean()) if len(a) else np.nan,
                    "kappa": float(cohen_kappa_score(a, b)) if varied else np.nan,
                }
        index = pd.MultiIndex.from_tuples(rows, names=["first", "second", "level"])
        columns = ["n_cells", "agreement", "kappa"]
        return pd.DataFrame(list(rows.values()), index, columns)

    def to_table(self) -> pd.DataFrame:
        """Give labels and agreement in the columns that popV writes.

        Returns
        -------
        Table with ``popv_<name>_prediction`` of every annotation, ``popv_majority_vote_prediction``
        (their most frequent label, the first in the taxonomy where several are) and
        ``popv_majority_vote_score`` (how many have it), ``popv_prediction`` (the pooled label) and
        ``popv_prediction_score`` (how many annotations are at or under it). ``"unknown"`` is no
        label.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> one = pd.Series(["CD4", "B"], index=["a", "b"], name="one")
        >>> other = pd.Series(["CD8", "B"], index=["a", "b"], name="other")
        >>> table = hdi.tl.consensus(one, other, taxonomy=tree).to_table()
        >>> table["popv_prediction"].tolist(), table["popv_prediction_score"].tolist()
        (['T', 'B'], [2, 2])
        """
        names = annotation.node_names(self.taxonomy, UNKNOWN_TERM)
        ordered = np.sort(self.nodes, axis=1)
        same = (ordered[:, :, None] == ordered[:, None, :]).sum(axis=2) * (ordered > 0)
        rows, first = np.arange(len(ordered)), same.argmax(axis=1)
        majority = np.where(same.any(axis=1), ordered[rows, first], 0)
        stop = self.annotation().stop_nodes
        level = self.taxonomy.depth[stop].clip(1) - 1
        under = self.taxonomy.node_at_level[self.nodes, level[:, None]] == stop[:, None]
        columns = {
            f"popv_{name}_prediction": annotation.node_categories(names, nodes)
            for name, nodes in zip(self.names, self.nodes.T, strict=True)
        }
        return pd.DataFrame(
            {
                **columns,
                "popv_majority_vote_prediction": annotation.node_categories(names, majority),
                "popv_majority_vote_score": same[rows, first],
                "popv_prediction": annotation.node_categories(names, stop),
                "popv_prediction_score": under.sum(axis=1),
            },
            index=self.obs_names,
        )

    def to_adata(
        self, adata: AnnData, *, key_added: str = "consensus", overwrite: bool = False
    ) -> None:
        """Write the annotation, and agreement to ``obs["<key>_agreement_<level>"]``.

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
        result = self.annotation()
        agreement = {f"agreement_{level}": each.array for level, each in self.agreement.items()}
        added = annotation.annotation_additions(result, adata, agreement)
        added.write(adata, key_added, result.to_dict(), overwrite=overwrite)

    def __repr__(self) -> str:
        mean = ", ".join(f"{name} {value:.1%}" for name, value in self.agreement.mean().items())
        return f"Consensus of {', '.join(self.names)}: mean agreement {mean}"


def consensus(
    *annotations: Source,
    taxonomy: Taxonomy | None = None,
    weights: Sequence[float] | None = None,
    names: Sequence[str] | None = None,
    threshold: float | None = 0.5,
) -> Consensus:
    """Pool several annotations of the same cells.

    Parameters
    ----------
    annotations
        Each an ``Annotation``, a Series of labels (any depth; missing ones say nothing, nor do
        "Unknown" and other tools' words for it), or a table of class probabilities; with names of
        cells as index. Names of labels and columns are resolved by the taxonomy.
    taxonomy
        The tree; by default that of the first ``Annotation``.
    weights
        One weight per annotation, not negative; equal by default.
    names
        Names of the annotations; ``annotation_1``, ... by default, a Series' own name first.
    threshold
        A cell's path stops at the deepest node with more than this pooled probability.

    Returns
    -------
    Consensus

    Raises
    ------
    ValueError
        If there is no taxonomy, cells differ, names are unknown, weights do not fit, or the
        threshold is below 0.5.
    TypeError
        If something else than these kinds is passed.

    Notes
    -----
    The pool is linear, taken in each sibling group of the tree: a parent's probability is shared
    among its children by the weighted sum of the mass that annotations put below it. One that
    stops at the parent says nothing about the children, and does not blur them; where all go down
    to the leaves this is the weighted mean of their probabilities. Source: our decision.

    Examples
    --------
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> one = pd.Series(["CD4", "B"], index=["a", "b"], name="one")
    >>> other = pd.Series(["T", "B"], index=["a", "b"], name="other")
    >>> third = pd.Series(["B", None], index=["a", "b"], name="third")
    >>> result = hdi.tl.consensus(one, other, third, taxonomy=tree)
    >>> result.labels["stop_label"].tolist()
    ['CD4', 'B']
    >>> result.agreement.round(2).values.tolist()
    [[0.67, 1.0], [1.0, nan]]
    """
    annotation.check_decoding(threshold)
    if not annotations:
        raise ValueError("Found no annotation. Pass those to be pooled, at least one.")
    for each in annotations:
        if not isinstance(each, (Annotation, pd.Series, pd.DataFrame)):
            raise TypeError(
                f"Found a {type(each).__name__}. Pass an Annotation, a Series of labels or a "
                "DataFrame of probabilities, with names of cells as index."
            )
    tree = taxonomy or next(
        (each.taxonomy for each in annotations if isinstance(each, Annotation)), None
    )
    if tree is None:
        raise ValueError("Found no taxonomy, the tree that all names belong to. Pass taxonomy=.")
    obs_names = _names_of(annotations[0])
    share = _weights(weights, len(annotations))
    read = [_read_source(each, obs_names, tree) for each in annotations]
    pooled = sum(weight * mass for weight, (mass, _) in zip(share, read, strict=True))
    return Consensus(
        taxonomy=tree,
        obs_names=obs_names,
        names=_titles(annotations, names),
        weights=share,
        node_probabilities=node_probabilities(tree, np.asarray(pooled)),
        nodes=np.column_stack([nodes for _, nodes in read]),
        threshold=threshold,
    )


def _names_of(source: Source) -> pd.Index:
    """Return the names of the cells of an annotation of any kind."""
    return pd.Index(source.obs_names if isinstance(source, Annotation) else source.index)


def _read_source(source: Source, obs_names: pd.Index, taxonomy: Taxonomy) -> tuple[Floats, Nodes]:
    """Return the mass at or below every node, ``(n_cells, n_nodes)``, and each cell's own node."""
    found = _names_of(source)
    order = found.get_indexer(obs_names) if found.is_unique else np.full(len(obs_names), -1)
    if len(found) != len(obs_names) or (order < 0).any():
        raise ValueError(
            f"Found annotations of {len(obs_names)} and of {len(found)} cells, of which "
            f"{int((order >= 0).sum())} are shared. They must be of the same cells, each named "
            "once. Select the cells that all have."
        )
    if isinstance(source, pd.Series):
        nodes = annotation.label_nodes(taxonomy, source.iloc[order])
        values, columns = np.eye(taxonomy.n_nodes)[nodes], np.arange(taxonomy.n_nodes)
        values[:, 0] = 0.0  # a cell without a label says nothing
        return annotation.node_mass(taxonomy, values, columns), nodes
    table = leaf_table(source) if isinstance(source, Annotation) else source
    values = table.to_numpy(dtype=np.float64)[order]
    classes = annotation.class_nodes(taxonomy, list(map(str, table.columns)))
    values, nodes = annotation.normalise_classes(values, classes, taxonomy)
    if isinstance(source, Annotation):  # it decoded its own leaves
        leaf = np.searchsorted(source.taxonomy.leaves, source.leaf_nodes[order])
        return annotation.node_mass(taxonomy, values, nodes), classes[leaf]
    chosen = np.where(values.any(axis=1), nodes[values.argmax(axis=1)], 0)
    return annotation.node_mass(taxonomy, values, nodes), chosen


def _weights(weights: Sequence[float] | None, n_annotations: int) -> Floats:
    given = np.ones(n_annotations) if weights is None else np.asarray(weights, dtype=np.float64)
    proper = given.shape == (n_annotations,) and np.isfinite(given).all() and (given >= 0).all()
    if not proper or given.sum() == 0:
        raise ValueError(
            f"Found the weights {given.tolist()} for {n_annotations} annotations. There must be "
            "one number >= 0 for each, not all 0. Correct them, or omit them."
        )
    return np.asarray(given / given.sum())


def _titles(annotations: Sequence[Source], names: Sequence[str] | None) -> tuple[str, ...]:
    if names is None:
        names = [
            str(each.name) if isinstance(each, pd.Series) and each.name else f"annotation_{i}"
            for i, each in enumerate(annotations, start=1)
        ]
        if len(set(names)) < len(names):
            names = [f"annotation_{i}" for i in range(1, len(annotations) + 1)]
    if len(names) != len(annotations) or len(set(names)) < len(names):
        raise ValueError(
            f"Found the names {list(names)} for {len(annotations)} annotations. Each must have a "
            "name of its own. Correct them, or omit them."
        )
    return tuple(names)
