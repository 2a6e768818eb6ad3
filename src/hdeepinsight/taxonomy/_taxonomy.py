"""Taxonomy class: a validated, immutable tree of cell types.

Its constructors, converters and label encoders are functions of the neighbouring modules, bound
here as methods.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hdeepinsight._errors import counted, invalid
from hdeepinsight.taxonomy import _forms, _labels, _ontology
from hdeepinsight.taxonomy._forms import ROOT_NAME, NodeName, Path, clipped, quoted

#: Name or index of a node.
NodeLike = NodeName | SupportsIndex

#: Maximum size of a derived table. The other methods work on larger trees, too.
MAX_TABLE_BYTES = 2**29


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False, repr=False)
class Taxonomy:
    """Tree of cell types of any depth, with leaves at any level.

    Node 0 is the root and stands for an unknown type. Nodes are in breadth-first order, siblings in
    the given order, and edge ``e`` leads to node ``e + 1``. A node is identified by its path, not
    by its name: a child may have the same name as its parent, and a name may occur on several
    branches. A label at an inner node means that the cell belongs to one of its descendants, but it
    is unknown to which; a "none of the children" class is a separate leaf.

    Taxonomies are usually built by `from_obs`, `from_nested`, `from_edges`, `from_paths`,
    `from_cell_ontology`, `from_json` or `immune`. They are compared and hashed by content.

    Parameters
    ----------
    labels
        Bare name of each node in any order, shape ``(n_nodes,)``; the root is renamed ``"root"``.
    parent
        Index of each node's parent, -1 for the root; shape ``(n_nodes,)``.
    level_names
        One distinct name per level, coarse to fine; by default ``level_1``, ``level_2``, ...
    synonyms
        Alternative spellings and their nodes, given as paths or as any other name that `resolve`
        accepts; stored as paths, in node order.
    ontology_ids
        Nodes, given and stored in the same way, and their Cell Ontology ids (``"CL:0000236"``).

    Raises
    ------
    ValueError
        If there is more than one root, a cycle, two siblings with the same name, an empty name, a
        synonym that is the name of another node, or an annotation of a node that does not exist.
        The message names the node.

    Notes
    -----
    Source: our design, after the two-level taxonomy of scHDeepInsight (Jia et al. 2025,
    doi:10.1101/2025.06.23.661045), which `immune` returns.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tax = Taxonomy.from_nested({"T": {"CD4": ["naive", "Th1"], "CD8": []}, "B": []})
    >>> tax
    Taxonomy(4 leaves, 6 nodes below the root, 3 levels: level_1, level_2, level_3)
    >>> tax.ancestors(tax.resolve("Th1"))
    array([1, 3, 6])
    >>> tax.depth
    array([0, 1, 1, 2, 2, 3, 3])
    """

    labels: tuple[str, ...]
    parent: NDArray[np.int32]
    level_names: tuple[str, ...] = field(default=(), kw_only=True)
    synonyms: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    ontology_ids: Mapping[Any, str] = field(default_factory=dict, kw_only=True)
    _node_of_synonym: dict[str, int] = field(default_factory=dict, init=False)

    from_obs = classmethod(_labels.from_obs)
    from_paths = classmethod(_forms.from_paths)
    from_nested = classmethod(_forms.from_nested)
    from_edges = classmethod(_forms.from_edges)
    from_cell_ontology = classmethod(_ontology.from_cell_ontology)
    from_dict = classmethod(_forms.from_dict)
    from_json = classmethod(_forms.from_json)
    immune = classmethod(_forms.immune)

    to_dict = _forms.to_dict
    to_json = _forms.to_json
    show = _forms.show
    encode = _labels.encode
    encode_levels = _labels.encode_levels

    def __post_init__(self) -> None:
        labels, parent = _forms.canonical_tree(self.labels, np.asarray(self.parent).tolist())
        self._set("labels", labels)
        self._set("parent", _frozen(parent))
        n_levels = self.max_depth
        levels = tuple(self.level_names) or [f"level_{level + 1}" for level in range(n_levels)]
        bad = [f"{clipped(x)}, which {found}" for x in levels if (found := _forms.name_problem(x))]
        if bad or len(levels) != n_levels or len(set(levels)) < n_levels:
            found = f"{bad[0] if bad else quoted(levels, 5)} for {n_levels} levels. Correct them."
            raise ValueError(f"level_names must be one distinct name per level, got {found}")
        self._set("level_names", tuple(map(str, levels)))
        nodes_named = {ROOT_NAME: [0], **self._nodes_named}
        for synonym, target in self.synonyms.items():
            node, problem = self.resolve(target), _forms.name_problem(synonym)
            if problem is None and (taken := nodes_named.get(synonym)):
                problem = f"is already the name of {clipped(self.path_name(taken[0]))}"
            if problem is not None:
                found = f"synonym {clipped(synonym)} of {clipped(self.path_name(node))} {problem}"
                raise ValueError(f"A synonym must be text and not a name: the {found}. Omit it.")
            self._node_of_synonym[str(synonym)] = node
        by_node = sorted(self._node_of_synonym.items(), key=lambda item: item[::-1])
        self._set("synonyms", MappingProxyType({name: self.path(node) for name, node in by_node}))
        ids: dict[int, str] = {}
        for name, term in self.ontology_ids.items():
            if not isinstance(term, str):
                found = f"{clipped(term)} of type {type(term).__name__}. Write it as 'CL:0000236'."
                raise TypeError(f"The ontology id of {clipped(name)} must be text, got {found}")
            ids[self.resolve(name)] = str(term)
        self._set("ontology_ids", MappingProxyType({self.path(v): ids[v] for v in sorted(ids)}))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the class is frozen

    @property
    def n_nodes(self) -> int:
        """Number of nodes V, including the root."""
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
        return int(self.depth[-1])  # in breadth-first order, the last node is the deepest

    @cached_property
    def names(self) -> tuple[Path, ...]:
        """Path of each node; ``()`` for the root.

        Raises
        ------
        ValueError
            If all paths together would take more than 512 MB (a chain of many thousand nodes);
            `labels`, `parent` and `path` still work for such a tree.
        """
        self._check_table(8 * int(self.depth.sum()), "paths")
        paths: list[Path] = [()]
        for label, above in zip(self.labels[1:], self.parent[1:].tolist(), strict=True):
            paths.append((*paths[above], label))
        return tuple(paths)

    @cached_property
    def depth(self) -> NDArray[np.int64]:
        """Depth of each node, shape ``(n_nodes,)``."""
        depth = np.zeros(self.n_nodes, dtype=np.int64)
        for node, above in enumerate(self.parent[1:].tolist(), start=1):
            depth[node] = depth[above] + 1
        return _frozen(depth)

    @cached_property
    def n_children(self) -> NDArray[np.int64]:
        """Number of children of each node, shape ``(n_nodes,)``."""
        return _frozen(np.bincount(self.parent[1:], minlength=self.n_nodes).astype(np.int64))

    @cached_property
    def _first_child(self) -> NDArray[np.int64]:
        # In breadth-first order, the children of a node are consecutive.
        return 1 + np.cumsum(self.n_children) - self.n_children

    @cached_property
    def leaves(self) -> NDArray[np.int64]:
        """Nodes without children, in node order, shape ``(n_leaves,)``."""
        return _frozen(np.flatnonzero(self.n_children == 0))

    @cached_property
    def inner_nodes(self) -> NDArray[np.int64]:
        """Nodes with children, in the order of `groups`, shape ``(n_groups,)``."""
        return _frozen(np.flatnonzero(self.n_children))

    @cached_property
    def groups(self) -> tuple[NDArray[np.int64], ...]:
        """Children of each inner node, as sibling groups."""
        return tuple(_frozen(self.children(node)) for node in self.inner_nodes.tolist())

    @cached_property
    def node_at_level(self) -> NDArray[np.int64]:
        """Ancestor-or-self of each node at depth 1..L, -1 below it; ``(n_nodes, max_depth)``.

        Raises
        ------
        ValueError
            If the table would take more than 512 MB.
        """
        self._check_table(8 * self.n_nodes * self.max_depth, "ancestor table")
        table = np.full((self.n_nodes, self.max_depth), -1, dtype=np.int64)
        for node in range(1, self.n_nodes):
            table[node] = table[self.parent[node]]
            table[node, self.depth[node] - 1] = node
        return _frozen(table)

    @cached_property
    def first_of_label(self) -> NDArray[np.int64]:
        """Topmost of the nodes with the same label above each node, shape ``(n_nodes,)``."""
        first = np.arange(self.n_nodes)
        for node, above in enumerate(self.parent[1:].tolist(), start=1):
            if self.labels[node] == self.labels[above]:
                first[node] = first[above]
        return _frozen(first)

    @cached_property
    def distinct_nodes(self) -> tuple[int, ...]:
        """Nodes below the root, depth first, without those that repeat their parent's label."""
        nodes = np.flatnonzero(self.first_of_label == np.arange(self.n_nodes))[1:]
        return tuple(sorted(nodes.tolist(), key=lambda node: self.ancestors(node).tolist()))

    @cached_property
    def closest_ids(self) -> tuple[str, ...]:
        """Cell Ontology id of each node or of its nearest ancestor with one; ``""`` for none."""
        ids = [""]
        for path, above in zip(self.names[1:], self.parent[1:].tolist(), strict=True):
            ids.append(self.ontology_ids.get(path) or ids[above])
        return tuple(ids)

    @cached_property
    def ancestor_matrix(self) -> NDArray[np.bool_]:
        """Whether leaf ``i`` is node ``v`` or below it, bool, shape ``(n_leaves, n_nodes)``.

        Raises
        ------
        ValueError
            If the matrix would take more than 512 MB.
        """
        self._check_table(self.n_leaves * self.n_nodes, "ancestor matrix")
        matrix = np.zeros((self.n_leaves, self.n_nodes), dtype=np.bool_)
        matrix[np.arange(self.n_leaves), self.leaves] = True
        return _frozen(self.roll_up(matrix))

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
        """Return all nodes below a node, in node order.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> [tree.label(int(node)) for node in tree.descendants(0)]
        ['T', 'B', 'CD4', 'CD8']
        """
        low, high = self._checked(node), node + 1
        levels: list[NDArray[np.int64]] = []
        while low < high:  # the descendants at each depth are consecutive
            stop = int(self._first_child[high - 1] + self.n_children[high - 1])
            low, high = int(self._first_child[low]), stop
            levels.append(np.arange(low, high, dtype=np.int64))
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
        """Return the path of a node as indices, from level 1 to the node itself; ``(depth,)``.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> [tree.label(int(node)) for node in tree.ancestors(tree.resolve("CD4"))]
        ['T', 'CD4']
        """
        above = [self._checked(node)]
        while above[-1] > 0:
            above.append(int(self.parent[above[-1]]))
        return np.asarray(above[-2::-1], dtype=np.int64)

    def roll_up(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sum the values of each node and all its descendants; last axis ``n_nodes``.

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

    def per_node(
        self, given: Mapping[Any, float] | ArrayLike, what: str, *, otherwise: float = 0.0
    ) -> NDArray[np.float64]:
        """Return an array of one number per node, from an array or a mapping; ``(n_nodes,)``.

        Parameters
        ----------
        given
            Array of shape ``(n_nodes,)``, or mapping (or Series) from names or node indices.
        what
            Name of the argument, for the error.
        otherwise
            Value of nodes that are not in the mapping.

        Raises
        ------
        ValueError
            If an array has another shape, or a name is not in the taxonomy.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> Taxonomy.from_nested(["T", "B"]).per_node({"B": 3}, "counts")
        array([0., 0., 3.])
        """
        if not hasattr(given, "items"):
            values = np.array(given, dtype=np.float64)
            if values.shape != (self.n_nodes,):
                expected = f"one number per node, shape {(self.n_nodes,)}"
                hint = "Use np.bincount(nodes, minlength=taxonomy.n_nodes)."
                raise invalid(what, values.shape, expected, hint)
            return values
        values = np.full(self.n_nodes, otherwise)
        for name, value in given.items():  # a mapping, or a Series
            node = self._node(name)
            values[node] = float(value) + np.nan_to_num(values[node])
        return values

    def lca(self, first: int, second: int) -> int:
        """Return the lowest common ancestor of two nodes, which may be one of them.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> tree.label(tree.lca(tree.resolve("CD4"), tree.resolve("CD8")))
        'T'
        """
        shared = np.intersect1d(self.ancestors(first), self.ancestors(second))
        return int(shared.max(initial=0))  # a deeper node has a larger index

    def at_level(self, node: int, level: int | str) -> int | None:
        """Return the ancestor-or-self of a node at a level, or None if the node is above it.

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
        depth, above = self.level_depth(level), [0, *self.ancestors(node).tolist()]
        return above[depth] if depth < len(above) else None

    def label(self, node: int) -> str:
        """Return the bare name of a node; ``"root"`` for the root.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> tree.label(tree.resolve("CD4")), tree.label(0)
        ('CD4', 'root')
        """
        return self.labels[self._checked(node)]

    def path(self, node: int) -> Path:
        """Return the path of a node, as in `names`.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> tree.path(tree.resolve("CD4"))
        ('T', 'CD4')
        """
        return _forms.path_of(self.labels, self.parent, self._checked(node))

    def path_name(self, node: int) -> str:
        """Return the path of a node as text, e.g. ``"B > B_naive"``; ``"root"`` for the root.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> tree.path_name(tree.resolve("CD4"))
        'T > CD4'
        """
        return _forms.join_path(self.path(node))

    def level_depth(self, level: int | str) -> int:
        """Return the depth of a level, given by its name or its depth (0 is the root).

        Raises
        ------
        ValueError
            If the taxonomy has no such level.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> tree.level_names, tree.level_depth("level_2")
        (('level_1', 'level_2'), 2)
        """
        if isinstance(level, str) and level in self.level_names:
            return self.level_names.index(level) + 1
        whole = isinstance(level, (int, np.integer)) and not isinstance(level, bool)
        if whole and 0 <= int(level) <= self.max_depth:
            return int(level)
        known = f"one of {list(self.level_names)}, or a depth from 1 to {self.max_depth}"
        raise invalid("level", level, known)

    def _checked(self, node: int) -> int:
        index = operator.index(node)
        if not 0 <= index < self.n_nodes:
            hint = "Use `resolve` to get the node of a name."
            raise IndexError(f"A node must be 0 to {self.n_nodes - 1}, got {node}. {hint}")
        return index

    def _check_table(self, n_bytes: int, what: str) -> None:
        if n_bytes > MAX_TABLE_BYTES:
            size = f"{n_bytes >> 20:,} MB for {self.n_nodes:,} nodes and {self.max_depth:,} levels"
            expected = f"at most {MAX_TABLE_BYTES >> 20:,} MB, got {size}"
            raise ValueError(f"The {what} must take {expected}. Use `subset` or `prune` first.")

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

    def resolve(self, name: str | Sequence[str], level: int | str | None = None) -> int:
        """Return the node of a path, synonym or bare name.

        A full path (text such as ``"B > B_naive"``, or a tuple) is tried first, then a synonym,
        then a bare name. If a bare name occurs several times on a single root-to-leaf path, the
        shallowest node is returned, which is the least specific.

        Parameters
        ----------
        name
            Path, synonym or bare name. ``"root"`` and ``()`` are the root. A tuple is always a
            full path.
        level
            Only accept nodes at this level (level name or depth).

        Returns
        -------
        int
            Index of the node.

        Raises
        ------
        ValueError
            If there is no such node (similar names are listed), or if a bare name occurs on
            different branches (their paths are listed).

        Notes
        -----
        The path of a node at level 1 is its bare name, so such a node takes precedence over nodes
        with the same name on other branches. Source: our design.

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
        nodes = self._candidates(name, depth)
        if len(nodes) > 1 and not {*self.ancestors(nodes[-1]).tolist()}.issuperset(nodes):
            found = f"{clipped(name)} is the name of {len(nodes)} nodes on different branches: "
            found += quoted(map(self.path_name, nodes[:10]))
            hint = "Use the full path, or pass `level`."
            raise ValueError(f"A bare name must be on a single path, but {found}. {hint}")
        if nodes:
            return nodes[0]  # the shallowest, because nodes are in breadth-first order
        shown = clipped(name) if level is None else f"{clipped(name)} at level {level!r}"
        if level is not None and (elsewhere := self._candidates(name)):
            depths = ", ".join(map(str, sorted({int(self.depth[node]) for node in elsewhere})))
            hint = f"It exists at depth {depths}: omit `level`."
        else:
            last = "".join(_forms.split_path(name)[-1:])
            near = _forms.close_matches(last, [*self._nodes_named, *self.synonyms])
            hint = f"Similar names: {quoted(near)}. " if near else "No name is similar. "
            hint += "Print the taxonomy to see all names, or add a synonym."
            whole = (n for n in self._nodes_named if last in map(str.strip, n.split(",")))
            if (split := next(whole, None)) is not None:
                hint = f"It is a part of {clipped(split)}: put double quotes around names with a"
                hint += f" comma on the command line, '\"{split}\"'."
        forms = "full path ('parent > child'), synonym nor bare name"
        raise ValueError(f"The taxonomy has no node {shown}, neither by {forms}. {hint}")

    def _candidates(self, name: str | Sequence[str], depth: int | None = None) -> list[int]:
        """Return the nodes of a full path, else of a synonym, else of a bare name, at `depth`."""
        node = 0
        for child in _forms.split_path(name):
            node = self._child_named.get((node, child), -1)
        ways = [[node]]
        if isinstance(name, str):
            ways += [[self._node_of_synonym.get(name, -1)], self._nodes_named.get(name, [])]
        found = ([v for v in way if v >= 0 and depth in (None, self.depth[v])] for way in ways)
        return next(filter(None, found), [])

    def to_nested(self) -> dict[str, Any]:
        """Return nested dicts that map names to children (empty for leaves), for `from_nested`.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> Taxonomy.from_paths(["T > CD4", "B"]).to_nested()
        {'T': {'CD4': {}}, 'B': {}}
        """
        nested: list[dict[str, Any]] = [{} for _ in self.labels]
        for node in range(1, self.n_nodes):
            nested[self.parent[node]][self.labels[node]] = nested[node]
        return nested[0]

    def to_edges(self) -> list[tuple[str, str]]:
        """Return the edges as pairs of text paths, for `from_edges`; the root is ``"root"``.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> Taxonomy.from_nested({"T": ["CD4"]}).to_edges()
        [('root', 'T'), ('T', 'T > CD4')]
        """
        texts = list(map(_forms.join_path, self.names))
        return [(texts[above], texts[node]) for node, above in enumerate(self.parent.tolist())][1:]

    def with_annotations(
        self,
        *,
        level_names: Sequence[str] | None = None,
        synonyms: Mapping[str, NodeName] | None = None,
        ontology_ids: Mapping[Any, str] | None = None,
    ) -> Self:
        """Return a copy with replaced level names and additional synonyms and ontology ids.

        Parameters
        ----------
        level_names
            One distinct name per level, coarse to fine.
        synonyms
            Alternative spellings and their nodes.
        ontology_ids
            Nodes and their Cell Ontology ids.

        Raises
        ------
        ValueError
            If a name does not identify a single node, or a synonym is already in use.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tax = Taxonomy.from_nested({"NK": ["NK_CD16+", "NK_CD16-"]})
        >>> tax = tax.with_annotations(synonyms={"NK_CD56+": "NK_CD16-"})
        >>> tax.path_name(tax.resolve("NK_CD56+"))
        'NK > NK_CD16-'
        """
        for name, target in (synonyms or {}).items():
            if name in self.synonyms and self.resolve(target) != self.resolve(name):
                found = f"two nodes for {name!r}: {self.synonyms[name]} and {target}"
                raise ValueError(f"A synonym must have one meaning, got {found}. Omit one of them.")
        return replace(
            self,
            level_names=self.level_names if level_names is None else tuple(level_names),
            synonyms={**self.synonyms, **(synonyms or {})},
            ontology_ids={**self.ontology_ids, **(ontology_ids or {})},
        )

    def subset(self, nodes: Iterable[NodeLike]) -> Self:
        """Return the taxonomy of the given nodes, their descendants and their ancestors.

        Parameters
        ----------
        nodes
            Names or indices of leaves or inner nodes.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tax = Taxonomy.from_nested({"T": {"CD4": ["naive", "Th1"], "CD8": []}, "B": []})
        >>> tax.subset(["CD4"]).names[1:]
        (('T',), ('T', 'CD4'), ('T', 'CD4', 'naive'), ('T', 'CD4', 'Th1'))
        """
        chosen = [self._node(node) for node in nodes]
        return self.prune([*chosen, *(v for node in chosen for v in self.descendants(node))])

    def prune(self, keep_nodes: Iterable[NodeLike]) -> Self:
        """Return the taxonomy of the given nodes and their ancestors, without their descendants.

        Parameters
        ----------
        keep_nodes
            Names or indices of the nodes to keep.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tax = Taxonomy.from_nested({"T": {"CD4": ["naive", "Th1"], "CD8": []}, "B": []})
        >>> tax.prune(["CD4", "B"]).names[1:]
        (('T',), ('B',), ('T', 'CD4'))
        """
        keep = np.zeros(self.n_nodes, dtype=np.bool_)
        keep[[0, *map(self._node, keep_nodes)]] = True
        for node in range(self.n_nodes - 1, 0, -1):  # children come after their parent
            keep[self.parent[node]] |= keep[node]
        kept, rank = np.flatnonzero(keep), np.cumsum(keep) - 1
        return type(self)(
            tuple(self.labels[node] for node in kept),
            np.append(np.int64(-1), rank[self.parent[kept[1:]]]),
            level_names=self.level_names[: self.depth[kept[-1]]],
            synonyms={name: p for name, p in self.synonyms.items() if keep[self.resolve(p)]},
            ontology_ids={p: i for p, i in self.ontology_ids.items() if keep[self.resolve(p)]},
        )

    def _node(self, node: NodeLike) -> int:
        if isinstance(node, (str, tuple)):
            return self.resolve(node)
        return self._checked(operator.index(node))

    @cached_property
    def _content(self) -> tuple[Any, ...]:
        annotations = tuple(self.synonyms.items()), tuple(self.ontology_ids.items())  # sorted
        return self.labels, self.parent.tobytes(), self.level_names, *annotations

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Taxonomy):
            return NotImplemented
        return self is other or self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_dict, (self.to_dict(),)  # validates, and makes arrays read-only

    def __repr__(self) -> str:
        levels = ", ".join([*self.level_names[:5], *["..."] * (self.max_depth > 5)])
        size = f"{self.n_leaves:,} leaves, {self.n_edges:,} nodes below the root"
        return f"Taxonomy({size}, {counted(self.max_depth, 'level')}: {levels})"

    def __str__(self) -> str:
        return self.show(max_lines=200)
