"""The floor: always the most frequent class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .interface import Cells, Prediction, Reference


class Majority:
    """Class frequencies of the reference, for every cell."""

    def __init__(self, *, seed: int, threads: int, folder: Path):
        del seed, threads, folder

    def fit(self, reference: Reference) -> None:
        """Count classes."""
        counts = np.bincount(reference.codes, minlength=len(reference.tree.classes))
        self.share = counts / counts.sum()

    def annotate(self, query: Cells) -> Prediction:
        """Give every cell the same answer."""
        return Prediction(
            codes=np.full(query.n_cells, self.share.argmax()),
            probabilities=np.tile(self.share, (query.n_cells, 1)),
        )
