"""Evaluate small references by classifiers trained on them and by similarity to real cells."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, recall_score
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPClassifier
from sklearn.utils.sparsefuncs import mean_variance_axis

from hdeepinsight._errors import check_choice, check_integer, examples, invalid, missing_column
from hdeepinsight.data import DataLike
from hdeepinsight.tl._coresets import LabelledCells, read_labelled

Student = Literal["logistic", "mlp", "forest"]

ALL_CELLS = "all cells"
_N_COMPS = 30
_MOST_NEIGHBOURS = 5_000


def distillation_report(
    adata: DataLike,
    small: AnnData | Mapping[str, AnnData],
    labels_key: str,
    *,
    test_indices: ArrayLike,
    layer: str | None = None,
    classifiers: Sequence[Student] = ("logistic", "mlp", "forest"),
    n_seeds: int = 5,
) -> pd.DataFrame:
    """Compare small references with all cells by classification scores and similarity.

    Parameters
    ----------
    adata
        Reference with raw counts, including the test cells.
    small
        Result of :func:`select_cells` for the other cells, or several results by name.
    labels_key
        Column of ``obs`` with the class of each cell.
    test_indices
        Test cells, as positions or as a mask, preferably of donors that were not used for the small
        references.
    layer
        Layer of ``adata`` with the counts; ``X`` by default.
    classifiers
        Classifiers to train on log values: ``"logistic"`` (logistic regression), ``"mlp"`` (network
        with one hidden layer), ``"forest"`` (random forest).
    n_seeds
        Number of trainings of each network and forest.

    Returns
    -------
    pandas.DataFrame
        One row per reference and classifier, ``"all cells"`` first. ``accuracy``,
        ``balanced_accuracy`` and ``macro_f1`` are means over seeds, with standard deviations in
        ``*_sd``, on test cells of classes that occur in the training cells. ``mean_correlation``
        and ``variance_correlation`` compare gene means and variances with those of the training
        cells, ``zero_fraction`` is the fraction of zero counts, and ``neighbour_distance`` the
        median distance to the nearest training cell, relative to that between training cells. It
        indicates copies and outliers, but is not a statement about privacy.

    Raises
    ------
    KeyError
        If a small reference does not have the column.
    ValueError
        If genes differ, or no test cell or no training cell has a label.

    Examples
    --------
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> reference = hdi.datasets.demo().reference
    >>> test = np.arange(reference.n_obs) % 3 == 0
    >>> small = hdi.tl.select_cells(reference[~test].copy(), "cell_type", 2, rare="keep_real")
    >>> table = hdi.tl.distillation_report(
    ...     reference, small, "cell_type", test_indices=test, classifiers=["logistic"]
    ... )
    >>> [name for name, _ in table.index]
    ['all cells', 'small']
    """
    for kind in classifiers:
        check_choice("classifiers", kind, get_args(Student))
    check_integer("n_seeds", n_seeds)
    cells = read_labelled(adata, labels_key, layer=layer)
    chosen = cells.chosen(test_indices)
    train, test = (cells.subset(np.flatnonzero(part)) for part in (~chosen, chosen))
    test = test.subset(np.flatnonzero(np.isin(test.codes, train.codes)))
    if not len(train.codes) or not len(test.codes):
        expected = "some but not all of the labelled cells, of classes with other cells"
        raise invalid("test_indices", f"{len(chosen)} cells", expected)
    names = np.array(cells.classes, dtype=object)
    sets: dict[str, tuple[sp.csr_matrix, Any, sp.csr_matrix]] = {
        ALL_CELLS: (train.logged, names[train.codes], train.counts)
    }
    given = {"small": small} if isinstance(small, AnnData) else small
    for name, each in given.items():
        if not each.var_names.equals(cells.var.index):
            raise invalid(f"small[{name!r}]", examples(each.var_names), "of the genes of adata")
        if labels_key not in each.obs:
            raise missing_column(labels_key, each.obs.columns)
        labels = each.obs[labels_key].astype(str).to_numpy(dtype=object)
        sets[name] = sp.csr_matrix(each.X), labels, sp.csr_matrix(each.layers["counts"])
    similarity = _similarity(train, sets)
    rows, values, truth = {}, test.logged, names[test.codes]
    for name, (logged, labels, _) in sets.items():
        for kind in classifiers:
            seeds = range(1 if kind == "logistic" else n_seeds)
            predicted = [student_labels(kind, seed, logged, labels, values) for seed in seeds]
            scores = pd.DataFrame([classification_scores(truth, each) for each in predicted])
            spread = scores.std(ddof=0).add_suffix("_sd")
            rows[name, kind] = {"n_cells": len(labels), **scores.mean(), **spread}
            rows[name, kind] |= similarity[name]
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(table.index, names=["reference", "classifier"])
    return table


def student_labels(kind: Student, seed: int, logged: Any, labels: Any, values: Any) -> NDArray[Any]:
    """Train a classifier and predict the labels of other cells."""
    models: dict[Student, Any] = {
        "logistic": LogisticRegression(max_iter=1000),
        "mlp": MLPClassifier((128,), max_iter=100, random_state=seed),
        "forest": RandomForestClassifier(300, random_state=seed),
    }
    with warnings.catch_warnings():  # about few cells and convergence
        warnings.simplefilter("ignore")
        return np.asarray(models[kind].fit(logged, labels).predict(values))


def classification_scores(truth: NDArray[Any], found: NDArray[Any]) -> dict[str, float]:
    """Compute accuracy, balanced accuracy and macro F1 over the true classes."""
    average: dict[str, Any] = {"labels": np.unique(truth), "average": "macro", "zero_division": 0}
    return {
        "accuracy": float(accuracy_score(truth, found)),
        "balanced_accuracy": float(recall_score(truth, found, **average)),
        "macro_f1": float(f1_score(truth, found, **average)),
    }


def _similarity(train: LabelledCells, sets: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Compare genes and nearest neighbours of each reference with the training cells."""
    logged = train.logged
    n_comps = min(_N_COMPS, min(logged.shape) - 1)
    pca = PCA(n_comps, svd_solver="arpack", random_state=0).fit(logged)
    points = pca.transform(logged)
    near = NearestNeighbors().fit(points)
    some = np.random.default_rng(0).permutation(len(points))[:_MOST_NEIGHBOURS]
    usual = float(np.median(near.kneighbors(points[some], 2)[0][:, 1]))
    mean, variance = mean_variance_axis(logged.astype(np.float64), 0)
    found = {}
    for name, (values, _, counts) in sets.items():
        own_mean, own_variance = mean_variance_axis(values.astype(np.float64), 0)
        at_once = points[some] if name == ALL_CELLS else pca.transform(values)
        distance = near.kneighbors(at_once, 2)[0][:, int(name == ALL_CELLS)]
        found[name] = {
            "mean_correlation": float(np.corrcoef(mean, own_mean)[0, 1]),
            "variance_correlation": float(np.corrcoef(variance, own_variance)[0, 1]),
            "zero_fraction": 1 - counts.count_nonzero() / np.prod(counts.shape),
            "neighbour_distance": float(np.median(distance)) / max(usual, 1e-12),
        }
    return found
