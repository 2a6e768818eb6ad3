"""A rooted tree of named nodes: what follows from names and parents, and from a name to a node."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hdeepinsight._errors import invalid
from hdeepinsight.taxonomy._structure import (
    ROOT_NAME,
    Path,
    clipped,
    close_matches,
    join_path,
    path_of,
    quoted,
    split_path,
)

MAX_TABLE_BYTES = 2**29
"""Size of the largest derived table; a deeper or wider tree keeps its other methods."""


def _empty() -> Mapping[Any, Any]:
    return MappingProxyType({})


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False, repr=False)
class Tree:
    """Names and parents of nodes, and what follows from them (computed once, read-only)."""

    labels: tuple[str, ...]
    parent: NDArray[np.int32]
    level_names: tuple[str, ...] = field(default=(), kw_only=True)
    synonyms: Mapping[str, Path] = field(default_factory=_empty, kw_only=True)
    ontology_ids: Mapping[Path, str] = field(default_factory=_empty, kw_only=True)
    published_ids: Mapping[Path, int] = field(default_factory=_empty, kw_only=True)
    unspecified_leaves: tuple[Path, ...] = field(default=(), kw_only=True)

    @property
    def n_nodes(self) -> int:
        """Number of nodes V, the root included."""
        return len(self.labels)

    @property
    def n_edges(self) -> int:
        """Number of edges E = V - 1; edge ``e`` leads to node ``e + 1``."""
        return len(self.labels) - 1

    @cached_property
    def n_leaves(self) -> int:
        """Number of leaves."""
        return len(self.leaves)

    @cached_property
    def max_depth(self) -> int:
        """Depth L of the deepest node; the root has depth 0."""
        return int(self.depth[-1])  # breadth-first: nobody is deeper than the last

    @cached_property
    def names(self) -> tuple[Path, ...]:
        """Path of every node, the root's is ``()``.

        Raises
        ------
        ValueError
            When the paths together would take more than 512 MB (a chain of many thousand nodes);
            `labels`, `parent` and `path` still work for such a tree.
        """
        self._check_table(8 * int(self.depth.sum()), "paths")
        paths: list[Path] = [()]
        for label, above in zip(self.labels[1:], self.parent[1:].tolist(), strict=True):
            paths.append((*paths[above], label))
        return tuple(paths)

    @cached_property
    def depth(self) -> NDArray[np.int64]:
        """Depth of every node, shape ``(n_nodes,)``."""
        depth = [0] * self.n_nodes
        for node, above in enumerate(self.parent.tolist()):
            if node:
                depth[node] = depth[above] + 1
        return _frozen(np.asarray(depth, dtype=np.int64))

    @cached_property
    def n_children(self) -> NDArray[np.int64]:
        """Number of children of every node, shape ``(n_nodes,)``."""
        return _frozen(np.bincount(self.parent[1:], minlength=self.n_nodes).astype(np.int64))

    @cached_property
    def _first_child(self) -> NDArray[np.int64]:
        # Breadth-first order puts the children of one node side by side, so a start is enough.
        return 1 + np.cumsum(self.n_children) - self.n_children

    @cached_property
    def leaves(self) -> NDArray[np.int64]:
        """Nodes without children in node order, shape ``(n_leaves,)``."""
        return _frozen(np.flatnonzero(self.n_children == 0))

    @cached_property
    def inner_nodes(self) -> NDArray[np.int64]:
        """Nodes with children, in the order of `groups`, shape ``(n_groups,)``."""
        return _frozen(np.flatnonzero(self.n_children))

    @cached_property
    def groups(self) -> tuple[NDArray[np.int64], ...]:
        """Groups of siblings, the children of every inner node."""
        return tuple(_frozen(self.children(node)) for node in self.inner_nodes.tolist())

    @cached_property
    def node_at_level(self) -> NDArray[np.int64]:
        """Ancestor-or-self of every node at depth 1..L, -1 deeper; ``(n_nodes, max_depth)``.

        Raises
        ------
        ValueError
            When the table would take more than 512 MB.
        """
        self._check_table(8 * self.n_nodes * self.max_depth, "ancestor table")
        table = np.full((self.n_nodes, self.max_depth), -1, dtype=np.int64)
        bounds = np.searchsorted(self.depth, np.arange(self.max_depth + 2))
        for level in range(1, self.max_depth + 1):
            nodes = np.arange(bounds[level], bounds[level + 1])
            table[nodes, : level - 1] = table[self.parent[nodes], : level - 1]
            table[nodes, level - 1] = nodes
        return _frozen(table)

    @cached_property
    def ancestor_matrix(self) -> NDArray[np.bool_]:
        """Table of whether leaf ``i`` is at or under node ``v``, bool ``(n_leaves, n_nodes)``.

        Raises
        ------
        ValueError
            When the matrix would take more than 512 MB.
        """
        self._check_table(self.n_leaves * self.n_nodes, "ancestor matrix")
        matrix = np.zeros((self.n_leaves, self.n_nodes), dtype=np.bool_)
        rows = np.arange(self.n_leaves)
        above = self.leaves.astype(np.int64)
        while len(rows):
            matrix[rows, above] = True
            rows, above = rows[above > 0], self.parent[above[above > 0]].astype(np.int64)
        return _frozen(matrix)

    def is_leaf(self, node: int) -> bool:
        """Return whether a node has no children.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> tree.is_leaf(tree.resolve("CD4")), tree.is_leaf(tree.resolve("T"))
        (True, False)
        """
        return bool(self.n_children[self._checked(node)] == 0)

    def children(self, node: int) -> NDArray[np.int64]:
        """Return the children of a node in sibling order, shape ``(n_children,)``.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> [tree.label(int(node)) for node in tree.children(tree.resolve("T"))]
        ['CD4', 'CD8']
        """
        start = int(self._first_child[self._checked(node)])
        return np.arange(start, start + int(self.n_children[node]), dtype=np.int64)

    def descendants(self, node: int) -> NDArray[np.int64]:
        """Return the nodes strictly below a node, in node order.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> [tree.label(int(node)) for node in tree.descendants(0)]
        ['T', 'B', 'CD4', 'CD8']
        """
        low, high = self._checked(node), node + 1
        levels: list[NDArray[np.int64]] = []
        while low < high:  # the descendants at one depth stand side by side
            start = int(self._first_child[low])
            stop = int(self._first_child[high - 1] + self.n_children[high - 1])
            levels.append(np.arange(start, stop, dtype=np.int64))
            low, high = start, stop
        return np.concatenate(levels)

    def leaves_under(self, node: int) -> NDArray[np.int64]:
        """Return the leaves at or below a node, in node order.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> [tree.label(int(node)) for node in tree.leaves_under(0)]
        ['B', 'CD4', 'CD8']
        """
        nodes = np.append(np.int64(self._checked(node)), self.descendants(node))
        return np.asarray(nodes[self.n_children[nodes] == 0], dtype=np.int64)

    def ancestors(self, node: int) -> NDArray[np.int64]:
        """Return the ancestors of a node from level 1 to itself, without the root; ``(depth,)``.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> [tree.label(int(node)) for node in tree.ancestors(tree.resolve("CD4"))]
        ['T', 'CD4']
        """
        above: list[int] = []
        node = self._checked(node)
        while node > 0:
            above.append(node)
            node = int(self.parent[node])
        return np.asarray(above[::-1], dtype=np.int64)

    def roll_up(self, values: NDArray[Any]) -> NDArray[Any]:
        """Add what every node has to all nodes above it; last axis ``n_nodes``.

        Examples
        --------
        >>> import numpy as np
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> tree.labels
        ('root', 'T', 'B', 'CD4', 'CD8')
        >>> tree.roll_up(np.array([0, 1, 5, 2, 3])).tolist()
        [11, 6, 5, 2, 3]
        """
        total = values.copy()
        above = self.parent.tolist()
        for node in range(self.n_nodes - 1, 0, -1):  # children come after their parent
            total[..., above[node]] += total[..., node]
        return total

    def lca(self, first: int, second: int) -> int:
        """Return the lowest common ancestor of two nodes (a node is an ancestor of itself).

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> tree.label(tree.lca(tree.resolve("CD4"), tree.resolve("CD8")))
        'T'
        """
        first, second = self._checked(first), self._checked(second)
        while first != second:  # a larger index is never shallower, so the larger one climbs
            if first > second:
                first = int(self.parent[first])
            else:
                second = int(self.parent[second])
        return first

    def at_level(self, node: int, level: int | str) -> int | None:
        """Return the ancestor-or-self of a node at a level, or None when the node ends above it.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> (
        ...     tree.label(tree.at_level(tree.resolve("CD4"), 1)),
        ...     tree.at_level(tree.resolve("B"), 2) is None,
        ... )
        ('T', True)
        """
        target, node = self.level_depth(level), self._checked(node)
        if self.depth[node] < target:
            return None
        while self.depth[node] > target:
            node = int(self.parent[node])
        return node

    def label(self, node: int) -> str:
        """Return the bare name of a node; the root's is ``"root"``.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> tree.label(tree.resolve("CD4")), tree.label(0)
        ('CD4', 'root')
        """
        return self.labels[self._checked(node)]

    def path(self, node: int) -> Path:
        """Return the path of one node, as in `names`.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> tree.path(tree.resolve("CD4"))
        ('T', 'CD4')
        """
        return path_of(self.labels, self.parent, self._checked(node))

    def path_name(self, node: int) -> str:
        """Return the path of a node as text, e.g. ``"B > B_naive"``; the root's is ``"root"``.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> tree.path_name(tree.resolve("CD4"))
        'T > CD4'
        """
        return join_path(self.path(node))

    def level_depth(self, level: int | str) -> int:
        """Return the depth of a level given by its name or already by its depth (0 is the root).

        Raises
        ------
        ValueError
            For a name or a depth that the taxonomy does not have.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> tree.level_names, tree.level_depth("level_2")
        (('level_1', 'level_2'), 2)
        """
        if isinstance(level, str):
            if level in self.level_names:
                return self.level_names.index(level) + 1
        elif not isinstance(level, (bool, np.bool_)):
            depth = operator.index(level)
            if 0 <= depth <= self.max_depth:
                return depth
        known = f"one of {list(self.level_names)}, or a depth from 1 to {self.max_depth}"
        raise invalid("level", level, known)

    def _checked(self, node: int) -> int:
        index = operator.index(node)
        if not 0 <= index < self.n_nodes:
            raise IndexError(
                f"A node must be 0 to {self.n_nodes - 1}, got {node}. Use `resolve` to get the "
                "node of a name."
            )
        return index

    def _check_table(self, n_bytes: int, what: str) -> None:
        if n_bytes > MAX_TABLE_BYTES:
            raise ValueError(
                f"The {what} of this tree ({self.n_nodes:,} nodes, {self.max_depth:,} levels) "
                f"must take at most {MAX_TABLE_BYTES >> 20:,} MB, and would take "
                f"{n_bytes >> 20:,} MB. Use `subset` or `prune` to make a smaller tree first."
            )

    @cached_property
    def _child_named(self) -> dict[tuple[int, str], int]:
        pairs = zip(self.parent[1:].tolist(), self.labels[1:], strict=True)
        return {pair: node for node, pair in enumerate(pairs, start=1)}

    @cached_property
    def _nodes_named(self) -> dict[str, list[int]]:
        nodes: dict[str, list[int]] = {}
        for node, label in enumerate(self.labels[1:], start=1):
            nodes.setdefault(label, []).append(node)
        return nodes

    @cached_property
    def _node_of_synonym(self) -> dict[str, int]:
        return {name: self.resolve(path) for name, path in self.synonyms.items()}

    def resolve(self, name: str | Sequence[str], level: int | str | None = None) -> int:
        """Return the node of a path, synonym or bare name.

        A full path (text such as ``"B > B_naive"``, or a tuple) is tried first, then a synonym,
        then a bare name. A bare name that fits several nodes on one root-to-leaf path gives the
        shallowest, because that claims least.

        Parameters
        ----------
        name
            Path, synonym or bare name. ``"root"`` and ``()`` are the root. A tuple is always a
            full path.
        level
            Only accept nodes at this level (a level name, or a depth).

        Returns
        -------
        int
            Index of the node.

        Raises
        ------
        ValueError
            When nothing fits (names that are close are listed), or when a bare name fits nodes on
            different branches (their paths are listed).

        Notes
        -----
        The path of a node at level 1 is its bare name, so such a node wins over nodes of the same
        name on other branches. Source: our decision (a node is its path).

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tax = Taxonomy.from_nested({"Macrophage": ["Macrophage", "Macrophage_inflammatory"]})
        >>> tax.resolve("Macrophage"), tax.resolve("Macrophage", level=2)
        (1, 2)
        >>> tax.resolve("Macrophage > Macrophage_inflammatory")
        3
        """
        depth = None if level is None else self.level_depth(level)
        if not (nodes := self._candidates(name, depth)):
            raise ValueError(self._unknown(name, level))
        shallowest, deepest = nodes[0], nodes[-1]  # node order is breadth first
        if not set(self.ancestors(deepest).tolist()).issuperset(set(nodes) - {0}):
            raise ValueError(
                f"A bare name must lead to one path, but {clipped(name)} fits {len(nodes)} nodes "
                f"on different branches: {quoted(self.path_name(node) for node in nodes[:10])}. "
                "Use the full path, or `level`, to say which one is meant."
            )
        return shallowest

    def _candidates(self, name: str | Sequence[str], depth: int | None) -> list[int]:
        """Nodes that a name may mean, by the first way of reading it that finds any at `depth`."""
        if not isinstance(name, str):
            return self._at_depth([self._find(tuple(name))], depth)
        return (
            self._at_depth([self._find(split_path(name))], depth)
            or self._at_depth([self._node_of_synonym.get(name)], depth)
            or self._named(name, depth)
        )

    def _named(self, name: Any, depth: int | None) -> list[int]:
        """Nodes of this bare name."""
        return self._at_depth(self._nodes_named.get(name, []), depth)

    def _is_name(self, name: Any) -> bool:
        return bool(self._candidates(name, None))

    def _at_depth(self, nodes: Sequence[int | None], depth: int | None) -> list[int]:
        return [n for n in nodes if n is not None and (depth is None or self.depth[n] == depth)]

    def _find(self, path: Path) -> int | None:
        node: int | None = 0
        for name in path:
            node = self._child_named.get((node, name)) if node is not None else None
        return node

    def _unknown(self, name: str | Sequence[str], level: int | str | None) -> str:
        where = "" if level is None else f" at level {level!r}"
        shown = name if isinstance(name, str) else tuple(name)
        elsewhere = [] if level is None else self._candidates(name, None)
        if elsewhere:
            levels = sorted({int(self.depth[node]) for node in elsewhere})
            advice = f"It exists at depth {', '.join(map(str, levels))}: leave `level` out"
        else:
            last = name if isinstance(name, str) else (*name, ROOT_NAME)[0]
            last = split_path(last)[-1] if isinstance(last, str) and split_path(last) else last
            near = close_matches(str(last), [*self._nodes_named, *self.synonyms])
            advice = f"Names that are close: {quoted(near)}" if near else "No name is close to it"
            advice += "; print the taxonomy to see all, or give it as a synonym"
        return (
            f"The taxonomy has no node {clipped(shown)}{where}, neither by full path ('parent > "
            f"child') nor by synonym or bare name. {advice}."
        )
