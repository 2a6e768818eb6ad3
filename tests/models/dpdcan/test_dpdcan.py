"""Training, reports, saving and errors."""

import subprocess
import sys
import warnings

import anndata as ad
import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, roc_auc_score

import hdeepinsight as hdi
from hdeepinsight._archive import parse
from hdeepinsight.models import load_model
from hdeepinsight.nn import spent_epsilon

pytest.importorskip("opacus")
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
SHORT = {"max_steps": 6, "expected_batch_size": 60, **QUIET}


def made(adata: ad.AnnData, **options) -> hdi.DPDCAN:
    hdi.DPDCAN.setup_anndata(adata)
    return hdi.DPDCAN(adata, **({"n_latent": 8, "seed": 0} | options))


def trained(adata: ad.AnnData, heads: str = "projected", **given) -> hdi.DPDCAN:
    model = made(adata, heads=heads)
    model.train(**(SHORT | given))
    return model


def latent(model: hdi.DPDCAN, adata: ad.AnnData | None = None) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return model.get_latent_representation(adata)


def arrays(values: object, found: list[int]) -> list[int]:
    """Lengths of all arrays and lists in a payload."""
    if isinstance(values, dict):
        for part in values.values():
            arrays(part, found)
    elif isinstance(values, list | tuple):
        found.append(len(values))
        for part in values:
            arrays(part, found)
    elif hasattr(values, "shape"):
        found += list(values.shape)
    return found


def test_private_training_meets_and_reports_its_budget(synthetic_hierarchy):
    model = trained(synthetic_hierarchy, target_epsilon=2.0)
    report = model.privacy_report
    assert report.epsilon == pytest.approx(2.0, abs=0.01)
    assert report.epsilon <= 2.0
    assert (report.steps, report.sample_rate) == (6, 60 / 420)
    assert "2" in report.guarantee
    assert any("list of genes" in text for text in report.conditions)
    spent = model.history["epsilon"].to_numpy().ravel()
    assert spent[-1] == pytest.approx(report.epsilon, abs=1e-4)
    assert (np.diff(spent) >= 0).all()
    assert "train_loss" not in model.history


@pytest.mark.parametrize(("heads", "projection"), [("compact", None), ("projected", 3.0)])
def test_noise_may_be_given_in_place_of_a_budget(heads, projection, synthetic_hierarchy, tmp_path):
    model = trained(synthetic_hierarchy, heads, noise_multiplier=3.0)
    report = model.privacy_report
    assert (report.noise_multiplier, report.projection_noise) == (3.0, projection)
    releases = [(3.0, 60 / 420, 6)] + ([(3.0, 1.0, 1)] if projection else [])
    assert report.epsilon == pytest.approx(spent_epsilon(releases, 1e-5))
    n_noisy = sum(value.numel() for value in model.module.network.parameters())
    assert report.ratio == pytest.approx(3.0 * n_noisy**0.5 / 60)
    model.save(tmp_path / "model")
    assert load_model(tmp_path / "model").privacy_report == report


def test_every_private_tensor_moves_and_the_random_decoder_does_not(synthetic_hierarchy):
    for mode in ("whole", "partial_safe", "paper"):
        model = made(synthetic_hierarchy, heads="compact")
        before = {k: v.clone() for k, v in model.module.network.named_parameters()}
        model.train(privacy=mode, noise_multiplier=3.0, **SHORT)
        after = dict(model.module.network.named_parameters())
        same = {name for name in before if torch.equal(before[name], after[name])}
        outside = {name for name in before if not name.startswith("encoder.")}
        assert same == (outside if mode == "partial_safe" else set())
        assert (model.privacy_report.epsilon is not None) == (mode == "whole")


@pytest.mark.parametrize(
    ("heads", "max_steps", "least"), [("projected", 60, 0.7), ("full", 400, 0.1)]
)
def test_without_privacy_it_parts_the_lineages(heads, max_steps, least, synthetic_hierarchy):
    model = trained(synthetic_hierarchy, heads, privacy=None, max_steps=max_steps)
    assert model.privacy_report is None
    found = model.predict(n_clusters=3)
    assert adjusted_rand_score(synthetic_hierarchy.obs["lineage"], found) > least
    loss = model.history["train_loss"].to_numpy().ravel()
    assert loss[-1] < loss[0]
    assert found.index.equals(synthetic_hierarchy.obs_names)


def test_counts_of_few_cells_at_a_small_budget_still_part_the_lineages(synthetic_hierarchy):
    model = trained(synthetic_hierarchy, target_epsilon=8.0)
    with pytest.warns(UserWarning, match="not covered by epsilon"):
        found = model.predict(n_clusters=3)
    assert adjusted_rand_score(synthetic_hierarchy.obs["lineage"], found) > 0.4


def test_runs_differ_unless_the_noise_has_a_seed(synthetic_hierarchy):
    one, two = (trained(synthetic_hierarchy) for _ in range(2))
    assert not np.allclose(latent(one), latent(two))
    one, two = (trained(synthetic_hierarchy, noise_seed=7) for _ in range(2))
    np.testing.assert_array_equal(latent(one), latent(two))
    report = one.privacy_report
    assert report.epsilon is report.guarantee is None
    assert "not private" in report.conditions[0]


@pytest.mark.parametrize("mode", ["whole", "partial_safe", "paper", None])
def test_it_is_saved_and_loaded_with_its_report(mode, synthetic_hierarchy, tmp_path):
    model = trained(synthetic_hierarchy, privacy=mode)
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert type(loaded) is hdi.DPDCAN
    assert loaded.privacy_report == model.privacy_report
    assert (loaded.privacy_report is not None and loaded.privacy_report.epsilon is not None) == (
        mode == "whole"
    )
    query = synthetic_hierarchy[:20, ::-1].copy()
    np.testing.assert_allclose(latent(loaded, query), latent(model)[:20], rtol=1e-4, atol=1e-5)


def test_it_embeds_the_same_in_another_process(synthetic_hierarchy, tmp_path):
    model = trained(synthetic_hierarchy)
    model.save(tmp_path / "model")
    query = synthetic_hierarchy[:5].copy()
    query.write_h5ad(tmp_path / "query.h5ad")
    code = (
        "import anndata, hdeepinsight as hdi, numpy as np, sys; from pathlib import Path;"
        "at = Path(sys.argv[1]); query = anndata.read_h5ad(at / 'query.h5ad');"
        "model = hdi.models.load_model(at / 'model');"
        "np.save(at / 'z.npy', model.get_latent_representation(query))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "z.npy"), latent(model)[:5], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["whole", "partial_safe"])
def test_the_file_holds_nothing_of_single_cells(mode, synthetic_hierarchy, tmp_path):
    cells = synthetic_hierarchy[:413].copy()  # no other length is 413
    model = trained(cells, privacy=mode)
    with pytest.raises(ValueError, match="save_anndata must be False"):
        model.save(tmp_path / "model", save_anndata=True)
    model.save(tmp_path / "model")
    payload = parse((tmp_path / "model" / "model.pt").read_bytes(), "model.pt")
    assert 413 not in arrays(payload, [])
    attributes = payload["attr_dict"]
    held_back = [name for name in attributes if name.endswith("indices_")] + ["history_"]
    assert all(attributes[name] is None for name in [*held_back, "held_out_", "left_out_"])
    assert not any("opacus" in name or "_module." in name for name in payload["model_state_dict"])
    names = set(cells.obs_names)
    assert not names & set(str(payload).split("'"))


def test_labels_and_other_columns_change_nothing(synthetic_hierarchy):
    other = synthetic_hierarchy.copy()
    order = np.random.default_rng(0).permutation(other.n_obs)
    other.obs = other.obs.iloc[order].set_index(other.obs_names)
    one, two = (trained(cells, noise_seed=1) for cells in (synthetic_hierarchy, other))
    np.testing.assert_array_equal(latent(one), latent(two))


def test_the_object_of_the_user_is_left_alone(synthetic_hierarchy):
    before = synthetic_hierarchy.copy()
    trained(synthetic_hierarchy)
    assert (before.X != synthetic_hierarchy.X).nnz == 0
    assert before.obs.equals(synthetic_hierarchy.obs)
    assert not synthetic_hierarchy.obsm
    assert not synthetic_hierarchy.uns


def test_depth_may_come_from_a_column(synthetic_hierarchy):
    depth = np.asarray(synthetic_hierarchy.X.sum(axis=1)).ravel()
    synthetic_hierarchy.obs["depth"] = depth
    few = synthetic_hierarchy[:, :60].copy()
    few.obs["once"] = np.asarray(few.X.sum(axis=1)).ravel()
    found = {}
    for key in (None, "once", "depth"):
        hdi.DPDCAN.setup_anndata(few, size_factor_key=key)
        model = hdi.DPDCAN(few, n_latent=8, seed=0)
        model.train(noise_seed=0, **SHORT)
        found[key] = latent(model, few[:30].copy())
        np.testing.assert_allclose(found[key], latent(model)[:30], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[None], found["once"], rtol=1e-4, atol=1e-5)
    assert not np.allclose(found[None], found["depth"], atol=1e-2)
    with pytest.raises(KeyError, match="has no column"):
        hdi.DPDCAN.setup_anndata(few, size_factor_key="none")
    few.obs["once"] = 0.0
    with pytest.raises(ValueError, match="a column of finite numbers > 0"):
        hdi.DPDCAN.setup_anndata(few, size_factor_key="once")


def test_outputs_on_the_training_cells_come_with_a_warning(synthetic_hierarchy):
    model = trained(synthetic_hierarchy)
    renamed = synthetic_hierarchy[5::-1].copy()
    renamed.obs_names = list("abcdef")
    for cells in (None, model.adata, model.adata.copy(), renamed):
        with pytest.warns(UserWarning, match="not covered by epsilon"):
            model.get_latent_representation(cells)
        with pytest.warns(UserWarning, match="not covered by epsilon"):
            clusters = model.predict(cells, n_clusters=2)
    assert clusters.index.tolist() == list("abcdef")
    others = synthetic_hierarchy[:3].copy()
    others.X = 2 * others.X
    assert model.get_latent_representation(others).shape == (3, 8)


def test_conditions_state_what_is_not_covered(synthetic_hierarchy):
    said = trained(synthetic_hierarchy).privacy_report.conditions
    assert any("Embeddings of training cells" in text for text in said)
    assert any("settings chosen on them" in text for text in said)
    public = trained(synthetic_hierarchy, genes_are_public=True, donor_key="batch")
    texts = public.privacy_report.conditions
    assert not any("list of genes" in text for text in texts)
    assert any("210 cells" in text for text in texts)
    paper = trained(synthetic_hierarchy, privacy="paper").privacy_report
    assert "No guarantee" in paper.conditions[0]


def test_leiden_is_used_without_a_number_of_clusters(synthetic_hierarchy):
    pytest.importorskip("igraph")
    model = trained(synthetic_hierarchy, privacy=None, max_steps=30)
    found = model.predict()
    assert 2 <= found.nunique() <= 20
    with pytest.raises(ValueError, match="n_clusters must be at most the number of cells, 420"):
        model.predict(n_clusters=421)


def test_noise_above_the_signal_is_logged(synthetic_hierarchy, caplog):
    trained(synthetic_hierarchy, "full", target_epsilon=0.5, max_steps=1)
    assert "hardly improves" in caplog.text


def test_settings_out_of_range_are_refused(synthetic_hierarchy):
    for given, text in [
        ({"target_epsilon": 0.0}, "target_epsilon must be a number from 0.01 to 100, got 0.0"),
        ({"target_epsilon": -1.0}, "target_epsilon must be"),
        ({"delta": 0.01}, "delta must be above 0 and below 1 / 420"),
        ({"target_epsilon": 1.0, "noise_multiplier": 2.0}, "got both"),
        ({"privacy": "most"}, "privacy must be one of"),
        ({"expected_batch_size": 421}, "at most the number of cells, 420"),
        ({"max_steps": 0}, "max_steps must be an integer >= 1"),
        ({"checkpoint": "folder"}, "checkpoint must be None with privacy"),
        ({"max_grad_norm": 0.0}, "max_grad_norm must be"),
        ({"noise_multiplier": 0.0}, "noise_multiplier must be"),
    ]:
        with pytest.raises(ValueError, match=text):
            trained(synthetic_hierarchy, **given)


def test_a_second_training_is_refused(synthetic_hierarchy):
    model = trained(synthetic_hierarchy)
    with pytest.raises(ValueError, match="more training would exceed"):
        model.train(**SHORT)


def test_cells_without_counts_are_refused_and_genes_without_are_not(synthetic_hierarchy):
    counts = synthetic_hierarchy.X.tolil()
    counts[:, 5] = 0
    synthetic_hierarchy.X = counts.tocsr()
    trained(synthetic_hierarchy)
    counts[3] = 0
    synthetic_hierarchy.X = counts.tocsr()
    with pytest.raises(ValueError, match="1 of 420 cells have no counts"):
        trained(synthetic_hierarchy)


def test_without_opacus_the_error_states_how_to_install_it(synthetic_hierarchy, monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus.accountants.analysis.rdp", None)
    monkeypatch.setitem(sys.modules, "opacus", None)
    model = made(synthetic_hierarchy)
    with pytest.raises(ImportError, match=r'pip install "hdeepinsight\[privacy\]"'):
        model.train(**SHORT)
    assert not model.is_trained
    model.train(privacy=None, **SHORT)


def test_an_interrupted_training_leaves_the_model_unchanged(synthetic_hierarchy, monkeypatch):
    model = made(synthetic_hierarchy)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}

    def fail(self, *args):
        raise RuntimeError("no more")

    monkeypatch.setattr("hdeepinsight.models.dpdcan._module.DPDCANPlan.on_train_epoch_end", fail)
    with pytest.raises(RuntimeError, match="no more"):
        model.train(**SHORT)
    after = model.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert model.privacy_report is None


@pytest.mark.slow
def test_a_loss_threshold_tells_members_of_an_overfitted_model_and_not_of_a_private_one(
    synthetic_hierarchy,
):
    rng = np.random.default_rng(0)
    cells = synthetic_hierarchy[rng.permutation(420)]
    members, others = cells[:40].copy(), cells[40:80].copy()
    aucs = {}
    for privacy, given in {
        None: {"max_steps": 3000, "expected_batch_size": 40, "plan_kwargs": {"lr": 3e-3}},
        "whole": {"target_epsilon": 1.0, "delta": 1e-4, "max_steps": 300},
    }.items():
        model = made(members, heads="full", hidden=(256, 64))
        model.train(privacy=privacy, **(QUIET | given))
        model.module.mask_probability = 0.0
        losses = []
        for part in (members, others):
            counts = torch.tensor(part.X.toarray())
            with torch.no_grad():
                found = model.module.network(*model.module.prepare({"X": counts}))[:, 0]
            losses.append(found.numpy())
        truth = np.repeat([1, 0], [40, 40])
        aucs[privacy] = roc_auc_score(truth, -np.concatenate(losses))
    assert aucs["whole"] < 0.56
    assert aucs[None] > 0.7


def test_arguments_that_the_training_sets_itself_are_refused(synthetic_hierarchy):
    for given in ({"max_epochs": 3}, {"train_size": 0.5}, {"datasplitter_kwargs": {}}):
        with pytest.raises(TypeError, match=rf"got {next(iter(given))}, .* Pass max_steps"):
            trained(synthetic_hierarchy, privacy=None, **given)
    for given in ({"target_epsilon": 4.0}, {"noise_multiplier": 2.0}, {"donor_key": "batch"}):
        with pytest.raises(ValueError, match=rf"{next(iter(given))}.* has no effect without priv"):
            trained(synthetic_hierarchy, privacy=None, **given)
