"""The public class: a validated, frozen tree of cell types."""

import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self, SupportsIndex

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hdeepinsight._io import atomic_write
from hdeepinsight.taxonomy import _encode, _io, _structure
from hdeepinsight.taxonomy._encode import Unlabeled
from hdeepinsight.taxonomy._ontology import tree_from_obo
from hdeepinsight.taxonomy._structure import ROOT_NAME, Path, clipped, quoted
from hdeepinsight.taxonomy._tree import Tree

if TYPE_CHECKING:
    import networkx as nx
    from anndata import AnnData
    from mudata import MuData

NodeName = str | Path
"""A path as tuple or text, a synonym, or a bare name that leads to one path."""

NodeLike = NodeName | SupportsIndex
"""A name of a node, or its index."""

Synonyms = Mapping[str, NodeName] | None
"""Other spellings and the nodes that they mean."""

_PRINTED_LINES = 200


@dataclass(frozen=True, eq=False, repr=False)
class Taxonomy(Tree):
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
        One distinct name per level, coarse to fine; by default ``level_1``, ``level_2``, ...
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
        labels, parent = _structure.canonical_tree(self.labels, np.asarray(self.parent).tolist())
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
            if problem := _structure.name_problem(name):
                raise ValueError(
                    f"Level names must be text. The level name {clipped(name)} {problem}. Rename "
                    "it."
                )
        if len(names) != self.max_depth or len(set(names)) < len(names):
            raise ValueError(
                f"There must be one distinct name per level, got {quoted(map(str, names), 5)} for "
                f"{self.max_depth} levels. Give as many names as the deepest leaf has ancestors, "
                "itself included."
            )
        return tuple(map(str, names))

    def _checked_synonyms(self) -> Mapping[str, Path]:
        node_of: dict[str, int] = {}
        for synonym, path in self.synonyms.items():
            node = self._annotated(path, f"synonym {clipped(synonym)}")
            problem = _structure.name_problem(synonym)
            if problem is None and (synonym in self._nodes_named or synonym == ROOT_NAME):
                taken = self._nodes_named.get(synonym, [0])[0]
                problem = f"is already the name of {clipped(self.path_name(taken))}"
            if problem is not None:
                raise ValueError(
                    "A synonym must be text that no node has as its name. The synonym "
                    f"{clipped(synonym)} of {clipped(self.path_name(node))} {problem}. Leave it "
                    "out, or change it."
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
                    f"The {what} of {clipped(self.path_name(node))} must be of type "
                    f"{kind.__name__}, got {clipped(value)} of type {type(value).__name__}. "
                    "Convert it."
                )
            value_of[node] = kind(value)  # plain, also of numpy scalars
        return MappingProxyType({self.path(node): value_of[node] for node in sorted(value_of)})

    def _checked_leaves(self) -> tuple[Path, ...]:
        nodes = {self._annotated(path, "unspecified leaf") for path in self.unspecified_leaves}
        for node in sorted(nodes):
            if not self.is_leaf(node):
                raise ValueError(
                    f"Unspecified leaves must be leaves, got {clipped(self.path_name(node))}, "
                    "which has children. Name the leaf by its full path."
                )
        return tuple(self.path(node) for node in sorted(nodes))

    def _annotated(self, path: Path, what: str) -> int:
        node = None if isinstance(path, str) else self._find(tuple(path))
        if node is None:
            shown = path if isinstance(path, str) else _structure.join_path(path)
            raise ValueError(
                f"The {what} must belong to one of the tuples in `names`, got {clipped(shown)}. "
                "Use `with_annotations` to name nodes in other ways."
            )
        return node

    @classmethod
    def from_obs(
        cls,
        data: "AnnData | MuData | pd.DataFrame",
        keys: str | Sequence[str],
        *,
        unlabeled: Unlabeled = "Unknown",
        synonyms: Synonyms = None,
    ) -> Self:
        """Build the taxonomy of the labels found in columns from coarse to fine.

        Parameters
        ----------
        data
            A DataFrame with a row per cell, or an object with one as ``.obs``. It is only read.
        keys
            Label columns from coarse to fine; they become `level_names`. Where a finer column is
            missing or unlabelled, the cell is labelled at an inner node (mixed depth).
        unlabeled
            Label, or labels, that mean "not labelled". Words of `MISSING_LABELS` ("nan", "NA",
            "unassigned", ...) mean it too and do not become types; with None only missing values
            do. `check_labels` warns of such words, and of labels that look alike.
        synonyms
            Other spellings and the nodes that they mean.

        Returns
        -------
        Taxonomy
            Siblings are in the order of the categories of a categorical column, else sorted; the
            order of the cells does not matter.

        Raises
        ------
        KeyError
            When a column is absent.
        ValueError
            When no cell is labelled, a cell has a finer label without the coarser one, or the
            columns go from fine to coarse.
        TypeError
            When labels are not text.

        Notes
        -----
        One fine label under two coarse ones makes two nodes, because a node is its path
        (``"B > naive"`` and ``"T > naive"``). Such a name is ambiguous on its own: `resolve` and
        `encode` then ask for the path, and `encode_levels` reads it off the columns. Print the
        taxonomy with counts to see whether a few mislabelled cells have made a node of their own.

        Examples
        --------
        >>> import pandas as pd
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> obs = pd.DataFrame(
        ...     {"lineage": ["T", "B", "T", "T"], "type": ["CD8", "Unknown", "CD4", None]}
        ... )
        >>> print(Taxonomy.from_obs(obs, ["lineage", "type"]))
        root
        ├── B
        └── T
            ├── CD4
            └── CD8
        """
        columns = [keys] if isinstance(keys, str) else list(keys)
        paths = _encode.paths_from_obs(data, columns, unlabeled)
        names = columns[: max(map(len, paths))]
        return cls._from_tree(_structure.tree_from_paths(paths), names, synonyms)

    @classmethod
    def from_paths(
        cls,
        paths: Iterable[NodeName],
        *,
        level_names: Sequence[str] | None = None,
        synonyms: Synonyms = None,
    ) -> Self:
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
        return cls._from_tree(_structure.tree_from_paths(paths), level_names, synonyms)

    @classmethod
    def from_nested(
        cls, nested: Any, *, level_names: Sequence[str] | None = None, synonyms: Synonyms = None
    ) -> Self:
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
        return cls._from_tree(_structure.tree_from_nested(nested), level_names, synonyms)

    @classmethod
    def from_edges(
        cls,
        edges: Iterable[tuple[str, str]],
        *,
        root: str | None = None,
        level_names: Sequence[str] | None = None,
        synonyms: Synonyms = None,
    ) -> Self:
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
        tree, root_name = _structure.tree_from_edges(edges, root)
        return cls._from_tree(tree, level_names, synonyms, root_name)

    @classmethod
    def from_newick(
        cls, text: str, *, level_names: Sequence[str] | None = None, synonyms: Synonyms = None
    ) -> Self:
        """Build the taxonomy of a Newick text in which every node but the root has a name.

        Branch lengths and comments are skipped, underscores stay what they are, and a name of the
        root becomes a synonym of it.

        Parameters
        ----------
        text
            One tree, e.g. ``"((CD4,CD8)T,B);"``. Names in single quotes may hold any character.
        level_names
            One name per level.
        synonyms
            Other spellings and the nodes that they mean.

        Raises
        ------
        ValueError
            With the place in the text, when it is not such a tree.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> Taxonomy.from_newick("(('CD4 T':1,CD8:2)T,B);").names[-2:]
        (('T', 'CD4 T'), ('T', 'CD8'))
        """
        tree = _io.tree_from_newick(text)
        return cls._from_tree(tree, level_names, synonyms, root_name=tree[0][0])

    @classmethod
    def from_cell_ontology(
        cls,
        obo_path: str | os.PathLike[str],
        terms: Iterable[str],
        *,
        on_multiple: Literal["raise", "first"] = "raise",
    ) -> Self:
        r"""Build a taxonomy over requested terms of an OBO file, such as the Cell Ontology.

        The parent of a term is the most specific requested term above it over ``is_a``; terms with
        none are at level 1. Ids are kept in `ontology_ids`.

        Parameters
        ----------
        obo_path
            OBO file on this machine, such as cl-basic.obo. Imports that it names are not fetched.
        terms
            Ids (``"CL:0000236"``) or exact names; siblings keep this order.
        on_multiple
            What to do with a term under two requested terms of which neither is under the other:
            ``"raise"``, or ``"first"`` to take the parent that stands first in `terms`.

        Raises
        ------
        ValueError
            For unknown terms (with close ones), obsolete terms (with replacements), a name that
            several terms have, terms of one name under one parent, and terms with several parents.
        ImportError
            When pronto is not installed.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> obo = pathlib.Path(tempfile.mkdtemp(), "small.obo")
        >>> _ = obo.write_text(
        ...     "format-version: 1.4\n\n[Term]\nid: CL:0000084\nname: T cell\n\n"
        ...     "[Term]\nid: CL:0000624\nname: CD4 T\nis_a: CL:0000084\n"
        ... )
        >>> Taxonomy.from_cell_ontology(obo, ["CD4 T", "CL:0000084"]).names
        ((), ('T cell',), ('T cell', 'CD4 T'))
        """
        paths, ids = tree_from_obo(obo_path, terms, on_multiple)
        return cls._from_tree(_structure.tree_from_paths(paths)).with_annotations(ontology_ids=ids)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Rebuild a taxonomy from the plain dict that `to_dict` gives.

        Parameters
        ----------
        record
            Plain types only; every key is checked.

        Raises
        ------
        ValueError
            When it is not such a dict, or was written by a newer version.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tax = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> Taxonomy.from_dict(tax.to_dict()) == tax
        True
        """
        labels, parents, annotations = _io.from_record(record)
        return cls(tuple(labels), np.asarray(parents, dtype=np.int32), **annotations)

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> Self:
        """Read a taxonomy from a JSON file, or of JSON text, that `to_json` wrote.

        Parameters
        ----------
        source
            Path of a file, or the text itself (which starts with ``{``).

        Raises
        ------
        ValueError
            When the content is not the JSON form of a taxonomy. Nothing in it is ever run.
        FileNotFoundError
            When there is no such file.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tax = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> Taxonomy.from_json(tax.to_json()) == tax
        True
        """
        is_text = isinstance(source, str) and source.lstrip().startswith("{")
        return cls.from_dict(_io.parse_text(str(source) if is_text else _io.read_text(source)))

    @classmethod
    def immune(cls) -> Self:
        """Return the taxonomy of human immune cells: 15 base types and 50 subtypes, as published.

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
        bundled = files("hdeepinsight.taxonomy").joinpath("immune.json")
        return cls.from_json(bundled.read_text(encoding="utf-8"))

    @classmethod
    def _from_tree(
        cls,
        tree: _structure.NamesAndParents,
        level_names: Sequence[str] | None = None,
        synonyms: Synonyms = None,
        root_name: str | None = None,
    ) -> Self:
        labels, parents = tree
        levels = tuple(level_names or ())
        plain = cls(tuple(labels), np.asarray(parents, dtype=np.int32), level_names=levels)
        if root_name not in (None, ROOT_NAME, *plain.labels[1:]):
            plain = plain.with_annotations(synonyms={str(root_name): ()})
        return plain.with_annotations(synonyms=synonyms) if synonyms else plain

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain types (dict, list, str, int, bool), for `from_dict`.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> Taxonomy.from_nested({"T": ["CD4"]}).to_dict()["nodes"]
        [{'name': 'T', 'parent': 0}, {'name': 'CD4', 'parent': 1}]
        """
        return _io.to_record(self)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return everything as JSON text with one node per line, for `from_json`.

        Parameters
        ----------
        path
            File to write the text to; an existing file is replaced only once the new one is
            complete.

        Returns
        -------
        str
            The text.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> Taxonomy.from_json(tree.to_json()) == tree
        True
        """
        text = _io.to_text(self)
        if path is not None:
            with atomic_write(path) as unfinished:
                unfinished.write_text(text, encoding="utf-8")
        return text

    def to_nested(self) -> dict[str, Any]:
        """Return nested dicts of names to children, leaves with empty ones, for `from_nested`.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> Taxonomy.from_paths(["T > CD4", "B"]).to_nested()
        {'T': {'CD4': {}}, 'B': {}}
        """
        nested: list[dict[str, Any]] = [{} for _ in self.labels]
        for node, above in enumerate(self.parent.tolist()):
            if node:
                nested[above][self.labels[node]] = nested[node]
        return nested[0]

    def to_edges(self) -> list[tuple[str, str]]:
        """Return edges as pairs of text paths, for `from_edges`; the root is ``"root"``.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> Taxonomy.from_nested({"T": ["CD4"]}).to_edges()
        [('root', 'T'), ('T', 'T > CD4')]
        """
        texts = [_structure.SEPARATOR.join(path) for path in self.names]
        texts[0] = self.path_name(0)
        return [(texts[above], texts[node]) for node, above in enumerate(self.parent.tolist())][1:]

    def to_newick(self) -> str:
        """Return Newick text with names at all nodes, quoted where needed, for `from_newick`.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> Taxonomy.from_paths(["T > CD4 T", "T > CD8", "B"]).to_newick()
        "(('CD4 T',CD8)T,B);"
        """
        return _io.write_newick(self)

    def to_networkx(self) -> "nx.DiGraph":
        """Return the directed graph from parents to children, nodes named by their text path.

        Nodes have the attributes ``node`` (index), ``label``, ``depth`` and, where known,
        ``ontology_id``.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> graph = Taxonomy.from_nested({"T": ["CD4"]}).to_networkx()
        >>> graph.nodes["T > CD4"]
        {'node': 2, 'label': 'CD4', 'depth': 2}
        """
        import networkx as nx

        graph = nx.DiGraph()
        for node, path in enumerate(self.names):
            graph.add_node(
                self.path_name(node),
                node=node,
                label=self.labels[node],
                depth=int(self.depth[node]),
                **({"ontology_id": self.ontology_ids[path]} if path in self.ontology_ids else {}),
            )
        graph.add_edges_from(self.to_edges())
        return graph

    def show(
        self,
        counts: Mapping[Any, int] | ArrayLike | None = None,
        *,
        max_depth: int | None = None,
        max_lines: int | None = None,
    ) -> str:
        """Draw the tree as text.

        Parameters
        ----------
        counts
            Cells labelled exactly at each node: an array of shape ``(n_nodes,)``, or a mapping
            (also a Series) of names or node indices. Shown are the cells at or under each node.
        max_depth
            Deepest level to draw.
        max_lines
            Lines after which the rest is only counted.

        Raises
        ------
        ValueError
            When `counts` has another length, or names that the taxonomy does not have.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tax = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> print(tax.show({"CD4": 1200, "T": 30, "B": 7}))
        root (1,237)
        ├── T (1,230)
        │   ├── CD4 (1,200)
        │   └── CD8 (0)
        └── B (7)
        """
        numbers: NDArray[np.int64] | None = None
        if counts is not None and hasattr(counts, "items"):  # a mapping, or a Series
            numbers = np.zeros(self.n_nodes, dtype=np.int64)
            for name, count in counts.items():
                numbers[self._node(name)] += int(count)
        elif counts is not None:
            numbers = np.asarray(counts).astype(np.int64)
            if numbers.shape != (self.n_nodes,):
                raise ValueError(
                    f"There must be one count per node, ({self.n_nodes},), got the shape "
                    f"{numbers.shape}. Use `np.bincount(nodes, minlength=taxonomy.n_nodes)`."
                )
        return _io.draw(self, numbers, max_depth, max_lines)

    def with_annotations(
        self,
        *,
        level_names: Sequence[str] | None = None,
        synonyms: Synonyms = None,
        ontology_ids: Mapping[str, str] | Mapping[Path, str] | None = None,
        published_ids: Mapping[str, int] | Mapping[Path, int] | None = None,
        unspecified_leaves: Iterable[NodeName] | None = None,
    ) -> Self:
        """Return a copy with level names replaced, and synonyms, ids and unspecified leaves added.

        Parameters
        ----------
        level_names
            One distinct name per level, coarse to fine.
        synonyms
            Other spellings and the nodes that they mean.
        ontology_ids
            Nodes and their Cell Ontology ids.
        published_ids
            Nodes and the numbers that a publication gives them.
        unspecified_leaves
            Leaves that mean "none of the siblings", e.g. a ``"Macrophage"`` under ``"Macrophage"``.

        Raises
        ------
        ValueError
            When a name does not lead to one node, or a synonym is taken.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tax = Taxonomy.from_nested({"NK": ["NK_CD16+", "NK_CD16-"]})
        >>> tax = tax.with_annotations(synonyms={"NK_CD56+": "NK_CD16-"})
        >>> tax.path_name(tax.resolve("NK_CD56+"))
        'NK > NK_CD16-'
        """
        added = {name: self._path_of(target) for name, target in (synonyms or {}).items()}
        for name, path in added.items():
            if self.synonyms.get(name, path) != path:
                raise ValueError(
                    f"A synonym must have one meaning, but {name!r} leads to two nodes: "
                    f"{self.synonyms[name]} and {path}. Leave one of them out."
                )
        ids = {self._path_of(name): value for name, value in (ontology_ids or {}).items()}
        numbers = {self._path_of(name): value for name, value in (published_ids or {}).items()}
        leaves = [self._path_of(name) for name in unspecified_leaves or ()]
        return replace(
            self,
            level_names=self.level_names if level_names is None else tuple(level_names),
            synonyms={**self.synonyms, **added},
            ontology_ids={**self.ontology_ids, **ids},
            published_ids={**self.published_ids, **numbers},
            unspecified_leaves=(*self.unspecified_leaves, *leaves),
        )

    def subset(self, nodes: Iterable[NodeLike]) -> Self:
        """Return the taxonomy of the given nodes, all that is below them, and their ancestors.

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
        keep = np.zeros(self.n_nodes, dtype=np.bool_)
        for node in map(self._node, nodes):
            keep[node] = True
            keep[self.descendants(node)] = True
        return self._restrict(keep)

    def prune(self, keep_nodes: Iterable[NodeLike]) -> Self:
        """Return the taxonomy of the given nodes and their ancestors; what is below them is cut.

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
        keep[[self._node(node) for node in keep_nodes]] = True
        return self._restrict(keep)

    def _restrict(self, keep: np.ndarray) -> Self:
        for node in range(self.n_nodes - 1, 0, -1):  # children come after their parent
            keep[self.parent[node]] |= keep[node]
        keep[0] = True
        kept = np.flatnonzero(keep)
        rank = np.cumsum(keep) - 1
        parent = np.append(np.int64(-1), rank[self.parent[kept[1:]]])
        plain = type(self)(tuple(self.labels[node] for node in kept), parent.astype(np.int32))

        def has(path: Path) -> bool:
            return plain._find(path) is not None

        return replace(
            plain,
            level_names=self.level_names[: plain.max_depth],
            synonyms={name: path for name, path in self.synonyms.items() if has(path)},
            ontology_ids={path: value for path, value in self.ontology_ids.items() if has(path)},
            published_ids={path: value for path, value in self.published_ids.items() if has(path)},
            unspecified_leaves=tuple(filter(has, self.unspecified_leaves)),
        )

    def _node(self, node: NodeLike) -> int:
        if isinstance(node, (str, tuple)):
            return self.resolve(node)
        return self._checked(operator.index(node))

    def _path_of(self, name: NodeName) -> Path:
        return () if name == ROOT_NAME else self.path(self.resolve(name))

    def encode(
        self,
        labels: Iterable[Any],
        level: int | str | None = None,
        *,
        unlabeled: Unlabeled = "Unknown",
    ) -> NDArray[np.int64]:
        """Return the node of every label; missing and unlabelled ones give 0, the root.

        Parameters
        ----------
        labels
            Labels, shape ``(n_cells,)``: names, synonyms or paths as in `resolve`, at any depth.
            Missing values (NaN, None, ``pandas.NA``) are allowed.
        level
            Only accept nodes at this level (a level name, or a depth).
        unlabeled
            Label, or labels, that mean "not labelled". Words of `MISSING_LABELS` ("nan", "NA",
            "unassigned", ...) mean it too, unless they are names of this taxonomy; with None only
            missing values do.

        Returns
        -------
        numpy.ndarray
            Node indices, int64, shape ``(n_cells,)``.

        Raises
        ------
        ValueError
            When labels do not resolve; all of them are listed, with their counts.
        TypeError
            When labels are not text.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tax = Taxonomy.from_nested({"B": ["naive", "memory"], "T": []})
        >>> tax.encode(["memory", None, "T", "Unknown", "B"])
        array([4, 0, 2, 0, 1])
        """
        return _encode.encode(self, labels, level, unlabeled)

    def encode_levels(
        self, frame: pd.DataFrame, *, unlabeled: Unlabeled = "Unknown"
    ) -> NDArray[np.int64]:
        """Return the node of every row of a table with a column per level; the deepest label wins.

        Parameters
        ----------
        frame
            Labels, shape ``(n_cells, n_columns)``, coarse to fine. Columns that are all named like
            levels of the taxonomy are those levels; otherwise column ``i`` is level ``i + 1``.
            Missing values are allowed in any column. A column that repeats the label of its parent
            stays at the parent when that has no child of this name.
        unlabeled
            Label, or labels, that mean "not labelled". Words of `MISSING_LABELS` ("nan", "NA",
            "unassigned", ...) mean it too, unless they are names of this taxonomy; with None only
            missing values do.

        Returns
        -------
        numpy.ndarray
            Node indices, int64, shape ``(n_cells,)``; 0 where a row has no label.

        Raises
        ------
        ValueError
            When the columns of a row do not agree as one path, or hold labels that the taxonomy
            does not have at that level; all such rows are summed up with their counts.

        Examples
        --------
        >>> import pandas as pd
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tax = Taxonomy.from_nested({"B": ["naive", "memory"], "T": ["naive"]})
        >>> tax.encode_levels(
        ...     pd.DataFrame({"lineage": ["T", "B", None], "type": ["naive", None, "memory"]})
        ... )
        array([5, 1, 4])
        """
        return _encode.encode_levels(self, frame, unlabeled)

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
