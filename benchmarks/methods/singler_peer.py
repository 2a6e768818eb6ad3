"""SingleR by its Python port (the authors' C++ library).

Settings: the defaults with fine-tuning; markers between every two types by AUC or by Cohen's d, the
two rules that the library advises for single-cell references (its "classic" rule, a difference of
medians, is for bulk profiles). It has no probabilities.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import singler
from scipy import sparse

from .interface import Cells, Prediction, Reference
from .matrix import log_cp10k


class SingleR:
    """Correlation with the reference cells of every type over its markers, fine-tuned."""

    def __init__(self, *, seed: int, threads: int, folder: Path, markers: str = "auc"):
        del seed, folder
        self.threads, self.markers = threads, markers

    def fit(self, reference: Reference) -> None:
        """Normalise; markers depend on the genes of the query and are found in `annotate`."""
        self.values = sparse.csc_matrix(log_cp10k(reference.counts).T)
        self.labels = [str(code) for code in reference.codes]
        self.genes = list(reference.genes)

    def annotate(self, query: Cells) -> Prediction:
        """Find markers among the shared genes and classify."""
        result = singler.annotate_single(
            test_data=sparse.csc_matrix(query.counts.T),
            test_features=list(query.genes),
            ref_data=self.values,
            ref_labels=self.labels,
            ref_features=self.genes,
            train_args={"marker_method": self.markers},
            num_threads=self.threads,
        )
        return Prediction(codes=np.array([int(name) for name in result["best"]]))
