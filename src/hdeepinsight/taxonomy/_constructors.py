"""Ways into a taxonomy."""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from hdeepinsight.taxonomy._annotate import AnnotateMixin, NodeName
from hdeepinsight.taxonomy._names import ROOT_NAME
from hdeepinsight.taxonomy._newick import tree_from_newick
from hdeepinsight.taxonomy._ontology import tree_from_obo
from hdeepinsight.taxonomy._schema import from_record, parse_text, read_text
from hdeepinsight.taxonomy._sources import (
    Tree,
    paths_from_obs,
    tree_from_edges,
    tree_from_nested,
    tree_from_paths,
)

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData


class ConstructorMixin(AnnotateMixin):
    """Build a taxonomy from labels, nested objects, edges, text or an ontology."""

    @classmethod
    def from_obs(
        cls,
        data: "AnnData | MuData | pd.DataFrame",
        keys: str | Sequence[str],
        *,
        unlabeled: str | Collection[str] | None = "Unknown",
        synonyms: Mapping[str, NodeName] | None = None,
    ) -> Self:
        """Taxonomy of the labels found in columns from coarse to fine.

        Parameters
        ----------
        data
            A DataFrame with a row a cell, or an object with one as ``.obs``. It is only read.
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
        ValueError
            When a column is absent, no cell is labelled, a cell has a finer label without the
            coarser one, or the columns go from fine to coarse.
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
        tree = tree_from_paths(paths_from_obs(data, columns, unlabeled))
        plain = cls._from_tree(tree)
        names = columns[: plain.max_depth]
        return plain.with_annotations(level_names=names, synonyms=synonyms)

    @classmethod
    def from_paths(
        cls,
        paths: Iterable[NodeName],
        *,
        level_names: Sequence[str] | None = None,
        synonyms: Mapping[str, NodeName] | None = None,
    ) -> Self:
        """Taxonomy that holds the given paths, as tuples or as text (``"T > CD4"``).

        Parameters
        ----------
        paths
            Paths of leaves or of any nodes; parents that are not listed are added.
        level_names
            One name a level.
        synonyms
            Other spellings and the nodes that they mean.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> Taxonomy.from_paths(["T > CD4", "T > CD8", "B"]).names
        ((), ('T',), ('B',), ('T', 'CD4'), ('T', 'CD8'))
        """
        return cls._from_tree(tree_from_paths(paths), level_names, synonyms)

    @classmethod
    def from_nested(
        cls,
        nested: Any,
        *,
        level_names: Sequence[str] | None = None,
        synonyms: Mapping[str, NodeName] | None = None,
    ) -> Self:
        """Taxonomy of nested dicts and lists.

        Parameters
        ----------
        nested
            A dict of names to children, or a list of names (or of such dicts). Children are again
            dicts or lists; empty ones and None are leaves.
        level_names
            One name a level.
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
        return cls._from_tree(tree_from_nested(nested), level_names, synonyms)

    @classmethod
    def from_edges(
        cls,
        edges: Iterable[tuple[str, str]],
        *,
        root: str | None = None,
        level_names: Sequence[str] | None = None,
        synonyms: Mapping[str, NodeName] | None = None,
    ) -> Self:
        """Taxonomy of (parent, child) pairs.

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
            One name a level.
        synonyms
            Other spellings and the nodes that they mean.

        Raises
        ------
        ValueError
            When a node has two parents, the edges form a cycle, or nodes other than `root` have no
            parent.
        TypeError
            When an edge is no pair of names.

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
        tree, root_name = tree_from_edges(edges, root)
        return cls._from_tree(tree, level_names, synonyms, root_name)

    @classmethod
    def from_newick(
        cls,
        text: str,
        *,
        level_names: Sequence[str] | None = None,
        synonyms: Mapping[str, NodeName] | None = None,
    ) -> Self:
        """Taxonomy of a Newick text in which every node but the root has a name.

        Branch lengths and comments are skipped, underscores stay what they are, and a name of the
        root becomes a synonym of it.

        Parameters
        ----------
        text
            One tree, e.g. ``"((CD4,CD8)T,B);"``. Names in single quotes may hold any character.
        level_names
            One name a level.
        synonyms
            Other spellings and the nodes that they mean.

        Raises
        ------
        ValueError
            With the place in the text, when it is no such tree.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> Taxonomy.from_newick("(('CD4 T':1,CD8:2)T,B);").names[-2:]
        (('T', 'CD4 T'), ('T', 'CD8'))
        """
        tree = tree_from_newick(text)
        return cls._from_tree(tree, level_names, synonyms, root_name=tree[0][0])

    @classmethod
    def from_cell_ontology(
        cls,
        obo_path: str | os.PathLike[str],
        terms: Iterable[str],
        *,
        on_multiple: Literal["raise", "first"] = "raise",
    ) -> Self:
        r"""Taxonomy over requested terms of an OBO file, such as the Cell Ontology's cl-basic.obo.

        The parent of a term is the most specific requested term above it over ``is_a``; terms with
        none are at level 1. Ids are kept in `ontology_ids`.

        Parameters
        ----------
        obo_path
            OBO file on this machine. Imports that it names are not fetched.
        terms
            Ids (``"CL:0000236"``) or exact names; siblings keep this order.
        on_multiple
            What to do with a term under two requested terms of which neither is under the other:
            ``"raise"``, or ``"first"`` to take the parent that stands first in `terms`.

        Raises
        ------
        ValueError
            For unknown terms (with close ones), obsolete terms (with replacements), and terms with
            several parents.
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
        return cls._from_tree(tree_from_paths(paths)).with_annotations(ontology_ids=ids)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Taxonomy of the plain dict that `to_dict` gives.

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
        labels, parents, annotations = from_record(record)
        return cls(tuple(labels), np.asarray(parents, dtype=np.int32), **annotations)

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> Self:
        """Taxonomy of a JSON file, or of JSON text, that `to_json` wrote.

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
        return cls.from_dict(parse_text(str(source) if is_text else read_text(source)))

    @classmethod
    def _from_tree(
        cls,
        tree: Tree,
        level_names: Sequence[str] | None = None,
        synonyms: Mapping[str, NodeName] | None = None,
        root_name: str | None = None,
    ) -> Self:
        labels, parents = tree
        plain = cls(tuple(labels), np.asarray(parents, dtype=np.int32))
        if root_name not in (None, ROOT_NAME, *plain.labels[1:]):
            plain = plain.with_annotations(synonyms={str(root_name): ()})
        if level_names is None and not synonyms:
            return plain
        return plain.with_annotations(level_names=level_names, synonyms=synonyms)
