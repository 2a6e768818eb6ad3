"""A taxonomy with more said about its nodes, or with fewer nodes."""

import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Self, SupportsIndex

import numpy as np

from hdeepinsight.taxonomy._lookup import LookupMixin
from hdeepinsight.taxonomy._names import ROOT_NAME, Path

NodeName = str | Path
"""A path as tuple or text, a synonym, or a bare name that leads to one path."""

NodeLike = NodeName | SupportsIndex
"""A name of a node, or its index."""


class AnnotateMixin(LookupMixin):
    """Derive a new taxonomy from this one, which stays as it is."""

    def with_annotations(
        self,
        *,
        level_names: Sequence[str] | None = None,
        synonyms: Mapping[str, NodeName] | None = None,
        ontology_ids: Mapping[str, str] | Mapping[Path, str] | None = None,
        published_ids: Mapping[str, int] | Mapping[Path, int] | None = None,
        unspecified_leaves: Iterable[NodeName] | None = None,
    ) -> Self:
        """Copy with level names replaced, and synonyms, ids and unspecified leaves added.

        Parameters
        ----------
        level_names
            One distinct name a level, coarse to fine.
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
                    f"The synonym {name!r} leads to two nodes: {self.synonyms[name]} and {path}. A "
                    "synonym has one meaning. Leave one of them out."
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
        """Taxonomy of the given nodes, all that is below them, and their ancestors.

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
        """Taxonomy of the given nodes and their ancestors only; what is below them is cut.

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
