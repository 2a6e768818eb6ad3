"""Set-up, training, saving and errors."""

import subprocess
import sys
from functools import partial

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal

import hdeepinsight as hdi
from hdeepinsight import SCE2TM
from hdeepinsight.graph import mutual_neighbors
from hdeepinsight.models import load_model

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
SMALL = {"n_topics": 8, "n_hidden": 16, "n_embed": 16}


def fit(adata, epochs=3, setup=None, train=None, **options):
    SCE2TM.setup_anndata(adata, **(setup or {}))
    model = SCE2TM(adata, **(SMALL | options))
    model.train(epochs, batch_size=128, **QUIET, **(train or {}))
    return model


def test_training_leaves_the_users_object_as_it_was(cells):
    before = cells.copy()
    fit(cells, setup={"embedding_obsm_key": "X_other", "batch_key": "batch"})
    assert_array_equal(cells.X.data, before.X.data)
    assert_array_equal(cells.X.indices, before.X.indices)
    assert cells.obs.equals(before.obs)
    assert list(cells.obsm) == list(before.obsm)
    assert_array_equal(cells.obsm["X_other"], before.obsm["X_other"])
    assert not cells.uns
    assert not cells.layers


def test_dense_sparse_and_integer_counts_give_the_same_model(cells):
    latents = []
    for counts in (cells.X, cells.X.toarray(), cells.X.astype(np.int32), cells.X.tocsc()):
        adata = ad.AnnData(counts, obs=cells.obs, var=cells.var, obsm=dict(cells.obsm))
        model = fit(adata, setup={"embedding_obsm_key": "X_other"})
        latents.append(model.get_latent_representation())
    for latent in latents[1:]:
        assert_allclose(latent, latents[0], rtol=1e-5, atol=1e-6)


def test_counts_come_from_a_layer_and_totals_from_a_column(cells):
    plain = fit(cells).get_latent_representation()
    cells.layers["counts"], cells.X = cells.X.copy(), cells.X * 0
    cells.obs["total"] = np.asarray(cells.layers["counts"].sum(axis=1)).ravel()
    model = fit(cells, setup={"layer": "counts", "size_factor_key": "total"})
    assert_allclose(model.get_latent_representation(), plain, rtol=1e-3, atol=1e-4)
    other = cells[:50].copy()
    assert_allclose(model.get_latent_representation(other), plain[:50], rtol=1e-3, atol=1e-4)
    other.obs["total"] *= 2
    assert not np.allclose(model.get_latent_representation(other), plain[:50], atol=1e-2)
    del other.obs["total"]
    with pytest.raises(KeyError, match="total"):
        model.get_latent_representation(other)


def test_labels_change_nothing(cells):
    first = fit(cells, setup={"embedding_obsm_key": "X_other"}).get_latent_representation()
    cells.obs = cells.obs.sample(frac=1, random_state=0).set_axis(cells.obs_names)
    again = fit(cells, setup={"embedding_obsm_key": "X_other"}).get_latent_representation()
    assert_array_equal(first, again)


def test_neighbours_are_drawn_from_the_lists_of_training_cells(cells, monkeypatch):
    seen = []
    step = SCE2TM._training_plan_cls.training_step

    def watched(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        seen.append({name: tensor.cpu().numpy() for name, tensor in batch.items()})
        self.seen_lists = self.lists
        seen[-1]["lists"] = self.lists
        return loss

    monkeypatch.setattr(SCE2TM._training_plan_cls, "training_step", watched)
    model = fit(cells, setup={"embedding_obsm_key": "X_other"}, train={"train_size": 0.8})
    trains = set(model.train_indices.tolist())
    by_row = {row.tobytes(): i for i, row in enumerate(cells.obsm["X_other"])}
    expression, view = seen[0]["lists"]
    rows = np.sort(model.train_indices)
    near = mutual_neighbors(cells.obsm["X_other"][rows], k=15, seed=model.seed)
    assert_array_equal(view[rows], np.where(near < 0, -1, rows[near]))
    for batch in seen:
        here = batch["position"].ravel().astype(int)
        assert set(here) <= trains
        assert_array_equal(batch["embedding"], cells.obsm["X_other"][here])
        for cell, drawn in zip(here, batch["embedding_of_neighbor"], strict=True):
            assert by_row[drawn.tobytes()] in view[cell]
        for cell, counts in zip(here, batch["X_of_neighbor"], strict=True):
            listed = expression[cell][expression[cell] >= 0]
            assert (cells.X[listed].toarray() == counts).all(axis=1).any()
    assert "validation_loss" in model.history


def test_it_is_saved_and_loaded_bit_for_bit(trained, tmp_path):
    trained.save(tmp_path / "model")
    for loaded in (load_model(tmp_path / "model"), SCE2TM.load(tmp_path / "model", trained.adata)):
        assert type(loaded) is SCE2TM
        adata = None if loaded.adata is not None else trained.adata
        assert_array_equal(
            loaded.get_latent_representation(adata), trained.get_latent_representation()
        )
        assert_array_equal(
            loaded.get_knowledge_assignments(trained.adata).to_numpy(),
            trained.get_knowledge_assignments().to_numpy(),
        )
        assert loaded.top_genes().equals(trained.top_genes())
        assert repr(loaded) == repr(trained)
    cells = trained.adata.copy()
    cells.obsm["X_other"] = cells.obsm["X_other"][:, :5]
    for read in (partial(SCE2TM.load, tmp_path / "model"), trained.get_knowledge_assignments):
        with pytest.raises(ValueError, match=r"of 6 columns, as in training, got '5 columns'"):
            read(cells)


@pytest.mark.slow
def test_another_process_gives_the_same_result(trained, tmp_path):
    trained.save(tmp_path / "model")
    trained.adata.write_h5ad(tmp_path / "cells.h5ad")
    code = (
        "import anndata, numpy, sys; from hdeepinsight.models import load_model\n"
        "m = load_model('model'); a = anndata.read_h5ad('cells.h5ad')\n"
        "numpy.save('z.npy', m.get_latent_representation(a))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert_array_equal(np.load(tmp_path / "z.npy"), trained.get_latent_representation())


def test_it_is_published_and_read_by_the_stock_hub(trained, tmp_path):
    from scvi.hub import HubModel

    card = {"title": "Topics", "license": "cc-by-4.0", "organism": "human", "tissues": ["blood"]}
    hdi.hub.publish(trained, tmp_path / "hub", card=card)
    latent = trained.get_latent_representation()
    assert_array_equal(
        hdi.hub.pull(tmp_path / "hub").get_latent_representation(trained.adata), latent
    )
    stock = HubModel(str(tmp_path / "hub"))
    assert_array_equal(stock.model.get_latent_representation(trained.adata), latent)


def test_new_cells_need_the_genes_only(trained):
    query = trained.adata[:30, ::-1].copy()
    del query.obsm["X_other"]
    assert_allclose(
        trained.get_latent_representation(query),
        trained.get_latent_representation()[:30],
        rtol=1e-4,
        atol=1e-5,
    )
    with pytest.raises(KeyError, match="X_other"):
        trained.get_knowledge_assignments(query)
    query.obsm["X_other"] = np.ones((30, 5))
    with pytest.raises(ValueError, match="must be of 6 columns, as in training, got '5 columns'"):
        trained.get_knowledge_assignments(query)


def test_batches_keep_the_codes_of_the_model(cells, tmp_path):
    cells.obs["donor"] = np.resize(["a", "b", "c"], cells.n_obs)
    model = fit(cells, setup={"batch_key": "donor"})
    model.save(tmp_path / "model")
    query = cells[cells.obs["donor"] != "a"].copy()
    query.obs["donor"] = query.obs["donor"].replace("b", "new")
    (batch,) = model._make_data_loader(query, batch_size=500, shuffle=False)
    codes = query.obs["donor"].map({"c": 2, "new": 3})
    assert_array_equal(batch["batch"].ravel(), codes)
    rest = cells[cells.obs["donor"] != "a"].copy()
    loaded = SCE2TM.load(tmp_path / "model", rest)
    assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation(rest))
    (batch,) = loaded._make_data_loader(batch_size=500, shuffle=False)
    assert_array_equal(batch["batch"].ravel(), rest.obs["donor"].map({"b": 1, "c": 2}))
    with pytest.raises(ValueError, match=r"must be the batches of the model, a, b, c, got 'new'"):
        SCE2TM.load(tmp_path / "model", query)


@pytest.mark.filterwarnings("ignore:.* names are not unique")
@pytest.mark.parametrize("name", ["SCE2TM", "SCAGC", "DPDCAN"])
def test_genes_keep_their_names(cells, tmp_path, name):
    options, train = {
        "SCE2TM": (SMALL, {"max_epochs": 2}),
        "SCAGC": ({"n_clusters": 3}, {"pretrain_epochs": 2, "cluster_epochs": 1}),
        "DPDCAN": ({"n_latent": 8}, {"privacy": None, "max_steps": 2}),
    }[name]
    # The first gene is in two columns.
    two = ad.AnnData(sp.hstack([cells.X, cells.X[:, :1]], "csr"), obs=cells.obs)
    two.var_names = [*cells.var_names, cells.var_names[0]]
    cls, models = getattr(hdi, name), []
    for adata in (two, ad.AnnData(sp.csr_array(two.X.astype(int)), obs=two.obs, var=two.var)):
        cls.setup_anndata(adata)
        models.append(cls(adata, seed=0, **options))
        models[-1].train(**train, **QUIET)
    model, latent = models[0], models[0].get_latent_representation()
    assert model.genes == tuple(cells.var_names)
    assert_allclose(models[1].get_latent_representation(), latent, rtol=1e-3, atol=1e-4)
    model.save(tmp_path / "model")
    other = two[:, ::-1].copy()
    for attached in (cls.load(tmp_path / "model", other), cls.load(tmp_path / "model", two)):
        assert attached.genes == model.genes
        assert_allclose(attached.get_latent_representation(), latent, rtol=1e-3, atol=1e-4)
    assert_allclose(model.get_latent_representation(other), latent, rtol=1e-3, atol=1e-4)


def test_cells_are_selected_in_any_form_and_keep_their_names(trained):
    cells, whole = trained.adata, trained.get_topic_proportions()
    mask = np.isin(np.arange(cells.n_obs), [2, 5])
    forms = [2, 5], mask, mask.tolist(), pd.Series(mask, cells.obs_names), cells.obs_names[[2, 5]]
    for chosen in (*forms, slice(2, 6, 3)):
        assert_allclose(trained.get_topic_proportions(indices=chosen), whole.iloc[[2, 5]], 1e-4)
        found = trained.perturb_topics(chosen, [0], target=chosen)
        assert found.before.index.equals(cells.obs_names[[2, 5]])
    for chosen in ([420], [-1], [], mask[:9], pd.Series(mask, cells.obs_names[::-1]), ["nobody"]):
        with pytest.raises(hdi.data.InputError, match="Correct the selection"):
            trained.get_topic_proportions(indices=chosen)
    query = cells[:4].copy()
    query.obs_names = ["one", "one", "two", "two"]
    assert trained.predict(query).index.equals(query.obs_names)


def test_a_run_is_repeated_by_its_seed(cells):
    setup = {"embedding_obsm_key": "X_other"}
    first, again = (fit(cells, setup=setup, seed=3).get_latent_representation() for _ in range(2))
    assert_array_equal(first, again)
    assert not np.array_equal(first, fit(cells, setup=setup, seed=4).get_latent_representation())


def test_embeddings_are_standardised_unless_their_rows_have_unit_norm(cells):
    model = fit(cells, setup={"embedding_obsm_key": "X_other"})
    values = cells.obsm["X_other"]
    assert_allclose(model.module.embedding_mean, values.mean(0), rtol=1e-4, atol=1e-5)
    assert_allclose(model.module.embedding_scale, values.std(0, ddof=1), rtol=1e-4)
    cells.obsm["X_unit"] = values / np.linalg.norm(values, axis=1, keepdims=True)
    unit = fit(cells, setup={"embedding_obsm_key": "X_unit"})
    assert_array_equal(unit.module.embedding_scale, np.ones(6))
    cells.obsm["X_table"] = pd.DataFrame(values, index=cells.obs_names)
    table = fit(cells, setup={"embedding_obsm_key": "X_table"})
    assert_array_equal(table.get_latent_representation(), model.get_latent_representation())


def test_invalid_embeddings_are_refused(cells):
    with pytest.raises(KeyError, match="'cell_type' is a column of obs"):
        SCE2TM.setup_anndata(cells, embedding_obsm_key="cell_type")
    with pytest.raises(KeyError, match="it has 'X_other'"):
        SCE2TM.setup_anndata(cells, embedding_obsm_key="X_scGPT")
    cells.obsm["X_nan"] = np.where(np.eye(420, 6) > 0, np.nan, 1.0)
    cells.obsm["labels"] = pd.DataFrame({"type": cells.obs["cell_type"].astype(str)})
    for key in ("X_nan", "labels"):
        with pytest.raises(ValueError, match="must be a table of finite numbers"):
            SCE2TM.setup_anndata(cells, embedding_obsm_key=key)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_size_factors_are_positive_numbers(cells, bad):
    cells.obs["total"] = 100.0
    cells.obs.loc[cells.obs_names[3], "total"] = bad
    with pytest.raises(ValueError, match="a column of finite numbers > 0"):
        SCE2TM.setup_anndata(cells, size_factor_key="total")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"n_topics": 1}, "n_topics must be an integer >= 2"),
        ({"n_topics": 421}, "n_topics must be at most 420"),
        ({"n_hidden": 0}, "n_hidden must be an integer >= 1"),
        ({"ecr_weight": -1.0}, "ecr_weight must be a finite number >= 0"),
    ],
)
def test_options_out_of_range_are_refused(cells, option, message):
    SCE2TM.setup_anndata(cells)
    with pytest.raises(ValueError, match=message):
        SCE2TM(cells, **option)


def test_invalid_training_settings_are_refused(cells, monkeypatch):
    SCE2TM.setup_anndata(cells)
    model = SCE2TM(cells, **SMALL)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(ValueError, match="accelerator must be available on this machine, got 'mps"):
        model.train(1, **QUIET | {"accelerator": "mps"})
    with pytest.raises(ValueError, match="batch_size must be an integer >= 2"):
        model.train(1, batch_size=1, **QUIET)
    with pytest.raises(RuntimeError, match="untrained"):
        model.get_latent_representation()
    with pytest.raises(ValueError, match="without an embedding"):
        model.get_knowledge_assignments()
    with pytest.raises(TypeError, match="must be of type AnnData"):
        SCE2TM.setup_anndata(cells.X)
    cells.X = cells.X * -1.0
    with pytest.raises(hdi.data.InputError):
        SCE2TM.setup_anndata(cells)


def test_a_cell_without_counts_has_finite_topics(cells):
    counts = cells.X.toarray()
    counts[7] = 0
    cells.X = counts
    model = fit(cells, setup={"embedding_obsm_key": "X_other"})
    assert np.isfinite(model.get_latent_representation()).all()


def test_many_genes_are_remarked_on(caplog):
    counts = np.random.default_rng(0).poisson(1.0, size=(30, 10_001)).astype("f4")
    adata = ad.AnnData(counts, var=pd.DataFrame(index=[f"G{i}" for i in range(10_001)]))
    SCE2TM.setup_anndata(adata)
    SCE2TM(adata, **SMALL)
    assert "10,001 genes" in caplog.text


def test_a_rest_of_few_cells_trains(cells):
    few = cells[:129].copy()
    model = fit(few, setup={"embedding_obsm_key": "X_other"})
    assert all(torch.isfinite(p).all() for p in model.module.parameters())
