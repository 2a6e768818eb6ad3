"""Label sets with a promised coverage: the answer as large as the evidence demands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hdeepinsight.annotation._classes import node_names
from hdeepinsight.annotation._conformal import (
    Calibration,
    SetKind,
    check_kind,
    check_nodes,
    conformal_threshold,
    mass_before,
)
from hdeepinsight.annotation._decode import most_probable_leaf

if TYPE_CHECKING:
    from hdeepinsight.annotation._annotation import Annotation
    from hdeepinsight.taxonomy import Taxonomy


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelSets:
    """One set of types a cell, which holds the true one with a promised probability.

    Parameters
    ----------
    taxonomy
        The tree.
    obs_names
        Names of the cells, shape ``(n_cells,)``.
    contains
        Whether a leaf is in a cell's set, shape ``(n_cells, n_leaves)``.
    alpha
        Share of cells whose set may miss the truth.
    kind
        ``"nodes"`` or ``"leaves"``.
    groups
        Level within whose predicted labels the promise holds; ``None`` for all cells together.
    thresholds
        Conformal threshold of every group, infinity where a group has too few calibration cells;
        one row ``"all"`` without groups.
    source
        What the calibration cells are.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> from hdeepinsight.annotation import calibrate
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> table = pd.DataFrame({"CD4": [0.6] * 9, "CD8": [0.3] * 9, "B": [0.1] * 9})
    >>> result = hdi.Annotation.from_probabilities(table, tree)
    >>> calibration = calibrate(result, tree.encode(["CD4"] * 5 + ["CD8"] * 4))
    >>> sets = result.label_sets(alpha=0.2, calibration=calibration)
    >>> sets
    LabelSets of 9 cells (nodes): at least 80.0% hold the truth if cells are like the labelled
    cells; 2.00 types a set, 0.0% of one type
    >>> int(sets.size[0]), sets.lca[0]
    (2, 'T')
    """

    taxonomy: Taxonomy
    obs_names: pd.Index
    contains: np.ndarray
    alpha: float
    kind: SetKind
    groups: int | str | None
    thresholds: pd.DataFrame
    source: str

    @property
    def promised_coverage(self) -> float:
        """Smallest expected share of sets that hold the truth, for exchangeable cells."""
        return 1.0 - self.alpha

    @cached_property
    def sets(self) -> tuple[tuple[str, ...], ...]:
        """Paths of the nodes that make up each set, whole subtrees by their topmost node."""
        n_inside, n_below = self._n_inside, self.taxonomy.ancestor_matrix.sum(axis=0)
        whole = n_inside == n_below
        # Of nodes with the same leaves (a chain of single children) the deepest names them.
        only_child = np.flatnonzero(self.taxonomy.n_children == 1)
        whole[:, only_child[only_child > 0]] = False
        topmost = whole.copy()
        for node in range(1, self.taxonomy.n_nodes):
            above = self.taxonomy.ancestors(node)[:-1]
            topmost[:, node] &= ~(whole[:, 0] | whole[:, above].any(axis=1))
        names = [self.taxonomy.path_name(node) for node in range(self.taxonomy.n_nodes)]
        return tuple(tuple(names[node] for node in np.flatnonzero(row)) for row in topmost)

    @cached_property
    def size(self) -> pd.Series:
        """Number of leaves in each set."""
        return pd.Series(self.contains.sum(axis=1), index=self.obs_names, name="size")

    @cached_property
    def lca_nodes(self) -> np.ndarray:
        """Lowest node that holds each set, shape ``(n_cells,)``; 0 is the root."""
        holds = self._n_inside == self.size.to_numpy()[:, None]
        # Nodes that hold the set lie on one path, and deeper ones come later.
        lowest = self.taxonomy.n_nodes - 1 - holds[:, ::-1].argmax(axis=1)
        return np.where(self.contains.all(axis=1), 0, lowest)

    @cached_property
    def lca(self) -> pd.Series:
        """Label of the lowest node that holds each set; ``"Unknown"`` at the root."""
        values = np.array(node_names(self.taxonomy), dtype=object)[self.lca_nodes]
        return pd.Series(values, index=self.obs_names, name="lca", dtype=object)

    def to_frame(self) -> pd.DataFrame:
        """Give sets as text (nodes joined by ``" | "``), sizes and lowest common ancestors.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> from hdeepinsight.annotation import calibrate
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> table = pd.DataFrame({"CD4": [0.5, 0.4], "CD8": [0.1, 0.1], "B": [0.4, 0.5]})
        >>> result = hdi.Annotation.from_probabilities(table, tree)
        >>> calibration = calibrate(result, tree.encode(["B", "CD4"]))
        >>> sets = result.label_sets(alpha=0.4, kind="leaves", calibration=calibration)
        >>> sets.to_frame()
             label_set  size      lca
        0  B | T > CD4     2  Unknown
        1  B | T > CD4     2  Unknown
        """
        text = [" | ".join(names) for names in self.sets]
        columns = {"label_set": text, "size": self.size.to_numpy(), "lca": self.lca.to_numpy()}
        return pd.DataFrame(columns, index=self.obs_names)

    def holds(self, true_nodes: np.ndarray) -> np.ndarray:
        """Whether each set holds every leaf under the cell's true node, shape ``(n_cells,)``.

        Parameters
        ----------
        true_nodes
            True node of every cell, shape ``(n_cells,)``.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> from hdeepinsight.annotation import calibrate
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> table = pd.DataFrame({"CD4": [0.9] * 3, "CD8": [0.1] * 3, "B": [0.0] * 3})
        >>> result = hdi.Annotation.from_probabilities(table, tree)
        >>> calibration = calibrate(result, tree.encode(["CD4"] * 3))
        >>> sets = result.label_sets(alpha=0.25, calibration=calibration)
        >>> sets.holds(tree.encode(["CD4", "CD8", "T"])).tolist()
        [True, False, False]
        """
        nodes = check_nodes(self.taxonomy, true_nodes, len(self))
        own = self.taxonomy.ancestor_matrix[:, nodes].T
        return np.asarray((self.contains | ~own).all(axis=1))

    def coverage(self, true_nodes: np.ndarray) -> float:
        """Share of labelled cells whose set holds the truth; ``nan`` without labelled cells.

        Parameters
        ----------
        true_nodes
            True node of every cell, shape ``(n_cells,)``; 0 is unlabelled and left out.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> from hdeepinsight.annotation import calibrate
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> table = pd.DataFrame({"CD4": [0.9] * 3, "CD8": [0.1] * 3, "B": [0.0] * 3})
        >>> result = hdi.Annotation.from_probabilities(table, tree)
        >>> calibration = calibrate(result, tree.encode(["CD4"] * 3))
        >>> sets = result.label_sets(alpha=0.25, calibration=calibration)
        >>> sets.coverage(tree.encode(["CD4", "CD8", "Unknown"]))
        0.5
        """
        held = self.holds(true_nodes)[np.asarray(true_nodes) > 0]
        return float(held.mean()) if held.size else float("nan")

    def __len__(self) -> int:
        return len(self.obs_names)

    def __repr__(self) -> str:
        single = float((self.size == 1).mean()) if len(self) else 0.0
        mean = float(self.size.mean()) if len(self) else 0.0
        return (
            f"LabelSets of {len(self)} cells ({self.kind}): at least "
            f"{self.promised_coverage:.1%} hold the truth if cells are like the "
            f"{self.source}; {mean:.2f} types a set, {single:.1%} of one type"
        )

    @cached_property
    def _n_inside(self) -> np.ndarray:
        """Leaves of the set under each node, shape ``(n_cells, n_nodes)``."""
        matrix = self.taxonomy.ancestor_matrix.astype(np.float32)
        return np.asarray((self.contains.astype(np.float32) @ matrix).astype(np.int32))


def label_sets(
    annotation: Annotation,
    calibration: Calibration,
    *,
    alpha: float = 0.1,
    kind: SetKind = "nodes",
    groups: int | str | None = None,
) -> LabelSets:
    """Build conformal label sets; see :meth:`Annotation.label_sets`."""
    _check_alpha(alpha)
    check_kind(kind)
    _check_taxonomy(annotation.taxonomy, calibration.taxonomy)
    taxonomy, probabilities = annotation.taxonomy, annotation.node_probabilities
    guess = most_probable_leaf(taxonomy, probabilities)
    table, group = _thresholds(calibration, guess, alpha, kind, groups)
    threshold = table["threshold"].to_numpy()[group]
    build = _node_sets if kind == "nodes" else _leaf_sets
    return LabelSets(
        taxonomy=taxonomy,
        obs_names=annotation.obs_names,
        contains=build(taxonomy, probabilities, guess, threshold),
        alpha=alpha,
        kind=kind,
        groups=groups,
        thresholds=table,
        source=calibration.source,
    )


def _thresholds(
    calibration: Calibration,
    guess: np.ndarray,
    alpha: float,
    kind: SetKind,
    groups: int | str | None,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Threshold of every group, and the group of every query cell, shape ``(n_cells,)``."""
    group_of, names = _groups(calibration, alpha, groups)
    scores, own = calibration.scores(kind), group_of[calibration.predicted]
    parts = [scores[own == group] for group in range(len(names))]
    thresholds = [conformal_threshold(part, alpha) for part in parts]
    table = {"n_cells": [len(part) for part in parts], "threshold": thresholds}
    return pd.DataFrame(table, index=pd.Index(names, name="group")), group_of[guess]


def _groups(
    calibration: Calibration, alpha: float, level: int | str | None
) -> tuple[np.ndarray, list[str]]:
    """Group of every node, shape ``(n_nodes,)``, and names of the groups.

    Groups that are too small for a threshold of their own are one: that keeps the promise for them
    together, which borrowing the threshold of all cells would not.
    """
    taxonomy = calibration.taxonomy
    if level is None:
        return np.zeros(taxonomy.n_nodes, dtype=np.int64), ["all"]
    at_level = _at_level(taxonomy, level)
    n_cells = np.bincount(at_level[calibration.predicted], minlength=taxonomy.n_nodes)
    large = np.flatnonzero(n_cells + 1 >= round(1 / alpha, 9))
    group_of = np.full(taxonomy.n_nodes, len(large))
    group_of[large] = np.arange(len(large))
    return group_of[at_level], [*(taxonomy.path_name(int(v)) for v in large), "all others"]


def _at_level(taxonomy: Taxonomy, level: int | str) -> np.ndarray:
    """Ancestor of every node at a level, or the node itself above it, shape ``(n_nodes,)``."""
    if isinstance(level, str) and level not in taxonomy.level_names:
        number = level.removeprefix("level")
        level = int(number) if number.isdigit() else level
    depth = taxonomy.level_depth(level)
    if depth == 0:
        msg = "groups=0 is the root, which is no grouping. Use groups=None, or a level from 1 on."
        raise ValueError(msg)
    at_level = taxonomy.node_at_level[:, depth - 1]
    return np.where(at_level < 0, np.arange(taxonomy.n_nodes), at_level)


def _node_sets(
    taxonomy: Taxonomy, probabilities: np.ndarray, guess: np.ndarray, threshold: np.ndarray
) -> np.ndarray:
    """Leaves under the smallest ancestor of the guess that exceeds the threshold."""
    path = taxonomy.node_at_level[guess]
    on_path = np.take_along_axis(probabilities, path.clip(0), axis=1).astype(np.float64)
    passing = (path >= 0) & (on_path > threshold[:, None])
    depth = np.where(passing, np.arange(1, path.shape[1] + 1), 0).max(axis=1)
    node = np.where(depth > 0, path[np.arange(len(guess)), depth - 1], 0)
    return np.asarray(taxonomy.ancestor_matrix[:, node].T)


def _leaf_sets(
    taxonomy: Taxonomy, probabilities: np.ndarray, guess: np.ndarray, threshold: np.ndarray
) -> np.ndarray:
    """Most probable leaves first, until those before one exceed the threshold."""
    return np.asarray(mass_before(taxonomy, probabilities) <= threshold[:, None])


def _check_alpha(alpha: float) -> None:
    if not 0.0 < alpha < 1.0:
        msg = (
            f"alpha={alpha}; valid are shares between 0 and 1, both excluded. Use 0.1 for sets of "
            "which nine in ten hold the truth."
        )
        raise ValueError(msg)


def _check_taxonomy(own: Taxonomy, calibrated: Taxonomy) -> None:
    if own != calibrated:
        msg = (
            f"The calibration is of another taxonomy ({calibrated.n_leaves} types) than the "
            f"annotation ({own.n_leaves} types). Valid is a calibration of the same tree: make one "
            "with hdi.annotation.calibrate(annotation_of_labelled_cells, true_nodes)."
        )
        raise ValueError(msg)
