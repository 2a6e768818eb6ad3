"""Ensembles of networks."""

import copy

import numpy as np
import pytest
import torch

from hdeepinsight import SCHDeepInsight
from hdeepinsight.models import ModuleConfig


@pytest.fixture(scope="module")
def several(_synthetic_hierarchy, fit):
    return fit(_synthetic_hierarchy[:300].copy(), n_members=3, n_latent=16)


def test_probabilities_are_the_mean_over_members_and_disagreement_is_a_column(several, query):
    result = several.annotate(query)
    module, measured = copy.deepcopy(several.module).eval(), torch.ones(len(several.genes))
    module.temperature.fill_(1.0)
    counts = torch.tensor(query[:, list(several.genes)].X.toarray())
    found = module.predict(counts, measured)
    mean = module.head.log_probs(found["latent"].clone()).detach().exp().mean(0)
    torch.testing.assert_close(found["probabilities"], mean)
    assert result.disagreement.shape == (query.n_obs,)
    assert ((result.disagreement >= 0) & (result.disagreement < 1)).all()
    assert "disagreement" in result.to_frame()


def test_a_single_network_has_no_disagreement(model, query):
    result = model.annotate(query)
    assert result.disagreement is None
    assert "disagreement" not in result.to_frame()


def test_saved_and_loaded_members_annotate_identically(several, query, tmp_path):
    several.save(tmp_path / "model")
    loaded = SCHDeepInsight.load(tmp_path / "model", adata=False, accelerator="cpu")
    first, second = several.annotate(query), loaded.annotate(query)
    np.testing.assert_array_equal(first.node_probabilities, second.node_probabilities)
    np.testing.assert_array_equal(first.disagreement, second.disagreement)
    assert "3 members" in repr(loaded)


def test_members_are_adapted_and_explained_as_one_network(several, query):
    adapted = SCHDeepInsight.load_query_data(query, several)
    adapted.train(max_steps=2, guard=False)
    assert adapted.annotate(query).disagreement is not None
    explained = several.explain(query[:3], n_samples=4, n_background=1)
    assert np.isfinite(explained.values).all()


@pytest.mark.parametrize(("n_cells", "n_members"), [(60, 5), (300, 3)])
def test_auto_takes_more_members_where_the_reference_is_smaller(reference, n_cells, n_members):
    reference = reference[:n_cells].copy()
    SCHDeepInsight.setup_anndata(reference, labels_keys=["lineage", "cell_type"])
    model = SCHDeepInsight(reference, layout="random", n_latent=8, n_members="auto")
    assert model.module.n_members == n_members
    assert model.init_params_["non_kwargs"]["n_members"] == n_members


def test_members_of_a_path_that_all_share_are_refused(reference):
    SCHDeepInsight.setup_anndata(reference, labels_keys=["lineage", "cell_type"])
    with pytest.raises(ValueError, match="n_members has no effect on the wide path"):
        SCHDeepInsight(reference, layout="random", config=ModuleConfig(wide=True), n_members=2)
    with pytest.raises(ValueError, match=r"n_members must be an integer >= 1, got 0\."):
        SCHDeepInsight(reference, layout="random", n_members=0)


def few_cells(reference, n_each=6):
    rows = reference.obs.groupby("cell_type", observed=True).cumcount() < n_each
    return reference[rows.to_numpy()].copy()


def test_label_sets_use_cells_withheld_from_members(reference, fit, query):
    train = {"max_epochs": 2}
    with pytest.warns(UserWarning, match="label sets come from cells withheld from single members"):
        model = fit(few_cells(reference), n_members=3, n_latent=8, train=train)
    n_types = model.taxonomy.n_leaves
    # Six cells in five parts: each of the three members lacks one or two.
    assert 3 * n_types <= len(model.calibration) <= 4 * n_types
    assert "was not trained on it" in model.calibration.source
    assert model.recipe["cross_fitted"]
    assert (model.module.temperature == 1).all()
    assert model.label_nodes().max() < model.taxonomy.n_nodes
    assert model.annotate(query).novelty is None


def test_labels_are_withheld_from_the_given_member(several):
    module = several.module
    counts = torch.ones(2, len(several.genes))
    labels, unseen_by = torch.tensor([3, 4]), torch.tensor([1, -1])
    inputs = module.augment({"X": counts, "labels": labels, "unseen_by": unseen_by})
    assert inputs["X"].shape == (6, len(several.genes))
    assert inputs["labels"].tolist() == [3, 4, 0, 4, 3, 4]


def test_validation_size_zero_keeps_every_label_and_calibrates_nothing(reference, fit):
    train = {"validation_size": 0, "max_epochs": 1}
    model = fit(few_cells(reference), n_members=3, n_latent=8, train=train)
    assert model.calibration is None
    assert "cross_fitted" not in model.recipe
