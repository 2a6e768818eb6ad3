"""Store the probabilities of an annotation, and derive labels, label sets and tables from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike

from hdeepinsight._errors import check_choice, check_number, counted, invalid
from hdeepinsight._io import atomic_write
from hdeepinsight._keys import ADDED_KEYS, LABEL_COLUMNS, ONTOLOGY_KEY, ONTOLOGY_NAME, UNKNOWN_TERM
from hdeepinsight._palette import MISSING, tree_colors
from hdeepinsight.annotation import _decode, _external
from hdeepinsight.annotation._anndata_io import Additions, check_cells, from_text, storable, to_text
from hdeepinsight.annotation._conformal import Calibration, label_sets
from hdeepinsight.annotation._verdict import NO_COUNTS, Decision, Verdict
from hdeepinsight.data import GeneReport, InputReport
from hdeepinsight.taxonomy import Taxonomy, cell_type, shared_depth

#: Columns of ``novelty`` that are always exported, and those exported with details.
NOVELTY_COLUMNS = ("lineage_p_value", "type_p_value", "is_doublet", "is_ambient")
NOVELTY_DETAILS = ("doublet_score", "ambient_score")
#: Arrays with one value per cell.
PER_CELL = ("disagreement", "supported_depth", "stop_reasons")
#: Stop reason if no child reaches the threshold.
IMPROBABLE = "no child type reaches the threshold"


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotation:
    """Labels at all levels of a taxonomy, with confidence, calibration and novelty.

    It is immutable; :meth:`to_adata` and :meth:`to_csv` write it.

    Parameters
    ----------
    taxonomy
        Tree of cell types.
    obs_names
        Names of the cells, shape ``(n_cells,)``.
    node_probabilities
        Probability of each node, shape ``(n_cells, n_nodes)``; 1 for the root.
    threshold
        Cells are labelled with the deepest node that has at least this probability; ``None``
        labels them with a leaf.
    decoder
        ``"joint"`` (most probable leaf) or ``"greedy"`` (most probable child, level by level).
    input_report
        Report on the query's matrix.
    gene_report
        Report on how its genes match those of the model.
    recipe
        Settings with which the probabilities were computed, in plain types.
    calibration
        Scores of labelled cells for :meth:`label_sets`, under the same probability model.
    novelty
        Novelty of each cell with respect to the reference, one row per cell: ``lineage_p_value``,
        ``type_p_value``, ``is_doublet``, ``is_ambient``, and the underlying scores.
    disagreement
        Mean probability that the networks of an ensemble assign to other types than their average
        does, shape ``(n_cells,)``; 0 if all networks agree.
    node_thresholds
        Threshold of each node, shape ``(n_nodes,)``, if the model has chosen them; a label must
        reach both this and ``threshold``.
    supported_depth
        Deepest level that the expression of each cell supports, whatever the probabilities, shape
        ``(n_cells,)``: 0 for none, 1 for the lineage, and so on; ``None`` for no limit.
    stop_reasons
        Reason for the limit of each cell, shape ``(n_cells,)``; ``""`` without a limit.
    verdict
        Whether the query as a whole resembles the model's reference.
    decisions
        Optional steps that were applied or skipped, in order.

    Attributes
    ----------
    leaf_nodes
        Decoded leaf of each cell, shape ``(n_cells,)``.
    stop_nodes
        Node of each cell's label, shape ``(n_cells,)``; 0 is the root. It is the deepest node that
        reaches its threshold, but not deeper than ``supported_depth``.

    Raises
    ------
    ValueError
        If the probabilities do not match the cells and the taxonomy or are not between 0 and 1,
        other arrays have the wrong shape, a level has the name of another column (``stop_label``,
        ``confidence``, ...), or a type is called ``"Unknown"``, the label of unlabelled cells.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4 T", "CD8 T"], "B": ["B naive", "B memory"]})
    >>> p = np.array([[1, 0.9, 0.1, 0.5, 0.4, 0.05, 0.05], [1, 0.1, 0.9, 0, 0.1, 0.9, 0]])
    >>> result = Annotation(
    ...     taxonomy=tree, obs_names=["a", "b"], node_probabilities=p, threshold=0.6
    ... )
    >>> result.labels["stop_label"].tolist()
    ['T', 'B naive']
    """

    taxonomy: Taxonomy
    obs_names: pd.Index
    node_probabilities: np.ndarray
    threshold: float | None = 0.5
    decoder: _decode.Decoder = "joint"
    input_report: InputReport | None = None
    gene_report: GeneReport | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    novelty: pd.DataFrame | None = None
    disagreement: np.ndarray | None = None
    node_thresholds: np.ndarray | None = None
    supported_depth: np.ndarray | None = None
    stop_reasons: np.ndarray | None = None
    verdict: Verdict | None = None
    decisions: tuple[Decision, ...] = ()
    leaf_nodes: np.ndarray = field(init=False, repr=False)
    stop_nodes: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "obs_names", pd.Index(self.obs_names))
        n_cells, n_nodes = shape = (len(self.obs_names), self.taxonomy.n_nodes)
        shapes = {"node_probabilities": shape, "node_thresholds": (n_nodes,)}
        for name, expected in (shapes | dict.fromkeys(PER_CELL, (n_cells,))).items():
            values = getattr(self, name)
            if values is not None and np.shape(values) != expected:
                hint = "Pass one value per cell, or one per node in the order of the taxonomy."
                raise invalid(name, np.shape(values), f"an array of shape {expected}", hint)
        valid = np.abs(self.node_probabilities - 0.5) <= 0.5 + _decode.PROBABILITY_TOLERANCE
        if not valid.all():
            raise ValueError(
                f"{(~valid.all(axis=1)).sum()} of {n_cells} cells have probabilities that are not "
                "numbers from 0 to 1, such as NaN. Check the model and the counts of these cells; "
                "pass probabilities, not logits or percentages."
            )
        check_level_names(self.taxonomy)
        leaf, stop = _decode.decode(
            self.taxonomy,
            self.node_probabilities,
            decoder=self.decoder,
            threshold=self.threshold,
            node_thresholds=self.node_thresholds,
        )
        if self.supported_depth is not None:
            stop = _decode.truncate_to_depth(self.taxonomy, stop, self.supported_depth)
        object.__setattr__(self, "leaf_nodes", leaf)
        object.__setattr__(self, "stop_nodes", stop)

    @classmethod
    def from_labels(
        cls,
        labels: pd.Series,
        taxonomy: Taxonomy,
        *,
        confidence: ArrayLike | None = None,
        threshold: float = 0.5,
    ) -> Annotation:
        """Create an annotation from the labels of another tool.

        Parameters
        ----------
        labels
            One label per cell, at any depth, indexed by cell. Missing values are unlabelled cells,
            as are common words for missing labels (``"Unknown"``, ``"Unassigned"``, ``"nan"``, ...;
            see ``hdeepinsight.taxonomy.MISSING_LABELS``) unless the taxonomy has such a name.
        taxonomy
            Tree in which labels are names, synonyms or paths.
        confidence
            Probability of each label, shape ``(n_cells,)``; 1 by default.
        threshold
            Labels whose confidence does not exceed this are replaced by an ancestor that does.

        Returns
        -------
        An annotation in which the confidence of each label is split equally between the types below
        it, and the remaining probability between all other types. ``stop_label`` is the label or an
        ancestor, and ``"Unknown"`` for unlabelled cells.

        Raises
        ------
        ValueError
            If a label is not in the taxonomy, or the confidence is not one probability per cell,
            in the order of the labels.

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
        nodes, probabilities = _external.label_probabilities(taxonomy, labels, confidence)
        result = cls(
            taxonomy=taxonomy,
            obs_names=labels.index,
            node_probabilities=probabilities,
            threshold=_external.next_above(threshold),
        )
        # The remaining probability may add up to the threshold in another branch.
        return replace(result, supported_depth=shared_depth(taxonomy, result.stop_nodes, nodes))

    @classmethod
    def from_probabilities(
        cls, table: pd.DataFrame, taxonomy: Taxonomy, *, threshold: float | None = 0.5
    ) -> Annotation:
        """Create an annotation from the probabilities of another tool.

        Parameters
        ----------
        table
            One column per class, at any depth, indexed by cell, shape ``(n_cells, n_classes)``.
            Rows that do not sum to 1 (one-vs-rest classifiers) are divided by their sum, without
            the classes that are ancestors of others.
        taxonomy
            Tree in which classes are names, synonyms or paths.
        threshold
            Cells are labelled with the deepest node that has more than this probability; ``None``
            labels them with a leaf.

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
        classes = _external.class_nodes(taxonomy, list(map(str, table.columns)))
        values, nodes = _external.normalise_classes(
            table.to_numpy(dtype=np.float64), classes, taxonomy
        )
        mass = _external.node_mass(taxonomy, values, nodes)
        return cls(
            taxonomy=taxonomy,
            obs_names=table.index,
            node_probabilities=_external.node_probabilities(taxonomy, mass),
            threshold=_external.next_above(threshold),
        )

    @classmethod
    def from_adata(cls, adata: AnnData, key: str = "hdi") -> Annotation:
        """Read an annotation that :meth:`~hdeepinsight.annotation.Annotation.to_adata` wrote.

        Parameters
        ----------
        adata
            AnnData with an annotation.
        key
            Its ``key_added``.

        Returns
        -------
        The annotation, without reports, calibration and novelty, which are not stored.

        Raises
        ------
        KeyError
            If there is no annotation with this key.

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
        # A refinement without a tree has the first two entries as well.
        if table is None or depth is None or "taxonomy" not in (notes or ()):
            raise KeyError(
                f"The AnnData has no annotation under {key!r}: expected uns[{key!r}] with a "
                f"taxonomy, obsm['{key}_{ADDED_KEYS.PROBABILITIES}'] and "
                f"obs['{key}_{ADDED_KEYS.STOP_DEPTH}']. Pass the key_added of Annotation.to_adata."
            )
        threshold, values = notes["threshold"], np.asarray(table)  # R drops the names of columns
        verdict, reasons = notes.get("verdict"), adata.obs.get(f"{key}_{ADDED_KEYS.STOP_REASON}")
        root = np.ones((len(values), 1), dtype=values.dtype)
        return cls(
            taxonomy=Taxonomy.from_json(str(notes["taxonomy"])),
            obs_names=adata.obs_names,
            node_probabilities=np.hstack([root, values]),
            threshold=None if isinstance(threshold, str) else float(threshold),
            decoder=cast("_decode.Decoder", str(notes["decoder"])),
            recipe={name: from_text(str(value)) for name, value in notes["recipe"].items()},
            node_thresholds=notes.get("node_thresholds"),
            supported_depth=depth.to_numpy(),
            stop_reasons=None if reasons is None else reasons.to_numpy(dtype=object),
            verdict=None if verdict is None else Verdict.from_dict(from_text(str(verdict))),
        )

    @cached_property
    def labels(self) -> pd.DataFrame:
        """One categorical column per level with the label of each cell, then ``stop_label``.

        ``stop_label`` is the assigned label, ``"Unknown"`` at the root. Levels above it have its
        ancestors, levels below it repeat it, so all cells have a label at each level and the
        columns are consistent.
        """
        return self._label_frame(fill=True)

    def level_nodes(self, level: int | str) -> np.ndarray:
        """Return the node of each cell's label at a level, shape ``(n_cells,)``.

        Cells that stop above the level have their stop node; 0 is the root.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> result = hdi.Annotation.from_labels(pd.Series(["CD4", "B"], index=["a", "b"]), tree)
        >>> result.level_nodes(2)
        array([3, 2])
        """
        depth = _decode.depth_of_level(self.taxonomy, level)
        return _decode.truncate_to_depth(self.taxonomy, self.stop_nodes, depth)

    def _label_frame(self, *, fill: bool) -> pd.DataFrame:
        names, columns = _decode.node_names(self.taxonomy), {}
        for depth, level in enumerate(self.taxonomy.level_names, start=1):
            column = _decode.node_categories(names, self.level_nodes(depth))
            if not fill:
                column[self.stop_depth.between(1, depth - 1).to_numpy()] = None
                column = column.remove_unused_categories()
            columns[level] = column
        columns[LABEL_COLUMNS.STOP] = _decode.node_categories(names, self.stop_nodes)
        return pd.DataFrame(columns, index=self.obs_names)

    @cached_property
    def confidence(self) -> pd.Series:
        """Probability of the label of each cell; for ``"Unknown"``, that of the leaf."""
        nodes = np.where(self.stop_nodes == 0, self.leaf_nodes, self.stop_nodes)
        return self._series(self._probability_of(nodes), ADDED_KEYS.CONFIDENCE)

    @cached_property
    def margin(self) -> pd.Series:
        """Difference between the probabilities of the leaf and of the second best leaf."""
        leaves = self.node_probabilities[:, self.taxonomy.leaves].copy()
        own = np.arange(len(leaves)), np.searchsorted(self.taxonomy.leaves, self.leaf_nodes)
        best = leaves[own]
        leaves[own] = 0.0
        return self._series(best - leaves.max(axis=1), ADDED_KEYS.MARGIN)

    @cached_property
    def is_stopped(self) -> np.ndarray:
        """Whether the label of each cell stops above a type, bool, shape ``(n_cells,)``."""
        return ~np.isin(self.stop_nodes, self.taxonomy.leaves)

    @cached_property
    def stop_depth(self) -> pd.Series:
        """Depth of each cell's label; 0 is the root."""
        return self._series(self.taxonomy.depth[self.stop_nodes], ADDED_KEYS.STOP_DEPTH)

    @cached_property
    def stop_reason(self) -> pd.Series:
        """Reason why each cell's label stops above a leaf, or ``""``.

        ``stop_reasons`` take precedence over the threshold.
        """
        reasons = np.where(self.is_stopped, IMPROBABLE, "").astype(object)
        if self.stop_reasons is not None:
            limited = self.stop_depth.to_numpy() == self.supported_depth
            given = self.stop_reasons.astype(str).astype(object)
            reasons = np.where(self.is_stopped & limited & (given != ""), given, reasons)
        return pd.Series(reasons, self.obs_names, dtype=object, name=ADDED_KEYS.STOP_REASON)

    @cached_property
    def ontology_term_ids(self) -> pd.Series:
        """Cell Ontology id of each cell's label, categorical.

        Labels without an id have that of their nearest ancestor with one, or ``"unknown"``.
        """
        ids = [each or UNKNOWN_TERM for each in self.taxonomy.closest_ids]
        return self._series(_decode.node_categories(ids, self.stop_nodes), ONTOLOGY_KEY)

    @cached_property
    def ontology_terms(self) -> pd.Series:
        """Cell Ontology name of each of :attr:`ontology_term_ids`, categorical.

        ``"unknown"`` without an id, and the id itself if the package lacks its name.
        """
        ids = self.ontology_term_ids
        terms = {each: cell_type(each) for each in ids.cat.categories}
        names = ids.map({each: term.name if term else each for each, term in terms.items()})
        return names.astype("category").rename(ONTOLOGY_NAME)

    @cached_property
    def colors(self) -> dict[str, str]:
        """Colour of each label of the taxonomy at any level, and of ``"Unknown"`` (grey).

        Colours depend only on the taxonomy. They are distinct also with colour vision deficiency,
        and unique for up to 104 labels.
        """
        colors = tree_colors(self.taxonomy.labels, self.taxonomy.parent)
        return {**colors, LABEL_COLUMNS.ROOT: MISSING}

    def probabilities(self, level: int | str | None = None) -> pd.DataFrame:
        """Return the probabilities of nodes.

        Parameters
        ----------
        level
            Depth (1 is below the root) or name of a level; all nodes below the root by default.

        Returns
        -------
        Table of shape ``(n_cells, n_nodes - 1)`` with columns named by paths
        (``"T > CD4 T"``); or of one level, with columns named by labels (by paths if labels
        repeat). If branches differ in depth, the columns of a level include leaves above it, so
        rows sum to 1.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> table = pd.DataFrame({"CD4": [0.5], "CD8": [0.25], "B": [0.25]}, index=["a"])
        >>> result = hdi.Annotation.from_probabilities(table, tree)
        >>> result.probabilities()
              T     B  T > CD4  T > CD8
        a  0.75  0.25      0.5     0.25
        >>> result.probabilities(level=1)
              T     B
        a  0.75  0.25
        """
        tree = self.taxonomy
        nodes = np.arange(1, tree.n_nodes)
        names = [tree.path_name(node) for node in nodes.tolist()]
        if level is not None:
            nodes = self._candidates(_decode.depth_of_level(tree, level))
            labels = [tree.label(node) for node in nodes.tolist()]
            unique = len(set(labels)) == len(labels)
            names = labels if unique else [names[node - 1] for node in nodes]
        return pd.DataFrame(self.node_probabilities[:, nodes], index=self.obs_names, columns=names)

    def summary(self, level: int | str | None = None) -> pd.DataFrame:
        """Tabulate the number, share and mean confidence of the cells of each label.

        Parameters
        ----------
        level
            Depth or name of a level; the assigned labels by default.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> labels = pd.Series(["CD4", "CD4", "T", "B"], index=["a", "b", "c", "d"])
        >>> result = hdi.Annotation.from_labels(labels, tree)
        >>> result.summary(level=1)
               n_cells  share  confidence
        label
        T            3   0.75         1.0
        B            1   0.25         1.0
        """
        groups = self.confidence.groupby(self.label_column(level).rename("label"), observed=True)
        counts = groups.size()
        columns = {"n_cells": counts, "share": counts / len(self), "confidence": groups.mean()}
        return pd.DataFrame(columns).sort_values("n_cells", ascending=False)

    def label_column(self, level: int | str | None = None) -> pd.Series:
        """Return the labels of one level, by default the assigned labels.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> result = hdi.Annotation.from_labels(pd.Series(["CD4", "T"], index=["a", "b"]), tree)
        >>> result.label_column().tolist(), result.label_column(level=1).tolist()
        (['CD4', 'T'], ['T', 'T'])
        """
        if level is None:
            return self.labels[LABEL_COLUMNS.STOP]
        depth = _decode.depth_of_level(self.taxonomy, level)
        return self.labels[self.taxonomy.level_names[depth - 1]]

    @property
    def calibration_note(self) -> str:
        """Note that probabilities are not calibrated, if no cells were held out; else ``""``.

        Without held-out cells, there are no label sets and no novelty, and probabilities tend to be
        too high.
        """
        if self.calibration is None and self.recipe.get("n_held_out") == 0:
            return "not calibrated: no cells were held out in training"
        return ""

    label_sets = label_sets

    def rejected(
        self, alpha: float = 0.05, *, unknown: Literal["lineage", "type"] = "lineage"
    ) -> Annotation:
        """Label novel cells at a higher level or as unknown.

        Parameters
        ----------
        alpha
            Share of reference-like cells that may be rejected in error.
        unknown
            ``"lineage"``: cells of no known lineage become unknown. ``"type"``: in addition, cells
            of no known type are labelled with their lineage, as candidates for new types. Use this
            only within a study, because cells of other protocols differ from all types.

        Returns
        -------
        The annotation with these cells rejected; labels only move up.

        Raises
        ------
        ValueError
            If the annotation has no novelty, or ``alpha`` or ``unknown`` is not valid.

        Examples
        --------
        >>> from dataclasses import replace
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> result = hdi.Annotation.from_labels(pd.Series(["CD4", "CD8"], index=["a", "b"]), tree)
        >>> p_values = {"type_p_value": [0.6, 0.001], "lineage_p_value": [0.5, 0.4]}
        >>> result = replace(result, novelty=pd.DataFrame(p_values, index=["a", "b"]))
        >>> result.rejected(unknown="type").labels["stop_label"].tolist()
        ['CD4', 'T']
        """
        if self.novelty is None:
            raise ValueError(
                "This annotation has no novelty, which only models with held-out cells "
                "(validation_size > 0) compute. Train such a model, or use a higher threshold."
            )
        check_number("alpha", alpha, 0.0, 1.0, hint="0.05 is a good start.")
        check_choice("unknown", unknown, ("lineage", "type"), "'lineage' is a good start.")
        limit = np.full(len(self), self.taxonomy.max_depth)
        if unknown == "type":
            limit[self.novelty["type_p_value"].to_numpy() <= alpha] = 1
        limit[self.novelty["lineage_p_value"].to_numpy() <= alpha] = 0
        reasons = np.where(limit < self.taxonomy.max_depth, "novel to the reference", "")
        if self.supported_depth is not None:
            earlier = self.supported_depth <= limit
            limit = np.minimum(limit, self.supported_depth)
            if self.stop_reasons is not None:
                reasons = np.where(earlier, self.stop_reasons, reasons)
        return replace(self, supported_depth=limit, stop_reasons=reasons.astype(object))

    def restricted(
        self, types: Sequence[str] | None = None, *, exclude: Sequence[str] = ()
    ) -> Annotation:
        """Restrict the labels to some branches of the tree, for example in sorted cells.

        Parameters
        ----------
        types
            Nodes at any level, by name, path or synonym; all types by default.
        exclude
            Nodes to rule out.

        Returns
        -------
        The annotation with the probabilities of the remaining types divided by their sum, before
        labels are chosen; if they are all zero, they become equal. It has no calibration, hence no
        label sets. Without arguments, the annotation itself.

        Raises
        ------
        ValueError
            If there is no such node, or no type remains.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> table = pd.DataFrame({"CD4": [0.3], "CD8": [0.1], "B": [0.6]}, index=["a"])
        >>> result = hdi.Annotation.from_probabilities(table, tree)
        >>> result.restricted(["T"]).labels["stop_label"].tolist()
        ['CD4']
        >>> result.restricted(exclude=["CD4", "B"]).confidence.tolist()
        [1.0]
        """
        if types is None and not exclude:
            return self
        tree = self.taxonomy
        allowed = allowed_leaves(tree, types, exclude)
        leaves = self.node_probabilities[:, tree.leaves] * allowed
        total = leaves.sum(axis=1, keepdims=True)
        equal = np.tile(allowed / allowed.sum(), (len(leaves), 1))
        leaves = np.divide(leaves, total, out=equal, where=total > 0)
        given = {"types": types, "exclude": exclude}
        recipe = self.recipe | {name: list(value) for name, value in given.items() if value}
        probabilities = leaves @ tree.ancestor_matrix
        return replace(self, node_probabilities=probabilities, calibration=None, recipe=recipe)

    def _candidates(self, depth: int) -> np.ndarray:
        """Return the nodes of a level and the leaves above it, which partition the cells."""
        own, is_leaf = self.taxonomy.depth, self.taxonomy.n_children == 0
        return np.flatnonzero((own == depth) | (is_leaf & (own < depth)))

    def to_frame(self, *, fill: bool = True, details: bool = False) -> pd.DataFrame:
        """Return labels, confidence and stop reasons, one row per cell.

        These are the columns that :meth:`to_adata` and :meth:`to_csv` write; the user guide lists
        them.

        Parameters
        ----------
        fill
            Repeat a label at the levels below it; otherwise these are missing.
        details
            Include the confidence of the label at each level, the runner-up with its probability,
            and all novelty scores.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> table = pd.DataFrame({"CD4": [0.5], "CD8": [0.4], "B": [0.1]}, index=["a"])
        >>> result = hdi.Annotation.from_probabilities(table, tree)
        >>> result.to_frame().columns[2:].tolist()
        ['stop_label', 'leaf', 'confidence', 'margin', 'stop_depth', 'stop_reason']
        >>> runner_up = ["level_2", "level_2_runner_up", "level_2_runner_up_confidence"]
        >>> result.to_frame(details=True)[runner_up].values.tolist()
        [['T', 'CD8', 0.4]]
        """
        names, tree = _decode.node_names(self.taxonomy), self.taxonomy
        is_empty = (self.stop_reason == NO_COUNTS).to_numpy()
        leaf = _decode.node_categories(names, np.where(is_empty, 0, self.leaf_nodes))
        columns = [self._series(leaf, ADDED_KEYS.LEAF), self.confidence, self.margin]
        columns += [self.stop_depth, self.stop_reason]
        if self.disagreement is not None:
            columns.append(self._series(self.disagreement, ADDED_KEYS.DISAGREEMENT))
        if self.novelty is not None:
            exported = (*NOVELTY_COLUMNS, *NOVELTY_DETAILS) if details else NOVELTY_COLUMNS
            columns += [self.novelty[name] for name in exported if name in self.novelty]
        if tree.ontology_ids:
            columns += [self.ontology_term_ids, self.ontology_terms]
        rows = np.arange(len(self))
        for depth, level in enumerate(tree.level_names if details else (), start=1):
            nodes, candidates = self.level_nodes(depth), self._candidates(depth)
            own = _decode.truncate_to_depth(tree, self.leaf_nodes, depth)
            others = self.node_probabilities[:, candidates].copy()
            others[rows, np.searchsorted(candidates, own)] = -1.0
            second = others.argmax(axis=1)
            exists = (others[rows, second] >= 0) & ~is_empty
            runner_up = _decode.node_categories(names, np.where(exists, candidates[second], 0))
            share = np.where(exists, others[rows, second], np.nan)
            confidence = self._probability_of(np.where(nodes == 0, own, nodes))
            prefix = f"{level}_{ADDED_KEYS.RUNNER_UP}"
            columns += [
                self._series(confidence, f"{level}_{ADDED_KEYS.CONFIDENCE}"),
                self._series(runner_up, prefix),
                self._series(share, f"{prefix}_{ADDED_KEYS.CONFIDENCE}"),
            ]
        labels = self.labels if fill else self._label_frame(fill=False)
        return labels.assign(**{str(column.name): column.array for column in columns})

    def to_csv(self, path: str | Path, *, fill: bool = True, details: bool = False) -> None:
        """Write :meth:`to_frame` to a CSV file.

        The file is written atomically: if writing fails, an existing file is kept.

        Parameters
        ----------
        path
            File to write.
        fill, details
            As in :meth:`to_frame`.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> result = hdi.Annotation.from_labels(pd.Series(["CD4", "B"], index=["a", "b"]), tree)
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "labels.csv"
        ...     result.to_csv(path)
        ...     path.read_text().splitlines()[1]
        'a,T,CD4,CD4,CD4,1.0,1.0,2,'
        """
        with atomic_write(path) as unfinished:
            table = self.to_frame(fill=fill, details=details)
            table.to_csv(unfinished, index_label="cell")

    def to_adata(
        self,
        adata: AnnData,
        *,
        key_added: str = "hdi",
        fill: bool = True,
        details: bool = False,
        overwrite: bool = False,
    ) -> None:
        """Add the annotation to an AnnData of the same cells.

        Parameters
        ----------
        adata
            AnnData with the ``obs_names`` of this annotation, in the same order.
        key_added
            Prefix of the added keys: the columns of :meth:`to_frame` as ``obs["<key>_<column>"]``,
            ``obsm["<key>_probabilities"]`` (DataFrame), ``uns["<key>_<column>_colors"]`` of label
            columns, and ``uns["<key>"]`` (verdict, decisions, reports, recipe). Slashes, which
            files do not allow in names, are replaced by ``|``.
        fill, details
            As in :meth:`to_frame`.
        overwrite
            Replace existing entries with these names. Entries of an earlier annotation with the
            same key are always replaced.

        Raises
        ------
        ValueError
            If the cells differ, or a name is taken. After any error, the AnnData is unchanged.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> cells = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))
        >>> result = hdi.Annotation.from_labels(pd.Series(["CD4", "B"], index=["a", "b"]), tree)
        >>> result.to_adata(cells)
        >>> cells.obs["hdi_stop_label"].tolist(), cells.obsm["hdi_probabilities"].shape
        (['CD4', 'B'], (2, 4))
        """
        check_cells(self.obs_names, adata, "annotation", "annotated")
        frame, colors = self.to_frame(fill=fill, details=details), self.colors
        probabilities = self.probabilities().rename(columns=storable)
        added = Additions(
            obs={str(name): column.array for name, column in frame.items()},
            obsm={ADDED_KEYS.PROBABILITIES: probabilities},
            uns={
                f"{name}_colors": [colors[label] for label in column.cat.categories]
                for name, column in frame.items()
                if column.dtype == "category" and name not in (ONTOLOGY_KEY, ONTOLOGY_NAME)
            },
        )
        added.write(adata, key_added, self.to_dict(), overwrite=overwrite)

    def to_dict(self) -> dict[str, Any]:
        """Return settings, reports and recipe in plain types.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> result = hdi.Annotation.from_labels(pd.Series(["CD4", "B"], index=["a", "b"]), tree)
        >>> result.to_dict()["decoder"]
        'joint'
        """
        thresholds = self.node_thresholds
        data = {
            "decoder": self.decoder,
            "threshold": "none" if self.threshold is None else self.threshold,
            "taxonomy": self.taxonomy.to_json(),
            "recipe": {storable(key): to_text(value) for key, value in self.recipe.items()},
            "node_thresholds": None if thresholds is None else np.asarray(thresholds).tolist(),
            "verdict": self.verdict and to_text(self.verdict.to_dict()),
            "input_report": self.input_report and str(self.input_report),
            "gene_report": self.gene_report and str(self.gene_report),
            "decisions": list(map(str, self.decisions)) or None,
        }
        return {name: value for name, value in data.items() if value is not None}

    def __len__(self) -> int:
        return len(self.obs_names)

    def __repr__(self) -> str:
        stopped = float(self.is_stopped.mean()) if len(self) else 0.0
        threshold = None if self.threshold is None else round(self.threshold, 6)
        types = counted(self.taxonomy.n_leaves, "type")
        levels = counted(self.taxonomy.max_depth, "level")
        text = (
            f"Annotation of {counted(len(self), 'cell')} over {types} at {levels}; {stopped:.1%} "
            f"stop above a type (threshold {threshold})"
        )
        return text + f"; {self.calibration_note}" * bool(self.calibration_note)

    def __str__(self) -> str:
        verdict = () if self.verdict is None else (self.verdict,)
        return "\n".join(map(str, (repr(self), *verdict, *self.decisions)))

    def _probability_of(self, nodes: np.ndarray) -> np.ndarray:
        return np.asarray(self.node_probabilities[np.arange(len(nodes)), nodes])

    def _series(self, values: np.ndarray | pd.Categorical, name: str) -> pd.Series:
        return pd.Series(values, index=self.obs_names, name=name)


def allowed_leaves(
    taxonomy: Taxonomy, types: Sequence[str] | None, exclude: Sequence[str] = ()
) -> np.ndarray:
    """Return which leaves are at or below ``types``, if given, and not at or below ``exclude``.

    Raises
    ------
    ValueError
        If a name is not in the taxonomy, or no leaf is left.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> tree.names[2:], allowed_leaves(tree, ["T"], ["CD4"])
    ((('B',), ('T', 'CD4'), ('T', 'CD8')), array([False, False,  True]))
    >>> allowed_leaves(tree, ["CD5"])
    Traceback (most recent call last):
        ...
    ValueError: types: The taxonomy has no node 'CD5', neither ...
    """
    allowed = np.ones(taxonomy.n_leaves, dtype=bool)
    for argument, names in (("types", types), ("exclude", exclude)):
        try:
            nodes = [*map(taxonomy.resolve, [names] if isinstance(names, str) else names or ())]
        except ValueError as error:
            raise ValueError(f"{argument}: {error}") from None
        is_below = taxonomy.ancestor_matrix[:, nodes].any(axis=1)
        if names is not None:
            allowed &= is_below if argument == "types" else ~is_below
    if not allowed.any():
        raise ValueError(
            f"types and exclude must leave at least one type of the model, got types={types!r} and "
            f"exclude={exclude!r}. Omit types to allow all of them, or exclude fewer."
        )
    return allowed


def check_level_names(taxonomy: Taxonomy) -> None:
    """Raise ``ValueError`` if a level or type has a reserved name.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> check_level_names(Taxonomy.from_nested({"T": [], "B": []}))
    >>> check_level_names(Taxonomy.from_nested({"T": [], "Unknown": []}))
    Traceback (most recent call last):
        ...
    ValueError: The taxonomy has a type named 'Unknown', the label of unlabelled cells. ...
    """
    if LABEL_COLUMNS.ROOT in taxonomy.labels[1:]:
        found = f"a type named {LABEL_COLUMNS.ROOT!r}, the label of unlabelled cells"
        raise ValueError(
            f"The taxonomy has {found}. Rename the type, or leave these cells unlabelled."
        )
    names = {LABEL_COLUMNS.STOP, *ADDED_KEYS, *NOVELTY_COLUMNS, *NOVELTY_DETAILS}
    names |= {ONTOLOGY_KEY, ONTOLOGY_NAME} if taxonomy.ontology_ids else set()
    if taken := names.intersection(taxonomy.level_names):
        found = f"levels named {sorted(taken)}, which are names of annotation columns"
        raise ValueError(f"The taxonomy has {found}. Rename the levels, or the label columns.")
