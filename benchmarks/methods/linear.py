"""Linear controls on the shared gene list: log1p CP10k, missing genes as 0."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from scipy import sparse
from sklearn import linear_model, model_selection, svm
from sklearn.decomposition import PCA

from .interface import Cells, Prediction, Reference
from .matrix import Scaler, log_cp10k

#: Inverse strengths of the penalty that a tuned model chooses from.
PENALTIES = (0.01, 0.1, 1.0, 10.0)


class _Linear:
    """Features of the shared genes: log-normalised, on demand scaled and projected."""

    def __init__(
        self,
        *,
        seed: int,
        threads: int,
        folder: Path,
        scale: bool = False,
        n_components: int | None = None,
    ):
        del threads, folder
        self.seed, self.scale, self.n_components = seed, scale, n_components

    def _fit_features(self, reference: Reference) -> np.ndarray:
        self.genes, self.n_classes = reference.selected, len(reference.tree.classes)
        self.scaler, self.pca = None, None
        x = log_cp10k(reference.aligned(self.genes)[0])
        if self.scale:
            self.scaler = Scaler().fit(x)
            x = self.scaler(x)
        if self.n_components:
            largest = min(self.n_components, *(n - 1 for n in x.shape))
            self.pca = PCA(largest, random_state=self.seed).fit(x)
            x = self.pca.transform(x)
        return x

    def _features(self, cells: Cells) -> np.ndarray:
        x = log_cp10k(cells.aligned(self.genes)[0])
        x = self.scaler(x) if self.scaler else x
        return self.pca.transform(x) if self.pca else x


class LogisticRegression(_Linear):
    """Multinomial logistic regression with scikit-learn's default penalty.

    With ``balanced`` every class weighs the same, however many cells it has. With ``averages`` it
    learns from so many averaged cells of every class alone, each of cells drawn at random. With
    ``tuned`` the penalty is the one of :data:`PENALTIES` with the best macro-F1 in three folds.
    """

    def __init__(
        self, *, balanced: bool = False, averages: int = 0, tuned: bool = False, **options
    ):
        super().__init__(**options)
        self.class_weight = "balanced" if balanced else None
        self.averages, self.tuned = averages, tuned

    def fit(self, reference: Reference) -> None:
        """Fit features and classifier."""
        x, codes = self._fit_features(reference), reference.codes
        if self.averages:
            part = np.random.default_rng(self.seed).permutation(len(codes)) % self.averages
            groups = np.unique(codes * self.averages + part, return_inverse=True)
            codes, x = groups[0] // self.averages, _means(x, groups[1])
        model = linear_model.LogisticRegression(max_iter=1000, class_weight=self.class_weight)
        if self.tuned:
            parts = model_selection.StratifiedKFold(3, shuffle=True, random_state=self.seed)
            model = model_selection.GridSearchCV(
                model, {"C": PENALTIES}, scoring="f1_macro", cv=parts
            )
        with warnings.catch_warnings():  # a class of fewer cells than folds is missing in some
            warnings.filterwarnings("ignore", "The least populated class")
            self.model = model.fit(x, codes)

    def annotate(self, query: Cells) -> Prediction:
        """Predict classes and their probabilities."""
        probabilities = self.model.predict_proba(self._features(query))
        return Prediction(codes=probabilities.argmax(axis=1), probabilities=probabilities)


def _means(x: sparse.csr_matrix | np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Average the rows of each group."""
    cells = np.arange(len(groups))
    weights = 1 / np.bincount(groups)[groups]
    means = sparse.csr_matrix((weights, (groups, cells))) @ x
    return means.toarray() if sparse.issparse(means) else means


class LinearSVM(_Linear):
    """One-against-rest linear support vector machine; it has no probabilities."""

    def fit(self, reference: Reference) -> None:
        """Fit features and classifier."""
        x = self._fit_features(reference)
        self.model = svm.LinearSVC(random_state=self.seed).fit(x, reference.codes)

    def annotate(self, query: Cells) -> Prediction:
        """Predict classes."""
        return Prediction(codes=self.model.predict(self._features(query)))
