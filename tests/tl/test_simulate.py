"""Simulated cells: counts, depths, names and training."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp

import hdeepinsight as hdi


@pytest.fixture
def centroids(synthetic_hierarchy):
    return hdi.tl.select_cells(synthetic_hierarchy, "cell_type", 4)


def test_cells_have_the_profile_and_the_depth_of_the_cells_behind_their_row(centroids):
    before = centroids.copy()
    cells = hdi.tl.simulate_cells(centroids, 400)
    assert cells.shape == (400 * centroids.n_obs, centroids.n_vars)
    assert cells.X.dtype == np.float32
    assert (cells.X.data == np.rint(cells.X.data)).all()
    summed = cells.X.toarray().reshape(centroids.n_obs, 400, -1).mean(axis=1)
    counts = centroids.layers["counts"].toarray()
    expected = counts / centroids.obs["n_cells"].to_numpy()[:, None]
    # Poisson noise and that of the depths, over 400 cells.
    error = np.abs(summed - expected) / np.sqrt(
        expected / 400 + (0.42 * expected) ** 2 / 400 + 1e-9
    )
    assert np.quantile(error, 0.99) < 3
    depth = np.asarray(cells.X.sum(axis=1)).ravel().reshape(centroids.n_obs, 400)
    assert np.log(depth).std(axis=1).mean() == pytest.approx(0.41, abs=0.03)
    np.testing.assert_array_equal(before.layers["counts"].toarray(), counts)


def test_labels_come_along_and_names_are_unique(centroids):
    cells = hdi.tl.simulate_cells(centroids, 3)
    assert cells.obs_names.is_unique
    assert set(cells.obs) == {*centroids.obs, "profile"} - {"n_cells", "is_real"}
    of_row = centroids.obs["cell_type"].astype(str)[cells.obs["profile"]]
    assert (of_row.to_numpy() == cells.obs["cell_type"].astype(str).to_numpy()).all()
    assert cells.var_names.equals(centroids.var_names)


def test_bulk_samples_need_a_depth(centroids):
    bulk = ad.AnnData(sp.csr_matrix(centroids.layers["counts"]), centroids.obs[["cell_type"]])
    with pytest.raises(ValueError, match=r"depth=, the mean counts per cell"):
        hdi.tl.simulate_cells(bulk)
    cells = hdi.tl.simulate_cells(bulk, depth=500, seed=1)
    assert cells.X.sum(axis=1).mean() == pytest.approx(500, rel=0.05)
    again = hdi.tl.simulate_cells(bulk, depth=500, seed=1)
    other = hdi.tl.simulate_cells(bulk, depth=500, seed=2)
    assert (cells.X != again.X).nnz == 0
    assert (cells.X != other.X).nnz > 0


def test_invalid_arguments_are_refused_with_advice(centroids):
    for change, text in [
        ({"n_per_profile": 0}, "n_per_profile must be an integer >= 1, got 0"),
        ({"depth": -1.0}, r"depth must be .*, got -1.0"),
        ({"layer": "raw"}, "raw"),
    ]:
        with pytest.raises((ValueError, KeyError), match=text):
            hdi.tl.simulate_cells(centroids, **change)


def test_values_other_than_counts_are_refused(centroids):
    centroids.layers["counts"] = centroids.layers["counts"] * -1.0
    with pytest.raises(hdi.data.InputError):
        hdi.tl.simulate_cells(centroids)


def test_a_model_learns_the_lineages_from_them(synthetic_hierarchy, centroids):
    cells = hdi.tl.simulate_cells(centroids, 20)
    hdi.SCHDeepInsight.setup_anndata(cells, labels_keys=["lineage", "cell_type"])
    model = hdi.SCHDeepInsight(cells, layout="random", seed=0)
    model.train(max_epochs=15, accelerator="cpu", enable_progress_bar=False)
    found = model.annotate(synthetic_hierarchy, reject="off", threshold=None).labels["lineage"]
    assert (found.astype(str) == synthetic_hierarchy.obs["lineage"].astype(str)).mean() > 0.95
