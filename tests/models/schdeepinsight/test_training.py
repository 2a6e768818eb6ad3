"""Training: held-out cells, metrics and reproducibility."""

import numpy as np
import pytest
import torch

from hdeepinsight import CountThinning, GeneMasking, SCHDeepInsight, Taxonomy
from hdeepinsight.models import ModuleConfig

PLAIN = {"masking": GeneMasking.none(), "thinning": CountThinning.none(), "dropout": 0.0}


def test_training_loss_on_a_separable_hierarchy_goes_to_zero(fit, reference):
    model = fit(reference, train={"max_epochs": 30}, **PLAIN)
    losses = model.history["train_loss"].to_numpy(dtype=float).ravel()
    assert losses[-1] < 0.01
    assert losses[-1] < losses[0] / 50
    truth = reference.obs["cell_type"].astype(str).to_numpy()
    assert (model.predict(reference, threshold=None, reject="off") == truth).all()


def test_the_same_seed_gives_the_same_weights(fit, reference):
    first, second, other = (
        fit(reference.copy(), seed=seed, train={"max_epochs": 2}).module.state_dict()
        for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_training_does_not_disturb_the_global_random_state(fit, reference):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(reference, train={"max_epochs": 1})
    assert torch.equal(torch.rand(3), expected)


def test_every_level_is_logged(model):
    for level in ("lineage", "cell_type"):
        for metric in ("accuracy", "macro_f1", "ece", "level_weight"):
            values = model.history[f"{metric}_{level}"].to_numpy(dtype=float)
            assert len(values) == 12
            assert ((values >= 0) & (values <= 1)).all()
    weights = [model.history[f"level_weight_{k}"].iloc[-1, 0] for k in ("lineage", "cell_type")]
    assert sum(weights) == pytest.approx(1.0, abs=1e-5)


def test_cells_labelled_at_an_inner_node_train_the_levels_above(fit, reference, query, truth):
    labels = reference.obs["cell_type"].astype(object)
    lineage = reference.obs["lineage"].astype(str)
    coarse = np.arange(reference.n_obs) % 2 == 0
    reference.obs["mixed"] = labels.where(~coarse, lineage)
    taxonomy = Taxonomy.from_obs(reference, ["lineage", "cell_type"])
    model = fit(reference, setup={"labels_key": "mixed"}, taxonomy=taxonomy)
    assert (
        model.annotate(query, threshold=None, reject="off").labels["cell_type"] == truth
    ).mean() > 0.95


def test_lineage_labels_alone_teach_the_lineages(fit, reference, query):
    taxonomy = Taxonomy.from_obs(reference, ["lineage", "cell_type"])
    model = fit(reference, setup={"labels_key": "lineage"}, taxonomy=taxonomy)
    lineage = model.predict_proba(query, level="lineage")
    assert lineage.max(axis=1).mean() > 0.9
    assert set(model.predict(query, level="lineage")) == {"B", "T", "Myeloid"}
    # Nothing was learned below: the temperature stays, and no level-2 loss was counted.
    assert model.module.temperature[1] == 1.0


def test_unlabelled_cells_do_not_change_the_classes(fit, reference, query, truth):
    labels = reference.obs["cell_type"].astype(object)
    labels.iloc[:40] = "Unknown"
    labels.iloc[40:60] = None
    reference.obs["partial"] = labels
    model = fit(reference, setup={"labels_key": "partial"})
    assert model.taxonomy.n_leaves == 7
    assert not set(range(60)) & set(model.validation_indices)
    assert (model.predict(query, threshold=None) == truth).mean() > 0.95


def test_a_class_with_one_cell_is_kept_for_training(fit, reference):
    labels = reference.obs["cell_type"].astype(str)
    labels.iloc[0] = "single"
    reference.obs["rare"] = labels
    model = fit(reference, setup={"labels_key": "rare"}, train={"max_epochs": 1})
    assert 0 in model.train_indices
    assert "single" in model.taxonomy.labels


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"reduction": "published", "gamma": 2.0}, id="published_loss"),
        pytest.param({"backbone": None, "wide": True}, id="hierarchical_logistic_regression"),
        pytest.param({"wide": True}, id="wide_and_image"),
        pytest.param({"backbone": "mlp"}, id="mlp_backbone"),
        pytest.param({"head": "per_parent"}, id="per_parent_head"),
        pytest.param({"channels": "single"}, id="no_mask_channel"),
        pytest.param({"weighting": "adaptive"}, id="adaptive_level_weights"),
        pytest.param({"weighting": [3, 1]}, id="given_level_weights"),
        pytest.param({"class_weights": 0.5}, id="class_weights"),
    ],
)
def test_every_configuration_learns(fit, reference, query, truth, options):
    model = fit(reference, **options)
    assert (
        model.annotate(query, threshold=None, reject="off").labels["cell_type"] == truth
    ).mean() > 0.9


def test_an_efficientnet_trains_and_annotates(fit, reference, query):
    small = reference[:24].copy()
    train = {"max_epochs": 1, "batch_size": 12, "validation_size": 0}
    model = fit(small, backbone="efficientnet_b0", side=32, train=train)
    p = model.predict_proba(query[:3].copy(), level="lineage")
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-5)


def test_a_last_batch_of_one_cell_is_supported(fit, reference):
    train = {"max_epochs": 1, "batch_size": 1, "validation_size": 0}
    model = fit(reference[:6].copy(), train=train)
    assert all(torch.isfinite(p).all() for p in model.module.parameters())


@pytest.mark.usefixtures("network_alone")
def test_early_stopping_keeps_the_best_epoch(fit, reference):
    train = {"max_epochs": 20, "early_stopping": True, "early_stopping_patience": 3}
    model = fit(reference, train=train)
    losses = model.history["log_loss"].to_numpy(dtype=float).ravel()
    assert len(losses) <= 20
    held_out = model.annotate(model.adata[model.validation_indices], threshold=None)
    assert held_out.taxonomy == model.taxonomy
    model.module.temperature.fill_(1.0)
    outputs = model.annotate(model.adata[model.validation_indices]).node_probabilities
    nodes = model.label_nodes(model.adata)[model.validation_indices]
    log_loss = -np.log(outputs[np.arange(len(nodes)), nodes]).mean()
    assert log_loss == pytest.approx(losses.min(), rel=1e-3)


def test_validations_can_be_spaced_out(fit, reference):
    train = {"max_epochs": 6, "check_val_every_n_epoch": 3}
    model = fit(reference, train=train)
    assert len(model.history["log_loss"]) == 2
    assert len(model.history["train_loss"]) == 6


def test_early_stopping_without_held_out_cells_is_refused(fit, reference):
    with pytest.raises(ValueError, match="validation_size"):
        fit(reference, train={"validation_size": 0.0, "early_stopping": True})


def test_settings_out_of_range_are_refused(fit, reference):
    for options, says in [
        ({"max_epochs": 0}, "max_epochs must be an integer >= 1, got 0"),
        ({"max_epochs": 1.5}, "max_epochs must be an integer >= 1, got 1.5"),
        ({"batch_size": -1}, "batch_size must be an integer >= 1, got -1"),
        ({"validation_size": 1.5}, "validation_size must be a number from 0 to 1, got 1.5"),
        ({"validation_size": -0.1}, "validation_size must be a number from 0 to 1, got -0.1"),
        ({"plan_kwargs": {"lr": 0}}, "lr must be a number > 0, got 0"),
        ({"plan_kwargs": {"lr": float("nan")}}, "lr must be a number > 0, got nan"),
        ({"plan_kwargs": {"lr": True}}, "lr must be a number > 0, got True"),
        (
            {"plan_kwargs": {"weight_decay": -1}},
            "weight_decay must be a finite number >= 0",
        ),
        ({"early_stopping_patience": 0}, "early_stopping_patience must be an integer >= 1, got 0"),
        ({"early_stopping_patience": 3}, "no effect without early_stopping=True"),
        ({"validation_size": 0, "limit_val_batches": 2}, "no effect because no cells are held"),
        ({"callbacks": [object()]}, "callbacks must be a Lightning callback, or a list of them"),
        ({"logger": "csv"}, "logger must be a Lightning logger, or a list of them"),
        ({"split_key": "donor"}, "no column 'donor'; it has 'lineage', 'cell_type', 'batch'"),
        ({"train_size": 0.9, "validation_size": 0.2}, "train_size must be a number from 0 to 0.8"),
    ]:
        with pytest.raises((ValueError, KeyError), match=says):
            fit(reference, train=options)


def test_no_held_out_cells_means_no_metrics_and_no_calibration(fit, reference):
    model = fit(reference, train={"validation_size": 0.0, "max_epochs": 1})
    assert len(model.validation_indices) == 0
    assert "accuracy_lineage" not in model.history
    assert (model.module.temperature == 1).all()
    with pytest.raises(ValueError, match=r"No cells were held out.*larger validation_size"):
        model.evaluate()
    assert model.evaluate(reference).n_cells == reference.n_obs


def test_whole_batches_are_held_out(fit, reference):
    model = fit(reference, train={"split_key": "batch", "max_epochs": 1})
    batches = reference.obs["batch"].astype(str).to_numpy()
    assert len(set(batches[model.validation_indices])) == 1
    assert not set(batches[model.validation_indices]) & set(batches[model.train_indices])


def test_training_leaves_the_reference_alone(fit, reference):
    values, obs, var = reference.X.copy(), reference.obs.copy(), reference.var.copy()
    model = fit(reference, train={"max_epochs": 1})
    assert model.adata is reference
    assert (values != reference.X).nnz == 0
    assert reference.obs.equals(obs)
    assert reference.var.equals(var)
    assert not reference.obsm
    assert not reference.layers
    assert not reference.uns


def test_the_recipe_records_the_training(model):
    recipe = model.recipe
    assert recipe["n_cells"] == 300
    assert recipe["max_epochs"] == 12
    assert {"hdeepinsight", "torch", "scvi-tools", "seed"} <= set(recipe)


def test_a_share_of_every_label_is_held_out_and_nothing_of_rare_ones(fit, reference):
    model = fit(reference, train={"validation_size": 0.2, "max_epochs": 1})
    types = reference.obs["cell_type"].astype(str).to_numpy()
    held_out = np.isin(np.arange(300), model.validation_indices)
    for name in np.unique(types):
        expected = int(0.2 * (types == name).sum())
        assert held_out[types == name].sum() == (expected if expected >= 5 else 0)
    assert not set(model.train_indices) & set(model.validation_indices)
    assert len(model.train_indices) + len(model.validation_indices) == 300


def test_a_group_with_a_label_of_its_own_is_never_held_out(fit, reference):
    types = reference.obs["cell_type"].astype(str)
    reference.obs["batch"] = np.where(types == types.iloc[0], "own", "shared")
    reference.obs.loc[reference.obs_names[types != types.iloc[0]][::3], "batch"] = "third"
    model = fit(reference, train={"split_key": "batch", "max_epochs": 1})
    groups = reference.obs["batch"].to_numpy()
    assert set(groups[model.validation_indices]) < {"shared", "third"}
    reference.obs["alone"] = types.to_numpy()
    with pytest.raises(ValueError, match="None of the 7 groups"):
        fit(reference, train={"split_key": "alone"})


def test_cells_that_neither_train_nor_validate_are_test_cells(fit, reference):
    model = fit(reference, train={"train_size": 0.5, "validation_size": 0.2, "max_epochs": 1})
    parts = [model.train_indices, model.validation_indices, model.test_indices]
    assert len(parts[0]) == 150
    assert sorted(np.concatenate(parts)) == list(range(300))


def test_the_first_cells_are_held_out_without_shuffling(fit, reference):
    train = {"shuffle_set_split": False, "max_epochs": 1}
    model = fit(reference, train=train)
    types = reference.obs["cell_type"].astype(str).to_numpy()
    for name in np.unique(types):
        cells = np.flatnonzero(types == name)
        held_out = np.intersect1d(cells, model.validation_indices)
        assert held_out.tolist() == cells[: len(held_out)].tolist()


@pytest.mark.gpu
def test_gpu_and_cpu_agree(fit, reference, query):
    model = fit(reference, train={"accelerator": "gpu", "precision": "bf16-mixed"})
    on_gpu = model.predict_proba(query)
    model.to_device("cpu")
    np.testing.assert_allclose(model.predict_proba(query), on_gpu, atol=1e-3)


def test_the_published_configuration_is_the_published_one(reference):
    SCHDeepInsight.setup_anndata(reference, labels_keys=["lineage", "cell_type"])
    model = SCHDeepInsight.from_paper(
        reference, layout="random", backbone="efficientnet_b0", side=32
    )
    assert model.module.raster.n_channels == 3
    assert model.module.wide is None
    assert model.module.objective.gamma == 2.0
    assert model.module.objective.reduction == "published"
    assert model.module.masking == GeneMasking.none()
    assert (
        model.init_params_["non_kwargs"]["config"]
        == ModuleConfig(
            scale_percentile=100.0,
            head="per_parent",
            dropout=0.3,
            channels="rgb",
            gamma=2.0,
            weighting="adaptive",
            reduction="published",
            class_weights=0.0,
        ).to_dict()
    )


def test_checkpoints_of_every_epoch_can_be_loaded(fit, reference, query, tmp_path):
    from scvi.train import SaveCheckpoint

    checkpoint = SaveCheckpoint(
        dirpath=str(tmp_path), monitor="log_loss", save_top_k=-1, filename="{epoch}"
    )
    model = fit(reference, train={"max_epochs": 3, "callbacks": [checkpoint]})
    folders = sorted(path.name for path in tmp_path.iterdir())
    assert folders == ["epoch=0", "epoch=1", "epoch=2"]
    probabilities = [
        SCHDeepInsight.load(tmp_path / folder).predict_proba(query) for folder in folders
    ]
    assert not np.allclose(probabilities[0], probabilities[2])
    first = SCHDeepInsight.load(tmp_path / "epoch=0", adata=reference)
    assert repr(first) == repr(model)
    assert first.validation_indices.tolist() == model.validation_indices.tolist()
    assert first.evaluate().n_cells == model.evaluate().n_cells


def test_half_precision_learns_the_same_types(fit, reference, query, truth):
    model = fit(reference, train={"precision": "bf16-mixed"})
    assert (
        model.annotate(query, threshold=None, reject="off").labels["cell_type"] == truth
    ).mean() > 0.95
