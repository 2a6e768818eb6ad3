"""CellTypist trained on the same reference.

Settings: the tutorial on custom models, i.e. all genes, log1p CP10k, logistic regression with the
genes that a quick first fit ranks highest (``feature_selection=True``); "best match" mode.
"""

from __future__ import annotations

import logging
from pathlib import Path

import celltypist
import numpy as np

from .interface import Cells, Prediction, Reference
from .matrix import log_cp10k

#: The first fit serves to drop genes, so it is skipped on panels.
MIN_GENES_FOR_SELECTION = 2000


class CellTypist:
    """CellTypist, on demand with majority voting over its own over-clustering."""

    def __init__(self, *, seed: int, threads: int, folder: Path, majority_voting: bool = False):
        del folder
        logging.getLogger("celltypist").setLevel(logging.WARNING)
        np.random.seed(seed)
        self.threads, self.majority_voting = threads, majority_voting

    def fit(self, reference: Reference) -> None:
        """Train on all genes of the reference."""
        self.tree = reference.tree
        labels = np.array([f"class_{code}" for code in reference.codes])
        self.model = celltypist.train(
            log_cp10k(reference.counts),
            labels=labels,
            genes=reference.genes,
            n_jobs=self.threads,
            feature_selection=len(reference.genes) >= MIN_GENES_FOR_SELECTION,
        )

    def annotate(self, query: Cells) -> Prediction:
        """Predict the best match of every cell."""
        adata = query.anndata()
        adata.X = log_cp10k(query.counts)
        result = celltypist.annotate(adata, self.model, majority_voting=self.majority_voting)
        if self.majority_voting:
            return Prediction(codes=_codes(result.predicted_labels["majority_voting"]))
        probabilities = np.zeros((query.n_cells, len(self.tree.classes)))
        probabilities[:, _codes(result.probability_matrix.columns)] = result.probability_matrix
        # one-against-rest scores: normalised over the classes, as scikit-learn does
        probabilities /= probabilities.sum(axis=1, keepdims=True).clip(min=1e-12)
        return Prediction(
            codes=_codes(result.predicted_labels["predicted_labels"]), probabilities=probabilities
        )


def _codes(names) -> np.ndarray:
    return np.array([int(str(name).removeprefix("class_")) for name in names])
