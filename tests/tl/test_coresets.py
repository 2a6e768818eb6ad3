"""Selected and averaged cells, and references built from them."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hdeepinsight as hdi
from hdeepinsight.data import log_normalize
from hdeepinsight.tl import herding, k_center

REAL = "herding", "k_center", "geosketch", "random"
MANY = "centroids", "pseudobulk", *REAL


def brute_force_herding(points, n):
    chosen = []
    for _ in range(n):
        errors = {
            i: np.linalg.norm(points[[*chosen, i]].mean(axis=0) - points.mean(axis=0))
            for i in range(len(points))
            if i not in chosen
        }
        chosen.append(min(errors, key=errors.get))
    return chosen


def brute_force_k_center(points, n):
    chosen = [int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin())]
    while len(chosen) < n:
        gaps = [min(np.linalg.norm(p - points[i]) for i in chosen) for p in points]
        chosen.append(int(np.argmax(gaps)))
    return chosen


def test_greedy_choices_equal_a_search_of_all_points():
    for seed in [0, 1, 2]:
        points = np.random.default_rng(seed).normal(size=(50, 4))
        assert herding(points, 12).tolist() == brute_force_herding(points, 12)
        assert k_center(points, 12).tolist() == brute_force_k_center(points, 12)


def test_every_method_gives_the_cells_asked_for(synthetic_hierarchy):
    for n in [1, 4]:
        for method in MANY:
            before = synthetic_hierarchy.copy()
            small = hdi.tl.select_cells(synthetic_hierarchy, "cell_type", n, method=method, seed=3)
            labels = synthetic_hierarchy.obs["cell_type"]
            assert small.obs["cell_type"].value_counts().to_dict() == dict.fromkeys(
                labels.unique(), n
            )
            assert small.obs["cell_type"].cat.categories.equals(labels.cat.categories)
            assert small.var_names.equals(synthetic_hierarchy.var_names)
            assert small.X.min() >= 0
            counts = small.layers["counts"].toarray()
            np.testing.assert_array_equal(counts, counts.round())
            again = hdi.tl.select_cells(synthetic_hierarchy, "cell_type", n, method=method, seed=3)
            assert (small.X != again.X).nnz == 0
            assert (small.layers["counts"] != again.layers["counts"]).nnz == 0
            assert (synthetic_hierarchy.X != before.X).nnz == 0
            pd.testing.assert_frame_equal(synthetic_hierarchy.obs, before.obs)
            assert small.uns["distill"]["method"] == method


@pytest.mark.parametrize("method", REAL)
def test_chosen_cells_are_cells_of_their_class(method, synthetic_hierarchy):
    small = hdi.tl.select_cells(synthetic_hierarchy, "cell_type", 5, method=method)
    assert small.obs_names.is_unique
    origin = synthetic_hierarchy[small.obs_names]
    assert (small.layers["counts"] != origin.X).nnz == 0
    assert (origin.obs["cell_type"] == small.obs["cell_type"]).all()
    np.testing.assert_allclose(small.X.toarray(), log_normalize(origin.X).toarray(), rtol=1e-6)
    assert small.obs["is_real"].all()


@pytest.mark.parametrize("method", ["centroids", "pseudobulk"])
def test_averages_use_every_cell_once(method, synthetic_hierarchy):
    small = hdi.tl.select_cells(synthetic_hierarchy, "cell_type", 4, method=method)
    n_cells = small.obs.groupby("cell_type", observed=True)["n_cells"].sum()
    assert (n_cells == 60).all()
    one = small[small.obs["cell_type"] == "DC"]
    weighted = one.obs["n_cells"].to_numpy() @ one.X.toarray() / 60
    of_class = synthetic_hierarchy[synthetic_hierarchy.obs["cell_type"] == "DC"].X
    np.testing.assert_allclose(weighted, log_normalize(of_class).toarray().mean(0), rtol=1e-5)


def test_one_centroid_is_the_mean_and_as_many_as_cells_are_the_cells(synthetic_hierarchy):
    mean = hdi.tl.select_cells(synthetic_hierarchy, "cell_type", 1, method="class_mean")
    one = hdi.tl.select_cells(synthetic_hierarchy, "cell_type", 1)
    np.testing.assert_allclose(one.X.toarray(), mean.X.toarray())
    every = hdi.tl.select_cells(synthetic_hierarchy, "cell_type", 60)
    assert every.obs["is_real"].all()
    assert set(every.obs_names) == set(synthetic_hierarchy.obs_names)


def test_counts_have_the_depth_of_their_cells_and_the_profile_as_expectation(synthetic_hierarchy):
    small = hdi.tl.select_cells(synthetic_hierarchy, "cell_type", 6)
    small = small[~small.obs["is_real"]]
    counts = small.layers["counts"].toarray()
    profile = np.expm1(small.X.toarray().astype(float))
    depth = np.median(np.asarray(synthetic_hierarchy.X.sum(axis=1))) * small.obs["n_cells"]
    expected = profile / profile.sum(axis=1, keepdims=True) * depth.to_numpy()[:, None]
    assert np.abs(counts - expected).max() < 1 + 1e-2
    # Stochastic rounding is unbiased, with a standard deviation of at most 1/2.
    assert abs((counts - expected).mean()) < 4 * 0.5 / np.sqrt(counts.size)
    np.testing.assert_allclose(counts.sum(axis=1), depth, atol=4 * 0.5 * np.sqrt(small.n_vars))


def test_centroids_separate_a_mixed_class(synthetic_hierarchy):
    small = hdi.tl.select_cells(synthetic_hierarchy, "lineage", {"B": 2, "T": 3, "Myeloid": 2})
    assert small.obs["lineage"].value_counts().to_dict() == {"T": 3, "B": 2, "Myeloid": 2}
    # The two types of a lineage are its two clusters.
    assert small.obs.loc[small.obs["lineage"] != "T", "n_cells"].between(55, 65).all()


def test_a_share_is_of_all_cells_and_coarser_levels_come_along(synthetic_hierarchy):
    small = hdi.tl.select_cells(synthetic_hierarchy, "cell_type", 0.05)
    assert small.n_obs == 21
    assert "batch" not in small.obs
    known = synthetic_hierarchy.obs.drop_duplicates("cell_type").set_index("cell_type")["lineage"]
    lineages = small.obs["lineage"].astype(str).to_numpy()
    assert (lineages == known.astype(str)[small.obs["cell_type"].astype(str)].to_numpy()).all()


def test_the_result_can_be_used_as_a_reference(synthetic_hierarchy):
    small = hdi.tl.select_cells(synthetic_hierarchy, "cell_type", 10)
    hdi.SCHDeepInsight.setup_anndata(small, layer="counts", labels_keys=["lineage", "cell_type"])
    model = hdi.SCHDeepInsight(small, layout="random")
    model.train(max_epochs=2, validation_size=0, enable_progress_bar=False)
    assert len(model.annotate(synthetic_hierarchy)) == 420


def test_result_is_written_and_read(synthetic_hierarchy, tmp_path):
    small = hdi.tl.select_cells(synthetic_hierarchy, "cell_type", 2)
    small.write_h5ad(tmp_path / "small.h5ad")
    read = ad.read_h5ad(tmp_path / "small.h5ad")
    assert read.uns["distill"]["labels_key"] == "cell_type"
    assert (read.X != small.X).nnz == 0


def with_a_rare_class(adata):
    labels = adata.obs["cell_type"].astype(object)
    one = np.flatnonzero(labels == "DC")
    labels.iloc[one[1:]] = "Unknown"
    adata.obs["cell_type"] = pd.Categorical(labels)
    return adata, adata.obs_names[one[0]]


def test_a_class_with_one_cell_follows_rare(synthetic_hierarchy):
    adata, cell = with_a_rare_class(synthetic_hierarchy)
    with pytest.raises(ValueError, match=r"at least 3 cells, got DC \(1\)"):
        hdi.tl.select_cells(adata, "cell_type", 3)
    kept = hdi.tl.select_cells(adata, "cell_type", 3, rare="keep_real")
    assert kept.n_obs == 19
    assert kept.obs.loc[cell, ["cell_type", "n_cells", "is_real"]].tolist() == ["DC", 1, True]
    dropped = hdi.tl.select_cells(adata, "cell_type", 3, rare="drop")
    assert dropped.n_obs == 18
    assert "DC" in dropped.obs["cell_type"].cat.categories
    assert "Unknown" not in set(kept.obs["cell_type"])


def test_equal_cells_of_a_class_do_not_stop_clustering(synthetic_hierarchy):
    counts = synthetic_hierarchy.X.toarray()
    rows = np.flatnonzero(synthetic_hierarchy.obs["cell_type"] == "DC")
    counts[rows] = counts[rows[0]]
    synthetic_hierarchy.X = sparse.csr_matrix(counts)
    small = hdi.tl.select_cells(synthetic_hierarchy, "cell_type", 3)
    assert small.obs.loc[small.obs["cell_type"] == "DC", "n_cells"].sum() == 60


def test_invalid_arguments_are_refused_with_advice(synthetic_hierarchy):
    for change, error, text in [
        ({"method": "best"}, ValueError, "method must be one of 'centroids'"),
        ({"method": "class_mean"}, ValueError, "a class has one mean"),
        ({"cells_per_class": 0}, ValueError, "cells_per_class must be an integer >= 1"),
        ({"cells_per_class": 1.5}, ValueError, "cells_per_class must be a number from"),
        ({"cells_per_class": {"B": 3}}, ValueError, "a number for each of the classes B memory"),
        ({"cells_per_class": 61}, ValueError, "at least 61 cells, got B memory"),
        ({"rare": "shrug"}, ValueError, "rare must be one of"),
        ({"labels_key": "type"}, KeyError, "obs has no column 'type'"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0"),
    ]:
        request = {"labels_key": "cell_type", "cells_per_class": 2} | change
        with pytest.raises(error, match=text):
            hdi.tl.select_cells(synthetic_hierarchy, **request)


def test_one_class_and_no_counts_are_refused(synthetic_hierarchy):
    synthetic_hierarchy.obs["one"] = "T"
    with pytest.raises(ValueError, match="at least two classes, got T"):
        hdi.tl.select_cells(synthetic_hierarchy, "one", 2)
    synthetic_hierarchy.obs["one"] = "Unknown"
    with pytest.raises(ValueError, match="at least two classes, got none"):
        hdi.tl.select_cells(synthetic_hierarchy, "one", 2)
    synthetic_hierarchy.X = -synthetic_hierarchy.X
    with pytest.raises(hdi.data.InputError):
        hdi.tl.select_cells(synthetic_hierarchy, "cell_type", 2)


def test_geosketch_requires_its_extra(synthetic_hierarchy, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "geosketch", None)
    with pytest.raises(ImportError, match=r"hdeepinsight\[distill\]"):
        hdi.tl.select_cells(synthetic_hierarchy, "cell_type", 2, method="geosketch")
