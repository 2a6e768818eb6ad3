"""Adapters: unchanged network, predictions, and saving."""

import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from hdeepinsight import SCHDeepInsight
from hdeepinsight.adaptation import (
    AdaptationOptions,
    Adapter,
    QueryCells,
    reference_sums,
    use_adapters,
)
from hdeepinsight.nn import LeafProfiles, ProfileMatcher

OPTIONS = AdaptationOptions(max_steps=10, guard=False)


def read(adata: ad.AnnData, model: SCHDeepInsight) -> sparse.csr_matrix:
    return sparse.csr_matrix(adata[:, list(model.layout.genes)].X, dtype=np.float32)


@pytest.fixture(scope="module")
def module(model: SCHDeepInsight) -> torch.nn.Module:
    """Network of a reference; tests must not modify it."""
    return copy.deepcopy(model.module).eval()


@pytest.fixture
def profiles(module: torch.nn.Module, model: SCHDeepInsight, reference: ad.AnnData) -> LeafProfiles:
    nodes = model.taxonomy.encode(reference.obs["cell_type"].astype(str))
    (sums,) = reference_sums(module, read(reference, model), nodes)
    return sums.profiles()


@pytest.fixture
def cells(model: SCHDeepInsight, query: ad.AnnData) -> QueryCells:
    """Cells of another study in two batches, with gene-specific capture rates."""
    rng = np.random.default_rng(5)
    counts = read(query, model)
    counts = counts.toarray() * np.exp(rng.normal(0, 0.8, counts.shape[1]))
    counts = sparse.csr_matrix(rng.poisson(counts).astype(np.float32))
    return QueryCells(counts, np.arange(len(query)) % 2, np.zeros(len(query), dtype=np.int64))


@pytest.fixture
def measured(cells: QueryCells) -> torch.Tensor:
    return torch.ones(cells.counts.shape[1])


@pytest.fixture
def adapt(module, cells, measured, profiles):
    """Fit an adapter of two batches; return it and the network to use."""

    def run(options: AdaptationOptions = OPTIONS, **changes):
        adapter = Adapter(("first", "second"), "donor")
        given = {"module": module, "cells": cells, "measured": measured, "profiles": profiles}
        rest = {"options": options, "seed": 0}
        return adapter, adapter.fit(**(given | rest | changes))

    return run


def test_no_training_if_all_changes_are_ruled_out(adapt, module, monkeypatch):
    guarded = AdaptationOptions(max_steps=10)
    trained, _ = adapt(guarded)
    monkeypatch.setattr(torch.optim, "AdamW", None)
    adapter, network = adapt(guarded, unlike=0.9)
    assert network is module
    assert adapter.report.decision == "zero-shot"
    assert "does not look like the reference: 90%" in adapter.report.reason
    assert (adapter.report.n_cells, adapter.report.changes) == (trained.report.n_cells, ())
    with pytest.raises(TypeError):  # asked for, it is trained all the same
        adapt(AdaptationOptions(max_steps=10, guard=False), unlike=0.9)


def predict(adapter, network, cells, measured) -> np.ndarray:
    inputs = cells.tensors(measured)
    return adapter.predict(network, batch=cells.batch, **inputs)["probabilities"].numpy()


def weights(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def test_untrained_it_reads_as_the_network_does(module, cells, measured) -> None:
    inputs = cells.tensors(measured)
    expected = module.predict(**inputs)
    found = Adapter().predict(module, batch=cells.batch, **inputs)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_given_network_is_not_changed(module, adapt) -> None:
    before = weights(module)
    gradients = [parameter.requires_grad for parameter in module.parameters()]
    random = torch.get_rng_state()
    adapter, network = adapt()
    assert adapter.is_applied
    assert network is not module
    assert all(torch.equal(before[name], value) for name, value in weights(module).items())
    assert gradients == [parameter.requires_grad for parameter in module.parameters()]
    assert torch.equal(random, torch.get_rng_state())


def test_where_the_check_objects_the_network_itself_comes_back(module, adapt, cells) -> None:
    some = cells[np.zeros(30, dtype=int)]  # thirty times the same cell
    adapter, network = adapt(AdaptationOptions(max_steps=2), cells=some)
    assert not adapter.is_applied
    assert network is module
    assert "little more than one type" in adapter.report.reason


def test_fitting_again_starts_anew(adapt, module, cells, measured, profiles) -> None:
    adapter, network = adapt()
    expected = predict(adapter, network, cells, measured)
    again = adapter.fit(module, cells, measured, profiles=profiles, options=OPTIONS, seed=0)
    assert np.array_equal(predict(adapter, again, cells, measured), expected)


def test_it_predicts_the_mean_of_network_and_profiles(
    model, module, adapt, cells, measured, profiles
) -> None:
    adapter, network = adapt()
    cells = replace(cells, has_rna=np.arange(len(cells)) >= 10)
    inputs = cells.tensors(measured)
    found = predict(adapter, network, cells, measured)
    with use_adapters(network, cells.batch):
        alone = network.predict(**inputs)["probabilities"].numpy()
    leaves = np.asarray(model.taxonomy.leaves)
    matched = ProfileMatcher(profiles, measured)(inputs["counts"]).exp().numpy()
    mean = (alone[:, leaves] + matched) / 2
    np.testing.assert_allclose(found[10:, leaves], mean[10:], atol=1e-6)
    np.testing.assert_allclose(found[:10], alone[:10], atol=1e-6)  # no RNA, no profile
    np.testing.assert_allclose(found[:, 0], 1.0, atol=1e-5)


def test_changes_of_label_are_followed_as_far_as_they_are_supported(
    model, module, adapt, cells, measured
) -> None:
    adapter, network = adapt()
    proposed = predict(adapter, network, cells, measured)
    plain = module.predict(**cells.tensors(measured))["probabilities"].numpy()
    n_leaves = len(model.taxonomy.leaves)
    for share in (0.0, 0.25):
        adapter._weights = torch.full((n_leaves, n_leaves), share)
        found = predict(adapter, network, cells, measured)
        np.testing.assert_allclose(found, plain + share * (proposed - plain), atol=1e-5)


def test_cells_of_other_batches_are_read_as_by_the_reference(
    module, adapt, cells, measured
) -> None:
    adapter, network = adapt()
    other = replace(cells, batch=np.full(len(cells), -1))
    expected = module.predict(**other.tensors(measured))["probabilities"].numpy()
    np.testing.assert_allclose(predict(adapter, network, other, measured), expected, atol=1e-5)
    assert not np.allclose(predict(adapter, network, cells, measured), expected, atol=1e-3)


@pytest.mark.parametrize("old", [False, True], ids=["now", "older_release"])
def test_it_comes_back_from_plain_types(
    module, adapt, cells, measured, profiles, old: bool
) -> None:
    adapter, network = adapt()
    values = json.loads(json.dumps(adapter.to_dict()))
    state = weights(network)
    if old:
        values["trust"] = values.pop("shrinkage")
        figures = values["report"]["figures"]
        figures["referee"] = figures.pop("held_out_marker_score")
        figures["n_types_before"] = figures.pop("n_types")
        figures["entropy_before"] = 0.4
        del figures["unsupported"], values["weights"], values["report"]["changes"]
        values["report"]["used_reference"] = True
        values["report"]["options"].pop("guard")
        state = {name.replace(".shrinkage", ".trust"): value for name, value in state.items()}
    fresh = copy.deepcopy(module)
    again = Adapter.from_dict(values, fresh, profiles)
    fresh.load_state_dict(state)
    assert again.report.figures == adapter.report.figures
    assert (again.batches, again.batch_key) == (("first", "second"), "donor")
    assert again.report.options["max_steps"] == OPTIONS.max_steps
    assert np.array_equal(
        predict(again, fresh, cells, measured), predict(adapter, network, cells, measured)
    )


def test_an_untrained_one_comes_back_from_plain_types(module) -> None:
    before = set(module.state_dict())
    fresh = copy.deepcopy(module)
    again = Adapter.from_dict(Adapter(("a", "b"), "key").to_dict(), fresh, None)
    assert (again.batches, again.batch_key, again.report) == (("a", "b"), "key", None)
    assert set(fresh.state_dict()) == before


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_predict_identically(adapt, cells, measured, how) -> None:
    adapter, network = adapt()
    expected = predict(adapter, network, cells, measured)
    assert np.array_equal(predict(*how((adapter, network)), cells, measured), expected)


def test_threads_do_not_disturb_each_other(adapt, cells, measured) -> None:
    """Six threads with different queries: other cells, batches and genes."""
    adapter, network = adapt()
    rng = np.random.default_rng(0)
    queries = []
    for each in range(6):
        rows = rng.permutation(len(cells))[: 20 + 7 * each]
        part = replace(cells[rows], batch=rng.integers(-1, 2, len(rows)))
        genes = torch.from_numpy((rng.random(len(measured)) > 0.1 * each).astype(np.float32))
        queries.append((part, genes))
    expected = [predict(adapter, network, *query) for query in queries]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(4):
            found = pool.map(lambda query: predict(adapter, network, *query), queries)
            assert all(map(np.array_equal, found, expected))


def test_batches_are_found_by_name() -> None:
    obs = pd.DataFrame({"donor": ["b", "a", "b"]})
    adapter = Adapter.from_obs(obs, "donor")
    assert adapter.batches == ("a", "b")
    assert adapter.batch_of(obs).tolist() == [1, 0, 1]
    assert adapter.batch_of(pd.DataFrame({"donor": ["c", "a"]})).tolist() == [-1, 0]
    assert adapter.batch_of(pd.DataFrame(index=range(2))).tolist() == [-1, -1]
    assert Adapter.from_obs(obs).batch_of(obs).tolist() == [0, 0, 0]
    with pytest.raises(KeyError, match="has no column 'run'; it has 'donor'"):
        Adapter.from_obs(obs, "run")


def test_options_out_of_their_range() -> None:
    for wrong, words in [
        ({"max_steps": -1}, "an integer >= 0, got -1. Omit it to use 200"),
        ({"max_steps": 1.5}, "an integer >= 0"),
        ({"max_cells": 0}, "an integer >= 1"),
        ({"batch_size": 0}, "an integer >= 1"),
        ({"statistics": 2}, "a number from 0 to 1"),
        ({"statistics": float("nan")}, "a number from 0 to 1"),
        ({"adapter_lr": -1}, "a finite number >= 0"),
        ({"guard": "auto"}, "one of True, False"),
    ]:
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be {words}"):
            AdaptationOptions(**wrong)
