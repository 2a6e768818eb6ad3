"""Query models: unchanged reference, adaptation, and rejection by the check."""

import copy
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse

import hdeepinsight as hdi
from hdeepinsight import SCHDeepInsight
from hdeepinsight.adaptation import AdaptationReport

STEPS = 20


@pytest.fixture
def shifted(query: ad.AnnData) -> ad.AnnData:
    """Query of another study, with gene-specific capture rates."""
    rng = np.random.default_rng(5)
    counts = query.X.toarray() * np.exp(rng.normal(0, 0.8, query.n_vars))
    other = query.copy()
    other.X = sparse.csr_matrix(rng.poisson(counts).astype(np.float32))
    return other


@pytest.fixture
def adapt(model: SCHDeepInsight) -> Callable[..., SCHDeepInsight]:
    """Load a query and train with the guard off."""

    def run(query: ad.AnnData, train: dict | None = None, **options: object):
        mapped = SCHDeepInsight.load_query_data(query, model, **options)
        mapped.train(**({"max_steps": STEPS, "guard": False} | (train or {})))
        return mapped

    return run


def probabilities(model: SCHDeepInsight, query: ad.AnnData | None = None) -> np.ndarray:
    return model.annotate(query).node_probabilities


def weights_of(model: SCHDeepInsight) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def test_before_training_equals_the_reference_model(
    model: SCHDeepInsight, shifted: ad.AnnData
) -> None:
    mapped = SCHDeepInsight.load_query_data(shifted, model)
    assert np.array_equal(probabilities(mapped), probabilities(model, shifted))
    assert mapped.adaptation is None


def test_repr_states_the_adaptation(model, shifted, adapt, tmp_path) -> None:
    assert "query" not in repr(model)
    adapted = adapt(shifted)
    said = f"; adapted to {shifted.n_obs:,} query cells"
    assert said in repr(adapted)
    adapted.save(tmp_path / "adapted")
    assert said in repr(SCHDeepInsight.load(tmp_path / "adapted", adata=False))
    kept = SCHDeepInsight.load_query_data(shifted, model)
    assert "query" not in repr(kept)
    kept.train(max_steps=0)
    assert f"; not adapted to {shifted.n_obs:,} query cells" in repr(kept)


def test_a_reference_that_is_not_there_is_not_saved(model, shifted, adapt, tmp_path) -> None:
    with pytest.raises(ValueError, match="no reference attached"):
        adapt(shifted).save(tmp_path / "adapted", save_anndata=True)
    assert not (tmp_path / "adapted").exists()


@pytest.mark.parametrize("as_path", [str, Path])
def test_takes_the_folder_of_a_model(
    model: SCHDeepInsight, shifted: ad.AnnData, tmp_path: Path, as_path: type
) -> None:
    model.save(tmp_path / "m")
    mapped = SCHDeepInsight.load_query_data(shifted, as_path(tmp_path / "m"))
    mapped.train(max_steps=2, guard=False)
    assert np.array_equal(probabilities(model, shifted), probabilities(model, shifted))
    assert mapped.adaptation.n_cells == shifted.n_obs
    cells, bundled = hdi.datasets.demo().query, hdi.hub.download("pbmc")
    for given in ("pbmc", str(bundled.folder), bundled):
        with pytest.warns(hdi.data.GeneCoverageWarning):
            mapped = SCHDeepInsight.load_query_data(cells, given)
        assert mapped.genes == tuple(
            SCHDeepInsight.prepare_query_anndata(cells, given, return_reference_var_names=True)
        )


def test_weights_of_the_reference_stay_bit_by_bit(
    model: SCHDeepInsight, adapt: Callable, shifted: ad.AnnData
) -> None:
    before = weights_of(model)
    mapped = adapt(shifted)
    for name, value in weights_of(model).items():
        assert torch.equal(value, before[name]), name
    # Adapters put one more name between those of the reference.
    after = {
        name.replace("norm.norm.", "norm.").replace("head.head.", "head."): value
        for name, value in mapped.module.state_dict().items()
    }
    for name, value in before.items():
        assert torch.equal(after[name], value), name
    assert not np.array_equal(probabilities(mapped), probabilities(model, shifted))


def test_helps_on_a_query_of_another_study(
    model: SCHDeepInsight, shifted: ad.AnnData, truth: np.ndarray
) -> None:
    mapped = SCHDeepInsight.load_query_data(shifted, model)
    mapped.train(max_steps=80)

    def accuracy(annotated: SCHDeepInsight) -> float:
        labels = annotated.annotate(shifted, threshold=None, reject="off").labels["cell_type"]
        return float((labels.astype(str).to_numpy() == truth).mean())

    assert accuracy(mapped) >= accuracy(model)


def test_children_still_sum_to_their_parent(adapt: Callable, shifted: ad.AnnData) -> None:
    mapped = adapt(shifted)
    found, taxonomy = probabilities(mapped), mapped.taxonomy
    np.testing.assert_allclose(found[:, 0], 1.0, atol=1e-5)
    for parent in taxonomy.inner_nodes:
        children = np.flatnonzero(taxonomy.parent == parent)
        np.testing.assert_allclose(found[:, children].sum(1), found[:, parent], atol=1e-5)


def test_hidden_labels_change_nothing(
    model: SCHDeepInsight, adapt: Callable, shifted: ad.AnnData, truth: np.ndarray
) -> None:
    results = []
    for seed in (None, 1):
        query = shifted.copy()
        order = np.arange(len(truth)) if seed is None else np.random.default_rng(1).permutation(120)
        query.obs["cell_type"] = truth[order]
        query.obs["lineage"] = "whatever"
        results.append(probabilities(adapt(query)))
    assert np.array_equal(*results)


def test_given_labels_are_used(adapt: Callable, shifted: ad.AnnData, truth: np.ndarray) -> None:
    query = shifted.copy()
    first = sorted(set(truth))[0]
    second = sorted(set(truth))[1]
    wrong = {first: second, second: first}
    labels = np.array([wrong.get(name, name) for name in truth], dtype=object)
    labels[::7] = "a type that nobody knows"
    labels[1::7] = None
    query.obs["seen"] = labels
    with pytest.warns(UserWarning, match=r"85 of 120 cells .*, 18 another one, which"):
        mapped = adapt(query, {"max_steps": 200}, labels_key="seen")
    unlabelled = adapt(query, {"max_steps": 40})
    known = np.isin(labels.astype(str), list(wrong))
    n_ignored = len(labels[::7]) + len(labels[1::7])
    assert mapped.adaptation.n_labeled == len(labels) - n_ignored
    assert unlabelled.adaptation.n_labeled == 0

    nodes = mapped.taxonomy.encode(labels[known])

    def belief(annotated: SCHDeepInsight) -> float:
        return float(probabilities(annotated)[known, nodes].mean())

    assert belief(mapped) > 1.5 * belief(unlabelled)


def test_own_query_is_the_default_and_is_not_written_to(
    adapt: Callable, shifted: ad.AnnData
) -> None:
    before = shifted.copy()
    mapped = adapt(shifted)
    result = mapped.annotate()
    assert list(result.obs_names) == list(shifted.obs_names)
    assert np.array_equal(result.node_probabilities, probabilities(mapped, shifted))
    assert (shifted.X != before.X).nnz == 0
    assert shifted.obs.equals(before.obs)
    assert not shifted.uns


def test_batches_adapt_separately_and_unknown_ones_not_at_all(
    model: SCHDeepInsight, adapt: Callable, shifted: ad.AnnData
) -> None:
    query = shifted.copy()
    query.obs["run"] = np.where(np.arange(query.n_obs) < 117, "big", "small")
    mapped = adapt(query, batch_key="run")
    assert mapped.adaptation.n_batches == 2
    assert np.isfinite(probabilities(mapped)).all()
    weights = mapped.module.state_dict()
    statistics = next(value for name, value in weights.items() if name.endswith("norm.mean"))
    moved = (statistics[:2] - statistics[-1]).abs().sum(1)
    assert moved[1] < 0.2 * moved[0]  # three cells move little
    query.obs["run"] = "never seen"
    with pytest.warns(UserWarning, match="120 of 120 cells are read without adaptation"):
        found = probabilities(mapped, query)
    np.testing.assert_allclose(found, probabilities(model, query), atol=1e-5)


def test_a_large_query_is_adapted_to_by_a_draw_of_its_cells(
    adapt: Callable, shifted: ad.AnnData, tmp_path: Path
) -> None:
    path = tmp_path / "query.h5ad"
    shifted.write_h5ad(path)
    mapped = adapt(path, {"max_cells": 60})
    assert (mapped.adaptation.n_cells, shifted.n_obs) == (60, 120)
    everything = adapt(path)
    assert everything.adaptation.n_cells == 120
    by_draw, by_all = (probabilities(one, shifted) for one in (mapped, everything))
    assert by_draw.shape == by_all.shape
    assert 0 < np.abs(by_draw - by_all).mean() < 0.05


@pytest.mark.parametrize("n_cells", [1, 3])
def test_few_cells_do_not_change_labels(
    model: SCHDeepInsight, shifted: ad.AnnData, n_cells: int
) -> None:
    mapped = SCHDeepInsight.load_query_data(shifted[:n_cells].copy(), model)
    mapped.train(max_steps=5)
    assert mapped.annotate().node_probabilities.shape == (n_cells, model.taxonomy.n_nodes)


def test_query_that_is_the_reference_is_left_alone(
    model: SCHDeepInsight, reference: ad.AnnData
) -> None:
    mapped = SCHDeepInsight.load_query_data(reference, model)
    mapped.train(max_steps=STEPS)
    old = model.annotate(reference, threshold=None).leaf_nodes
    new = mapped.annotate(threshold=None).leaf_nodes
    assert (old == new).mean() >= 0.98


def test_query_of_one_type_is_left_alone_with_a_message(
    model: SCHDeepInsight,
    labelled: ad.AnnData,
    truth: np.ndarray,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = labelled[truth == truth[0]].copy()
    mapped = SCHDeepInsight.load_query_data(one, model)
    with caplog.at_level("INFO", "hdeepinsight"):
        mapped.train(max_steps=STEPS)
    assert mapped.adaptation.decision == "zero-shot"
    assert "little more than one type" in mapped.adaptation.reason
    assert "zero-shot" in caplog.text
    assert np.array_equal(probabilities(mapped), probabilities(model, one))


def test_missing_genes(adapt: Callable, shifted: ad.AnnData) -> None:
    fewer = shifted[:, np.arange(shifted.n_vars) % 3 > 0].copy()
    mapped = adapt(fewer)
    assert np.isfinite(probabilities(mapped)).all()


def test_same_seed_same_result_and_training_again_starts_anew(
    adapt: Callable, shifted: ad.AnnData
) -> None:
    once, twice = adapt(shifted), adapt(shifted)
    twice.train(max_steps=STEPS, guard=False)
    assert np.array_equal(probabilities(once), probabilities(twice))


def test_saved_and_loaded_it_annotates_identically(
    adapt: Callable, shifted: ad.AnnData, tmp_path: Path
) -> None:
    mapped = adapt(shifted)
    mapped.save(tmp_path / "mapped")
    loaded = SCHDeepInsight.load(tmp_path / "mapped", accelerator="cpu")
    np.testing.assert_allclose(probabilities(loaded, shifted), probabilities(mapped), atol=1e-6)
    assert loaded.adaptation == mapped.adaptation
    assert loaded.recipe["adaptation"] == mapped.adaptation.to_dict()
    with pytest.raises(ValueError, match="load_query_data"):
        loaded.train()


def test_profiles_are_saved_with_the_model(model: SCHDeepInsight, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    loaded = SCHDeepInsight.load(tmp_path / "m", accelerator="cpu")
    assert torch.equal(loaded.profiles_.mean, model.profiles_.mean)


def test_a_query_like_another_batch_is_not_adapted(
    fit: Callable, reference: ad.AnnData, query: ad.AnnData, shifted: ad.AnnData, tmp_path: Path
) -> None:
    setup = {"labels_keys": ["lineage", "cell_type"], "batch_key": "batch"}
    fit(reference, setup=setup, train={"max_epochs": 12}).save(tmp_path / "m")
    model = SCHDeepInsight.load(tmp_path / "m", accelerator="cpu")
    found = {}
    for name, cells in (("alike", query), ("other", shifted)):
        mapped = SCHDeepInsight.load_query_data(cells, model)
        mapped.train(max_steps=0)
        found[name] = mapped.adaptation
    assert found["alike"].decision == "zero-shot"
    assert "cells of the same batch" in found["alike"].reason
    assert found["alike"].figures.shift_reference == model.shift_
    assert found["other"].figures.shift_query > 10 * model.shift_
    assert "cells of the same batch" not in found["other"].reason


def test_report_goes_to_plain_types_and_back(adapt: Callable, shifted: ad.AnnData) -> None:
    mapped = adapt(shifted)
    assert mapped.calibration.source.endswith("before the adaptation to a query")
    report = mapped.adaptation
    assert AdaptationReport.from_dict(copy.deepcopy(report.to_dict())) == report
    assert str(report).startswith("adapted: ")


def test_bad_input(model: SCHDeepInsight, shifted: ad.AnnData) -> None:
    for options, error, match in [
        ({"batch_key": "nowhere"}, KeyError, "nowhere"),
        ({"labels_key": "nowhere"}, KeyError, "nowhere"),
        (
            {"reference_model": 3},
            TypeError,
            "folder of one, or a bundled name, got an object of int",
        ),
        ({"reference_model": "pbmcc"}, hdi.models.ModelFileError, "hub.pull downloads"),
    ]:
        with pytest.raises(error, match=match):
            SCHDeepInsight.load_query_data(
                **({"adata": shifted, "reference_model": model} | options)
            )


def test_settings_out_of_range(model: SCHDeepInsight, shifted: ad.AnnData) -> None:
    mapped = SCHDeepInsight.load_query_data(shifted, model)
    with pytest.raises(ValueError, match="max_steps must be an integer >= 0, got -1"):
        mapped.train(max_steps=-1)


def test_the_device_of_an_adaptation_is_chosen_or_refused(
    model: SCHDeepInsight, shifted: ad.AnnData
) -> None:
    mapped = SCHDeepInsight.load_query_data(shifted, model)
    mapped.train(accelerator="cpu", devices=1, max_steps=1, guard=False)
    assert mapped.device == torch.device("cpu")
    with pytest.raises(ValueError, match="devices must be a single device, got 2"):
        mapped.train(accelerator="cpu", devices=2)
    for name, value in {"max_epochs": 3, "batch_size": 8, "shuffle_set_split": False}.items():
        with pytest.raises(ValueError, match=f"{name}=.* no effect when an adapter is fitted"):
            mapped.train(**{name: value})


def test_a_query_model_cannot_be_a_reference_model(adapt: Callable, shifted: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="got a query model"):
        SCHDeepInsight.load_query_data(shifted, adapt(shifted))


def test_padding_keeps_everything_in_a_copy(
    model: SCHDeepInsight, shifted: ad.AnnData, tmp_path: Path
) -> None:
    query = shifted[:, ::-2].copy()
    query.raw = query.copy()
    query.layers["twice"] = query.X * 2
    query.uns["note"] = {"a": [1]}
    query.obsm["X_pca"] = np.ones((query.n_obs, 2))
    before = query.copy()
    padded = SCHDeepInsight.prepare_query_anndata(query, model)
    assert list(padded.var_names) == list(model.layout.genes)
    real = padded.var["measured"].to_numpy()
    names = padded.var_names[real]
    assert (padded[:, names].X != query[:, names].X).nnz == 0
    assert (padded[:, names].layers["twice"] != query[:, names].layers["twice"]).nnz == 0
    assert padded[:, ~real].X.nnz == 0
    assert padded.uns["note"] == {"a": [1]}
    assert padded.raw.shape == query.raw.shape
    assert padded.obsm["X_pca"].shape == (query.n_obs, 2)
    assert (query.X != before.X).nnz == 0
    query.write_h5ad(tmp_path / "query.h5ad")
    backed = ad.read_h5ad(tmp_path / "query.h5ad", backed="r")
    assert (SCHDeepInsight.prepare_query_anndata(backed, model).X != padded.X).nnz == 0
    names = SCHDeepInsight.prepare_query_anndata(query, model, return_reference_var_names=True)
    assert list(names) == list(model.layout.genes)
    with pytest.raises(ValueError, match="inplace must be False, got True"):
        SCHDeepInsight.prepare_query_anndata(query, model, inplace=True)
