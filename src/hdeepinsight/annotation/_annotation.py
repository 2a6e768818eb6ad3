"""The result of an annotation: a frozen record that writes nowhere unless asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hdeepinsight._keys import ADDED_KEYS, LABEL_COLUMNS
from hdeepinsight.annotation._confidence import ConfidenceMixin
from hdeepinsight.annotation._decode import Decoder, decode, lift

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from anndata import AnnData

    from hdeepinsight.annotation._conformal import Calibration
    from hdeepinsight.annotation._decision import Decision
    from hdeepinsight.data import GeneReport, InputReport
    from hdeepinsight.taxonomy import Taxonomy


@dataclass(frozen=True, eq=False, kw_only=True)
class Annotation(ConfidenceMixin):
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
        self._check_level_names()
        object.__setattr__(self, "obs_names", pd.Index(self.obs_names))
        decoded = decode(
            self.taxonomy, self.node_probabilities, decoder=self.decoder, threshold=self.threshold
        )
        if self.max_stop_depth is not None:
            stop = lift(self.taxonomy, decoded.stop, self.max_stop_depth)
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

    def _check_level_names(self) -> None:
        taken = {LABEL_COLUMNS.STOP, *ADDED_KEYS}.intersection(self.taxonomy.level_names)
        if taken:
            msg = (
                f"The taxonomy has levels named {sorted(taken)}; these are names of columns of "
                "every annotation. Rename the levels of the taxonomy."
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
        stop = self._names(self.stop_nodes)
        stop_categories = [LABEL_COLUMNS.ROOT, *self._node_labels(np.arange(1, self._n_nodes))]
        used = set(stop)
        categories = [name for name in dict.fromkeys(stop_categories) if name in used]
        columns[LABEL_COLUMNS.STOP] = pd.Categorical(stop, categories=categories)
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
        """
        labels = self.label_column(level)
        table = pd.DataFrame({"label": labels, "confidence": self.confidence})
        groups = table.groupby("label", observed=True)["confidence"]
        counts = groups.size()
        return pd.DataFrame(
            {"n_cells": counts, "share": counts / len(table), "confidence": groups.mean()}
        ).sort_values("n_cells", ascending=False)

    def label_column(self, level: int | str | None = None) -> pd.Series:
        """Labels of one level, or, by default, those where each cell's path stops."""
        if level is None:
            return self.labels[LABEL_COLUMNS.STOP]
        return self.labels[self.taxonomy.level_names[self._depth_of(level) - 1]]

    def to_frame(self) -> pd.DataFrame:
        """Labels, confidence, margin, stop depth and, where known, novelty; one row a cell."""
        beside = [self.confidence, self.margin, self.stop_depth]
        if self.novelty is not None:
            beside.append(self._series(self.novelty["p_value"].to_numpy(), ADDED_KEYS.NOVELTY))
        return self.labels.assign(**{str(column.name): column.to_numpy() for column in beside})

    def to_csv(self, path: str | Path) -> None:
        """Write :meth:`to_frame` to a CSV file."""
        self.to_frame().to_csv(path, index_label="cell")

    def to_adata(self, adata: AnnData, *, key_added: str = "hdi") -> None:
        """Write the result into an AnnData of the same cells.

        Parameters
        ----------
        adata
            Object whose ``obs_names`` are those of this annotation, in the same order.
        key_added
            Prefix of what is added: ``obs["<key>_<level>"]``, ``obs["<key>_stop_label"]``,
            ``obs["<key>_confidence"]``, ``obs["<key>_margin"]``, ``obs["<key>_stop_depth"]``,
            ``obs["<key>_novelty_p_value"]`` (of a model with held-out cells),
            ``obsm["<key>_probabilities"]`` (DataFrame) and ``uns["<key>"]`` (reports, recipe).
            Files know no slash in a name, so ``|`` stands for it there.

        Raises
        ------
        ValueError
            If the cells are not the same.
        """
        if not self.obs_names.equals(pd.Index(adata.obs_names)):
            msg = (
                f"The annotation has {len(self.obs_names)} cells, the AnnData {adata.n_obs}, and "
                "their names are not the same in the same order. Pass the object that was "
                "annotated, or reorder it by result.obs_names."
            )
            raise ValueError(msg)
        for name, column in self.to_frame().items():
            adata.obs[_storable(f"{key_added}_{name}")] = column.array
        probabilities = self.probabilities().rename(columns=_storable)
        adata.obsm[_storable(f"{key_added}_{ADDED_KEYS.PROBABILITIES}")] = probabilities
        adata.uns[_storable(key_added)] = self.to_dict()

    def report(
        self,
        path: str | Path,
        *,
        title: str | None = None,
        model: str | None = None,
        clusters: Any | None = None,
        embedding: Any | None = None,
        true_nodes: np.ndarray | None = None,
        created: datetime | None = None,
    ) -> None:
        """Write one HTML page that says what the annotation holds and how far to trust it.

        Parameters
        ----------
        path
            File to write; one that is there is replaced.
        title, model, clusters, embedding, true_nodes, created
            As in :func:`hdeepinsight.report.write_report`.
        """
        from hdeepinsight.report import write_report

        write_report(
            self,
            path,
            title=title,
            model=model,
            clusters=clusters,
            embedding=embedding,
            true_nodes=true_nodes,
            created=created,
        )

    def to_dict(self) -> dict[str, Any]:
        """Give settings, reports and recipe in plain types."""
        reports = {"input_report": self.input_report, "gene_report": self.gene_report}
        decisions = [str(decision) for decision in self.decisions]
        return {
            "decoder": self.decoder,
            "threshold": "none" if self.threshold is None else self.threshold,
            "taxonomy": self.taxonomy.to_json(),
            "recipe": {_storable(key): str(value) for key, value in self.recipe.items()},
            **{name: str(report) for name, report in reports.items() if report is not None},
            **({"decisions": decisions} if decisions else {}),
        }

    def __len__(self) -> int:
        return len(self.obs_names)

    def __repr__(self) -> str:
        above = ~np.isin(self.stop_nodes, self.taxonomy.leaves)
        stopped = float(above.mean()) if len(self) else 0.0
        return (
            f"Annotation of {len(self)} cells over {self.taxonomy.n_leaves} types at "
            f"{self.taxonomy.max_depth} levels; {stopped:.1%} stop above a type "
            f"(threshold {self.threshold})"
        )

    @property
    def _n_nodes(self) -> int:
        return self.taxonomy.n_nodes

    def _depth_of(self, level: int | str) -> int:
        depth = self.taxonomy.level_depth(level)
        if depth == 0:
            msg = (
                f"level={level!r} is the root; valid are {list(self.taxonomy.level_names)} or a "
                f"depth from 1 to {self.taxonomy.max_depth}. Choose one of these."
            )
            raise ValueError(msg)
        return depth

    def _paths(self, nodes: np.ndarray) -> list[str]:
        return [self.taxonomy.path_name(int(node)) for node in nodes]

    def _node_labels(self, nodes: np.ndarray) -> list[str]:
        return [self.taxonomy.label(int(node)) for node in nodes]

    def _names(self, nodes: np.ndarray) -> np.ndarray:
        names = np.array([LABEL_COLUMNS.ROOT, *self._node_labels(np.arange(1, self._n_nodes))])
        return np.asarray(names[nodes])

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

    def _series(self, values: np.ndarray, name: str) -> pd.Series:
        return pd.Series(values, index=self.obs_names, name=name)


def _storable(name: str) -> str:
    """Replace slashes ("Megakaryocytes/platelets"), which h5ad and zarr take for folders."""
    return name.replace("/", "|")
