"""Order and validation of a tree given as bare names and parent indices.

Everything is iterative: a chain of 100,000 nodes must not meet Python's recursion limit.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hdeepinsight.taxonomy._names import ROOT_NAME, clipped, join_path, name_problem, quoted

MAX_NODES = 10_000_000
"""Larger trees are refused: they are mistakes or attacks, not taxonomies."""


def canonical_tree(
    labels: Sequence[str], parents: Sequence[int]
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Check a tree and put its nodes in breadth-first order, siblings in the order given.

    Parameters
    ----------
    labels
        Bare name of every node; the root's is not used.
    parents
        Index of every node's parent, -1 for the root.

    Returns
    -------
    labels, parents
        The same tree with node 0 the root; `parents` is int32 of shape ``(n_nodes,)``.

    Raises
    ------
    ValueError
        Naming the node, when there is no root or more than one, a cycle, an impossible parent, a
        bad name, two siblings of one name, or nothing below the root.
    """
    _check_size(labels, parents)
    root = _only_root(labels, parents)
    order = _breadth_first(labels, parents, root)
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    parent = np.full(len(order), -1, dtype=np.int32)
    parent[1:] = rank[np.asarray(parents, dtype=np.int64)[order[1:]]]
    names = (ROOT_NAME, *(labels[node] for node in order[1:]))
    _check_names(names, parent)
    return tuple(map(str, names)), parent  # plain text, also of numpy strings


def _check_size(labels: Sequence[str], parents: Sequence[int]) -> None:
    if len(labels) != len(parents):
        raise ValueError(
            f"Found {len(labels):,} labels but {len(parents):,} parents. A tree needs one parent "
            "for each node (-1 for the root). Give both lists in the same length."
        )
    if len(labels) > MAX_NODES:
        raise ValueError(
            f"Found {len(labels):,} nodes. At most {MAX_NODES:,} are valid. Check that the source "
            "is a taxonomy of cell types, not a list of cells."
        )
    for node, parent in enumerate(parents):
        if not -1 <= parent < len(labels):
            raise ValueError(
                f"Node {node} ({clipped(labels[node])}) names the parent {parent}. Valid parents "
                f"are 0 to {len(labels) - 1}, and -1 for the root. Correct the parent of this node."
            )


def _only_root(labels: Sequence[str], parents: Sequence[int]) -> int:
    roots = [node for node, parent in enumerate(parents) if parent == -1]
    if len(roots) > 1:
        raise ValueError(
            f"Found more than one root: {quoted(labels[node] for node in roots)}. A taxonomy has "
            "exactly one node without a parent. Put these nodes under one common root."
        )
    if not roots:
        cycle = f" ({_cycle(labels, parents, 0)})" if parents else ""
        raise ValueError(
            f"Found no root: every node has a parent{cycle}. A taxonomy has exactly one node "
            "without a parent. Give the root the parent -1."
        )
    if len(parents) == 1:
        raise ValueError(
            "Found a root and nothing below it. A taxonomy has at least one node below its root. "
            "Check that the labels are not all missing."
        )
    return roots[0]


def _breadth_first(labels: Sequence[str], parents: Sequence[int], root: int) -> list[int]:
    children: list[list[int]] = [[] for _ in labels]
    for node, parent in enumerate(parents):
        if parent >= 0:
            children[parent].append(node)
    order = [root]
    for node in order:  # the list grows while it is read: a queue without a queue
        order.extend(children[node])
    if len(order) < len(labels):
        lost = next(iter(set(range(len(labels))).difference(order)))
        raise ValueError(
            f"Found a cycle: {_cycle(labels, parents, lost)}. In a taxonomy every node leads up to "
            "the root. Remove one of these links."
        )
    return order


def _cycle(labels: Sequence[str], parents: Sequence[int], start: int) -> str:
    seen: dict[int, None] = {}
    node = start
    while node not in seen:
        seen[node] = None
        node = parents[node]
    members = list(seen)
    loop = [*members[members.index(node) :], node][::-1]
    shown = loop if len(loop) <= 8 else loop[:8]
    tail = "" if len(loop) <= 8 else f" -> ... ({len(loop) - 1:,} nodes)"
    return " -> ".join(clipped(labels[node]) for node in shown) + tail


def _check_names(labels: Sequence[str], parent: NDArray[np.int32]) -> None:
    seen: set[tuple[int, str]] = set()
    for node, above in enumerate(parent.tolist()):
        if node == 0:
            continue
        name = labels[node]
        problem = name_problem(name)
        if problem is None and above == 0 and name == ROOT_NAME:
            problem = "is the text that stands for the root itself"
        if problem is not None:
            raise ValueError(
                f"The name {clipped(name)} of a child of {describe(labels, parent, above)} "
                f"{problem}. Names are non-empty text on one line. Rename this node."
            )
        if (above, name) in seen:
            raise ValueError(
                f"Found two siblings named {clipped(name)} under {describe(labels, parent, above)}."
                " The children of one node have distinct names. Rename or merge them."
            )
        seen.add((above, name))


def path_of(labels: Sequence[str], parent: NDArray[np.int32], node: int) -> tuple[str, ...]:
    """Names from level 1 down to `node`; the root gives ``()``."""
    names: list[str] = []
    while node > 0:
        names.append(labels[node])
        node = int(parent[node])
    return tuple(reversed(names))


def describe(labels: Sequence[str], parent: NDArray[np.int32], node: int) -> str:
    """Quoted text path of a node for an error message; very long paths lose their middle."""
    path = path_of(labels, parent, node)
    return clipped(join_path(path if len(path) <= 10 else (*path[:3], "...", *path[-3:])))
