"""Ways out of a taxonomy."""

import os
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hdeepinsight.taxonomy._annotate import AnnotateMixin, NodeLike
from hdeepinsight.taxonomy._names import SEPARATOR
from hdeepinsight.taxonomy._newick import write_newick
from hdeepinsight.taxonomy._schema import to_record, to_text
from hdeepinsight.taxonomy._show import draw

if TYPE_CHECKING:
    import networkx as nx


class ExportMixin(AnnotateMixin):
    """Write a taxonomy as plain types, text or a graph."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain types (dict, list, str, int, bool), for `from_dict`.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> Taxonomy.from_nested({"T": ["CD4"]}).to_dict()["nodes"]
        [{'name': 'T', 'parent': 0}, {'name': 'CD4', 'parent': 1}]
        """
        return to_record(self)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Everything as JSON text with one node a line, for `from_json`.

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
        text = to_text(self)
        if path is not None:
            target = FilePath(path)
            unfinished = target.with_name(target.name + ".part")
            try:
                unfinished.write_text(text, encoding="utf-8")
                unfinished.replace(target)
            finally:
                unfinished.unlink(missing_ok=True)
        return text

    def to_nested(self) -> dict[str, Any]:
        """Nested dicts of names to children, leaves with empty ones, for `from_nested`.

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
        """Edges as pairs of text paths in node order, for `from_edges`; the root is ``"root"``.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> Taxonomy.from_nested({"T": ["CD4"]}).to_edges()
        [('root', 'T'), ('T', 'T > CD4')]
        """
        texts = [SEPARATOR.join(path) for path in self.names]
        texts[0] = self.path_name(0)
        return [(texts[above], texts[node]) for node, above in enumerate(self.parent.tolist())][1:]

    def to_newick(self) -> str:
        """Newick text with names at all nodes, for `from_newick`; names are quoted where needed.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> Taxonomy.from_paths(["T > CD4 T", "T > CD8", "B"]).to_newick()
        "(('CD4 T',CD8)T,B);"
        """
        return write_newick(self)

    def to_networkx(self) -> "nx.DiGraph":
        """Directed graph from parents to children, nodes named by their text path.

        Nodes have the attributes ``node`` (index), ``label``, ``depth`` and, where known,
        ``ontology_id``.

        Raises
        ------
        ImportError
            When networkx is not installed.

        Examples
        --------
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> graph = Taxonomy.from_nested({"T": ["CD4"]}).to_networkx()
        >>> graph.nodes["T > CD4"]
        {'node': 2, 'label': 'CD4', 'depth': 2}
        """
        try:
            import networkx as nx
        except ImportError as error:
            raise ImportError(
                "`to_networkx` needs the package networkx, which is not installed. Install it with "
                "`pip install networkx`."
            ) from error
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
        numbers = None if counts is None else self._node_counts(counts)
        return draw(self, numbers, max_depth, max_lines)

    def _node_counts(self, counts: Any) -> NDArray[np.int64]:
        if hasattr(counts, "items"):  # a mapping, or a Series
            numbers = np.zeros(self.n_nodes, dtype=np.int64)
            for name, count in counts.items():
                node: NodeLike = name
                numbers[self._node(node)] += int(count)
            return numbers
        array = np.asarray(counts)
        if array.shape != (self.n_nodes,):
            raise ValueError(
                f"Found counts of shape {array.shape}. Valid is ({self.n_nodes},), one number a "
                "node. Use `np.bincount(nodes, minlength=taxonomy.n_nodes)`."
            )
        return array.astype(np.int64)
