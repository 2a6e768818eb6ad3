"""Clusters without labels: what a method sees, what is recorded, and the page."""

import json

import companions
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from clustering import METHODS, datasets, method
from clustering.page import page

from .conftest import draw


@pytest.fixture
def folder(tmp_path, monkeypatch):
    cells: AnnData = draw(["CD4"] * 40 + ["CD8"] * 40 + ["B"] * 40 + ["unknown"] * 5, 0)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    monkeypatch.setattr(datasets, "ROWS", {"mine": ("cells", "cell_type")})
    return tmp_path


def test_a_method_sees_counts_and_components_and_no_label(folder):
    adata, labels = datasets.load("mine", folder)
    assert adata.n_obs == len(labels) == 120
    assert "donor" in adata.obs
    assert not {"cell_type", "lineage", "secret"} & set(adata.obs)
    assert np.array_equal(adata.X.data, np.round(adata.X.data))
    assert adata.obsm["X_pca"].shape == (120, min(50, adata.var["highly_variable"].sum() - 1))


@pytest.mark.parametrize("name", ["kmeans", "leiden", "spectral"])
def test_controls_find_types_that_stand_apart(folder, name):
    adata, labels = datasets.load("mine", folder)
    found = method(name)(adata, 3, 0)["labels"]
    assert len(found) == 120
    assert pd.crosstab(labels, found).max(axis=1).sum() > 100


def test_rows_are_kept_and_the_page_shows_their_means(folder, monkeypatch):
    monkeypatch.setattr(companions, "ROWS", {"mine": ("cells", "cell_type")})
    monkeypatch.setattr("clustering.page.NINE", ("mine",))
    out = folder / "companions"
    call = ["--data", str(folder), "--out", str(out), "--methods", "kmeans", "--rows", "mine"]
    companions.main([*call, "--seeds", "0"])
    companions.main([*call, "--seeds", "0", "1", "--page", str(folder / "page.md")])
    rows = json.loads((out / "kmeans.json").read_text())
    assert [row["seed"] for row in rows] == [0, 1]
    mean = np.mean([row["ari"] for row in rows])
    assert f"| {mean:.3f} |" in page(folder)
    assert (folder / "page.md").read_text() == page(folder)


def test_every_method_can_be_found():
    assert all(callable(method(name)) for name in METHODS)
