"""Methods that may refuse to name a cell, each with the rule of its authors.

Beside its labels a method here writes ``novelty.npz`` into its scratch folder: a novelty score
where it has one, and labels after each of its rules, for ``novelty.py`` to read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .interface import Cells, Prediction, Reference

#: CellTypist's default probability threshold, ours for labels, and the share of false alarms.
THRESHOLD, ALPHA = 0.5, 0.05


class OursRejecting:
    """SCHDeepInsight with its defaults: stop by probability alone, and after rejection."""

    def __init__(self, *, seed: int, threads: int, folder: Path):
        from .ours import SCHDeepInsight

        self.folder = folder
        self.method = SCHDeepInsight(
            seed=seed, threads=threads, folder=folder, variant="schdeepinsight"
        )

    def fit(self, reference: Reference) -> None:
        """Train with the defaults."""
        self.method.fit(reference)
        self.n_levels = len(reference.tree.levels)

    def annotate(self, query: Cells) -> Prediction:
        """Annotate once, and apply every rule to the same result."""
        result = self.method.model.annotate(query.anndata(), threshold=THRESHOLD, reject="off")
        rules = {
            "threshold": result,
            "lineage": result.rejected(ALPHA),
            "type": result.rejected(ALPHA, unknown="type"),
        }
        lineages = result.taxonomy.groups[0]
        np.savez_compressed(
            self.folder / "novelty.npz",
            score_novelty=result.novelty["doublet_score"],
            score_recognition=-result.novelty["lineage_p_value"],
            score_probability=1 - result.node_probabilities[:, lineages].max(axis=1),
            **{f"labels_{name}": self._labels(rule) for name, rule in rules.items()},
        )
        return Prediction(labels=self._labels(rules["lineage"]))

    def _labels(self, result) -> np.ndarray:
        labels = np.full((len(result), self.n_levels), "", dtype=object)
        paths = [result.taxonomy.path(node) for node in range(result.taxonomy.n_nodes)]
        for row, node in zip(labels, result.stop_nodes, strict=True):
            row[: len(paths[node])] = paths[node]
        return labels.astype(str)


class CellTypistThreshold:
    """CellTypist in "prob match" mode: no class above the threshold means unassigned.

    A cell with several classes above it gets the labels that these share.
    """

    def __init__(self, *, seed: int, threads: int, folder: Path):
        from .celltypist_peer import CellTypist

        self.folder = folder
        self.method = CellTypist(seed=seed, threads=threads, folder=folder)

    def fit(self, reference: Reference) -> None:
        """Train as for the benchmark of accuracy."""
        self.method.fit(reference)
        self.tree = reference.tree

    def annotate(self, query: Cells) -> Prediction:
        """Score every class by itself and keep those above the threshold."""
        import celltypist

        from .matrix import log_cp10k

        adata = query.anndata()
        adata.X = log_cp10k(query.counts)
        found = celltypist.annotate(
            adata, self.method.model, mode="prob match", p_thres=THRESHOLD
        ).probability_matrix
        codes = np.array([int(str(name).removeprefix("class_")) for name in found.columns])
        above = found.to_numpy() > THRESHOLD
        table = self.tree.table()
        labels = np.stack([_shared(table[codes[row]]) for row in above])
        np.savez_compressed(
            self.folder / "novelty.npz",
            score_probability=1 - found.to_numpy().max(axis=1),
            labels_threshold=labels.astype(str),
        )
        return Prediction(labels=labels)


def _shared(paths: np.ndarray) -> np.ndarray:
    """Labels that all paths have, ``""`` from where they part; all ``""`` without paths."""
    shared = np.full(paths.shape[1], "", dtype=object)
    if len(paths):
        same = np.logical_and.accumulate((paths == paths[0]).all(axis=0))
        shared[same] = paths[0][same]
    return shared
