"""The public class: a validated, frozen tree of cell types."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from hdeepinsight.taxonomy._builtin import builtin_text
from hdeepinsight.taxonomy._constructors import ConstructorMixin
from hdeepinsight.taxonomy._encode import EncodeMixin
from hdeepinsight.taxonomy._exporters import ExportMixin
from hdeepinsight.taxonomy._names import ROOT_NAME, Path, clipped, join_path, name_problem, quoted
from hdeepinsight.taxonomy._structure import canonical_tree

_PRINTED_LINES = 200


@dataclass(frozen=True, eq=False, repr=False)
class Taxonomy(EncodeMixin, ConstructorMixin, ExportMixin):
    """A tree of cell types of any depth, with leaves at any level.

    Node 0 is the root and means "some type, which one is not known". Nodes stand in breadth-first
    order with siblings in the order given, and edge ``e`` leads to node ``e + 1``. A node is its
    path, not its name: a child may carry its parent's name, and one name may occur on several
    branches. A label at an inner node means "some descendant, which one is not known"; a "none of
    the children" class is a leaf of its own, listed in `unspecified_leaves`.

    Mostly made by `from_obs`, `from_nested`, `from_edges`, `from_paths`, `from_newick`,
    `from_cell_ontology`, `from_json` or `immune`. Taxonomies are compared and hashed by content.

    Parameters
    ----------
    labels
        Bare name of every node in any order, shape ``(n_nodes,)``; the root's becomes ``"root"``.
    parent
        Index of every node's parent, -1 for the root; shape ``(n_nodes,)``.
    level_names
        One distinct name a level, coarse to fine; by default ``level_1``, ``level_2``, ...
    synonyms
        Other spellings, and the paths of the nodes that they mean.
    ontology_ids
        Paths, and their Cell Ontology ids (``"CL:0000236"``).
    published_ids
        Paths, and the numbers that a publication gives them.
    unspecified_leaves
        Paths of leaves that mean "none of the siblings".

    Raises
    ------
    ValueError
        Naming the node, for more than one root, a cycle, two siblings of one name, an empty name,
        a synonym that is another node's name, or annotations of nodes that do not exist.

    Notes
    -----
    Source: our decision, after the two-level taxonomy of scHDeepInsight (Jia et al. 2025,
    doi:10.1101/2025.06.23.661045), which `immune` gives.

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

    def __post_init__(self) -> None:
        labels, parent = canonical_tree(self.labels, np.asarray(self.parent).tolist())
        parent.setflags(write=False)
        self._set("labels", labels)
        self._set("parent", parent)
        self._set("level_names", self._checked_levels())
        self._set("synonyms", self._checked_synonyms())
        self._set("ontology_ids", self._by_node(self.ontology_ids, str, "ontology id"))
        self._set("published_ids", self._by_node(self.published_ids, int, "published id"))
        self._set("unspecified_leaves", self._checked_leaves())

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the one place where a frozen field is set

    def _checked_levels(self) -> tuple[str, ...]:
        names = tuple(self.level_names) or tuple(
            f"level_{level}" for level in range(1, self.max_depth + 1)
        )
        for name in names:
            problem = name_problem(name)
            if problem is not None:
                raise ValueError(
                    f"The level name {clipped(name)} {problem}. Level names are text. Rename "
                    "the level."
                )
        if len(names) != self.max_depth or len(set(names)) < len(names):
            raise ValueError(
                f"Found the level names {quoted(map(str, names), 5)} for {self.max_depth} levels. "
                "One distinct name a level is valid. Give as many names as the deepest leaf has "
                "ancestors, itself included."
            )
        return tuple(map(str, names))

    def _checked_synonyms(self) -> Mapping[str, Path]:
        node_of: dict[str, int] = {}
        for synonym, path in self.synonyms.items():
            node = self._annotated(path, f"synonym {clipped(synonym)}")
            problem = name_problem(synonym)
            if problem is None and (synonym in self._nodes_named or synonym == ROOT_NAME):
                taken = self._nodes_named.get(synonym, [0])[0]
                problem = f"is already the name of {clipped(self.path_name(taken))}"
            if problem is not None:
                raise ValueError(
                    f"The synonym {clipped(synonym)} of {clipped(self.path_name(node))} {problem}. "
                    "A synonym is text that no node has as its name. Leave it out, or change it."
                )
            node_of[str(synonym)] = node
        ordered = sorted(node_of.items(), key=lambda item: item[1])
        return MappingProxyType({synonym: self.path(node) for synonym, node in ordered})

    def _by_node(
        self, values: Mapping[Path, Any], kind: type[str] | type[int], what: str
    ) -> Mapping[Path, Any]:
        value_of: dict[int, Any] = {}
        for path, value in values.items():
            node = self._annotated(path, f"{what} {clipped(value)}")
            accepted = (int, np.integer) if kind is int else kind
            if isinstance(value, bool) or not isinstance(value, accepted):
                raise TypeError(
                    f"Found the {what} {clipped(value)} of {clipped(self.path_name(node))}, of "
                    f"type {type(value).__name__}. Valid is {kind.__name__}. Convert it."
                )
            value_of[node] = kind(value)  # plain, also of numpy scalars
        return MappingProxyType({self.path(node): value_of[node] for node in sorted(value_of)})

    def _checked_leaves(self) -> tuple[Path, ...]:
        nodes = {self._annotated(path, "unspecified leaf") for path in self.unspecified_leaves}
        for node in sorted(nodes):
            if not self.is_leaf(node):
                raise ValueError(
                    f"Found {clipped(self.path_name(node))} among the unspecified leaves, but it "
                    "has children. Only leaves are valid. Name the leaf by its full path."
                )
        return tuple(self.path(node) for node in sorted(nodes))

    def _annotated(self, path: Path, what: str) -> int:
        node = self._find(tuple(path)) if not isinstance(path, str) else None
        if node is None:
            shown = path if isinstance(path, str) else join_path(path)
            raise ValueError(
                f"The {what} belongs to {clipped(shown)}, which is no path of the taxonomy. Valid "
                "are the tuples in `names`. Use `with_annotations` to name nodes in other ways."
            )
        return node

    @cached_property
    def _content(self) -> tuple[Any, ...]:
        return (
            self.labels,
            self.parent.tobytes(),
            self.level_names,
            frozenset(self.synonyms.items()),
            frozenset(self.ontology_ids.items()),
            frozenset(self.published_ids.items()),
            self.unspecified_leaves,
        )

    @cached_property
    def _hash(self) -> int:
        return hash(self._content)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Taxonomy):
            return NotImplemented
        return self is other or self._content == other._content

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_dict, (self.to_dict(),)  # checked again, and read-only again

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # nothing in it can change

    def __repr__(self) -> str:
        levels = ", ".join(self.level_names[:5]) + (", ..." if self.max_depth > 5 else "")
        plural = "level" if self.max_depth == 1 else "levels"
        return (
            f"Taxonomy({self.n_leaves:,} leaves, {self.n_edges:,} nodes below the root, "
            f"{self.max_depth:,} {plural}: {levels})"
        )

    def __str__(self) -> str:
        return self.show(max_lines=_PRINTED_LINES)

    @classmethod
    def immune(cls) -> Self:
        """Human immune cells: 15 base types and 50 subtypes, as published.

        `published_ids` hold the numbers of the base types (0 to 14) and of the subtypes (0 to 49);
        they run in order of falling training-cell count. Three base types have one child, four
        have an unspecified leaf of their own name, and Treg and MAIT are siblings of CD4+T.

        Returns
        -------
        Taxonomy
            With the levels ``base_type`` and ``subtype``.

        Notes
        -----
        Tree, numbers and the spellings ``OtherT_exhuasted`` and ``NK_CD56+`` come from the public
        artefacts of scHDeepInsight (Jia et al. 2025, doi:10.1101/2025.06.23.661045). Cell Ontology
        ids and further synonyms are ours; merged classes for which the ontology has no exact term
        (such as Megakaryocytes/platelets) carry no id.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tax = Taxonomy.immune()
        >>> len(tax.groups[0]), tax.n_leaves
        (15, 50)
        >>> tax.path_name(tax.resolve("OtherT_exhuasted"))
        'OtherT > OtherT_exhausted'
        """
        return cls.from_json(builtin_text("immune"))
