"""From a name, a synonym or a path to a node."""

from collections.abc import Sequence
from functools import cached_property

from hdeepinsight.taxonomy._core import TaxonomyCore
from hdeepinsight.taxonomy._names import ROOT_NAME, Path, clipped, close_matches, quoted, split_path


class LookupMixin(TaxonomyCore):
    """Resolve names to nodes."""

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
        return {name: self._node_at(path) for name, path in self.synonyms.items()}

    def resolve(self, name: str | Sequence[str], level: int | str | None = None) -> int:
        """Node of a path, synonym or bare name.

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
        nodes = self._candidates(name, depth)
        if not nodes:
            raise ValueError(self._unknown(name, level))
        shallowest, deepest = nodes[0], nodes[-1]  # node order is breadth first
        if not set(self.ancestors(deepest).tolist()).issuperset(set(nodes) - {0}):
            raise ValueError(
                f"The name {clipped(name)} fits {len(nodes)} nodes on different branches: "
                f"{quoted(self.path_name(node) for node in nodes[:10])}. A bare name must lead to "
                "one path. Use the full path, or `level`, to say which one is meant."
            )
        return shallowest

    def _candidates(self, name: str | Sequence[str], depth: int | None) -> list[int]:
        """Nodes that a name may mean, by the first way of reading it that finds any at `depth`."""
        if not isinstance(name, str):
            return self._at_depth(self._find(tuple(name)), depth)
        return (
            self._at_depth(self._find(split_path(name)), depth)
            or self._at_depth(self._node_of_synonym.get(name), depth)
            or self._at_depth(self._nodes_named.get(name), depth)
        )

    def _at_depth(self, nodes: int | list[int] | None, depth: int | None) -> list[int]:
        if nodes is None:
            return []
        listed = [nodes] if isinstance(nodes, int) else nodes
        return [node for node in listed if depth is None or self.depth[node] == depth]

    def _find(self, path: Path) -> int | None:
        node: int | None = 0
        for name in path:
            node = self._child_named.get((node, name)) if node is not None else None
        return node

    def _node_at(self, path: Path) -> int:
        node = self._find(path)
        if node is None:
            raise ValueError(self._unknown(path, None))
        return node

    def _unknown(self, name: str | Sequence[str], level: int | str | None) -> str:
        where = "" if level is None else f" at level {level!r}"
        shown = name if isinstance(name, str) else tuple(name)
        elsewhere = self._candidates(name, None) if level is not None else []
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
            f"The taxonomy has no node {clipped(shown)}{where}. Valid are full paths ('parent > "
            f"child'), synonyms and bare names. {advice}."
        )
