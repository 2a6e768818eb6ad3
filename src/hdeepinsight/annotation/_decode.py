"""From node probabilities to one path per cell: which leaf, and how far down to trust it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hdeepinsight._errors import check_choice, invalid
from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight.taxonomy import Taxonomy

#: What sums of probabilities may lie above 1 by rounding, in half precision.
PROBABILITY_TOLERANCE = 1e-2
Decoder = Literal["joint", "greedy"]
#: Whether cells that no type supports are stopped further up.
Reject = Literal["auto", "off"]


class Decoded(NamedTuple):
    """Decoded paths.

    Attributes
    ----------
    leaf
        Leaf of every cell, shape ``(n_cells,)``.
    stop
        Deepest node on that path that passes the threshold, shape ``(n_cells,)``.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.annotation import decode
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> decode(tree, np.array([[1.0, 0.6, 0.4, 0.35, 0.25]]))
    Decoded(leaf=array([3]), stop=array([1]))
    """

    leaf: np.ndarray
    stop: np.ndarray


def check_decoding(
    threshold: float | None, decoder: Decoder = "joint", reject: Reject = "auto"
) -> None:
    """Raise ``ValueError`` unless labels can be chosen in this way.

    The threshold is ``None`` or in [0.5, 1].

    Examples
    --------
    >>> check_decoding(0.9, "greedy", "off")
    >>> check_decoding(0.4)
    Traceback (most recent call last):
        ...
    ValueError: threshold must be a number from 0.5 to 1, or None to never stop early, got 0.4. ...
    """
    if threshold is not None and not 0.5 <= threshold <= 1.0:
        raise invalid(
            "threshold",
            threshold,
            "a number from 0.5 to 1, or None to never stop early",
            "Below 0.5 two branches could both pass, so there would be no single place to stop. "
            "Pass threshold=None for a larger share of cells at the leaves.",
        )
    hint = "Use 'joint' unless the published routing is what you want to reproduce."
    check_choice("decoder", decoder, get_args(Decoder), hint)
    check_choice("reject", reject, get_args(Reject), "Use 'auto' to begin with.")


def decode(
    taxonomy: Taxonomy,
    probabilities: np.ndarray,
    *,
    decoder: Decoder = "joint",
    threshold: float | None = 0.5,
    node_thresholds: np.ndarray | None = None,
) -> Decoded:
    """Choose a leaf and a stop node for every cell.

    Parameters
    ----------
    taxonomy
        The tree.
    probabilities
        Probability of every node, shape ``(n_cells, n_nodes)``.
    decoder
        ``"joint"`` takes the most probable leaf. ``"greedy"`` walks down from the root by the
        most probable child, as published; a wrong turn cannot be undone.
    threshold
        The stop node is the deepest one whose probability is at least this; the root if there is
        none. With ``None`` the leaf is the stop node.
    node_thresholds
        Threshold of every node, shape ``(n_nodes,)``, where it is higher than that for all.

    Raises
    ------
    ValueError
        If the threshold is below 0.5 or above 1, or there is no such decoder.

    Examples
    --------
    The base type "T" is likely, though no single type of it beats "B":

    >>> import numpy as np
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> p = np.array([[1.0, 0.6, 0.4, 0.35, 0.25]])
    >>> [tree.label(int(nodes[0])) for nodes in decode(tree, p)]
    ['CD4', 'T']
    >>> [tree.label(int(nodes[0])) for nodes in decode(tree, p, threshold=None)]
    ['B', 'B']

    Notes
    -----
    With a threshold, the leaf is the decoder's choice *under the stop node*, so that leaf and
    stop node always lie on one path.
    """
    check_decoding(threshold, decoder)
    root = stop = np.zeros(len(probabilities), dtype=np.int64)
    if threshold is not None:
        # A node of more than 0.5 is always the most probable of its siblings, so every node that
        # passes lies on the greedy path. Staying on it settles ties at exactly 0.5 in one way for
        # all thresholds: a higher one can only move up.
        least = threshold if node_thresholds is None else np.maximum(node_thresholds, threshold)
        path_end = _walk_down(taxonomy, probabilities, root)
        stop = deepest_on_path(taxonomy, probabilities, path_end, least)
    if decoder == "greedy":
        leaf = _walk_down(taxonomy, probabilities, stop)
    else:
        below = taxonomy.ancestor_matrix[:, stop].T
        possible = np.where(below, probabilities[:, taxonomy.leaves], -1.0)
        leaf = np.asarray(taxonomy.leaves[possible.argmax(axis=1)])
    return Decoded(leaf, leaf if threshold is None else stop)


def deepest_on_path(
    taxonomy: Taxonomy, probabilities: np.ndarray, leaf: np.ndarray, threshold: float | np.ndarray
) -> np.ndarray:
    """Return the deepest node above each leaf with at least ``threshold``, shape ``(n_cells,)``.

    A threshold per cell has the shape ``(n_cells, 1)``, one per node ``(n_nodes,)``. The root takes
    cells without such a node.
    """
    path = taxonomy.node_at_level[leaf]
    if isinstance(threshold, np.ndarray) and threshold.ndim == 1:
        threshold = threshold[path.clip(0)]
    passing = (path > 0) & (np.take_along_axis(probabilities, path.clip(0), axis=1) >= threshold)
    depth = np.where(passing, np.arange(1, path.shape[1] + 1), 0).max(axis=1)
    on_path = np.take_along_axis(path, depth[:, None].clip(1) - 1, axis=1).ravel()
    return np.where(depth > 0, on_path, 0)


def truncate_to_depth(
    taxonomy: Taxonomy, nodes: np.ndarray, max_depth: int | np.ndarray
) -> np.ndarray:
    """Return the ancestor of every node that is no deeper than allowed, shape ``(n_cells,)``.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> truncate_to_depth(tree, np.array([3, 3, 2]), np.array([2, 1, 0]))
    array([3, 1, 0])
    """
    rows, allowed = np.arange(len(nodes)), np.broadcast_to(max_depth, len(nodes))
    above = taxonomy.node_at_level[nodes][rows, allowed.clip(1, taxonomy.max_depth) - 1]
    lifted = np.where(allowed < 1, 0, above)
    return np.where(taxonomy.depth[nodes] <= allowed, nodes, lifted)


def most_probable_leaf(taxonomy: Taxonomy, probabilities: np.ndarray) -> np.ndarray:
    """Return the most probable leaf of every cell, shape ``(n_cells,)``.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> most_probable_leaf(tree, np.array([[1.0, 0.6, 0.4, 0.35, 0.25]]))
    array([2])
    """
    return np.asarray(taxonomy.leaves[probabilities[:, taxonomy.leaves].argmax(axis=1)])


def _walk_down(taxonomy: Taxonomy, probabilities: np.ndarray, start: np.ndarray) -> np.ndarray:
    node = start.copy()
    # Breadth-first order: a parent's group is always visited before its children's groups.
    for children in taxonomy.groups:
        here = np.flatnonzero(node == taxonomy.parent[children[0]])
        node[here] = children[probabilities[np.ix_(here, children)].argmax(axis=1)]
    return node


def depth_of_level(taxonomy: Taxonomy, level: int | str) -> int:
    """Return the depth of a level below the root.

    Raises
    ------
    ValueError
        If there is no such level, or it is the root, where every cell has the same label.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> depth_of_level(tree, "level_2"), depth_of_level(tree, 1)
    (2, 1)
    """
    depth = taxonomy.level_depth(level)
    if depth == 0:
        raise ValueError(
            f"level must be one of {list(taxonomy.level_names)} or a depth from 1 to "
            f"{taxonomy.max_depth}, got {level!r}, which is the root. Choose one of these."
        )
    return depth


def node_names(taxonomy: Taxonomy, root: str = LABEL_COLUMNS.ROOT) -> list[str]:
    """Return the bare name of every node, with a word for "no label" at the root.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> node_names(tree)
    ['Unknown', 'T', 'B', 'CD4', 'CD8']
    """
    return [root, *taxonomy.labels[1:]]


def node_categories(names: Sequence[str], nodes: NDArray[np.int64]) -> pd.Categorical:
    """Return the name of each cell's node, as categories in the order of the tree that occur.

    Parameters
    ----------
    names
        Name of every node, shape ``(n_nodes,)``.
    nodes
        Node of every cell, shape ``(n_cells,)``.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> node_categories(node_names(tree), np.array([3, 0, 3])).categories.tolist()
    ['Unknown', 'CD4']
    """
    labels = np.array(names, dtype=object)[nodes]
    return pd.Categorical(labels, list(dict.fromkeys(names))).remove_unused_categories()
