"""scHPL on the given tree.

Settings: the linear support vector machine of a node, which its authors found best, with rejection
by reconstruction error, on log-normalised values. Cells may stop at an inner node or be rejected.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from scHPL import predict, train, utils

from .interface import Cells, Prediction, Reference
from .matrix import log_cp10k


class ScHPL:
    """Hierarchical progressive learning without the progression: the tree is known."""

    def __init__(self, *, seed: int, threads: int, folder: Path):
        del threads, folder
        np.random.seed(seed)

    def fit(self, reference: Reference) -> None:
        """Train one classifier a node on the shared gene list."""
        self.genes, self.n_levels = reference.selected, len(reference.tree.levels)
        self.nodes = _nodes(reference.tree.classes)
        name = {path: f"n{i}" for i, path in enumerate(self.nodes)}
        labels = np.array([name[reference.tree.classes[code]] for code in reference.codes])
        tree = utils.create_tree(_newick((), self.nodes, name) + "root")
        self.tree = train.train_tree(
            self._values(reference), labels, tree, classifier="svm", dimred=False, useRE=True
        )

    def annotate(self, query: Cells) -> Prediction:
        """Walk down the tree; the labels of the node where a cell stops are its labels."""
        called, _ = predict.predict_labels(self._values(query), self.tree)
        labels = np.full((query.n_cells, self.n_levels), "", dtype=object)
        for row, name in zip(labels, called, strict=True):
            if str(name).startswith("n"):  # else "root" or "Rejected (RE)"
                path = self.nodes[int(str(name)[1:])]
                row[: len(path)] = path
        return Prediction(labels=labels)

    def _values(self, cells: Cells) -> np.ndarray:
        return log_cp10k(cells.aligned(self.genes)[0]).toarray()


def _nodes(classes) -> list[tuple[str, ...]]:
    """Every node below the root that is a class or has siblings under it, by its path.

    A node with one child says the same as the child, and its classifier would have no cells to tell
    apart, which scikit-learn refuses: such nodes are left out.
    """
    paths = {path[:depth] for path in classes for depth in range(1, len(path) + 1)}
    children = Counter(path[:-1] for path in paths)
    return sorted(path for path in paths if path in classes or children[path] > 1)


def _newick(path, nodes, name) -> str:
    """Subtree below `path` in Newick form."""
    below = [node for node in nodes if node[: len(path)] == path and node != path]
    children = [n for n in below if not any(n != m and n[: len(m)] == m for m in below)]
    inside = ",".join(_newick(child, nodes, name) + name[child] for child in children)
    return f"({inside})" if inside else ""
