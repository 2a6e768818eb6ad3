"""Nearest reference cells in a space of principal components, with and without Harmony."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from .interface import Cells, Prediction, Reference
from .matrix import Scaler, log_cp10k

N_COMPONENTS = 50
N_NEIGHBORS = 15


class PCANeighbors:
    """Project the query into the reference's PCA of scaled genes; 15 neighbours vote."""

    def __init__(self, *, seed: int, threads: int, folder: Path):
        del folder
        self.seed, self.threads = seed, threads

    def fit(self, reference: Reference) -> None:
        """Fit scaling and components."""
        self.reference = reference
        x = log_cp10k(reference.aligned(reference.selected)[0])
        self.scaler = Scaler().fit(x)
        scaled = self.scaler(x)
        n_components = min(N_COMPONENTS, *(n - 1 for n in scaled.shape))
        self.pca = PCA(n_components, random_state=self.seed).fit(scaled)
        self.embedding = self.pca.transform(scaled)

    def annotate(self, query: Cells) -> Prediction:
        """Vote of the nearest reference cells."""
        return self._vote(self.embedding, self._project(query))

    def _project(self, query: Cells) -> np.ndarray:
        counts = query.aligned(self.reference.selected)[0]
        return self.pca.transform(self.scaler(log_cp10k(counts)))

    def _vote(self, reference: np.ndarray, query: np.ndarray) -> Prediction:
        k = min(N_NEIGHBORS, len(reference))
        model = KNeighborsClassifier(k, n_jobs=self.threads).fit(reference, self.reference.codes)
        votes = model.predict_proba(query)
        return Prediction(codes=votes.argmax(axis=1), probabilities=votes)


class HarmonyNeighbors(PCANeighbors):
    """As above, after Harmony has mixed the reference's batches with those of the query."""

    def annotate(self, query: Cells) -> Prediction:
        """Correct both datasets together, then vote."""
        import harmonypy

        n = self.reference.n_cells
        both = np.vstack([self.embedding, self._project(query)])
        batch = [f"reference {b}" for b in self.reference.batch] + [
            f"query {b}" for b in query.batch
        ]
        harmony = harmonypy.run_harmony(
            both, pd.DataFrame({"batch": batch}), "batch", random_state=self.seed, verbose=False
        )
        corrected = np.asarray(harmony.Z_corr)
        corrected = corrected if corrected.shape[0] == len(both) else corrected.T
        return self._vote(corrected[:n], corrected[n:])
