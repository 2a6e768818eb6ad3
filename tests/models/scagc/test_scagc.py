"""SCAGC: clustering, saving and loading, reproducibility, and errors."""

import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from lightning.pytorch.callbacks import LambdaCallback
from numpy.testing import assert_allclose, assert_array_equal
from scvi.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial

import hdeepinsight as hdi
from hdeepinsight.models import load_model

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
EPOCHS = {"pretrain_epochs": 30, "cluster_epochs": 16}


@pytest.fixture(scope="module")
def cells():
    """Four types of 60 cells in two batches; a gene and a cell have no counts."""
    rng = np.random.default_rng(0)
    profiles = rng.gamma(0.5, 2.0, size=(4, 80))
    labels = np.repeat(np.arange(4), 60)
    depth = rng.uniform(0.5, 2.0, size=(240, 1))
    counts = rng.poisson(profiles[labels] * depth).astype(np.float32)
    counts[:, 0] = counts[7] = 0
    adata = ad.AnnData(sp.csr_matrix(counts))
    adata.var_names = [f"GENE{i}" for i in range(80)]
    adata.obs["label"] = labels.astype(str)
    adata.obs["donor"] = rng.choice(["a", "b"], size=240)
    adata.obsm["places"] = rng.uniform(size=(240, 2))
    return adata


def fit(adata, *, setup=None, train=None, **options):
    hdi.SCAGC.setup_anndata(adata, **(setup or {}))
    model = hdi.SCAGC(adata, **({"n_clusters": 4, "seed": 0} | options))
    model.train(**(EPOCHS | QUIET | (train or {})))
    return model


@pytest.fixture(scope="module")
def model(cells):
    return fit(cells)


def agreement(model, cells):
    from sklearn.metrics import adjusted_rand_score

    return adjusted_rand_score(cells.obs["label"], model.predict())


def test_it_finds_the_types(model, cells):
    assert agreement(model, cells) > 0.9
    probabilities = model.predict_proba()
    assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert model.predict().index.equals(cells.obs_names)
    graph = model.get_learned_graph()
    labels = cells.obs["label"].to_numpy()
    starts, ends = graph.nonzero()
    assert (labels[starts] == labels[ends]).mean() > 0.95
    assert (graph != graph.T).nnz == 0
    assert not graph.diagonal().any()
    assert set(graph.data) == {1.0}


def test_the_losses_fall_and_the_graph_is_evener(model):
    losses = model.history["train_loss"].to_numpy(dtype=float).ravel()
    assert losses[25] < losses[0]
    assert {"count_loss", "edge_loss", "contrast_loss", "cluster_loss"} <= set(model.history)
    report = model.degree_report()
    assert report.loc["learned", "min"] >= 15
    assert (report["50%"] >= 15).all()


def test_leiden_determines_the_number_by_default(cells):
    found = fit(cells, n_clusters=None, train={"cluster_epochs": 0})
    assert found.predict_proba().shape[1] == found.module.centres.shape[0] > 1


def test_variants_train(cells):
    for options in [
        {"graph_sampler": "static"},
        {"graph_sampler": "published"},
        {"similarity": "neg_sqdist"},
        {"similarity": "rbf"},
        {"spatial_key": "places"},
        {"use_rep": "places"},
        {"candidates": 1000},
    ]:
        short = {"pretrain_epochs": 3, "cluster_epochs": 2}
        found = fit(cells, setup={"batch_key": "donor"}, train=short, **options)
        assert np.isfinite(found.get_latent_representation()).all()
        assert found.predict().notna().all()


def test_blocks_train_too(cells, monkeypatch):
    from hdeepinsight.models.scagc import _model

    monkeypatch.setattr(_model, "BLOCK_CELLS", 40)
    found = fit(cells, train={"propagation": "blocks"})
    assert found.recipe["propagation"] == "blocks"
    assert agreement(found, cells) > 0.8


def test_it_is_saved_and_loaded(model, cells, tmp_path):
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model", adata=cells)
    assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    assert (loaded.get_learned_graph() != model.get_learned_graph()).nnz == 0
    assert loaded.predict().equals(model.predict())
    bare = hdi.SCAGC.load(tmp_path / "model", adata=False)
    assert_array_equal(
        bare.get_latent_representation(cells.copy()), model.get_latent_representation()
    )


@pytest.mark.slow
def test_another_process_gives_the_same_result(model, cells, tmp_path):
    model.save(tmp_path / "model", save_anndata=True)
    code = (
        "import sys, numpy as np, hdeepinsight as hdi;"
        "m = hdi.SCAGC.load(sys.argv[1]); np.save(sys.argv[2], m.get_latent_representation())"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "model", tmp_path / "z.npy"], check=True)
    assert_allclose(np.load(tmp_path / "z.npy"), model.get_latent_representation(), atol=1e-5)


@pytest.fixture
def one_thread():
    """One thread: sums of several threads differ in rounding from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def losses(found):
    return found.history["train_loss"].to_numpy(dtype=float).ravel()


def test_shuffled_labels_give_the_same_bits_and_nothing_is_written(model, cells, one_thread):
    short = {"pretrain_epochs": 12, "cluster_epochs": 3}
    first, other = fit(cells, train=short), cells.copy()
    order = np.random.default_rng(1).permutation(other.n_obs)
    other.obs = other.obs.iloc[order].set_index(other.obs_names)
    before = other.copy()
    found = fit(other, train=short)
    assert_array_equal(losses(found), losses(first))
    assert_array_equal(found.get_latent_representation(), first.get_latent_representation())
    assert_allclose(losses(found)[:10], losses(model)[:10], rtol=1e-5)  # with many threads
    assert other.obs.equals(before.obs)
    assert_array_equal(other.X.data, before.X.data)
    assert_array_equal(other.X.indices, before.X.indices)
    assert list(other.obsm) == list(before.obsm)
    assert not other.uns
    assert not other.obsp


def test_depths_may_come_from_a_column(cells):
    adata, setup = cells[8:].copy(), {"size_factor_key": "total"}
    adata.obs["total"] = np.asarray(adata.X.sum(axis=1)).ravel()
    short = {"pretrain_epochs": 3, "cluster_epochs": 0}
    plain, same = fit(adata, train=short), fit(adata, setup=setup, train=short)
    assert_allclose(losses(same), losses(plain), rtol=1e-5)
    adata.obs["total"] *= np.linspace(1, 3, adata.n_obs)
    other = fit(adata, setup=setup, train=short)
    assert float(other.module.depth) == pytest.approx(adata.obs["total"].median())
    assert not np.allclose(losses(other), losses(plain), rtol=1e-2)


def test_dense_counts_give_the_same_result(cells, one_thread):
    dense = cells.copy()
    dense.X = dense.X.toarray()
    found, model = fit(dense), fit(cells)
    assert_array_equal(losses(found), losses(model))
    assert_array_equal(found.predict(), model.predict())


def test_new_cells_are_embedded_beside_the_reference(model, cells):
    query = cells[::8].copy()
    query.obs_names = [f"new {name}" for name in query.obs_names]
    labels = model.predict(query, reference=cells)
    known = model.predict().to_numpy()[::8]
    assert (labels.to_numpy() == known).mean() > 0.9


def test_expression_is_decoded(model, cells):
    found = model.get_normalized_expression()
    assert found.shape == cells.shape
    real = cells.X.toarray()[:, 1:]
    correlation = np.corrcoef(found.to_numpy()[:, 1:].mean(axis=0), real.mean(axis=0))[0, 1]
    assert correlation > 0.8
    assert model.get_normalized_expression(gene_list=["GENE5"]).columns.tolist() == ["GENE5"]
    with pytest.raises(ValueError, match="gene_list must be genes of the model"):
        model.get_normalized_expression(gene_list=["GENE5", "nowhere"])


def test_a_static_graph_is_the_first_one_and_a_random_one_has_its_degree(model, cells):
    adata, short = cells.copy(), {"pretrain_epochs": 3, "cluster_epochs": 2}
    adata.obsm["random"] = np.random.default_rng(0).normal(size=(240, 50))
    first = model.neighbor_choices()["initial"]
    static = fit(adata, train=short, graph_sampler="static")
    random = fit(adata, train=short, graph_sampler="static", use_rep="random")
    assert_array_equal(static.neighbor_choices()["learned"], first)
    chosen = random.neighbor_choices()["learned"]
    assert chosen.shape == first.shape
    labels = adata.obs["label"].to_numpy()
    purity = [(labels[x] == labels[:, None]).mean() for x in (first, chosen)]
    assert purity[0] > 0.9
    assert purity[1] == pytest.approx(0.25, abs=0.05)


def test_settings_of_the_graph_are_saved_and_change_it(cells, tmp_path):
    how = {"similarity": "neg_sqdist", "graph_temperature": 0.5, "candidates": 40}
    found = fit(cells, train={"pretrain_epochs": 3, "cluster_epochs": 0}, **how)
    found.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model", adata=cells)
    assert how.items() <= loaded.init_params_["non_kwargs"].items()
    chosen = found.neighbor_choices()["learned"]
    assert_array_equal(loaded.neighbor_choices()["learned"], chosen)
    latent = torch.as_tensor(found.get_latent_representation())
    widened = found.module.widened(found._cells(None).candidates, latent)
    assert widened.shape == (240, 40)
    squared = torch.cdist(latent, latent).square().gather(1, widened.clamp_min(0))
    expected = (-squared / 2 / 0.5).masked_fill(widened < 0, -torch.inf).softmax(1)
    shares = found.module.choose(latent, widened, 0.0)[1]
    torch.testing.assert_close(shares, expected, atol=1e-4, rtol=1e-3)


def test_the_likelihood_is_that_of_scvi(model, cells):
    z = torch.as_tensor(model.get_latent_representation())[:9]
    given = model.module.generative(z, torch.ones(9, 1), torch.zeros(9, dtype=torch.long))["px"]
    counts = torch.as_tensor(cells.X[:9].toarray())
    expected = ZeroInflatedNegativeBinomial(
        mu=given.mu, theta=given.theta, zi_logits=given.zi_logits
    ).log_prob(counts)
    found = model.module.loss({"counts": counts}, {"z": z}, {"px": given}).loss
    torch.testing.assert_close(found, -expected.mean())
    never = ZeroInflatedNegativeBinomial(
        mu=given.mu, theta=given.theta, zi_logits=torch.full_like(given.mu, -40.0)
    ).log_prob(counts)
    plain = NegativeBinomial(mu=given.mu, theta=given.theta).log_prob(counts)
    torch.testing.assert_close(never, plain, atol=1e-3, rtol=1e-4)


def test_bad_options_are_refused(cells):
    for options, error, match in [
        ({"n_clusters": 241}, ValueError, "at most the number of cells"),
        ({"n_clusters": 0}, ValueError, "n_clusters must be an integer"),
        ({"use_rep": "X_nowhere"}, KeyError, "obsm has no key 'X_nowhere'"),
        ({"n_neighbors": 0}, ValueError, "n_neighbors must be an integer >= 1"),
        ({"graph_sampler": "random"}, ValueError, "graph_sampler must be one of"),
        ({"similarity": "dot"}, ValueError, "similarity must be one of"),
        ({"candidates": 20}, ValueError, "candidates must be an integer >= 30"),
        ({"graph_temperature": 0}, ValueError, "graph_temperature"),
    ]:
        hdi.SCAGC.setup_anndata(cells)
        with pytest.raises(error, match=match):
            hdi.SCAGC(cells, **options)


def test_a_bad_embedding_is_refused(cells):
    adata = cells.copy()
    adata.obsm["nan"], adata.obsm["labels"] = np.full((240, 3), np.nan), np.arange(240)[:, None]
    hdi.SCAGC.setup_anndata(adata)
    for key in ("nan", "labels"):
        with pytest.raises(ValueError, match="finite numbers in two or more columns"):
            hdi.SCAGC(adata, use_rep=key)


@pytest.mark.slow
def test_edges_between_clusters_and_hubs_become_fewer_in_training(cells):
    labels = cells.obs["label"].to_numpy()
    for seed in range(5):
        rng, inside = np.random.default_rng(seed), []
        rates = rng.gamma(0.5, 2.0, size=80) * rng.lognormal(0, 0.35, size=(4, 80))
        counts = rng.poisson(rates[labels.astype(int)] * rng.uniform(0.5, 2.0, size=(240, 1)))
        adata = ad.AnnData(sp.csr_matrix(counts, dtype=np.float32), var=cells.var)
        for epochs in (1, 40):
            train = {"pretrain_epochs": epochs, "cluster_epochs": 0}
            found = fit(adata, seed=seed, train=train)
            chosen = found.neighbor_choices()["learned"]
            inside.append((labels[chosen] == labels[:, None]).mean())
        assert inside[1] > inside[0] + 0.1
        spread = found.degree_report()["in_degree_sd"]
        assert spread["learned"] < spread["initial"]


def test_values_that_are_not_counts_are_refused(cells):
    adata = cells.copy()
    adata.X = adata.X * 1.37 - 1.0 if not sp.issparse(adata.X) else adata.X.toarray() * 1.37 - 1.0
    with pytest.raises(hdi.data.InputError):
        hdi.SCAGC.setup_anndata(adata)


def test_fewer_cells_than_neighbours_are_all_neighbours(cells):
    few = cells[:9].copy()
    found = fit(few, n_clusters=2, train={"pretrain_epochs": 2, "cluster_epochs": 1})
    assert found.get_learned_graph().nnz == 9 * 8
    one = cells[:1].copy()
    hdi.SCAGC.setup_anndata(one)
    with pytest.raises(hdi.data.InputError, match="There is 1 cell"):
        hdi.SCAGC(one).train(**QUIET)


def test_an_untrained_model_raises(cells):
    hdi.SCAGC.setup_anndata(cells)
    with pytest.raises(RuntimeError, match="untrained"):
        hdi.SCAGC(cells).predict()


def test_devices_and_settings_are_checked(cells):
    hdi.SCAGC.setup_anndata(cells)
    model = hdi.SCAGC(cells)
    with pytest.raises(ValueError, match="a single device"):
        model.train(devices=2, **QUIET)
    with pytest.raises(ValueError, match="propagation"):
        model.train(propagation="half", **QUIET)
    for given, error, says in [
        ({"speed": 3}, TypeError, "speed"),
        ({"max_epochs": 3}, TypeError, "Pass pretrain_epochs and cluster_epochs"),
        ({"early_stopping": True}, ValueError, "early_stopping has no effect in this training"),
        ({"plan_kwargs": {"weight_decay": 1}}, TypeError, "weight_decay; it takes lr, cluster_lr"),
        ({"plan_kwargs": {"lr": -1}}, ValueError, "lr must be a finite number >= 0, got -1"),
    ]:
        with pytest.raises(error, match=says):
            model.train(**given, **QUIET)


def test_a_failed_training_on_other_cells_leaves_the_model_unchanged(model, cells, tmp_path):
    model.save(tmp_path / "model")
    other = cells[:90].copy()
    other.X = other.X * 3
    loaded = hdi.SCAGC.load(tmp_path / "model", adata=other)

    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loaded.train(callbacks=[LambdaCallback(on_train_epoch_end=stop)], **EPOCHS, **QUIET)
    found = loaded.get_latent_representation(cells)
    assert_allclose(found, model.get_latent_representation(), rtol=1e-4, atol=1e-5)
