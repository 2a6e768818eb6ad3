"""Conformal calibration: how far above its guess a set must reach to hold the truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from hdeepinsight.annotation._decode import most_probable_leaf

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hdeepinsight.annotation._annotation import Annotation
    from hdeepinsight.taxonomy import Taxonomy

SetKind = Literal["nodes", "leaves"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Calibration:
    """Conformal scores of labelled cells that the network was not trained on.

    Made by :func:`calibrate`; a trained model carries one in ``model.calibration``, and so does
    every annotation that it makes.

    Parameters
    ----------
    taxonomy
        The tree of the labels.
    true_nodes
        Node of every calibration cell's label, shape ``(n_cells,)``.
    predicted
        Most probable leaf of every calibration cell, shape ``(n_cells,)``.
    node_scores
        Probability that an ancestor of the guess must exceed for the set under it to hold the
        truth, shape ``(n_cells,)``; 0 where the guess is right.
    leaf_scores
        Probability of all leaves ranked before the true one, shape ``(n_cells,)``.
    source
        What the cells are.

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
        """Scores of the cells for one kind of set, shape ``(n_cells,)``.

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
        check_kind(kind)
        return self.node_scores if kind == "nodes" else self.leaf_scores

    def to_dict(self) -> dict[str, Any]:
        """Give arrays and text, without the taxonomy.

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
        names = ("true_nodes", "predicted", "node_scores", "leaf_scores", "source")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], taxonomy: Taxonomy) -> Calibration:
        """Make one from what :meth:`to_dict` gave; tensors are as good as arrays.

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


def calibrate(
    annotation: Annotation, true_nodes: np.ndarray, *, source: str = "labelled cells"
) -> Calibration:
    """Score labelled cells for conformal label sets.

    Parameters
    ----------
    annotation
        Annotation of cells that whoever made the probabilities has not seen; any probabilities
        over a taxonomy will do.
    true_nodes
        True node of every cell, shape ``(n_cells,)``, as ``taxonomy.encode(labels)`` gives it;
        cells with 0 (unlabelled) are left out.
    source
        What the cells are, in plural, for messages.

    Returns
    -------
    The calibration, for :meth:`Annotation.label_sets`.

    Raises
    ------
    ValueError
        If the nodes do not fit the cells or the taxonomy, or no cell has a label.

    Examples
    --------
    The guess "CD4 T" is wrong for the second cell: only a set that reaches up to "T" holds the
    truth, so the threshold must not be below the probability of "CD4 T".

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
    The guess is the most probable leaf, whatever the decoder and threshold of the annotation. A
    cell labelled at an inner node takes the largest score of its leaves: its set must hold them
    all, which is conservative.
    """
    taxonomy, known = annotation.taxonomy, _labelled(annotation, true_nodes)
    probabilities = annotation.node_probabilities[known].astype(np.float64)
    truth, guess = np.asarray(true_nodes)[known], most_probable_leaf(taxonomy, probabilities)
    return Calibration(
        taxonomy=taxonomy,
        true_nodes=truth,
        predicted=guess,
        node_scores=_node_scores(taxonomy, probabilities, guess, truth),
        leaf_scores=_leaf_scores(taxonomy, probabilities, truth),
        source=source,
    )


def conformal_threshold(scores: np.ndarray, alpha: float) -> float:
    """Return the ⌈(n + 1)(1 − α)⌉-th smallest score; infinity where there is no such rank.

    Examples
    --------
    >>> conformal_threshold(np.arange(1, 20) / 20, alpha=0.1)
    0.9
    >>> conformal_threshold(np.arange(8) / 8, alpha=0.1)
    inf
    """
    # (n + 1)(1 - α) is often a whole number, which rounding must not lift to the next rank.
    rank = int(np.ceil(round((len(scores) + 1) * (1.0 - alpha), 9)))
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else float("inf")


def mass_before(taxonomy: Taxonomy, probabilities: np.ndarray) -> np.ndarray:
    """Probability of all leaves ranked before each leaf, shape ``(n_cells, n_leaves)``."""
    leaves = probabilities[:, taxonomy.leaves].astype(np.float64)
    order = np.argsort(-leaves, axis=1, kind="stable")
    ranked = np.take_along_axis(leaves, order, axis=1)
    before = np.zeros_like(ranked)
    np.put_along_axis(before, order, np.cumsum(ranked, axis=1) - ranked, axis=1)
    # The difference of a sum and its last term may miss zero by a rounding error.
    np.put_along_axis(before, order[:, :1], 0.0, axis=1)
    return before


def check_kind(kind: str) -> None:
    """Raise ``ValueError`` unless there is such a kind of set."""
    if kind not in get_args(SetKind):
        msg = (
            f"kind={kind!r}; valid are {get_args(SetKind)}. Use 'nodes' for one node a cell, "
            "'leaves' for smaller sets of types that may lie apart."
        )
        raise ValueError(msg)


def _node_scores(
    taxonomy: Taxonomy, probabilities: np.ndarray, guess: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    """Probability of the topmost node on the guess's path that does not hold the whole truth."""
    path, true_path = taxonomy.node_at_level[guess], taxonomy.node_at_level[truth]
    # A node of the path that is the truth itself or above it holds it; so does one under it, where
    # nothing else is: a chain of single children.
    n_leaves = taxonomy.ancestor_matrix.sum(axis=0)
    same = (path == true_path) & (path >= 0)
    chain = (path >= 0) & (true_path < 0) & (n_leaves[path] == n_leaves[truth][:, None])
    holds = np.logical_and.accumulate(same | chain, axis=1)
    missed = ~holds & (path >= 0)
    topmost = missed.argmax(axis=1)
    rows = np.arange(len(guess))
    score = probabilities[rows, path[rows, topmost]]
    return np.where(missed.any(axis=1), score, 0.0)


def _leaf_scores(taxonomy: Taxonomy, probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    own = taxonomy.ancestor_matrix[:, truth].T
    return np.asarray(np.where(own, mass_before(taxonomy, probabilities), 0.0).max(axis=1))


def _labelled(annotation: Annotation, true_nodes: np.ndarray) -> np.ndarray:
    nodes = check_nodes(annotation.taxonomy, true_nodes, len(annotation))
    known = np.flatnonzero(nodes > 0)
    if not known.size:
        msg = (
            "No cell has a known label, so there is nothing to calibrate on. Valid are nodes of "
            "the taxonomy above 0; encode labels with taxonomy.encode(labels)."
        )
        raise ValueError(msg)
    return known


def check_nodes(taxonomy: Taxonomy, nodes: np.ndarray, n_cells: int) -> np.ndarray:
    """Return nodes as an array; raise ``ValueError`` where they do not fit the cells or the tree.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> check_nodes(tree, np.array([3, 0]), n_cells=2)
    array([3, 0])
    """
    found = np.asarray(nodes)
    fits = found.shape == (n_cells,) and found.dtype.kind in "iu"
    if not fits or (n_cells and not 0 <= found.min() <= found.max() < taxonomy.n_nodes):
        msg = (
            f"The true nodes have shape {found.shape} and type {found.dtype}; valid is one whole "
            f"number from 0 (unlabelled) to {taxonomy.n_nodes - 1} for each of {n_cells} cells. "
            "Encode labels with taxonomy.encode(labels)."
        )
        raise ValueError(msg)
    return found
