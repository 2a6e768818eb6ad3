"""Annotations of other tools: read theirs, and write ours as they would."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import pandas as pd

from hdeepinsight._keys import ADDED_KEYS
from hdeepinsight.annotation._additions import check_same_cells, storable
from hdeepinsight.annotation._classes import (
    class_nodes,
    depth_of_level,
    label_nodes,
    next_above,
    node_categories,
    node_mass,
    node_names,
    node_probabilities,
    normalise_classes,
)
from hdeepinsight.annotation._decode import truncate_to_depth
from hdeepinsight.annotation._settings import from_text
from hdeepinsight.taxonomy import Taxonomy

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike

    from hdeepinsight.annotation._annotation import Annotation
    from hdeepinsight.annotation._decode import Decoder


class ForeignMixin:
    """Ways of an annotation from and to other tools."""

    @classmethod
    def from_labels(
        cls,
        labels: pd.Series,
        taxonomy: Taxonomy,
        *,
        confidence: ArrayLike | None = None,
        threshold: float = 0.5,
    ) -> Annotation:
        """Make an annotation of another tool's labels.

        Parameters
        ----------
        labels
            A label a cell, at any depth, indexed by cell. Missing values mean no label, and so do
            ``"Unknown"``, ``"Unassigned"`` and ``"Heterogeneous"`` where they are no names in the
            taxonomy.
        taxonomy
            Tree in which labels are names, synonyms or paths.
        confidence
            Probability of each label, shape ``(n_cells,)``; certain by default.
        threshold
            Labels with no more than this confidence move up to where it is exceeded.

        Returns
        -------
        An annotation in which each label has its confidence, shared equally by all types under it;
        the rest is shared by all types outside of it. ``stop_label`` is the label or one above it,
        ``"Unknown"`` without a label. The columns of the levels always go down to some type: of
        cells whose label is less likely than not, or has several types under it, they say nothing.

        Raises
        ------
        ValueError
            If a label is not in the taxonomy, or the confidence is no probability a cell, in the
            order of the labels.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> table = pd.DataFrame(
        ...     {"predicted_labels": ["CD4", "T", "Unassigned"], "conf_score": [0.9, 0.8, 0.2]},
        ...     index=["a", "b", "c"],
        ... )
        >>> result = hdi.Annotation.from_labels(
        ...     table["predicted_labels"], tree, confidence=table["conf_score"]
        ... )
        >>> result.labels["stop_label"].tolist(), result.confidence.round(2).tolist()[:2]
        (['CD4', 'T', 'Unknown'], [0.9, 0.8])
        """
        nodes = _chain_ends(taxonomy)[label_nodes(taxonomy, labels)]
        sure = _checked_confidence(confidence, labels.index)
        sure[nodes == 0] = 1.0
        inside = taxonomy.ancestor_matrix[:, nodes].T
        n_inside = inside.sum(axis=1)
        n_outside = np.maximum(taxonomy.n_leaves - n_inside, 1)
        sure[n_inside == taxonomy.n_leaves] = 1.0  # nothing is outside
        share = np.where(inside, (sure / n_inside)[:, None], ((1 - sure) / n_outside)[:, None])
        made = cast("type[Annotation]", cls)(
            taxonomy=taxonomy,
            obs_names=labels.index,
            node_probabilities=share @ taxonomy.ancestor_matrix,
            threshold=next_above(threshold),
        )
        # What speaks against a label may add up in a branch that nobody named.
        return replace(made, max_stop_depth=_shared(taxonomy, made.stop_nodes, nodes))

    @classmethod
    def from_probabilities(
        cls, table: pd.DataFrame, taxonomy: Taxonomy, *, threshold: float | None = 0.5
    ) -> Annotation:
        """Make an annotation of another tool's probabilities.

        Parameters
        ----------
        table
            A column a class, at any depth, indexed by cell, shape ``(n_cells, n_classes)``. Rows
            are divided by their sum, as for tools that judge each class by itself; classes above
            others are then left out.
        taxonomy
            Tree in which classes are names, synonyms or paths.
        threshold
            A cell's path stops at the deepest node with more than this probability; ``None`` goes
            down to the leaf.

        Raises
        ------
        ValueError
            If a class is not in the taxonomy, or values are negative or not finite.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> table = pd.DataFrame({"CD4": [0.5], "CD8": [0.4], "B": [0.1]}, index=["a"])
        >>> hdi.Annotation.from_probabilities(table, tree).labels["stop_label"].tolist()
        ['T']
        """
        classes = class_nodes(taxonomy, list(map(str, table.columns)))
        values, nodes = normalise_classes(table.to_numpy(dtype=np.float64), classes, taxonomy)
        mass = node_mass(taxonomy, values, nodes)
        return cast("type[Annotation]", cls)(
            taxonomy=taxonomy,
            obs_names=table.index,
            node_probabilities=node_probabilities(taxonomy, mass),
            threshold=next_above(threshold),
        )

    @classmethod
    def from_adata(cls, adata: AnnData, key: str = "hdi") -> Annotation:
        """Read back what :meth:`Annotation.to_adata` wrote, also from a file.

        Parameters
        ----------
        adata
            Object with an annotation.
        key
            Its ``key_added``.

        Returns
        -------
        The annotation, without reports, calibration and novelty, which stay with the model.

        Raises
        ------
        KeyError
            If there is no annotation under the key.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> cells = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))
        >>> hdi.Annotation.from_labels(pd.Series(["CD4", "B"], index=["a", "b"]), tree).to_adata(
        ...     cells
        ... )
        >>> hdi.Annotation.from_adata(cells).labels["stop_label"].tolist()
        ['CD4', 'B']
        """
        key = storable(key)
        table = adata.obsm.get(f"{key}_{ADDED_KEYS.PROBABILITIES}")
        notes, depth = adata.uns.get(key), adata.obs.get(f"{key}_{ADDED_KEYS.STOP_DEPTH}")
        # A refinement without a tree has the first two as well.
        if table is None or depth is None or "taxonomy" not in (notes or ()):
            raise KeyError(
                f"The AnnData has no annotation under {key!r}: that takes uns[{key!r}] with its "
                f"taxonomy, obsm['{key}_{ADDED_KEYS.PROBABILITIES}'] and "
                f"obs['{key}_{ADDED_KEYS.STOP_DEPTH}']. Name the key_added of Annotation.to_adata."
            )
        threshold = notes["threshold"]
        recipe = {name: from_text(str(value)) for name, value in notes["recipe"].items()}
        values = table.to_numpy()
        root = np.ones((len(values), 1), dtype=values.dtype)
        return cast("type[Annotation]", cls)(
            taxonomy=Taxonomy.from_json(str(notes["taxonomy"])),
            obs_names=adata.obs_names,
            node_probabilities=np.hstack([root, values]),
            threshold=None if isinstance(threshold, str) else float(threshold),
            decoder=cast("Decoder", str(notes["decoder"])),
            recipe=recipe,
            max_stop_depth=depth.to_numpy(),
        )

    def to_table(
        self, style: Literal["celltypist", "popv"], *, level: int | str | None = None
    ) -> pd.DataFrame:
        """Give labels and confidence in the columns that another tool writes.

        Parameters
        ----------
        style
            ``"celltypist"``: ``predicted_labels`` and ``conf_score``, with ``"Unassigned"`` for
            cells without a label. ``"popv"``: ``popv_hdeepinsight_prediction`` and
            ``popv_hdeepinsight_prediction_probabilities``, as one of its methods, with
            ``"unknown"``.
        level
            Depth or name of a level, or the leaf above it; the label where each cell stops by
            default.

        Raises
        ------
        ValueError
            If there is no such style or level.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> table = pd.DataFrame({"CD4": [0.5], "CD8": [0.4], "B": [0.1]}, index=["a"])
        >>> result = hdi.Annotation.from_probabilities(table, tree)
        >>> result.to_table("celltypist").to_dict("list")
        {'predicted_labels': ['T'], 'conf_score': [0.9]}
        """
        if style not in _STYLES:
            msg = f"style={style!r}; valid are {list(_STYLES)}. Choose one of these."
            raise ValueError(msg)
        own = cast("Annotation", self)
        label_column, confidence_column, no_label = _STYLES[style]
        nodes = own.stop_nodes
        if level is not None:
            depth = np.full(len(nodes), depth_of_level(own.taxonomy, level))
            nodes = truncate_to_depth(own.taxonomy, own.leaf_nodes, depth)
        labels = node_categories(node_names(own.taxonomy, no_label), nodes)
        share = own.node_probabilities[np.arange(len(nodes)), nodes]
        if level is None:
            share = own.confidence.to_numpy()
        columns = {label_column: labels, confidence_column: share}
        return pd.DataFrame(columns, index=own.obs_names)


#: Column of labels, column of confidence, and the word for no label.
_STYLES = {
    "celltypist": ("predicted_labels", "conf_score", "Unassigned"),
    "popv": (
        "popv_hdeepinsight_prediction",
        "popv_hdeepinsight_prediction_probabilities",
        "unknown",
    ),
}


def _chain_ends(taxonomy: Taxonomy) -> np.ndarray:
    """Node at the end of the chain of single children under each node, shape ``(n_nodes,)``.

    What is under the first is under the last too: "B" is as deep as a taxonomy has "B > B".
    """
    ends = np.arange(taxonomy.n_nodes)
    for node in np.flatnonzero(taxonomy.n_children == 1)[::-1]:  # children come after their parent
        ends[node] = ends[taxonomy.children(int(node))[0]] if node else 0
    return ends


def _shared(taxonomy: Taxonomy, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Depth down to which the paths of two nodes a cell are the same, shape ``(n_cells,)``."""
    one, other = taxonomy.node_at_level[first], taxonomy.node_at_level[second]
    return np.logical_and.accumulate((one == other) & (one >= 0), axis=1).sum(axis=1)


def _checked_confidence(confidence: ArrayLike | None, obs_names: pd.Index) -> np.ndarray:
    n_cells = len(obs_names)
    if confidence is None:
        return np.ones(n_cells)
    values = np.array(confidence, dtype=np.float64)
    if values.shape != (n_cells,) or not ((values >= 0) & (values <= 1)).all():
        msg = (
            f"Found confidence of shape {values.shape}, from {values.min(initial=np.inf):.3g} to "
            f"{values.max(initial=-np.inf):.3g}, for {n_cells} labels. Valid is one probability a "
            "label, from 0 to 1. Divide counts of agreeing methods by the number of methods."
        )
        raise ValueError(msg)
    check_same_cells(obs_names, confidence, "confidence")
    return values
