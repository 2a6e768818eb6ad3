"""The result of an annotation: a frozen record that writes nowhere unless asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hdeepinsight._keys import ADDED_KEYS, LABEL_COLUMNS, ONTOLOGY_KEY, UNKNOWN_TERM
from hdeepinsight._palette import MISSING, label_colors
from hdeepinsight.annotation._classes import depth_of_level, node_categories, node_names
from hdeepinsight.annotation._confidence import ConfidenceMixin
from hdeepinsight.annotation._decode import Decoder, decode, truncate_to_depth
from hdeepinsight.annotation._foreign import ForeignMixin
from hdeepinsight.annotation._writing import WritingMixin

if TYPE_CHECKING:
    from hdeepinsight.annotation._conformal import Calibration
    from hdeepinsight.annotation._decision import Decision
    from hdeepinsight.data import GeneReport, InputReport
    from hdeepinsight.taxonomy import Taxonomy


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotation(ConfidenceMixin, ForeignMixin, WritingMixin):
    """Labels at every level of a taxonomy, with everything needed to judge them.

    Parameters
    ----------
    taxonomy
        The tree.
    obs_names
        Names of the cells, shape ``(n_cells,)``.
    node_probabilities
        Probability of every node, shape ``(n_cells, n_nodes)``; the root's column is 1.
    threshold
        A cell's path stops at the deepest node with at least this probability; ``None`` goes down
        to the leaf.
    decoder
        ``"joint"`` (most probable leaf) or ``"greedy"`` (most probable child, level by level).
    input_report
        What the query's matrix is.
    gene_report
        How its genes matched those of the model.
    recipe
        Where the probabilities come from, in plain types.
    calibration
        Labelled cells scored for :meth:`label_sets`, by whoever made the probabilities.
    novelty
        How strange each cell is to the reference, one row a cell: ``score``, ``p_value`` and
        ``lineage_p_value``; see :class:`NoveltyDetector`.
    max_stop_depth
        Deepest level at which each cell may stop, shape ``(n_cells,)``, as :meth:`rejected` sets
        it; ``None`` for no limit.
    decisions
        Steps that were taken or left on the way here, in order.

    Raises
    ------
    ValueError
        If the probabilities do not fit the cells and the taxonomy or are not finite, or a level
        has the name of another column (``stop_label``, ``confidence``, ...).

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
    decoder: Decoder = "joint"
    input_report: InputReport | None = None
    gene_report: GeneReport | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    novelty: pd.DataFrame | None = None
    max_stop_depth: np.ndarray | None = None
    decisions: tuple[Decision, ...] = ()

    def __post_init__(self) -> None:
        self._check_probabilities()
        check_level_names(self.taxonomy)
        object.__setattr__(self, "obs_names", pd.Index(self.obs_names))
        decoded = decode(
            self.taxonomy, self.node_probabilities, decoder=self.decoder, threshold=self.threshold
        )
        if self.max_stop_depth is not None:
            stop = truncate_to_depth(self.taxonomy, decoded.stop, self.max_stop_depth)
            decoded = decoded._replace(stop=stop)
        object.__setattr__(self, "_decoded", decoded)

    def _check_probabilities(self) -> None:
        shape = (len(self.obs_names), self.taxonomy.n_nodes)
        if self.node_probabilities.shape != shape:
            msg = (
                f"node_probabilities has shape {self.node_probabilities.shape}; valid is "
                f"(n_cells, n_nodes) = {shape}. Pass one column a node, in the taxonomy's order."
            )
            raise ValueError(msg)
        n_broken = int((~np.isfinite(self.node_probabilities).all(axis=1)).sum())
        if n_broken:
            msg = (
                f"{n_broken} of {shape[0]} cells have probabilities that are NaN or infinite; "
                "valid are numbers from 0 to 1. Check the model and the counts of these cells."
            )
            raise ValueError(msg)

    @property
    def leaf_nodes(self) -> np.ndarray:
        """Node of the decoded leaf of every cell, shape ``(n_cells,)``."""
        return self._decoded.leaf  # type: ignore[attr-defined, no-any-return]

    @property
    def stop_nodes(self) -> np.ndarray:
        """Node where every cell's label stops, shape ``(n_cells,)``; 0 is the root."""
        return self._decoded.stop  # type: ignore[attr-defined, no-any-return]

    @cached_property
    def labels(self) -> pd.DataFrame:
        """One categorical column a level with the decoded path, then ``stop_label``.

        Level columns follow the decoded leaf all the way; a level below a leaf of a ragged tree
        is missing. ``stop_label`` is the label of the node where confidence ran out, ``"Unknown"``
        at the root. The columns of a cell never contradict each other.
        """
        columns = {
            name: self._level_labels(level)
            for level, name in enumerate(self.taxonomy.level_names, start=1)
        }
        columns[LABEL_COLUMNS.STOP] = node_categories(node_names(self.taxonomy), self.stop_nodes)
        return pd.DataFrame(columns, index=self.obs_names)

    @cached_property
    def confidence(self) -> pd.Series:
        """Probability of the node where each cell stops; for cells at the root that of the leaf."""
        nodes = np.where(self.stop_nodes == 0, self.leaf_nodes, self.stop_nodes)
        return self._series(self._probability_of(nodes), ADDED_KEYS.CONFIDENCE)

    @cached_property
    def margin(self) -> pd.Series:
        """Probability of the leaf minus that of the best other leaf."""
        leaves = self.node_probabilities[:, self.taxonomy.leaves].copy()
        own = np.searchsorted(self.taxonomy.leaves, self.leaf_nodes)
        rows = np.arange(len(leaves))
        best = leaves[rows, own]
        leaves[rows, own] = 0.0
        return self._series(best - leaves.max(axis=1), ADDED_KEYS.MARGIN)

    @cached_property
    def stop_depth(self) -> pd.Series:
        """Depth of the node where each cell stops; 0 is the root."""
        return self._series(self.taxonomy.depth[self.stop_nodes], ADDED_KEYS.STOP_DEPTH)

    @cached_property
    def ontology_term_ids(self) -> pd.Series:
        """Cell Ontology id of the label where each cell stops, categorical.

        Where that label has none, the id of the nearest label above it that has one;
        ``"unknown"`` where there is none up to the root.
        """
        ids = [UNKNOWN_TERM] * self._n_nodes
        for node in range(1, self._n_nodes):
            own = self.taxonomy.ontology_ids.get(self.taxonomy.names[node])
            ids[node] = own or ids[self.taxonomy.parent[node]]
        return self._series(node_categories(ids, self.stop_nodes), ONTOLOGY_KEY)

    @cached_property
    def colors(self) -> dict[str, str]:
        """Colour of every label of the taxonomy at any level, and of ``"Unknown"`` (grey).

        They depend on the taxonomy alone: in its order, the first ones most distinct, also with
        colour vision deficiency. They are unique for up to 104 labels.
        """
        return {**label_colors(self.taxonomy.labels[1:]), LABEL_COLUMNS.ROOT: MISSING}

    def probabilities(self, level: int | str | None = None) -> pd.DataFrame:
        """Probabilities of nodes.

        Parameters
        ----------
        level
            Depth (1 is below the root) or name of a level; all nodes below the root by default.

        Returns
        -------
        Table of shape ``(n_cells, n_nodes - 1)`` with columns named by paths
        (``"T > CD4 T"``), or of one level with columns named by labels (by paths, where two nodes
        share a label). Leaves above a level of a ragged tree are among that level's columns, so
        that rows sum to 1.

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
        if level is None:
            nodes = np.arange(1, self._n_nodes)
            names = self._paths(nodes)
        else:
            nodes = self._nodes_at(self._depth_of(level))
            names = self._node_labels(nodes)
            if len(set(names)) < len(names):
                names = self._paths(nodes)
        return pd.DataFrame(self.node_probabilities[:, nodes], index=self.obs_names, columns=names)

    def summary(self, level: int | str | None = None) -> pd.DataFrame:
        """Count the cells of each label; also their share and mean confidence.

        Parameters
        ----------
        level
            Depth or name of a level; the labels where cells stop by default.

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
        labels = self.label_column(level)
        table = pd.DataFrame({"label": labels, "confidence": self.confidence})
        groups = table.groupby("label", observed=True)["confidence"]
        counts = groups.size()
        return pd.DataFrame(
            {"n_cells": counts, "share": counts / len(table), "confidence": groups.mean()}
        ).sort_values("n_cells", ascending=False)

    def label_column(self, level: int | str | None = None) -> pd.Series:
        """Labels of one level, or, by default, those where each cell's path stops.

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
        return self.labels[self.taxonomy.level_names[self._depth_of(level) - 1]]

    def __len__(self) -> int:
        return len(self.obs_names)

    def __repr__(self) -> str:
        above = ~np.isin(self.stop_nodes, self.taxonomy.leaves)
        stopped = float(above.mean()) if len(self) else 0.0
        threshold = None if self.threshold is None else round(self.threshold, 6)
        return (
            f"Annotation of {len(self)} cells over {self.taxonomy.n_leaves} types at "
            f"{self.taxonomy.max_depth} levels; {stopped:.1%} stop above a type "
            f"(threshold {threshold})"
        )

    @property
    def _n_nodes(self) -> int:
        return self.taxonomy.n_nodes

    def _depth_of(self, level: int | str) -> int:
        return depth_of_level(self.taxonomy, level)

    def _paths(self, nodes: np.ndarray) -> list[str]:
        return [self.taxonomy.path_name(int(node)) for node in nodes]

    def _node_labels(self, nodes: np.ndarray) -> list[str]:
        return [self.taxonomy.label(int(node)) for node in nodes]

    def _level_labels(self, level: int) -> pd.Categorical:
        at_level = self.taxonomy.node_at_level[:, level - 1]
        here = self._node_labels(np.flatnonzero(self.taxonomy.depth == level))
        code_of = {label: code for code, label in enumerate(dict.fromkeys(here))}
        codes = [-1 if node < 0 else code_of[self.taxonomy.label(node)] for node in at_level]
        return pd.Categorical.from_codes(np.array(codes)[self.leaf_nodes], list(code_of))

    def _nodes_at(self, level: int) -> np.ndarray:
        depth = self.taxonomy.depth
        shallow_leaf = np.isin(np.arange(self._n_nodes), self.taxonomy.leaves) & (depth < level)
        return np.flatnonzero((depth == level) | shallow_leaf)

    def _probability_of(self, nodes: np.ndarray) -> np.ndarray:
        return np.asarray(self.node_probabilities[np.arange(len(nodes)), nodes])

    def _series(self, values: np.ndarray | pd.Categorical, name: str) -> pd.Series:
        return pd.Series(values, index=self.obs_names, name=name)


def check_level_names(taxonomy: Taxonomy) -> None:
    """Raise ``ValueError`` if a level has the name of another column of every annotation.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> check_level_names(Taxonomy.from_nested({"T": [], "B": []}))
    """
    names = {LABEL_COLUMNS.STOP, *ADDED_KEYS}
    if taxonomy.ontology_ids:
        names.add(ONTOLOGY_KEY)
    taken = names.intersection(taxonomy.level_names)
    if taken:
        msg = (
            f"The taxonomy has levels named {sorted(taken)}; these are names of columns of "
            "every annotation. Rename the levels of the taxonomy, or the columns of labels."
        )
        raise ValueError(msg)
