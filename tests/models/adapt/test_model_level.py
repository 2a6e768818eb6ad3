"""Query models support all methods of a model."""

import copy
import json
import pickle
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scvi.hub import HubModel

import hdeepinsight as hdi
from hdeepinsight import SCHDeepInsight

OLD = Path(__file__).parents[2] / "data" / "adapted"
ADAPT = {"max_steps": 10, "guard": False}


@pytest.fixture(scope="module")
def _shifted(_synthetic_hierarchy: ad.AnnData) -> ad.AnnData:
    rng = np.random.default_rng(5)
    cells = _synthetic_hierarchy[300:].copy()
    cells.obs = pd.DataFrame({"donor": np.where(np.arange(120) % 2, "a", "b")}, cells.obs_names)
    counts = cells.X.toarray() * np.exp(rng.normal(0, 0.8, cells.n_vars))
    cells.X = sparse.csr_matrix(rng.poisson(counts).astype(np.float32))
    return cells


@pytest.fixture
def shifted(_shifted: ad.AnnData) -> ad.AnnData:
    """Query of another study, in two batches and without labels."""
    return _shifted.copy()


@pytest.fixture(scope="module")
def adapted(model: SCHDeepInsight, _shifted: ad.AnnData) -> SCHDeepInsight:
    """Tests must not modify it."""
    adapted = SCHDeepInsight.load_query_data(
        adata=_shifted.copy(), reference_model=model, batch_key="donor"
    )
    adapted.train(**ADAPT)
    return adapted


@pytest.fixture
def folder(adapted: SCHDeepInsight, tmp_path: Path) -> Path:
    adapted.save(tmp_path / "adapted")
    return tmp_path / "adapted"


def probabilities(model: SCHDeepInsight, *query: ad.AnnData) -> np.ndarray:
    return model.annotate(*query).node_probabilities


def test_it_is_a_model_of_the_same_class_with_an_adapter(model, adapted, shifted):
    assert type(adapted) is SCHDeepInsight
    assert adapted.adapter_.batches == ("a", "b")
    assert adapted.adapter_.is_applied
    assert adapted.adapter_.report.n_batches == 2
    assert model.adapter_ is None
    assert not np.allclose(probabilities(adapted), probabilities(model, shifted), atol=1e-3)


def test_before_training_it_annotates_as_the_reference_model(model, shifted):
    adapted = SCHDeepInsight.load_query_data(adata=shifted, reference_model=model)
    assert adapted.adapter_.report is None
    assert np.array_equal(probabilities(adapted), probabilities(model, shifted))


def test_paths_of_query_and_model_are_accepted(model, adapted, shifted, tmp_path):
    model.save(tmp_path / "model")
    shifted.write_h5ad(tmp_path / "query.h5ad")
    other = SCHDeepInsight.load_query_data(
        tmp_path / "query.h5ad", tmp_path / "model", batch_key="donor"
    )
    other.train(**ADAPT)
    np.testing.assert_allclose(probabilities(other), probabilities(adapted), atol=1e-5)


@pytest.mark.parametrize("by", ["class", "registry"])
def test_saved_and_loaded_it_annotates_identically(adapted, shifted, folder, by):
    loaded = SCHDeepInsight.load(folder) if by == "class" else hdi.models.load_model(folder)
    assert type(loaded) is SCHDeepInsight
    loaded.to_device("cpu")
    assert np.array_equal(probabilities(loaded, shifted), probabilities(adapted, shifted))
    assert loaded.adapter_.report == adapted.adapter_.report
    assert loaded.recipe["adaptation"] == adapted.adapter_.report.to_dict()
    with pytest.raises(ValueError, match="load_query_data"):
        loaded.train(**ADAPT)


@pytest.mark.parametrize("how", ["folder", "object"])
def test_the_one_call_takes_it(adapted, shifted, folder, how):
    """A model saved by one entry point is accepted by another, and not adapted again."""
    result = hdi.annotate(shifted, folder if how == "folder" else adapted, refine="off")
    expected = probabilities(adapted, shifted)
    np.testing.assert_allclose(result.node_probabilities, expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.* are read without adaptation")
def test_an_older_release_called_it_by_another_class():
    expected = json.loads((OLD / "schema_2_expected.json").read_text())
    loaded = SCHDeepInsight.load(OLD / "schema_2", accelerator="cpu")
    counts = np.array(expected["counts"], dtype=np.float32)
    cells = ad.AnnData(counts, var=pd.DataFrame(index=expected["genes"]))
    cells.obs["donor"] = expected["donor"]
    np.testing.assert_allclose(probabilities(loaded, cells), expected["probabilities"], atol=1e-5)
    report = loaded.adapter_.report
    assert report.reason == expected["reason"]
    assert report.figures.held_out_marker_score == expected["referee"]


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_annotate_identically(adapted, shifted, how):
    assert np.array_equal(probabilities(how(adapted), shifted), probabilities(adapted, shifted))


@pytest.mark.filterwarnings("ignore:.* are read without adaptation")
def test_threads_on_one_model_do_not_disturb_each_other(adapted, shifted):
    rng = np.random.default_rng(0)
    queries = []
    for each in range(6):
        genes = rng.permutation(shifted.n_vars)[: shifted.n_vars - 10 * each]
        part = shifted[rng.permutation(shifted.n_obs)[: 40 + 10 * each], np.sort(genes)].copy()
        part.obs["donor"] = rng.choice(["a", "b", "c"], part.n_obs)
        queries.append(part)
    expected = [probabilities(adapted, query) for query in queries]
    with ThreadPoolExecutor(6) as pool:
        for _ in range(4):
            found = pool.map(lambda query: probabilities(adapted, query), queries)
            # Matrix products may differ in the last bit with the alignment of memory.
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.* are read without adaptation")
def test_features_are_read_with_the_adapters_of_each_batch(model, adapted, shifted):
    features = adapted.get_latent_representation(shifted)
    assert features.shape == model.get_latent_representation(shifted).shape
    assert not np.allclose(features, model.get_latent_representation(shifted), atol=1e-3)
    shifted.obs["donor"] = "another"
    np.testing.assert_allclose(
        adapted.get_latent_representation(shifted),
        model.get_latent_representation(shifted),
        atol=1e-4,
    )


def test_it_explains_itself(model, adapted, shifted):
    lineage = model.taxonomy.label(1)
    found = adapted.explain(shifted[:10].copy(), lineage, background=shifted)
    assert np.isfinite(found.values).all()
    plain = model.explain(shifted[:10].copy(), lineage, background=shifted)
    assert not np.allclose(found.values, plain.values, atol=1e-4)


def test_it_is_published_and_fetched(adapted, shifted, tmp_path):
    card = {"title": "Adapted", "license": "cc-by-4.0", "organism": "human", "tissues": ["blood"]}
    folder = tmp_path / "published"
    hdi.hub.publish(adapted, str(folder), card=card)
    expected = probabilities(adapted, shifted)
    np.testing.assert_allclose(
        probabilities(hdi.hub.load_model(str(folder)), shifted), expected, atol=1e-5
    )
    stock = shutil.copytree(folder, tmp_path / "stock")  # scvi-tools writes into it
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No collection found", UserWarning)
        loaded = HubModel(str(stock)).model
    assert type(loaded) is SCHDeepInsight
    np.testing.assert_allclose(probabilities(loaded, shifted), expected, atol=1e-5)


def test_it_is_not_adapted_once_more(adapted, shifted):
    with pytest.raises((TypeError, ValueError), match="got a query model"):
        SCHDeepInsight.load_query_data(adata=shifted, reference_model=adapted)
