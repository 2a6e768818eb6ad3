"""Decode node probabilities to a leaf and a label for each cell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hdeepinsight._errors import check_choice, check_number
from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight.taxonomy import Taxonomy

#: Tolerance for sums of probabilities in half precision.
PROBABILITY_TOLERANCE = 1e-2
Decoder = Literal["joint", "greedy"]
#: Whether cells that no type supports are labelled at a higher level.
Reject = Literal["auto", "off"]


class Decoded(NamedTuple):
    """Decoded paths.

    Attributes
    ----------
    leaf
        Leaf of each cell, shape ``(n_cells,)``.
    stop
        Deepest node on that path that reaches the threshold, shape ``(n_cells,)``.

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
    """Raise ``ValueError`` for invalid settings.

    The threshold must be ``None`` or in [0.5, 1].

    Examples
    --------
    >>> check_decoding(0.9, "greedy", "off")
    >>> check_decoding(0.4)
    Traceback (most recent call last):
        ...
    ValueError: threshold must be a number from 0.5 to 1, got 0.4. Below 0.5, two ...
    """
    if threshold is not None:
        hint = "Below 0.5, two branches could reach the threshold, so the label would be ambiguous."
        hint += " Pass threshold=None to never stop early."
        check_number("threshold", threshold, 0.5, 1.0, hint=hint)
    hint = "Use 'joint', or 'greedy' to reproduce the published method."
    check_choice("decoder", decoder, get_args(Decoder), hint)
    check_choice("reject", reject, get_args(Reject), "'auto' is a good start.")


def decode(
    taxonomy: Taxonomy,
    probabilities: np.ndarray,
    *,
    decoder: Decoder = "joint",
    threshold: float | None = 0.5,
    node_thresholds: np.ndarray | None = None,
) -> Decoded:
    """Choose a leaf and a stop node for each cell.

    Parameters
    ----------
    taxonomy
        The tree.
    probabilities
        Probability of each node, shape ``(n_cells, n_nodes)``.
    decoder
        ``"joint"`` chooses the most probable leaf. ``"greedy"`` chooses the most probable child at
        each level, as published, without correcting errors of earlier levels.
    threshold
        The stop node is the deepest node with at least this probability, or the root. With
        ``None``, it is the leaf.
    node_thresholds
        Threshold of each node, shape ``(n_nodes,)``, where it is higher than ``threshold``.

    Raises
    ------
    ValueError
        If the threshold is below 0.5 or above 1, or there is no such decoder.

    Examples
    --------
    The lineage "T" is likely, although each of its types is less probable than "B":

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
    With a threshold, the leaf is chosen *below the stop node*, so leaf and stop node are always on
    one path.
    """
    check_decoding(threshold, decoder)
    root = stop = np.zeros(len(probabilities), dtype=np.int64)
    if threshold is not None:
        # Nodes above 0.5 are the most probable of their siblings, so all nodes that reach the
        # threshold are on the greedy path. Following it also resolves ties at exactly 0.5 in the
        # same way for all thresholds, so higher thresholds only move labels up.
        limit = threshold if node_thresholds is None else np.maximum(node_thresholds, threshold)
        path_end = _walk_down(taxonomy, probabilities, root)
        stop = deepest_on_path(taxonomy, probabilities, path_end, limit)
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
    """Return the deepest node on the path to each leaf with at least ``threshold``.

    Thresholds per cell have the shape ``(n_cells, 1)``, thresholds per node ``(n_nodes,)``. Cells
    without such a node have the root. The result has the shape ``(n_cells,)``.
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
    """Replace nodes deeper than ``max_depth`` by their ancestor there, shape ``(n_cells,)``.

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
    ancestors = np.where(allowed < 1, 0, above)
    return np.where(taxonomy.depth[nodes] <= allowed, nodes, ancestors)


def most_probable_leaf(taxonomy: Taxonomy, probabilities: np.ndarray) -> np.ndarray:
    """Return the most probable leaf of each cell, shape ``(n_cells,)``.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> most_probable_leaf(tree, np.array([[1.0, 0.6, 0.4, 0.35, 0.25]]))
    array([2])
    """
    return most_probable(probabilities, taxonomy.leaves)


def most_probable(probabilities: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Return the most probable of some nodes for each cell, shape ``(n_cells,)``."""
    return np.asarray(nodes[probabilities[:, nodes].argmax(axis=1)])


def _walk_down(taxonomy: Taxonomy, probabilities: np.ndarray, start: np.ndarray) -> np.ndarray:
    node = start.copy()
    # Groups are in breadth-first order, so parents are visited before their children.
    for children in taxonomy.groups:
        here = np.flatnonzero(node == taxonomy.parent[children[0]])
        node[here] = children[probabilities[np.ix_(here, children)].argmax(axis=1)]
    return node


def depth_of_level(taxonomy: Taxonomy, level: int | str) -> int:
    """Return the depth of a level below the root.

    Raises
    ------
    ValueError
        If there is no such level, or it is the root.

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


def node_names(taxonomy: Taxonomy) -> list[str]:
    """Return the label of each node, "Unknown" for the root.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> node_names(tree)
    ['Unknown', 'T', 'B', 'CD4', 'CD8']
    """
    return [LABEL_COLUMNS.ROOT, *taxonomy.labels[1:]]


def node_categories(names: Sequence[str], nodes: NDArray[np.int64]) -> pd.Categorical:
    """Return the name of each cell's node, with the occurring categories in tree order.

    Parameters
    ----------
    names
        Name of each node, shape ``(n_nodes,)``.
    nodes
        Node of each cell, shape ``(n_cells,)``.

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
