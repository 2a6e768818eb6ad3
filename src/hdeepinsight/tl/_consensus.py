"""Pool several annotations into a consensus, and measure their agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from hdeepinsight import annotation
from hdeepinsight._errors import invalid
from hdeepinsight.annotation import Annotation, node_probabilities
from hdeepinsight.taxonomy import Taxonomy
from hdeepinsight.tl._inputs import leaf_table

Floats = NDArray[np.float64]
Nodes = NDArray[np.int64]
Source: TypeAlias = Annotation | pd.Series | pd.DataFrame


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
        node_probabilities=node_probabilities(tree, np.asarray(pooled)),
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
