"""The network is combined with profiles of the types."""

import numpy as np
import pandas as pd
import pytest
import torch

import hdeepinsight as hdi
from hdeepinsight.data import deal_out
from hdeepinsight.nn import LeafSums, ProfileEnsemble


@pytest.fixture(scope="module")
def small(_synthetic_hierarchy):
    cells = _synthetic_hierarchy[:300]
    turn = cells.obs.groupby("cell_type", observed=True).cumcount().to_numpy()
    return cells[turn < 10].copy()


@pytest.fixture(scope="module")
def of_few(small, fit):
    with pytest.warns(UserWarning, match="No cells are held out"):
        return fit(small, n_latent=16, train={"validation_size": 0.1})


def network_alone(model, query):
    counts = torch.tensor(query[:, list(model.genes)].X.toarray())
    return model.module.eval().predict(counts, torch.ones(len(model.genes)))[
        "probabilities"
    ], counts


def test_labels_are_those_of_network_and_profiles(of_few, query):
    network, counts = network_alone(of_few, query)
    every = torch.ones(len(of_few.genes))
    ensemble = ProfileEnsemble(of_few.profiles_, every, of_few.module.normalizer)
    result = of_few.annotate(query)
    leaves = of_few.module.tree.leaf_index
    combined = ensemble.reading(counts)(network[:, leaves]).numpy()
    np.testing.assert_allclose(result.node_probabilities[:, leaves], combined, atol=1e-5)
    every_node = combined @ of_few.taxonomy.ancestor_matrix
    np.testing.assert_allclose(result.node_probabilities, every_node, atol=1e-5)
    np.testing.assert_array_equal(
        of_few.predict_proba(query, level="cell_type").to_numpy(),
        result.probabilities("cell_type").to_numpy(),
    )
    workflow = hdi.annotate(query, of_few, adapt="off", refine="off")
    np.testing.assert_array_equal(workflow.node_probabilities, result.node_probabilities)


def test_a_saved_model_uses_them_too(of_few, query, tmp_path):
    of_few.save(tmp_path / "model")
    loaded = hdi.SCHDeepInsight.load(tmp_path / "model", adata=False, accelerator="cpu")
    found = [each.annotate(query).node_probabilities for each in (of_few, loaded)]
    np.testing.assert_array_equal(*found)


def test_the_network_is_explained_alone(of_few, query):
    explained = of_few.explain(query[:2], n_samples=4, n_background=1)
    assert "without the profiles" in explained.note


def test_profiles_do_not_know_cells_that_are_held_out(synthetic_hierarchy, fit):
    types = synthetic_hierarchy.obs["cell_type"]
    turn = types.groupby(types, observed=True).cumcount().to_numpy()
    many = types.isin(types.unique()[:2]).to_numpy()
    model = fit(synthetic_hierarchy[many | (turn < 30)].copy(), n_latent=16)
    held_out, train = model.validation_indices, model.train_indices
    codes = model.label_nodes()
    leaves = torch.tensor(pd.Index(model.taxonomy.leaves).get_indexer(codes))
    counts = torch.tensor(model.adata[:, list(model.genes)].X.toarray())
    values = model.module.normalizer.log_normalize(counts, torch.ones(len(model.genes)))
    known = LeafSums.of(values[train], leaves[train], model.taxonomy.n_leaves).profiles()
    assert len(held_out)
    assert model.combined_profiles is model.profiles_
    torch.testing.assert_close(model.profiles_.mean, known.mean)
    torch.testing.assert_close(model.profiles_.n_cells, known.n_cells)


def test_label_sets_rest_on_profiles_that_lack_the_cells(small, fit):
    with pytest.warns(UserWarning, match="label sets"):
        model = fit(small, n_members=2, n_latent=8, train={"validation_size": 0.4})
    nodes, module = model.label_nodes(), model.module.eval()
    counts, every = (
        torch.tensor(small[:, list(model.genes)].X.toarray()),
        torch.ones(len(model.genes)),
    )
    leaves = torch.tensor(pd.Index(model.taxonomy.leaves).get_indexer(nodes))
    values = module.normalizer.log_normalize(counts, every)
    member = deal_out(nodes, 2, 0.4, np.random.default_rng(model.seed))
    pairs = []
    for m in (0, 1):
        part = member == m
        rest = values[~part], leaves[~part]
        others = LeafSums.of(*rest, model.taxonomy.n_leaves).profiles().with_covariance(*rest)
        numbers = torch.full((int(part.sum()),), m)
        logits = module.inference(counts[part], every, member=numbers)["logits"]
        ensemble = ProfileEnsemble(others, every, module.normalizer)
        network = module.tree(logits).exp()[:, module.tree.leaf_index]
        found = ensemble.reading(counts[part])(network)
        pairs += zip(nodes[part], model.taxonomy.leaves[found.argmax(1)], strict=True)
    calibration = model.calibration
    assert sorted(pairs) == sorted(zip(calibration.true_nodes, calibration.predicted, strict=True))
    assert len(pairs) == len(small)
