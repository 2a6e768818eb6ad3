"""A tree as bare names and parents: what is valid, its order, and the ways to give it.

Everything is iterative: a chain of 100,000 nodes must not meet Python's recursion limit.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hdeepinsight.taxonomy._taxonomy import Taxonomy

Path = tuple[str, ...]
"""The bare names from level 1 down to a node; the root is ``()``."""

NodeName = str | Path
"""A path as tuple or text, a synonym, or a bare name that leads to one path."""

Synonyms = Mapping[str, NodeName] | None
"""Other spellings and the nodes that they mean."""

SEPARATOR = " > "
"""Joins a path to text. Not a slash: ``Megakaryocytes/platelets`` is a published name."""

ROOT_NAME = "root"
"""Text form of the root's path ``()``, and therefore reserved at level 1."""

MAX_NODES = 10_000_000
"""Larger trees are refused: they are mistakes or attacks, not taxonomies."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_SEPARATOR_TOKEN = re.compile(r"(?:^|\s)>(?:\s|$)")
_MAX_COMPARED = 20_000
_MAX_SHOWN = 120


def join_path(path: Sequence[str]) -> str:
    """Text form of a path, e.g. ``"B > B_naive"``; the root gives ``"root"``."""
    return SEPARATOR.join(path) if path else ROOT_NAME


def split_path(text: str) -> Path:
    """Path of a text form; the inverse of `join_path`."""
    return () if text == ROOT_NAME else tuple(text.split(SEPARATOR))


def path_of(
    labels: Sequence[str], parent: Sequence[int] | NDArray[np.int32], node: int
) -> tuple[str, ...]:
    """Return the names from level 1 down to `node`; the root gives ``()``."""
    names: list[str] = []
    while node > 0:
        names.append(labels[node])
        node = int(parent[node])
    return tuple(reversed(names))


def name_problem(name: object) -> str | None:
    """Say what is wrong with a node name, or None when it may be used."""
    if not isinstance(name, str):
        return f"is of type {type(name).__name__}, not a string"
    if not name.strip():
        return "is empty"
    if _CONTROL.search(name):
        return "has a control character (such as a line break)"
    if _SEPARATOR_TOKEN.search(name):
        return f"has a '>' that stands alone, which is what joins paths ({SEPARATOR!r})"
    return None


def close_matches(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Known names that resemble `name`, best first, whatever their case."""
    folded: dict[str, str] = {}
    for candidate in known:
        folded.setdefault(candidate.casefold(), candidate)
        if len(folded) >= _MAX_COMPARED:  # difflib is slow, and an error must not take minutes
            break
    return [folded[hit] for hit in difflib.get_close_matches(name.casefold(), folded, n=n)]


def clipped(value: object) -> str:
    """Quote a value for an error message; of a long one, its start."""
    text = repr(value[: 2 * _MAX_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def quoted(names: Iterable[str], limit: int = 10) -> str:
    """Quoted names joined by commas; past `limit` the rest is counted, not listed."""
    listed = list(names)
    text = ", ".join(map(clipped, listed[:limit]))
    return text if len(listed) <= limit else f"{text} and {len(listed) - limit:,} more"


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
    n_nodes = len(labels)
    if n_nodes != len(parents):
        raise ValueError(
            f"A tree must have one parent per node (-1 for the root), got {n_nodes:,} labels "
            f"and {len(parents):,} parents. Give both lists in the same length."
        )
    if n_nodes > MAX_NODES:
        raise ValueError(
            f"A tree must have at most {MAX_NODES:,} nodes, got {n_nodes:,}. Check that the "
            "source is a taxonomy of cell types, not a list of cells."
        )
    children: list[list[int]] = [[] for _ in range(n_nodes + 1)]  # the last: those of none
    for node, parent in enumerate(parents):
        if not -1 <= parent < n_nodes:
            raise ValueError(
                f"Parents must be 0 to {n_nodes - 1}, or -1 for the root, got {parent} at node "
                f"{node} ({clipped(labels[node])}). Correct the parent of this node."
            )
        children[parent].append(node)
    order = children[-1].copy()
    if len(order) > 1:
        raise ValueError(
            "A taxonomy must have exactly one node without a parent, got more than one root: "
            f"{quoted(labels[node] for node in order)}. Put these nodes under one common root."
        )
    for node in order:  # the list grows while it is read: a queue without a queue
        order.extend(children[node])
    if len(order) < max(n_nodes, 1):
        cycle = _cycle(labels, parents, set(range(n_nodes)).difference(order))
        found = f"a cycle: {cycle}" if order else f"no root{f' ({cycle})' if cycle else ''}"
        raise ValueError(
            f"Every node of a taxonomy must lead up to one root, got {found}. Remove one of these "
            "links, or give the root the parent -1."
        )
    if n_nodes == 1:
        raise ValueError(
            "A taxonomy must have at least one node below its root, got a root and nothing below "
            "it. Check that the labels are not all missing."
        )
    rank = np.empty(n_nodes, dtype=np.int32)
    rank[order] = np.arange(n_nodes, dtype=np.int32)
    parent_of = np.full(n_nodes, -1, dtype=np.int32)
    parent_of[1:] = rank[np.asarray(parents, dtype=np.int64)[order[1:]]]
    names = [ROOT_NAME, *(labels[node] for node in order[1:])]
    seen: set[tuple[int, str]] = set()
    for name, above in zip(names[1:], parent_of[1:].tolist(), strict=True):
        problem = name_problem(name)
        if problem is None and above == 0 and name == ROOT_NAME:
            problem = "is the text that stands for the root itself"
        if problem is not None or (above, name) in seen:
            path = path_of(names, parent_of, above)
            where = clipped(join_path(path if len(path) <= 10 else (*path[:3], "...", *path[-3:])))
            found = f"two siblings named {clipped(name)} under {where}"
            if problem is not None:
                found = f"the name {clipped(name)} of a child of {where}, which {problem}"
            raise ValueError(
                "Names must be non-empty text on one line, distinct among siblings, got "
                f"{found}. Rename this node."
            )
        seen.add((above, name))
    return tuple(map(str, names)), parent_of  # plain text, also of numpy strings


def _cycle(labels: Sequence[str], parents: Sequence[int], lost: set[int]) -> str:
    """Show one cycle among nodes that do not lead up to a root; none gives no text."""
    seen: list[int] = []
    node = min(lost, default=-1)
    known = set(seen)
    while node >= 0 and node not in known:
        seen.append(node)
        known.add(node)
        node = parents[node]
    if not seen:
        return ""
    loop = [*seen[seen.index(node) :], node][::-1]
    tail = "" if len(loop) <= 8 else f" -> ... ({len(loop) - 1:,} nodes)"
    return " -> ".join(clipped(labels[node]) for node in loop[:8]) + tail


def build(
    cls: type[Taxonomy],
    labels: Sequence[str],
    parents: Sequence[int],
    level_names: Sequence[str] | None = None,
    synonyms: Synonyms = None,
    root_name: str | None = None,
) -> Taxonomy:
    """Make a taxonomy of names and parents; a name of the root becomes a synonym of it."""
    levels = tuple(level_names or ())
    tree = cls(tuple(labels), np.asarray(parents, dtype=np.int32), level_names=levels)
    if root_name not in (None, ROOT_NAME, *tree.labels[1:]):
        tree = tree.with_annotations(synonyms={str(root_name): ()})
    return tree.with_annotations(synonyms=synonyms) if synonyms else tree


def from_paths(
    cls: type[Taxonomy],
    paths: Iterable[NodeName],
    *,
    level_names: Sequence[str] | None = None,
    synonyms: Synonyms = None,
) -> Taxonomy:
    """Build the taxonomy that holds the given paths, as tuples or as text (``"T > CD4"``).

    Parameters
    ----------
    paths
        Paths of leaves or of any nodes; parents that are not listed are added.
    level_names
        One name per level.
    synonyms
        Other spellings and the nodes that they mean.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> Taxonomy.from_paths(["T > CD4", "T > CD8", "B"]).names
    ((), ('T',), ('B',), ('T', 'CD4'), ('T', 'CD8'))
    """
    labels, parents = [ROOT_NAME], [-1]
    known: dict[tuple[int, str], int] = {}
    for path in paths:
        node = 0
        for name in split_path(path) if isinstance(path, str) else path:
            child = known.setdefault((node, name), len(labels))
            if child == len(labels):
                labels.append(name)
                parents.append(node)
            node = child
    return build(cls, labels, parents, level_names, synonyms)


def from_nested(
    cls: type[Taxonomy],
    nested: Any,
    *,
    level_names: Sequence[str] | None = None,
    synonyms: Synonyms = None,
) -> Taxonomy:
    """Build a taxonomy of nested dicts and lists.

    Parameters
    ----------
    nested
        A dict of names to children, or a list of names (or of such dicts). Children are again
        dicts or lists; empty ones and None are leaves.
    level_names
        One name per level.
    synonyms
        Other spellings and the nodes that they mean.

    Raises
    ------
    TypeError
        When the children of a node are neither dict, list nor None.
    ValueError
        When an object contains itself, or names are invalid.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tax = Taxonomy.from_nested({"T": {"CD4": ["naive", "memory"], "CD8": None}, "B": []})
    >>> tax.n_leaves, tax.max_depth
    (4, 3)
    """
    labels, parents = [ROOT_NAME], [-1]
    open_objects: set[int] = set()
    stack: list[tuple[Any, int, bool]] = [(nested, 0, False)]
    while stack:
        item, parent, done = stack.pop()
        if done:
            open_objects.discard(id(item))
            continue
        pairs = _nested_pairs(item, labels[parent])
        if id(item) in open_objects:
            raise ValueError(
                "A nested tree must be finite, got a cycle: the object under "
                f"{clipped(labels[parent])} contains itself. Build it from new dicts and lists."
            )
        if len(labels) + len(pairs) > MAX_NODES:
            raise ValueError(
                f"A tree must have at most {MAX_NODES:,} nodes, got more. Check that no dict is "
                "repeated inside itself many times."
            )
        open_objects.add(id(item))
        stack.append((item, parent, True))
        first = len(labels)
        labels.extend(name for name, _ in pairs)
        parents.extend([parent] * len(pairs))
        below = [(kids, first + i, False) for i, (_, kids) in enumerate(pairs) if kids]
        stack.extend(reversed(below))
    return build(cls, labels, parents, level_names, synonyms)


def _nested_pairs(item: Any, owner: str) -> list[tuple[Any, Any]]:
    if isinstance(item, Mapping):
        return list(item.items())
    if not isinstance(item, (list, tuple)):
        raise TypeError(
            "Children must be a dict (name to children), a list of names, or None for a leaf, got "
            f"{clipped(item)} of type {type(item).__name__} under {clipped(owner)}. Put a single "
            "child into a list."
        )
    pairs: list[tuple[Any, Any]] = []
    for entry in item:
        pairs.extend(entry.items() if isinstance(entry, Mapping) else [(entry, None)])
    return pairs


def from_edges(
    cls: type[Taxonomy],
    edges: Iterable[tuple[str, str]],
    *,
    root: str | None = None,
    level_names: Sequence[str] | None = None,
    synonyms: Synonyms = None,
) -> Taxonomy:
    """Build a taxonomy of (parent, child) pairs.

    Parameters
    ----------
    edges
        Pairs of names. A name identifies its node; where types share a name, write them as
        text paths, as `to_edges` does.
    root
        Name of the only node without a parent. With None, one such node is the root; several
        are a forest of lineages and get a root above them. To keep a single top node as a type
        of its own, link it to the reserved name ``"root"``.
    level_names
        One name per level.
    synonyms
        Other spellings and the nodes that they mean.

    Raises
    ------
    ValueError
        When a node has two parents, the edges form a cycle, or nodes other than `root` have no
        parent.
    TypeError
        When an edge is not a pair of names.

    Notes
    -----
    The root itself has no name in a taxonomy; the name that it has here becomes a synonym of
    it, so that cells labelled with it count as "some type, which one is not known".

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tax = Taxonomy.from_edges([("cell", "B"), ("cell", "T"), ("T", "CD4"), ("T", "CD8")])
    >>> tax.resolve("cell"), tax.path_name(4)
    (0, 'T > CD8')
    """
    index: dict[str, int] = {}
    parents: list[int] = []
    for parent, child in dict.fromkeys(map(_checked_edge, edges)):
        for name in (parent, child):
            if name not in index:
                index[name] = len(parents)
                parents.append(-1)
        if parents[index[child]] != -1:
            first = list(index)[parents[index[child]]]
            raise ValueError(
                f"Every node of a tree must have one parent, got two parents of {clipped(child)}: "
                f"{clipped(first)} and {clipped(parent)}. If these are two types of one name, "
                f"write them as paths ('{first} > {child}' and '{parent} > {child}')."
            )
        parents[index[child]] = index[parent]
    names = list(index)
    tops = [name for name, parent in zip(names, parents, strict=True) if parent == -1]
    if root is not None and tops != [root] and tops:
        raise ValueError(
            f"Only root={root!r} must be without a parent, got {quoted(tops)}. Add the missing "
            "edges, or leave `root` out to put all of them under a root of their own."
        )
    labels = [split_path(name)[-1] if split_path(name) else ROOT_NAME for name in names]
    root_name = tops[0] if tops else None
    if len(tops) > 1:
        labels, root_name = [ROOT_NAME, *labels], None
        parents = [-1, *(0 if parent == -1 else parent + 1 for parent in parents)]
    return build(cls, labels, parents, level_names, synonyms, root_name)


def _checked_edge(edge: Any) -> tuple[str, str]:
    pair = () if isinstance(edge, str) else tuple(edge)
    if len(pair) != 2 or not all(isinstance(name, str) for name in pair):
        raise TypeError(
            f"An edge must be a pair of names, parent and child, both text, got {clipped(edge)}. "
            "Leave out a pair whose parent is missing: what has no parent is the root."
        )
    path = split_path(pair[1])
    if len(path) > 1 and path[:-1] != split_path(pair[0]):
        raise ValueError(
            "A child that is written as a path must go on from its parent's path, got the edge "
            f"from {clipped(pair[0])} to {clipped(pair[1])}. Correct the path, or use bare names."
        )
    return pair
