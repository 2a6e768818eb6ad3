"""Distillation reports: scores on test cells, and similarity in known cases."""

import numpy as np
import pandas as pd
import pytest

import hdeepinsight as hdi

LEFT = "accuracy", "balanced_accuracy", "macro_f1"


@pytest.fixture
def parts(synthetic_hierarchy):
    test = np.arange(420) % 4 == 0
    return synthetic_hierarchy, test, synthetic_hierarchy[~test].copy()


def test_rows_are_references_by_classifiers(parts):
    adata, test, train = parts
    sets = {
        "means": hdi.tl.select_cells(train, "cell_type", 1, method="class_mean"),
        "cells": hdi.tl.select_cells(train, "cell_type", 5, method="random"),
    }
    before = adata.copy()
    table = hdi.tl.distillation_report(adata, sets, "cell_type", test_indices=test, n_seeds=2)
    assert [name for name, _ in table.index[::3]] == ["all cells", "means", "cells"]
    assert table["n_cells"].tolist() == [315] * 3 + [7] * 3 + [35] * 3
    assert (table.loc["all cells", "macro_f1"] > 0.9).all()
    assert (table.loc["means", "macro_f1"] > 0.5).all()
    assert table[list(LEFT)].to_numpy().max() <= 1
    logistic = table.xs("logistic", level="classifier")
    assert (logistic[[f"{name}_sd" for name in LEFT]] == 0).all().all()
    positions = hdi.tl.distillation_report(
        adata, sets, "cell_type", test_indices=np.flatnonzero(test), n_seeds=2
    )
    pd.testing.assert_frame_equal(table, positions)
    pd.testing.assert_frame_equal(adata.obs, before.obs)


def test_similarity_of_all_cells_and_of_copies_is_as_expected(parts):
    adata, test, train = parts
    sets = {
        "copies": hdi.tl.select_cells(train, "cell_type", 20, method="random"),
        "means": hdi.tl.select_cells(train, "cell_type", 1, method="class_mean"),
    }
    table = hdi.tl.distillation_report(
        adata, sets, "cell_type", test_indices=test, classifiers=["logistic"]
    ).droplevel(1)
    assert table.loc["all cells", "mean_correlation"] == pytest.approx(1)
    assert table.loc["all cells", "neighbour_distance"] == pytest.approx(1)
    assert table.loc["copies", "neighbour_distance"] == pytest.approx(0, abs=1e-4)
    assert table.loc["means", "neighbour_distance"] > 0.1
    zeros = 1 - (train.X.toarray() > 0).mean()
    assert table.loc["all cells", "zero_fraction"] == pytest.approx(zeros)
    assert table.loc["means", "zero_fraction"] < zeros
    assert table["mean_correlation"].min() > 0.9


def test_unlabelled_cells_are_neither_trained_on_nor_scored(parts):
    adata, test, train = parts
    small = hdi.tl.select_cells(train, "cell_type", 2)
    labels = adata.obs["cell_type"].astype(object)
    labels.iloc[np.flatnonzero(test)[::2]] = "Unknown"
    adata.obs["cell_type"] = pd.Categorical(labels)
    call = {"test_indices": test, "classifiers": ["logistic"]}
    some = hdi.tl.distillation_report(adata, small, "cell_type", **call)
    less = adata[(labels != "Unknown").to_numpy()].copy()
    call["test_indices"] = test[(labels != "Unknown").to_numpy()]
    pd.testing.assert_frame_equal(
        some, hdi.tl.distillation_report(less, small, "cell_type", **call)
    )


def test_invalid_arguments_are_refused_with_advice(parts):
    for change, error, text in [
        ({"test_indices": []}, ValueError, "The selection is empty"),
        ({"test_indices": [420]}, ValueError, "1 positions are out of range: 420"),
        ({"test_indices": np.arange(420)}, ValueError, "some but not all"),
        ({"classifiers": ["oracle"]}, ValueError, "classifiers must be one of"),
        ({"n_seeds": 0}, ValueError, "n_seeds must be an integer"),
        ({"labels_key": "lineage"}, KeyError, "obs has no column 'lineage'"),
    ]:
        adata, test, train = parts
        small = hdi.tl.select_cells(train, "cell_type", 2)
        del small.obs["lineage"]
        request = {"labels_key": "cell_type", "test_indices": test} | change
        with pytest.raises(error, match=text):
            hdi.tl.distillation_report(adata, small, **request)


def test_other_genes_are_refused(parts):
    adata, test, train = parts
    small = hdi.tl.select_cells(train, "cell_type", 2)[:, ::-1].copy()
    with pytest.raises(ValueError, match="of the genes of adata"):
        hdi.tl.distillation_report(adata, small, "cell_type", test_indices=test)
