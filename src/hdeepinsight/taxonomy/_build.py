"""A tree as bare names and parents: what is valid, its order, and the ways to give it.

Everything is iterative: a chain of 100,000 nodes must not meet Python's recursion limit.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hdeepinsight.taxonomy._taxonomy import Taxonomy

Path = tuple[str, ...]
"""The bare names from level 1 down to a node; the root is ``()``."""

NodeName = str | Path
"""A path as tuple or text, a synonym, or a bare name that leads to one path."""


class Annotations(TypedDict, total=False):
    """What is known of a tree beside its names; see `Taxonomy.with_annotations`."""

    level_names: Sequence[str] | None
    synonyms: Mapping[str, NodeName] | None
    ontology_ids: Mapping[Any, str] | None


SEPARATOR = " > "
"""Joins a path to text. Not a slash: ``Megakaryocytes/platelets`` is a published name."""

ROOT_NAME = "root"
"""Text form of the root's path ``()``, and therefore reserved at level 1."""

MAX_NODES = 10_000_000
"""Larger trees are refused: they are mistakes or attacks, not taxonomies."""

_MAX_DEPTH = 100_000
_MAX_COMPARED = 20_000
_MAX_SHOWN = 120
_NAME_PROBLEMS = {
    r"^\s*$": "is empty",
    r"[\x00-\x1f\x7f\ud800-\udfff]": "has a control character (such as a line break)",
    r"(?:^|\s)>(?:\s|$)": f"has a '>' that stands alone, which is what joins paths ({SEPARATOR!r})",
}
_ODD_NAME = re.compile("|".join(_NAME_PROBLEMS))


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
    if not _ODD_NAME.search(name):
        return None
    return next(text for pattern, text in _NAME_PROBLEMS.items() if re.search(pattern, name))


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
    check_size(n_nodes)
    children: list[list[int]] = [[] for _ in range(n_nodes + 1)]  # the last: those of none
    for node, parent in enumerate(parents):
        if not -1 <= parent < n_nodes:
            raise ValueError(
                f"Parents must be 0 to {n_nodes - 1}, or -1 for the root, got {parent} at node "
                f"{node} ({clipped(labels[node])}). Correct the parent of this node."
            )
        children[parent].append(node)
    order = children[-1].copy()
    for node in order:  # the list grows while it is read: a queue without a queue
        order.extend(children[node])
    problem = None
    if len(children[-1]) > 1:
        roots = quoted(labels[node] for node in children[-1])
        problem = f"more than one root: {roots}. Put these nodes under one common root"
    elif len(order) < n_nodes:
        import networkx as nx

        lost = set(range(n_nodes)).difference(order)
        cycle = nx.find_cycle(nx.DiGraph((parents[node], node) for node in lost))
        loop = [cycle[0][0], *(child for _, child in cycle[:8])]
        problem = (
            f"{'a cycle' if order else 'no root but a cycle'} of {len(cycle):,} nodes: "
            f"{' -> '.join(clipped(labels[node]) for node in loop)}. Remove one of these links"
        )
    elif n_nodes < 2:
        problem = f"{'a root and nothing below it' if n_nodes else 'no root'}. Check the labels"
    if problem:
        raise ValueError(
            f"A taxonomy must have one root, to which every other node leads up, got {problem}."
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
            where = clipped(join_path(path_of(names, parent_of, above)))
            found = f"two siblings named {clipped(name)} under {where}"
            if problem is not None:
                found = f"the name {clipped(name)} of a child of {where}, which {problem}"
            raise ValueError(
                "Names must be non-empty text on one line, distinct among siblings, got "
                f"{found}. Rename this node."
            )
        seen.add((above, name))
    return tuple(map(str, names)), parent_of  # plain text, also of numpy strings


def check_size(n_nodes: int) -> None:
    """Raise ``ValueError`` for a tree of too many nodes."""
    if n_nodes > MAX_NODES:
        raise ValueError(
            f"A tree must have at most {MAX_NODES:,} nodes, got {n_nodes:,}. Check that the "
            "source is a taxonomy of cell types, not a list of cells."
        )


def build(
    cls: type[Taxonomy], labels: Sequence[str], parents: Sequence[int], annotations: Annotations
) -> Taxonomy:
    """Make a taxonomy of names and parents; a name of the root, the first, becomes a synonym."""
    tree = cls(tuple(labels), np.asarray(parents, dtype=np.int32))
    if labels[0] not in ("", *tree.labels):
        tree = tree.with_annotations(synonyms={labels[0]: ROOT_NAME})
    return tree.with_annotations(**annotations) if annotations else tree


def from_paths(
    cls: type[Taxonomy], paths: Iterable[NodeName], **annotations: Unpack[Annotations]
) -> Taxonomy:
    """Build the taxonomy that holds the given paths, as tuples or as text (``"T > CD4"``).

    Parameters
    ----------
    paths
        Paths of leaves or of any nodes; parents that are not listed are added.
    annotations
        Level names, synonyms and ontology ids, as in `Taxonomy.with_annotations`.

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
    return build(cls, labels, parents, annotations)


def from_nested(cls: type[Taxonomy], nested: Any, **annotations: Unpack[Annotations]) -> Taxonomy:
    """Build a taxonomy of nested dicts and lists.

    Parameters
    ----------
    nested
        A dict of names to children, or a list of names (or of such dicts). Children are again
        dicts or lists; empty ones and None are leaves.
    annotations
        Level names, synonyms and ontology ids, as in `Taxonomy.with_annotations`.

    Raises
    ------
    TypeError
        When the children of a node are neither dict, list nor None.
    ValueError
        When an object contains itself or is nested more than 100,000 deep, or names are invalid.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tax = Taxonomy.from_nested({"T": {"CD4": ["naive", "memory"], "CD8": None}, "B": []})
    >>> tax.n_leaves, tax.max_depth
    (4, 3)
    """
    labels, parents = [ROOT_NAME], [-1]
    stack = [(nested, 0, 0)]
    while stack:
        item, parent, depth = stack.pop()
        if depth > _MAX_DEPTH:
            raise ValueError(
                f"A nested tree must have at most {_MAX_DEPTH:,} levels, got more under "
                f"{clipped(labels[parent])}. Check that no dict or list contains itself."
            )
        if not isinstance(item, (Mapping, list, tuple)):
            raise TypeError(
                "Children must be a dict (name to children), a list of names, or None for a leaf, "
                f"got {clipped(item)} of type {type(item).__name__} under "
                f"{clipped(labels[parent])}. Put a single child into a list."
            )
        for entry in [item] if isinstance(item, Mapping) else item:
            for name, below in entry.items() if isinstance(entry, Mapping) else [(entry, None)]:
                if below:
                    stack.append((below, len(labels), depth + 1))
                labels.append(name)
                parents.append(parent)
        check_size(len(labels))
    return build(cls, labels, parents, annotations)


def from_edges(
    cls: type[Taxonomy], edges: Iterable[tuple[str, str]], **annotations: Unpack[Annotations]
) -> Taxonomy:
    """Build a taxonomy of (parent, child) pairs.

    Parameters
    ----------
    edges
        Pairs of names. A name identifies its node; where types share a name, write them as
        text paths, as `to_edges` does. A single node without a parent is the root; several are
        a forest of lineages and get a root above them. To keep a single top node as a type of
        its own, link it to the reserved name ``"root"``.
    annotations
        Level names, synonyms and ontology ids, as in `Taxonomy.with_annotations`.

    Raises
    ------
    ValueError
        When a node has two parents, or the edges form a cycle.
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
    parent_of: dict[str, str] = {}
    names: dict[str, None] = {}
    for edge in edges:
        pair = () if isinstance(edge, str) else tuple(edge)
        if len(pair) != 2 or not all(isinstance(name, str) for name in pair):
            raise TypeError(
                f"An edge must be a pair of names, parent and child, both text, got "
                f"{clipped(edge)}. Leave out a pair whose parent is missing: what has no parent is "
                "the root."
            )
        parent, child = pair
        if len(path := split_path(child)) > 1 and path[:-1] != split_path(parent):
            raise ValueError(
                "A child that is written as a path must go on from its parent's path, got the edge "
                f"from {clipped(parent)} to {clipped(child)}. Correct the path, or use bare names."
            )
        if (first := parent_of.setdefault(child, parent)) != parent:
            raise ValueError(
                f"Every node of a tree must have one parent, got two parents of {clipped(child)}: "
                f"{clipped(first)} and {clipped(parent)}. If these are two types of one name, "
                f"write them as paths ('{first} > {child}' and '{parent} > {child}')."
            )
        names |= dict.fromkeys(pair)
    tops = [name for name in names if name not in parent_of]
    root = tops[0] if len(tops) == 1 else ROOT_NAME
    if tops:
        names = dict.fromkeys([root, *names])
    index = {name: node for node, name in enumerate(names)}
    parents = [index[parent_of.get(name, root)] for name in names]
    parents[:1] = [-1] if tops else parents[:1]
    labels = [split_path(name)[-1] if split_path(name) else ROOT_NAME for name in names]
    return build(cls, labels, parents, annotations)
