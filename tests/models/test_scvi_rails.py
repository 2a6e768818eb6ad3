"""Interface of scvi-tools models, and objects of the user that must stay unmodified."""

import os
import re
import signal
import subprocess
import sys
import threading
import warnings

import anndata as ad
import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalObsField, LabelsWithUnlabeledObsField, LayerField
from scvi.dataloaders import AnnDataLoader, DataSplitter
from scvi.model.base import BaseModelClass
from torch.utils.data import DataLoader

import hdeepinsight as hdi
from hdeepinsight.models import CountModel, SCHDeepInsight

LEVELS = ["lineage", "cell_type"]
QUIET = {"enable_progress_bar": False, "accelerator": "cpu", "validation_size": 0.2}


def built(cells: ad.AnnData, **options: object) -> SCHDeepInsight:
    SCHDeepInsight.setup_anndata(cells, labels_keys=LEVELS)
    return SCHDeepInsight(cells, **({"layout": "random", "n_latent": 16} | options))


def weights(model: SCHDeepInsight) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.module.state_dict().values()]


def test_at_most_four_own_classes_are_inherited():
    own = [kind for kind in SCHDeepInsight.__mro__ if kind.__module__.startswith("hdeepinsight")]
    assert len(own) <= 4
    assert issubclass(SCHDeepInsight, CountModel)
    assert issubclass(CountModel, BaseModelClass)


def test_stock_loaders_give_counts_in_the_order_of_the_model(reference, query):
    model = built(reference, n_genes=40)
    for cells in (None, reference, query):
        loader = model._make_data_loader(adata=cells, indices=[5, 2, 9], batch_size=2)
        assert type(loader) is AnnDataLoader
        counts = torch.cat([batch[REGISTRY_KEYS.X_KEY] for batch in loader]).numpy()
        expected = (reference if cells is None else cells)[[5, 2, 9], list(model.genes)]
        np.testing.assert_array_equal(counts, expected.X.toarray())
    batch = next(iter(model._make_data_loader(batch_size=300)))
    nodes = batch[REGISTRY_KEYS.LABELS_KEY].ravel().numpy()
    np.testing.assert_array_equal(nodes, model.label_nodes(reference))
    assert model.module.inference(**model.module._get_inference_input(batch))["logits"].shape


def test_the_users_object_stays_bit_identical_and_its_matrix_is_shared(reference):
    before, x = reference.copy(), reference.X
    given = hdi.image.GeneLayout.random(list(reference.var_names))
    model = built(reference, layout=given)
    assert np.shares_memory(model.adata_manager.adata.X.data, x.data)
    model.train(max_epochs=1, **QUIET)
    assert reference.X is x
    assert (reference.X != before.X).nnz == 0
    assert reference.obs.equals(before.obs)
    assert reference.var.equals(before.var)
    assert not reference.uns
    assert not reference.obsm
    assert not reference.layers


class Seen(pl.Callback):
    n_epochs = 0

    def on_train_epoch_end(self, trainer, pl_module) -> None:
        self.n_epochs += 1


@pytest.mark.parametrize("form", [lambda c: c, lambda c: [c], lambda c: (c,)])
def test_callbacks_are_accepted_in_any_form(reference, form):
    seen = Seen()
    built(reference).train(max_epochs=2, callbacks=form(seen), **QUIET)
    assert seen.n_epochs == 2


def test_the_history_is_kept_with_another_logger(reference, tmp_path):
    for logger in (CSVLogger(tmp_path), [CSVLogger(tmp_path / "b")], None, False):
        model = built(reference)
        model.train(max_epochs=2, logger=logger, **QUIET)
        assert len(model.history["train_loss"]) == 2
    assert list(tmp_path.glob("lightning_logs/*/metrics.csv"))


def test_settings_reach_plan_splitter_and_trainer(reference):
    model = built(reference)
    model.train(
        max_epochs=2,
        train_size=0.7,
        batch_size=50,
        plan_kwargs={"lr": 1e-3, "weight_decay": 0.0},
        datasplitter_kwargs={"drop_last": True},
        **QUIET,
    )
    assert (model.recipe["lr"], model.recipe["weight_decay"]) == (1e-3, 0.0)
    assert len(model.train_indices) == 210
    assert model.trainer.global_step == 2 * (210 // 50)


def test_settings_without_effect_are_refused(reference):
    for options, error, says in [
        ({"max_lr": 0.1}, TypeError, r"got max_lr.*plan_kwargs=\{'lr'"),
        ({"datamodule": object()}, ValueError, "without a reference"),
        ({"devices": 2, "early_stopping": True}, ValueError, "no effect on several devices"),
        ({"train_size": 0.0}, ValueError, "No cell is left to train on"),
        ({"limit_train_batches": 0}, ValueError, "took no optimiser step"),
        ({"plan_kwargs": {"lr": 1e30}}, ValueError, "diverged.*smaller learning rate"),
        ({"plan_kwargs": {"optimizer": "Adam"}}, TypeError, "got optimizer, which has no effect"),
        ({"early_stopping_monitor": "x"}, ValueError, "no effect without early_stopping"),
        ({"datasplitter_kwargs": {"train_size": 0.5}}, TypeError, "Pass sizes to train.."),
        ({"datasplitter_kwargs": {"iter_ndarray": True}}, TypeError, "takes external_indexing"),
        ({"plan_kwargs": 5}, ValueError, "plan_kwargs must be a dict of options"),
        ({"shuffle_set_split": "no"}, ValueError, "shuffle_set_split must be one of True, False"),
        ({"train_size": 1, "shuffle_set_split": False}, ValueError, "because no cells are held"),
        ({"train_size": 1, "val_check_interval": 1}, ValueError, "because no cells are held"),
        ({"overfit_batches": 1}, ValueError, "Pass limit_train_batches"),
        ({"min_epochs": 5}, ValueError, "min_epochs has no effect without early_stopping=True"),
        ({"gradient_clip_algorithm": "norm"}, ValueError, "without gradient_clip_val"),
        ({"checkpointing_monitor": "log_loss"}, ValueError, "without enable_checkpointing"),
        ({"early_stopping": True, "early_stopping_monitor": "x"}, RuntimeError, "not available"),
        ({"split_key": "batch", "shuffle_set_split": False}, ValueError, "with split_key"),
        ({"split_key": "batch", "train_size": 1.0}, ValueError, "no effect if no cells are held"),
        ({"early_stopping": True, "check_val_every_n_epoch": 2}, ValueError, "are none with"),
        ({"datasplitter_kwargs": {"batch_size": 8}}, TypeError, "got batch_size"),
        ({"datasplitter_kwargs": {"shuffle": False}}, TypeError, "got shuffle"),
        (
            {"datasplitter_kwargs": {"external_indexing": [[1]]}},
            ValueError,
            r"validation_size=.*no effect with external_indexing",
        ),
        ({"n_epochs": 3}, TypeError, "number of epochs as max_epochs"),
        ({"train_size": 1.5, "validation_size": None}, ValueError, "train_size must be .* 1.5"),
    ]:
        quiet = {"enable_progress_bar": False, "accelerator": "cpu"}
        if "train_size" not in options and "datamodule" not in options:
            quiet["validation_size"] = 0.2
        model = built(reference)
        before = weights(model)
        with pytest.raises(error, match=says):
            model.train(max_epochs=1, **(quiet | options))
        assert not model.is_trained
        assert all(map(torch.equal, before, weights(model)))


def test_an_external_split_is_used(reference):
    model = built(reference)
    train, held_out = np.arange(0, 300, 2), np.arange(1, 100, 2)
    quiet = {"enable_progress_bar": False, "accelerator": "cpu", "max_epochs": np.int64(1)}
    own = {"external_indexing": [train, held_out]}
    lr = {"lr": np.float32(1e-3)}
    model.train(datasplitter_kwargs=own, plan_kwargs=lr, audit=None, **quiet)
    assert model.train_indices.tolist() == train.tolist()
    assert model.validation_indices.tolist() == held_out.tolist()
    assert len(model.test_indices) == 100
    assert model.evaluate().n_cells == 50
    wrong = ([train, [0]], [[0, 300]], [[-1, 1]], [[]], [train > 5], [[0], [1], [2], [3]])
    for parts in wrong:
        with pytest.raises(ValueError, match="external_indexing must be a list with the positions"):
            model.train(datasplitter_kwargs={"external_indexing": parts}, **quiet)


def test_shares_that_sum_to_one_leave_no_cell_out(reference):
    model = built(reference)
    quiet = {"enable_progress_bar": False, "accelerator": "cpu", "max_epochs": 1}
    model.train(train_size=0.67, validation_size=0.33, **quiet)
    assert len(model.test_indices) == 0
    with pytest.warns(UserWarning, match=r"held-out cells may have been used in an earlier"):
        model.train(train_size=0.4, **quiet)
    held_out = model.validation_indices
    model.train(validation_size=0.6, **quiet)
    assert np.array_equal(model.validation_indices, held_out)


@pytest.mark.parametrize(
    ("change", "setup", "error", "says"),
    [
        ({"batch": None}, {"batch_key": "batch"}, ValueError, "300 cells have no batch"),
        ({}, {"batch_key": ["batch"]}, KeyError, "no column"),
        ({}, {"unlabeled_category": 0}, ValueError, "must be a single label, as text"),
        ({}, {"unlabeled_category": ["B"]}, ValueError, "must be a single label, as text"),
    ],
)
def test_columns_that_cannot_be_used_are_refused_at_set_up(reference, change, setup, error, says):
    reference.obs = reference.obs.assign(**change)
    with pytest.raises(error, match=says):
        SCHDeepInsight.setup_anndata(reference, labels_keys=LEVELS, **setup)


def test_cells_without_a_group_are_not_held_out_as_one(reference):
    model = built(reference)
    reference.obs["donor"] = [None, "a", "b"] * 100
    with pytest.raises(ValueError, match="100 cells have no batch: 'donor' is missing"):
        model.train(max_epochs=1, split_key="donor", **QUIET)


def test_missing_labels_of_any_kind_and_a_layer_named_x_are_trained_on(reference):
    labels = reference.obs["cell_type"].astype("string")
    reference.obs["cell_type"] = labels.where(np.arange(300) % 5 > 0)
    SCHDeepInsight.setup_anndata(reference, labels_key="cell_type", layer="X")
    model = SCHDeepInsight(reference, layout="random", n_latent=16)
    model.train(max_epochs=1, **QUIET)
    assert "60 without a label" in repr(model)


def test_several_nodes_and_lists_of_devices_share_the_cells(reference, monkeypatch):
    class Stop(Exception):
        pass

    def stop(*_: object, **options: object) -> None:
        seen.append(options["distributed_sampler"])
        raise Stop

    monkeypatch.setattr("hdeepinsight.models._base._count_model.DataSplitter", stop)
    seen: list[object] = []
    model = built(reference)
    for options in ({"num_nodes": 2}, {"devices": "0,1"}, {"devices": "0,"}, {"devices": [0, 1]}):
        with pytest.raises(Stop):
            model.train(max_epochs=1, **QUIET, **options)
    assert seen == [True, True, False, True]


def test_unknown_arguments_list_the_valid_ones(model, query, tmp_path):
    with pytest.raises(TypeError, match="got give_mean; it takes layer, use_raw"):
        model.get_latent_representation(query, give_mean=True)
    with pytest.raises(TypeError, match=r"predict\(\) got use_posterior_mean; it takes query"):
        model.predict(query, use_posterior_mean=False)
    with pytest.raises(ValueError, match="compression has no effect without save_anndata"):
        model.save(tmp_path / "model", compression="gzip")
    model.save(tmp_path / "model", save_kwargs=None)
    with pytest.raises(TypeError, match=r"no backup_url.*hub.pull"):
        SCHDeepInsight.load(tmp_path / "model", backup_url="https://example.org/model.pt")
    with pytest.raises(ValueError, match="device must be 'auto' or the index of a device"):
        SCHDeepInsight.load(tmp_path / "model", device="cuda:0")
    with pytest.raises(NotImplementedError, match=r"Use hdeepinsight\.models\.convert_model"):
        SCHDeepInsight.convert_legacy_save(tmp_path / "model", tmp_path / "new")
    with pytest.raises(TypeError, match=r"it takes layer, labels_key, .*panel_key"):
        SCHDeepInsight.setup_anndata(query, labels_key="type", size_factor_key="n")
    with pytest.raises(ValueError, match="unlabeled_category has no effect without a label"):
        hdi.SCLabelNet.setup_anndata(query, unlabeled_category="none")
    loaded = SCHDeepInsight.load(tmp_path / "model", backup_url=None)
    usual = loaded.get_latent_representation(query)
    np.testing.assert_array_equal(loaded.get_latent_representation(query, batch_size=None), usual)
    assert len(loaded.predict(query, batch_size=None)) == query.n_obs
    with pytest.raises(ValueError, match="needs a reference or a registry"):
        SCHDeepInsight(registry={})
    for kind in (SCHDeepInsight, hdi.SCE2TM, hdi.SCAGC, hdi.DPDCAN):
        covariates = {"categorical_covariate_keys": ["batch"]}
        covariates |= {"labels_key": "type"} if kind is SCHDeepInsight else {}
        advice = "account" if kind is hdi.DPDCAN else "one column for batch_key"
        with pytest.raises(TypeError, match=rf"{kind.__name__}.* got categ.*; it .*{advice}"):
            kind.setup_anndata(query, **covariates)


def test_another_reference_can_be_attached(reference, labelled):
    model = built(reference)
    model.train(max_epochs=1, **QUIET)
    with pytest.raises(TypeError, match="got an object of str"):
        model.adata = "reference.h5ad"
    model.adata = reference[:, :100].copy()
    with pytest.raises(ValueError, match="lacks 20 of the model's 120 genes"):
        model.train(max_epochs=1, **QUIET)
    model.adata = labelled
    batch = next(iter(model._make_data_loader(batch_size=3)))
    expected = labelled[:3, list(model.genes)].X.toarray()
    np.testing.assert_array_equal(batch[REGISTRY_KEYS.X_KEY].numpy(), expected)
    with pytest.raises(ValueError, match="Attach the reference that the model"):
        model.evaluate()
    model.train(max_epochs=1, **(QUIET | {"validation_size": 0.4}))
    assert model.evaluate().n_cells == len(model.validation_indices)


def test_network_settings_are_refused_where_an_adapter_is_fitted(model, query):
    adapted = SCHDeepInsight.load_query_data(query, model)
    with pytest.raises(ValueError, match=r"train\(batch_size, max_epochs=.*no effect"):
        adapted.train(max_epochs=3, batch_size=16)
    with pytest.raises(ValueError, match=r"train\(early_stopping=.*no effect"):
        adapted.train(early_stopping=True)
    with pytest.raises(TypeError, match="adapter got enable_progress_bar; it takes max_steps"):
        adapted.train(enable_progress_bar=False)
    with pytest.raises(TypeError, match=r"multiple values.*max_steps"):
        adapted.train(max_steps=1, plan_kwargs={"max_steps": 2})


def test_uninformative_columns_of_a_query_raise_a_warning(model, query):
    query.obs["donor"], query.obs["cluster"] = [None] + ["a"] * (query.n_obs - 1), "7"
    with pytest.raises(ValueError, match="1 cell has no batch"):
        SCHDeepInsight.load_query_data(query, model, batch_key="donor")
    with pytest.raises(TypeError, match="got unfrozen; it takes labels_key, batch_key, layer"):
        SCHDeepInsight.load_query_data(query, model, unfrozen=True)
    for call, options, says in [
        (model.annotate_blocks, {"rows": [1, 2]}, "rows must be a range of cells"),
        (model.evaluate, {"unlabeled_category": 3}, "unlabeled_category must be a single label"),
        (model.label_nodes, {"labels_keys": 3}, "labels_keys must be one or more columns, got 3"),
        (model.explain, {"seed": -1}, "seed must be an integer >= 0, got -1"),
    ]:
        with pytest.raises(ValueError, match=says):
            call(query, **options)
    with pytest.warns(UserWarning, match=r"0 of .* 'cluster', .* another one, which is ignored"):
        SCHDeepInsight.load_query_data(query, model, labels_key="cluster")


def test_numbers_of_the_model_out_of_range_are_refused(reference):
    layout = hdi.image.GeneLayout.random(list(reference.var_names))
    for options, says in [
        ({"layout": layout, "n_genes": 50}, "n_genes has no effect with a fitted layout"),
        ({"layout": layout, "keep_genes": ["G1"], "side": 32}, "keep_genes, side have no effect"),
        ({"keep_genes": "G1"}, "keep_genes must be a list of genes"),
        ({"backbone": "efficientnet_b0", "n_latent": 64}, "n_latent has no effect with backbone"),
        ({"proteins": layout}, "proteins has no effect without a MuData"),
        ({"registry": {"field_registries": {}}}, "registry has no effect with a reference"),
        ({"seed": "x"}, "seed must be an integer >= 0, got 'x'"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
        ({"n_genes": 50.5}, "n_genes must be an integer >= 1, got 50.5"),
    ]:
        with pytest.raises(ValueError, match=says):
            built(reference, **options)


def test_deregister_manager_does_nothing(model, reference):
    model.deregister_manager()
    assert len(model.predict()) == 300


@pytest.fixture
def splitter(reference):
    """Data module with scvi-tools loaders of a reference, and their registry."""
    cells = reference.copy()
    fields = [
        LayerField(REGISTRY_KEYS.X_KEY, None),
        LabelsWithUnlabeledObsField(REGISTRY_KEYS.LABELS_KEY, "cell_type", "Unknown"),
        CategoricalObsField(REGISTRY_KEYS.BATCH_KEY, "batch"),
    ]
    setup = {
        "setup_method_name": "setup_datamodule",
        "setup_args": {"labels_key": "cell_type", "batch_key": "batch", "layer": None},
    }
    manager = AnnDataManager(fields=fields, setup_method_args=setup)
    manager.register_fields(cells)
    return DataSplitter(manager, train_size=0.8, batch_size=32)


def test_a_model_of_a_registry_trains_with_a_datamodule(splitter, query, truth, tmp_path):
    model = SCHDeepInsight(registry=splitter.adata_manager.registry, layout="random")
    assert "to be built" in repr(model)
    model.train(max_epochs=12, datamodule=splitter, accelerator="cpu", enable_progress_bar=False)
    assert (model.annotate(query, threshold=None).labels["cell_type"] == truth).mean() > 0.9
    assert len(model.calibration) == 60
    assert "trained on 240 cells, 60 cells held out" in repr(model)
    model.save(tmp_path / "model")
    loaded = SCHDeepInsight.load(tmp_path / "model", accelerator="cpu")
    np.testing.assert_array_equal(loaded.predict_proba(query), model.predict_proba(query))
    with pytest.raises(ValueError, match=r"train\(batch_size=.*no effect with a datamodule"):
        model.train(datamodule=splitter, batch_size=16)

    with pytest.raises(ValueError, match="trained with a datamodule, so no reference can be"):
        SCHDeepInsight.load(tmp_path / "model", adata=query)
    with pytest.raises(ValueError, match=r"call requires cells, but the model has no"):
        model.train()


class Loaders(pl.LightningDataModule):
    """Data module with the total number of cells only, as for collections on disk."""

    def __init__(self, splitter, train_size=1.0, change=lambda batch: batch):
        super().__init__()
        splitter.setup()
        self.registry = splitter.adata_manager.registry
        self.n_obs, self.train_size = splitter.n_train, train_size
        self.loader, self.change = splitter.train_dataloader(), change

    def train_dataloader(self):
        return DataLoader([self.change(dict(batch)) for batch in self.loader], batch_size=None)


def test_a_datamodule_that_counts_all_cells_trains_the_model(splitter, query):
    loaders = Loaders(splitter)
    model = SCHDeepInsight(registry=loaders.registry, layout="random")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You defined a `validation_step`")
        model.train(1, datamodule=loaders, accelerator="cpu", enable_progress_bar=False)
    assert "trained on 240 cells, no cells held out" in repr(model)
    assert len(model.predict(query)) == query.n_obs


def _with_codes(batch, first):
    """A mini-batch with two label codes, whatever its cells are."""
    labels = first + (torch.arange(len(batch["X"])) % 2).to(batch["labels"])
    return batch | {"labels": labels.reshape(batch["labels"].shape)}


def test_mini_batches_of_a_datamodule_are_checked(splitter):
    for change, message in [
        (lambda b: {"X": b["X"]}, "lacks 'labels'. It must contain the counts 'X'"),
        (lambda b: {"labels": b["labels"]}, "lacks 'X'"),
        (lambda b: b | {"X": b["X"] / 3}, "negative, fractional or missing. Raw counts"),
        (lambda b: b | {"X": -b["X"]}, "negative, fractional or missing"),
        (lambda b: b | {"X": b["X"] * float("nan")}, "negative, fractional or missing"),
        (
            lambda b: _with_codes(b, 0) | {"X": b["X"][:, :9]},
            "loads 9 genes and label codes from 0 to",
        ),
        (lambda b: _with_codes(b, 50), "label codes from 50 to"),
        (lambda b: b | {"labels": b["labels"] * 0 + 7}, "loads no cells with a label for training"),
    ]:
        loaders = Loaders(splitter, change=change)
        model = SCHDeepInsight(registry=loaders.registry, layout="random")
        with pytest.raises(ValueError, match=message):
            model.train(1, datamodule=loaders, accelerator="cpu", enable_progress_bar=False)


def test_a_datamodule_requires_a_size(splitter):
    loaders = Loaders(splitter)
    del loaders.n_obs
    model = SCHDeepInsight(registry=loaders.registry, layout="random")
    with pytest.raises(ValueError, match=r"an object with n_train, or n_obs .*got .Loaders"):
        model.train(1, datamodule=loaders)


@pytest.mark.slow
def test_annbatch_trains_the_model(reference, query, truth, tmp_path):
    annbatch = pytest.importorskip("annbatch", reason="annbatch needs Python 3.12")
    from scvi.dataloaders import AnnbatchDataModule

    reference.write_h5ad(tmp_path / "reference.h5ad")
    collection = annbatch.DatasetCollection(tmp_path / "collection.zarr")
    collection.add_adatas([tmp_path / "reference.h5ad"])
    sizes = {"batch_size": 30, "chunk_size": 30, "preload_nchunks": 2, "preload_to_gpu": False}
    loader = annbatch.Loader(**sizes)
    loader.use_collection(collection)
    names = list(reference.var_names)
    datamodule = AnnbatchDataModule(
        loader, label_key="cell_type", var_names=names, shuffle=True, **sizes
    )
    datamodule.set_split(train_size=0.8, validation_size=0.2)
    model = SCHDeepInsight(registry=datamodule.registry, layout="random")
    model.train(max_epochs=10, datamodule=datamodule, accelerator="cpu", enable_progress_bar=False)
    assert (model.annotate(query, threshold=None).labels["cell_type"] == truth).mean() > 0.9


def test_trainings_in_threads_do_not_disturb_each_other(reference):
    models = [built(reference.copy(), seed=3) for _ in range(3)]
    # One alone, in a thread too: new ones may sum over another number of cores than the first.
    alone, *threads = [
        threading.Thread(target=model.train, kwargs={"max_epochs": 2, **QUIET}) for model in models
    ]
    alone.start()
    alone.join()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for model in models[1:]:
        assert all(map(torch.equal, weights(model), weights(models[0])))


def test_unsupported_methods_are_hidden_from_completion(model):
    none = {"convert_legacy_save", "deregister_manager", "transfer_fields"}
    assert not (none | {"get_normalized_expression"}) & set(dir(model))
    assert {"train", "annotate", "predict", "get_latent_representation"} <= set(dir(model))


def test_scvi_keywords_are_accepted(model, query):
    rows = [3, 1]
    labels = model.predict(adata=query, indices=rows, batch_size=1)
    assert labels.index.tolist() == query.obs_names[rows].tolist()
    soft = model.predict(query, soft=True)
    np.testing.assert_array_equal(soft, model.predict_proba(query))
    latent = model.get_latent_representation(adata=query, indices=rows, batch_size=2)
    whole = model.get_latent_representation(query)
    np.testing.assert_allclose(latent, whole[rows], atol=1e-4)


def test_the_summary_is_never_stale(reference):
    model = built(reference)
    assert "not trained, 300 cells registered" in repr(model)
    model.train(max_epochs=1, **QUIET)
    n_held_out = len(model.validation_indices)
    said = f"trained on {300 - n_held_out} cells, {n_held_out} cells held out"
    assert said in repr(model)
    assert said in model.summary_string


def test_training_records_are_kept_when_another_object_is_attached(reference, labelled, tmp_path):
    model = built(reference)
    model.train(max_epochs=2, **QUIET)
    model.save(tmp_path / "model")
    other = SCHDeepInsight.load(tmp_path / "model", adata=labelled)
    assert repr(other).splitlines()[-1] == repr(model).splitlines()[-1]
    with pytest.raises(ValueError, match=r"Only 0 of the .* held out .*Attach the reference that"):
        other.evaluate()
    shuffled = reference[np.random.default_rng(0).permutation(300)].copy()
    again = SCHDeepInsight.load(tmp_path / "model", adata=shuffled)
    expected, found = (one.evaluate().levels for one in (model, again))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    held_out = [set(one.adata.obs_names[one.validation_indices]) for one in (model, again)]
    assert held_out[0] == held_out[1]


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.parametrize("name", ["{}", "cell_{}", "same"])
def test_held_out_cells_without_names_of_their_own_are_found_by_their_counts(
    reference, tmp_path, name
):
    def named(cells):
        cells.obs_names = [name.format(i) for i in range(cells.n_obs)]
        return cells

    model = built(named(reference))
    model.train(max_epochs=2, **QUIET)
    model.save(tmp_path / "model")
    order = np.random.default_rng(0).permutation(300)
    other = named(reference[order].copy()[:, ::-1].copy())
    again = SCHDeepInsight.load(tmp_path / "model", adata=other)
    assert set(order[again.validation_indices]) == set(model.validation_indices)
    np.testing.assert_allclose(again.evaluate().levels, model.evaluate().levels, atol=1e-6)


def emptied(cells: ad.AnnData) -> None:
    cells.obs = cells.obs.assign(cell_type=np.nan)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda a: a.obs.pop("lineage"), KeyError, "no column 'lineage'.*existed when"),
        (emptied, ValueError, "300 labels in 'cell_type'"),
        (lambda a: a._inplace_subset_obs(np.arange(99)), ValueError, "99 cells, but had 300"),
        (lambda a: np.log1p(a.X.data, out=a.X.data), ValueError, "now has fractions"),
        (lambda a: a.X.data.fill(0), ValueError, "now has no counts"),
    ],
)
def test_a_reference_that_was_changed_is_not_trained_on(reference, change, error, says):
    given = hdi.image.GeneLayout.random(list(reference.var_names))
    model = built(reference, layout=given)
    change(reference)
    with pytest.raises(error, match=says):
        model.train(max_epochs=1, **QUIET)


def test_a_reference_without_a_label_is_not_trained_on(reference):
    taxonomy = hdi.Taxonomy.from_obs(reference, LEVELS)
    reference.obs["cell_type"] = reference.obs["lineage"] = None
    model = built(reference, taxonomy=taxonomy)
    with pytest.raises(ValueError, match="At least one training cell must have a label"):
        model.train(max_epochs=1, **QUIET)
    reference.obs["cell_type"] = reference.obs["lineage"] = ["T"] * 10 + [None] * 290
    SCHDeepInsight.setup_anndata(reference, labels_key="lineage")
    model = SCHDeepInsight(reference, layout="random", n_latent=16)
    few = {"max_epochs": 1, "enable_progress_bar": False, "accelerator": "cpu"}
    split = {"external_indexing": [range(10, 300), range(10)]}
    with pytest.raises(ValueError, match="At least one training cell must have a label"):
        model.train(datasplitter_kwargs=split, **few)
    split = {"external_indexing": [range(10), range(10, 300)]}
    with pytest.warns(UserWarning, match=r"None of the held-out cells has a label\.|All labels"):
        model.train(datasplitter_kwargs=split, **few)


@pytest.mark.parametrize("kind", [SCHDeepInsight, hdi.SCLabelNet, hdi.SCE2TM, hdi.DPDCAN])
def test_errors_recommend_methods_that_exist(kind):
    others = type("MuData", (), {"mod": {}})()
    for call in (kind, kind.setup_anndata):
        options = {"labels_key": "one"} if call != kind and kind._labels_required else {}
        with pytest.raises((TypeError, ValueError), match=r"setup_\w+") as error:
            call(others, **options)
        for name in re.findall(r"setup_\w+", str(error.value)):
            assert hasattr(kind, name)


@pytest.mark.parametrize("given", ["tree.json", ["T", "B"]])
def test_arguments_of_another_type_raise_an_error(reference, given):
    with pytest.raises(ValueError, match=r"taxonomy must be a Taxonomy, got .* Taxonomy\.from_"):
        built(reference, taxonomy=given)
    with pytest.raises(ValueError, match=r"audit must be True, False, or a result of hdi\.tl\."):
        built(reference).train(max_epochs=1, audit=given, **QUIET)


def test_types_that_cannot_be_learnt_raise_a_warning(reference):
    emptied = reference.copy()
    emptied.X = emptied.X.multiply(np.arange(300)[:, None] >= 250).tocsr()
    emptied.X.eliminate_zeros()
    with pytest.warns(UserWarning, match=r"2\d\d of .* training cells have no counts"):
        built(emptied).train(max_epochs=1, **QUIET)
    reference.obs["one"] = "T"
    SCHDeepInsight.setup_anndata(reference, labels_key="one")
    with pytest.warns(UserWarning, match="All labels of the training cells are 'T'"):
        SCHDeepInsight(reference, layout="random").train(max_epochs=1, **QUIET)
    tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8", "MAIT"]})
    reference.obs["one"] = np.resize([b"CD8", b"CD4"], 300)  # as other languages write text
    SCHDeepInsight.setup_anndata(reference, labels_key="one")
    model = SCHDeepInsight(reference, taxonomy=tree, layout="random")
    with pytest.warns(
        UserWarning, match="1 type of the taxonomy without a labelled training cell: T > MAIT"
    ):
        model.train(max_epochs=1, **QUIET)


def test_a_training_without_held_out_cells_raises_a_warning(reference):
    few = reference[:60].copy()
    model = built(few)
    with pytest.warns(UserWarning, match="No cells are held out"):
        model.train(max_epochs=1, enable_progress_bar=False, accelerator="cpu")
    assert "no cells held out" in repr(model)
    assert "not calibrated" in str(model.annotate(few))


def test_words_for_missing_labels_are_not_types(reference):
    for word in ["nan", "NA", "None", "unknown", "Unassigned", " Unknown"]:
        labels = reference.obs["cell_type"].astype(object).to_numpy(copy=True)
        labels[::7] = word
        reference.obs["cell_type"] = labels
        with pytest.warns(hdi.taxonomy.LabelWarning, match=word.strip()):
            SCHDeepInsight.setup_anndata(reference, labels_key="cell_type")
        assert SCHDeepInsight(reference, layout="random").taxonomy.n_leaves == 7


SCRIPT = """
import sys
import anndata as ad
from hdeepinsight.models import SCE2TM, SCHDeepInsight
import lightning.pytorch as pl

class Count(pl.Callback):
    n_cells = 0
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.n_cells += len(batch["X"])
        if "sigterm" in sys.argv and trainer.current_epoch == 2:
            import os, signal
            os.kill(os.getpid(), signal.SIGTERM)

if __name__ == "__main__":
    cells = ad.read_h5ad(sys.argv[1])
    if "topics" in sys.argv:
        SCE2TM.setup_anndata(cells)
        model = SCE2TM(cells, n_topics=8)
    else:
        SCHDeepInsight.setup_anndata(cells, labels_keys=["lineage", "cell_type"])
        model = SCHDeepInsight(cells, layout="random", n_latent=16)
    count = Count()
    more = {"checkpoint": sys.argv[2]} if "sigterm" in sys.argv else {"devices": 2}
    model.train(4, batch_size=32, validation_size=0.2, accelerator="cpu",
                enable_progress_bar=False, callbacks=count, **more)
    sys.stdout.write(f"cells {count.n_cells // 4} of {len(model.train_indices)}\\n")
    sys.stdout.flush()
    model.save(sys.argv[2], overwrite=True)
"""


def run_script(reference, tmp_path, *words: str) -> subprocess.CompletedProcess:
    reference.write_h5ad(tmp_path / "cells.h5ad")
    (tmp_path / "script.py").write_text(SCRIPT)
    names = [sys.executable, "script.py", "cells.h5ad", "out", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        names, cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )


@pytest.mark.slow
def test_two_devices_share_the_cells_and_save_one_model(reference, query, truth, tmp_path):
    done = run_script(reference, tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"cells (\d+) of (\d+)", done.stdout) == [("122", "244")] * 2
    model = SCHDeepInsight.load(tmp_path / "out")
    assert (model.predict(query, threshold=None) == truth).mean() > 0.3
    assert len(model.calibration) == model.recipe["n_held_out"]


@pytest.mark.slow
def test_an_unlabelled_model_is_trained_on_two_devices(reference, tmp_path):
    done = run_script(reference, tmp_path, "topics")
    assert done.returncode == 0, done.stderr
    (n_cells, n_train), other = re.findall(r"cells (\d+) of (\d+)", done.stdout)
    assert (n_cells, n_train) == other
    assert 2 * int(n_cells) - int(n_train) in (0, 1)
    history = hdi.SCE2TM.load(tmp_path / "out", adata=False).history
    assert np.isfinite(history["validation_loss"].to_numpy(dtype=float)).all()


@pytest.mark.slow
def test_sigterm_ends_by_the_signal_with_the_checkpoint_written(reference, tmp_path):
    done = run_script(reference, tmp_path, "sigterm")
    assert done.returncode == -signal.SIGTERM, done.stderr
    assert (tmp_path / "out" / "training.ckpt").is_file()
    assert "cells" not in done.stdout
