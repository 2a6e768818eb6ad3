"""Distilled cells: format, separation of validation cells, and accuracy."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score

import hdeepinsight as hdi
from hdeepinsight import nn
from hdeepinsight.data import log_normalize


@pytest.fixture
def few_steps(monkeypatch):
    """A barely trained generator, for tests of the format."""
    monkeypatch.setitem(hdi.tl.distill.__globals__, "_DENOISER_STEPS", 20)


def accuracy(small: ad.AnnData, test: ad.AnnData) -> float:
    model = LogisticRegression(max_iter=1000).fit(small.X, small.obs["cell_type"].astype(str))
    found = model.predict(log_normalize(test.X))
    return balanced_accuracy_score(test.obs["cell_type"].astype(str), found)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("matching", ["regression", "distribution", "gradient"])
def test_result_is_a_reference_with_counts(matching, synthetic_hierarchy):
    before = synthetic_hierarchy.copy()
    small = hdi.tl.distill(synthetic_hierarchy, "cell_type", 3, matching=matching, n_iter=4)
    labels = synthetic_hierarchy.obs["cell_type"]
    assert small.shape == (21, 120)
    assert (small.obs["cell_type"].value_counts() == 3).all()
    assert small.obs["cell_type"].cat.categories.equals(labels.cat.categories)
    assert small.var_names.equals(synthetic_hierarchy.var_names)
    assert small.X.min() >= 0
    counts = small.layers["counts"].toarray()
    np.testing.assert_array_equal(counts, counts.round())
    assert "lineage" in small.obs
    assert not small.obs["is_real"].any()
    assert small.obsm["X_distill_code"].shape == small.obsm["X_distill_latent"].shape
    recipe = small.uns["distill"]
    assert recipe["n_reference"] + recipe["n_validation"] == 420
    assert recipe["bytes_generator"] > recipe["bytes_cells"] > 0
    assert (synthetic_hierarchy.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(synthetic_hierarchy.obs, before.obs)
    hdi.SCHDeepInsight.setup_anndata(small, layer="counts", labels_key="cell_type")


@pytest.mark.usefixtures("few_steps")
def test_same_seed_same_cells_and_the_file_is_read_again(synthetic_hierarchy, tmp_path):
    call = {"labels_key": "cell_type", "cells_per_class": 1, "n_iter": 4}
    one, two, other = (hdi.tl.distill(synthetic_hierarchy, **call, seed=seed) for seed in (0, 0, 1))
    assert (one.X != two.X).nnz == 0
    assert (one.layers["counts"] != two.layers["counts"]).nnz == 0
    assert (one.X != other.X).nnz > 0
    one.write_h5ad(tmp_path / "small.h5ad")
    assert ad.read_h5ad(tmp_path / "small.h5ad").uns["distill"]["matching"] == "regression"


@pytest.mark.usefixtures("few_steps")
def test_only_codes_move_and_a_step_calls_the_denoiser_once(synthetic_hierarchy, monkeypatch):
    made, calls = [], []

    class Watched(nn.ConditionalDenoiser):
        def generate(self, *args):
            made.append([p.detach().clone() for p in self.parameters()])
            assert not any(p.requires_grad for p in self.parameters())
            return super().generate(*args)

        def forward(self, *args):
            if made:
                calls.append(1)
            return super().forward(*args)

    monkeypatch.setattr(nn, "ConditionalDenoiser", Watched)
    hdi.tl.distill(synthetic_hierarchy, "cell_type", 1, n_iter=6)
    assert all((a == b).all() for a, b in zip(made[0], made[-1], strict=True))
    assert len(calls) == len(made) == 6 + 2  # start, and the result


@pytest.mark.usefixtures("few_steps")
def test_unlabelled_and_other_cells_do_not_affect_the_result(synthetic_hierarchy):
    train = synthetic_hierarchy[:300].copy()
    labels = synthetic_hierarchy.obs["cell_type"].astype(object)
    labels.iloc[300:] = "Unknown"
    whole = synthetic_hierarchy.copy()
    whole.obs["cell_type"] = pd.Categorical(labels)
    noise = whole.X.toarray()
    noise[300:] = np.random.default_rng(0).poisson(3.0, noise[300:].shape)
    whole.X = type(whole.X)(noise)
    one, two = (hdi.tl.distill(a, "cell_type", 2, n_iter=4) for a in (train, whole))
    assert (one.X != two.X).nnz == 0


@pytest.mark.usefixtures("few_steps")
def test_validation_cells_select_a_step_and_are_not_used_for_training(synthetic_hierarchy):
    held_out = np.arange(420) % 5 == 0
    changed = synthetic_hierarchy.copy()
    values = changed.X.toarray()
    values[held_out] = np.random.default_rng(0).poisson(3.0, values[held_out].shape)
    changed.X = type(changed.X)(values)
    call = {"validation_indices": held_out, "n_iter": 0}
    one, two = (hdi.tl.distill(a, "cell_type", 2, **call) for a in (synthetic_hierarchy, changed))
    assert (one.X != two.X).nnz == 0
    assert one.uns["distill"]["n_validation"] == 84
    assert one.uns["distill"]["validation_score"] > two.uns["distill"]["validation_score"]


@pytest.mark.parametrize("n", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_distilled_cells_are_better_than_random_ones_and_the_generator(
    n, synthetic_hierarchy, monkeypatch
):
    monkeypatch.setitem(hdi.tl.distill.__globals__, "_DENOISER_STEPS", 100)
    test = np.arange(420) % 3 == 0
    train, rest = synthetic_hierarchy[~test].copy(), synthetic_hierarchy[test]
    found: dict[str, list[float]] = {"distill": [], "random": []}
    for seed in range(3):
        small = hdi.tl.distill(train, "cell_type", n, n_iter=30, seed=seed)
        found["distill"].append(accuracy(small, rest))
        drawn = hdi.tl.select_cells(train, "cell_type", n, method="random", seed=seed)
        found["random"].append(accuracy(drawn, rest))
        recipe = small.uns["distill"]
        assert recipe["validation_score"] >= recipe["generator_score"]
    assert np.mean(found["distill"]) > np.mean(found["random"])


@pytest.mark.usefixtures("few_steps")
def test_permuted_labels_cannot_be_learned(synthetic_hierarchy):
    shuffled = synthetic_hierarchy[np.arange(420) % 3 > 0].copy()
    labels = np.random.default_rng(0).permutation(shuffled.obs["cell_type"].astype(str))
    shuffled.obs["cell_type"] = pd.Categorical(labels)
    small = hdi.tl.distill(shuffled, "cell_type", 1, n_iter=20)
    assert accuracy(small, synthetic_hierarchy[np.arange(420) % 3 == 0]) < 0.4


@pytest.mark.usefixtures("few_steps")
def test_a_class_with_one_cell_follows_rare(synthetic_hierarchy):
    labels = synthetic_hierarchy.obs["cell_type"].astype(object)
    one = np.flatnonzero(labels == "DC")
    labels.iloc[one[1:]] = "Unknown"
    synthetic_hierarchy.obs["cell_type"] = pd.Categorical(labels)
    call = {"labels_key": "cell_type", "cells_per_class": 2, "n_iter": 2}
    with pytest.raises(ValueError, match=r"at least 10 cells, got DC \(1\)"):
        hdi.tl.distill(synthetic_hierarchy, **call)
    kept = hdi.tl.distill(synthetic_hierarchy, **call, rare="keep_real")
    assert kept.obs["is_real"].sum() == 1
    cell = kept[kept.obs["is_real"]]
    assert cell.obs_names[0] == synthetic_hierarchy.obs_names[one[0]]
    assert (cell.layers["counts"] != synthetic_hierarchy[one[0]].X).nnz == 0
    assert hdi.tl.distill(synthetic_hierarchy, **call, rare="drop").n_obs == 12


@pytest.mark.usefixtures("few_steps")
def test_a_class_from_one_batch_raises_a_warning(synthetic_hierarchy):
    call = {"labels_key": "cell_type", "cells_per_class": 1, "n_iter": 0, "batch_key": "batch"}
    entropies = hdi.tl.distill(synthetic_hierarchy, **call).uns["distill"]["batch_entropy"]
    assert min(entropies.values()) > 0.5
    batch = synthetic_hierarchy.obs["batch"].astype(str)
    batch[(synthetic_hierarchy.obs["cell_type"] == "DC").to_numpy()] = "first"
    synthetic_hierarchy.obs["batch"] = batch
    with pytest.warns(UserWarning, match="single batch of 'batch' are confounded with it: DC"):
        small = hdi.tl.distill(synthetic_hierarchy, **call)
    assert small.uns["distill"]["batch_entropy"]["DC"] == 0


def test_invalid_arguments_are_refused_with_advice(synthetic_hierarchy):
    for change, text in [
        ({"matching": "magic"}, "matching must be one of 'regression'"),
        ({"n_iter": -1}, "n_iter must be an integer >= 0"),
        ({"lr": "fast"}, "lr must be a finite number"),
        ({"validation_indices": [999]}, "Expected positions from 0 to 419"),
        ({"cells_per_class": 100}, "at least 100 cells, got B memory"),
        ({"labels_key": "one"}, "at least two classes, got T"),
    ]:
        synthetic_hierarchy.obs["one"] = "T"
        request = {"labels_key": "cell_type", "cells_per_class": 1} | change
        with pytest.raises(ValueError, match=text):
            hdi.tl.distill(synthetic_hierarchy, **request)
