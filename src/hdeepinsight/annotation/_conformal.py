"""Compute conformal calibration scores, and label sets with guaranteed coverage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from hdeepinsight._errors import check_choice, invalid
from hdeepinsight.annotation import _decode
from hdeepinsight.annotation._anndata_io import check_same_cells
from hdeepinsight.annotation._external import known_cells
from hdeepinsight.taxonomy import Taxonomy, check_nodes

if TYPE_CHECKING:
    from hdeepinsight.annotation._annotation import Annotation

SetKind = Literal["nodes", "leaves"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Calibration:
    """Conformal scores of labelled cells that the network was not trained on.

    Created by :func:`calibrate`. Trained models have one in ``model.calibration``, and their
    annotations contain it.

    Parameters
    ----------
    taxonomy
        Tree of the labels.
    true_nodes
        Node of each calibration cell's label, shape ``(n_cells,)``.
    predicted
        Most probable leaf of each calibration cell, shape ``(n_cells,)``.
    node_scores
        Probability that an ancestor of the prediction must exceed so that the leaves below it
        include the true type, shape ``(n_cells,)``; 0 for correct predictions.
    leaf_scores
        Total probability of the leaves ranked before the true one, shape ``(n_cells,)``.
    source
        Description of the cells, in plural.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> from hdeepinsight.annotation import calibrate
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> table = pd.DataFrame({"CD4": [0.5, 0.5], "CD8": [0.25, 0.25], "B": [0.25, 0.25]})
    >>> result = hdi.Annotation.from_probabilities(table, tree)
    >>> calibrate(result, tree.encode(["CD4", "CD8"]), source="cells of donor 3")
    Calibration on 2 cells of donor 3, 50.0% of them right at the leaf
    """

    taxonomy: Taxonomy
    true_nodes: np.ndarray
    predicted: np.ndarray
    node_scores: np.ndarray
    leaf_scores: np.ndarray
    source: str = "labelled cells"

    def __len__(self) -> int:
        return len(self.true_nodes)

    def __repr__(self) -> str:
        right = float((self.node_scores == 0).mean()) if len(self) else float("nan")
        return f"Calibration on {len(self)} {self.source}, {right:.1%} of them right at the leaf"

    def scores(self, kind: SetKind) -> np.ndarray:
        """Return the scores of the cells for one kind of set, shape ``(n_cells,)``.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> from hdeepinsight.annotation import calibrate
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> table = pd.DataFrame({"CD4": [0.5, 0.5], "CD8": [0.25, 0.25], "B": [0.25, 0.25]})
        >>> result = hdi.Annotation.from_probabilities(table, tree)
        >>> calibrate(result, tree.encode(["CD4", "B"])).scores("nodes").tolist()
        [0.0, 0.75]
        """
        hint = "Use 'nodes' for one node per cell, 'leaves' for types anywhere in the tree."
        check_choice("kind", kind, get_args(SetKind), hint)
        return self.node_scores if kind == "nodes" else self.leaf_scores

    def to_dict(self) -> dict[str, Any]:
        """Return arrays and text, without the taxonomy.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> from hdeepinsight.annotation import calibrate
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> result = hdi.Annotation.from_labels(pd.Series(["CD4"], index=["a"]), tree)
        >>> calibrate(result, tree.encode(["CD4"])).to_dict()["node_scores"].tolist()
        [0.0]
        """
        return {name: value for name, value in vars(self).items() if name != "taxonomy"}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], taxonomy: Taxonomy) -> Calibration:
        """Convert the result of :meth:`to_dict` back; it may contain tensors.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> from hdeepinsight.annotation import Calibration, calibrate
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> result = hdi.Annotation.from_labels(pd.Series(["CD4"], index=["a"]), tree)
        >>> Calibration.from_dict(calibrate(result, tree.encode(["CD4"])).to_dict(), tree)
        Calibration on 1 labelled cells, 100.0% of them right at the leaf
        """
        arrays = {name: np.asarray(value) for name, value in data.items() if name != "source"}
        return cls(taxonomy=taxonomy, source=str(data["source"]), **arrays)


def conformal_threshold(scores: np.ndarray, alpha: float) -> float:
    """Return the ⌈(n + 1)(1 − α)⌉-th smallest score, or infinity if there are fewer scores.

    Examples
    --------
    >>> conformal_threshold(np.arange(1, 20) / 20, alpha=0.1)
    0.9
    >>> conformal_threshold(np.arange(8) / 8, alpha=0.1)
    inf
    """
    # (n + 1)(1 - α) is often an integer, which rounding errors must not increase.
    rank = int(np.ceil(round((len(scores) + 1) * (1.0 - alpha), 9)))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else float("inf")


def mass_before(taxonomy: Taxonomy, probabilities: np.ndarray) -> np.ndarray:
    """Return the total probability of the leaves ranked before each leaf, (n_cells, n_leaves)."""
    leaves = probabilities[:, taxonomy.leaves].astype(np.float64)
    order = np.argsort(-leaves, axis=1, kind="stable")
    ranked = np.take_along_axis(leaves, order, axis=1)
    before = np.zeros_like(ranked)
    np.put_along_axis(before, order, np.cumsum(ranked, axis=1) - ranked, axis=1)
    # The difference between a sum and its only term may not be exactly zero.
    np.put_along_axis(before, order[:, :1], 0.0, axis=1)
    return before


def node_scores(
    taxonomy: Taxonomy, probabilities: np.ndarray, predicted: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    """Return the probability of the topmost predicted node that does not contain the true node."""
    path, true_path = taxonomy.node_at_level[predicted], taxonomy.node_at_level[truth]
    # The true node and its ancestors contain it, and so do its descendants in a chain of single
    # children.
    n_leaves = taxonomy.ancestor_matrix.sum(axis=0)
    same = (path == true_path) & (path >= 0)
    chain = (path >= 0) & (true_path < 0) & (n_leaves[path] == n_leaves[truth][:, None])
    contains = np.logical_and.accumulate(same | chain, axis=1)
    missed = ~contains & (path >= 0)
    topmost = missed.argmax(axis=1)
    rows = np.arange(len(predicted))
    score = probabilities[rows, path[rows, topmost]]
    return np.where(missed.any(axis=1), score, 0.0)


def calibrate(
    annotation: Annotation, true_nodes: np.ndarray, *, source: str = "labelled cells"
) -> Calibration:
    """Score labelled cells for conformal label sets.

    Parameters
    ----------
    annotation
        Annotation of cells that were not used for training; its probabilities may come from any
        tool.
    true_nodes
        True node of each cell, shape ``(n_cells,)``, as returned by ``taxonomy.encode(labels)``;
        cells with 0 (unlabelled) are ignored.
    source
        Description of the cells, in plural, for messages.

    Returns
    -------
    The calibration, for :meth:`Annotation.label_sets`.

    Raises
    ------
    ValueError
        If the nodes do not match the cells or the taxonomy, or no cell has a label.

    Examples
    --------
    The prediction "CD4 T" is wrong for the second cell. Only the set of all types below "T"
    contains the true type, so the score is the probability of "CD4 T".

    >>> import numpy as np
    >>> from hdeepinsight.annotation import Annotation, calibrate
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4 T", "CD8 T"], "B": []})
    >>> p = np.array([[1, 0.9, 0.1, 0.6, 0.3]] * 2)
    >>> known = Annotation(taxonomy=tree, obs_names=["a", "b"], node_probabilities=p)
    >>> calibrate(known, tree.encode(["CD4 T", "CD8 T"])).node_scores
    array([0. , 0.6])

    Notes
    -----
    The prediction is the most probable leaf, independent of the decoder and threshold of the
    annotation. Cells labelled with an inner node have the largest score of its leaves, which is
    conservative, because their set must contain all of them.
    """
    taxonomy = annotation.taxonomy
    known, truth = known_cells(taxonomy, annotation.obs_names, true_nodes=true_nodes)
    probabilities = annotation.node_probabilities[known].astype(np.float64)
    predicted = _decode.most_probable_leaf(taxonomy, probabilities)
    before = np.where(
        taxonomy.ancestor_matrix[:, truth].T, mass_before(taxonomy, probabilities), 0.0
    )
    return Calibration(
        taxonomy=taxonomy,
        true_nodes=truth,
        predicted=predicted,
        node_scores=node_scores(taxonomy, probabilities, predicted, truth),
        leaf_scores=before.max(axis=1),
        source=source,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class LabelSets:
    """One set of types per cell, with a guaranteed probability to contain the true type.

    Parameters
    ----------
    taxonomy
        The tree.
    obs_names
        Names of the cells, shape ``(n_cells,)``.
    contains
        Whether each leaf is in a cell's set, shape ``(n_cells, n_leaves)``.
    alpha
        Error rate: share of cells whose set may miss the true type.
    kind
        ``"nodes"`` or ``"leaves"``.
    groups
        Level for coverage within each predicted label; ``None`` for all cells together.
    thresholds
        Conformal threshold of each group, infinity for groups with too few calibration cells; a
        single row ``"all"`` without groups.
    source
        Description of the calibration cells.

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
    LabelSets of 9 cells (nodes): at least 80.0% contain the true type if cells resemble the
    labelled cells; 2.00 types per set, 0.0% with a single type
    >>> int(sets.size[0]), sets.sets[0]
    (2, ('T',))
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
        """Guaranteed expected share of sets that contain the true type, for exchangeable cells."""
        return 1.0 - self.alpha

    @cached_property
    def sets(self) -> tuple[tuple[str, ...], ...]:
        """Paths of the nodes in each set; complete subtrees are given by their topmost node."""
        whole = ~self.contains @ self.taxonomy.ancestor_matrix.astype(np.float32) == 0
        # In a chain of single children, the deepest node is given.
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

    def to_frame(self) -> pd.DataFrame:
        """Return sets as text (nodes joined by ``" | "``), and their sizes.

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
             label_set  size
        0  B | T > CD4     2
        1  B | T > CD4     2
        """
        text = [" | ".join(names) for names in self.sets]
        return pd.DataFrame({"label_set": text, "size": self.size}, index=self.obs_names)

    def holds(self, true_nodes: np.ndarray) -> np.ndarray:
        """Return whether each set contains all leaves below the cell's true node, (n_cells,).

        Parameters
        ----------
        true_nodes
            True node of each cell, shape ``(n_cells,)``.

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
        (nodes,) = check_nodes(self.taxonomy, len(self), true_nodes=true_nodes)
        check_same_cells(self.obs_names, true_nodes, "true_nodes")
        own = self.taxonomy.ancestor_matrix[:, nodes].T
        return np.asarray((self.contains | ~own).all(axis=1))

    def coverage(self, true_nodes: np.ndarray) -> float:
        """Return the share of labelled cells whose set contains the true type.

        Parameters
        ----------
        true_nodes
            True node of each cell, shape ``(n_cells,)``; cells with 0 (unlabelled) are ignored. The
            result is ``nan`` if all are unlabelled.

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
        covered = self.holds(true_nodes)[np.asarray(true_nodes) > 0]
        return float(covered.mean()) if covered.size else float("nan")

    def __len__(self) -> int:
        return len(self.obs_names)

    def __repr__(self) -> str:
        single = float((self.size == 1).mean()) if len(self) else 0.0
        mean = float(self.size.mean()) if len(self) else 0.0
        coverage = f"at least {self.promised_coverage:.1%} contain the true type if cells resemble"
        sizes = f"{mean:.2f} types per set, {single:.1%} with a single type"
        return (
            f"LabelSets of {len(self)} cells ({self.kind}): {coverage} the {self.source}; {sizes}"
        )


def label_sets(
    self: Annotation,
    alpha: float = 0.1,
    *,
    kind: SetKind = "nodes",
    groups: int | str | None = None,
    calibration: Calibration | None = None,
) -> LabelSets:
    r"""Compute conformal sets of types that contain the true one with probability 1 − alpha.

    Parameters
    ----------
    alpha
        Error rate: share of sets that may miss the true type, between 0 and 1.
    kind
        ``"nodes"``: all types below one node, the prediction or an ancestor of it.
        ``"leaves"``: the most probable types, anywhere in the tree.
    groups
        Level (depth or name) for coverage within each predicted label; by default, coverage
        holds for all cells together. Labels with fewer than :math:`1/\alpha - 1` calibration
        cells share one threshold.
    calibration
        Labelled cells scored by :func:`~hdeepinsight.annotation.calibrate`; by default those of
        the model.

    Raises
    ------
    ValueError
        If there is no calibration, or it is of another taxonomy, or ``alpha``, ``kind`` or
        ``groups`` is not valid.

    Examples
    --------
    Nine calibration cells show that the probabilities do not separate CD4 from CD8:

    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> from hdeepinsight.annotation import calibrate
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> table = pd.DataFrame({"CD4": [0.6] * 9, "CD8": [0.3] * 9, "B": [0.1] * 9})
    >>> result = hdi.Annotation.from_probabilities(table, tree)
    >>> calibration = calibrate(result, tree.encode(["CD4"] * 5 + ["CD8"] * 4))
    >>> result.label_sets(alpha=0.2, calibration=calibration).sets[0]
    ('T',)

    Notes
    -----
    Coverage is guaranteed for cells that are exchangeable with the calibration cells, so not
    for other donors, protocols or diseases, nor for types that the reference lacks. Calibrate
    with :func:`~hdeepinsight.annotation.calibrate` on some labelled cells of the query to
    restore it.

    References
    ----------
    Vovk, Gammerman and Shafer (2005), Algorithmic learning in a random world. The scores on
    the tree are specific to this package.
    """
    taxonomy, probabilities = self.taxonomy, self.node_probabilities
    calibration = calibration or self.calibration
    if calibration is None:
        why = f"It is {self.calibration_note}. " if self.calibration_note else ""
        raise ValueError(
            "This annotation has no calibration, which label sets need for their coverage. "
            f"{why}Annotate with a model that held out cells in training, or pass calibration="
            "hdi.annotation.calibrate(annotation_of_labelled_cells, true_nodes)."
        )
    if not 0.0 < alpha < 1.0:
        hint = "Use 0.1 for a coverage of 90 %."
        raise invalid("alpha", alpha, "a number between 0 and 1, both excluded", hint)
    if not isinstance(calibration, Calibration):
        raise invalid("calibration", calibration, "a result of hdi.annotation.calibrate")
    if taxonomy != calibration.taxonomy:
        raise ValueError(
            f"The calibration has another taxonomy ({calibration.taxonomy.n_leaves} types) than "
            f"the annotation ({taxonomy.n_leaves} types). Create one for the same tree with "
            "hdi.annotation.calibrate(annotation_of_labelled_cells, true_nodes)."
        )
    predicted = _decode.most_probable_leaf(taxonomy, probabilities)
    group_of, names = _groups(calibration, alpha, groups)
    scores, own = calibration.scores(kind), group_of[calibration.predicted]
    parts = [scores[own == group] for group in range(len(names))]
    limits = [conformal_threshold(part, alpha) for part in parts]
    table = pd.DataFrame({"n_cells": list(map(len, parts)), "threshold": limits})
    threshold = np.array(limits)[group_of[predicted]][:, None]
    if kind == "nodes":  # leaves below the deepest node above the threshold on the predicted path
        above = np.nextafter(threshold, np.inf)
        node = _decode.deepest_on_path(taxonomy, probabilities, predicted, above)
        contains = taxonomy.ancestor_matrix[:, node].T
    else:  # most probable leaves, until the preceding ones exceed the threshold
        contains = mass_before(taxonomy, probabilities) <= threshold
    return LabelSets(
        taxonomy=taxonomy,
        obs_names=self.obs_names,
        contains=np.asarray(contains),
        alpha=alpha,
        kind=kind,
        groups=groups,
        thresholds=table.set_axis(pd.Index(names, name="group")),
        source=calibration.source,
    )


def _groups(
    calibration: Calibration, alpha: float, level: int | str | None
) -> tuple[np.ndarray, list[str]]:
    """Return the group of each node, shape ``(n_nodes,)``, and the names of the groups.

    Groups that are too small for a threshold are combined, which guarantees the coverage for all of
    them together. The threshold of all cells would not.
    """
    taxonomy = calibration.taxonomy
    if level is None:
        return np.zeros(taxonomy.n_nodes, dtype=np.int64), ["all"]
    depth, nodes = _decode.depth_of_level(taxonomy, level), np.arange(taxonomy.n_nodes)
    at_level = _decode.truncate_to_depth(taxonomy, nodes, depth)
    n_cells = np.bincount(at_level[calibration.predicted], minlength=taxonomy.n_nodes)
    large = np.flatnonzero(n_cells + 1 >= round(1 / alpha, 9))
    group_of = np.full(taxonomy.n_nodes, len(large))
    group_of[large] = np.arange(len(large))
    return group_of[at_level], [*(taxonomy.path_name(int(v)) for v in large), "all others"]
