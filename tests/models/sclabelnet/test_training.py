"""Training of SCLabelNet with labels: sampler, prior correction, fine-tuning, saving."""

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from hdeepinsight import SCLabelNet, Taxonomy
from hdeepinsight.data import GeneCoverageWarning
from hdeepinsight.models import load_model
from hdeepinsight.nn import ProfileEnsemble, log_prior_ratio, sampling_weights
from hdeepinsight.taxonomy import TreeAlgebra

LEVELS = ["lineage", "cell_type"]
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def weights_of(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def test_it_distinguishes_the_types(tokens_model, query, truth):
    labels = tokens_model.predict(query, level="cell_type", threshold=None, reject="off")
    assert (labels == truth).mean() > 0.75  # one in seven by chance


def test_genes_in_another_order_change_nothing(tokens_model, query):
    before = tokens_model.predict_proba(query).to_numpy()
    after = tokens_model.predict_proba(query[:, ::-1].copy()).to_numpy()
    np.testing.assert_allclose(before, after, atol=1e-5)


@pytest.mark.usefixtures("network_alone")
def test_a_gene_without_counts_may_be_missing(tokens_model, query):
    gene = int(np.argmin(np.asarray(query.X.sum(axis=0)).ravel()))
    name = query.var_names[gene]
    shares = tokens_model.module.normalizer.mean_share
    kept = shares.clone()
    shares[list(tokens_model.genes).index(name)] = 0.0  # the coverage is then the same
    zeroed = query.copy()
    zeroed.X = zeroed.X.toarray()
    zeroed.X[:, gene] = 0
    there = tokens_model.predict_proba(zeroed).to_numpy()
    without = tokens_model.predict_proba(query[:, query.var_names != name].copy()).to_numpy()
    shares.copy_(kept)
    np.testing.assert_allclose(there, without, atol=1e-5)


@pytest.mark.usefixtures("network_alone")
def test_a_query_without_genes_is_a_cell_with_these_masked(tokens_model, query):
    module, genes = tokens_model.module.eval(), list(query.var_names[::3])
    kept = torch.tensor([gene in genes for gene in tokens_model.genes]).float()
    counts = torch.from_numpy(query[:, list(tokens_model.genes)].X.toarray())
    masked = module.predict(counts, kept)["probabilities"].numpy()[:, 1:]
    with pytest.warns(GeneCoverageWarning):
        found = tokens_model.predict_proba(query[:, genes].copy()).to_numpy()
    np.testing.assert_allclose(found, masked, atol=1e-5)


def test_an_empty_cell_is_finite_and_stops_at_the_root(tokens_model, query):
    query.X = np.where(np.arange(query.n_obs)[:, None] == 0, 0, query.X.toarray())
    result = tokens_model.annotate(query)
    assert np.isfinite(result.node_probabilities).all()
    assert result.stop_nodes[0] == 0


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_labels_are_sampled_according_to_the_balance(synthetic_hierarchy, balance):
    rare = synthetic_hierarchy.obs["cell_type"] == "DC"
    keep = ~rare | (np.cumsum(rare) <= 12)
    adata = synthetic_hierarchy[keep.to_numpy()].copy()
    SCLabelNet.setup_anndata(adata, labels_keys=LEVELS)
    model = SCLabelNet(adata)
    split, _ = model._split(validation_size=0.2)
    loading = {"external_indexing": split, "batch_size": 50, "distributed_sampler": False}
    splitter = model._splitter({"balance": balance}, **loading)
    splitter.setup()
    torch.manual_seed(0)
    loader = splitter.train_dataloader()
    nodes = [b["labels"].ravel() for _ in range(20) for b in loader]
    drawn = torch.bincount(torch.cat(nodes).long(), minlength=model.taxonomy.n_nodes).numpy()
    given = model.adata_manager.adata.obs["_scvi_labels"].to_numpy()
    sizes = np.bincount(given[split[0]], minlength=model.taxonomy.n_nodes)
    leaves = sizes > 0
    expected = sizes[leaves] ** (1 - balance)
    expected = expected / expected.sum() * drawn.sum()
    assert stats.chisquare(drawn[leaves], expected).pvalue > 1e-3
    held_out = [b["labels"].ravel() for b in splitter.val_dataloader()]
    np.testing.assert_array_equal(torch.cat(held_out).numpy(), given[split[1]])


def test_only_training_cells_are_drawn(tokens_model):
    model = tokens_model
    n_cells = model.adata.n_obs
    split = [np.arange(0, n_cells, 2), np.arange(1, n_cells, 2), np.array([], dtype=int)]
    splitter = model._splitter(
        {"balance": 0.5}, external_indexing=split, batch_size=16, distributed_sampler=False
    )
    splitter.setup()
    rows = model.adata_manager.adata.X[split[0]].toarray()
    known = {row.tobytes() for row in rows}
    drawn = torch.cat([batch["X"] for batch in splitter.train_dataloader()]).numpy()
    assert {row.tobytes() for row in drawn} <= known


def test_the_correction_recovers_natural_probabilities():
    """The corrected optimal classifier of balanced cells is optimal for natural frequencies."""
    tree = TreeAlgebra(Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": ["naive", "memory"]}))
    names = {tree.taxonomy.label(i): i for i in range(7)}
    shares = {"CD4": 80, "CD8": 5, "naive": 10, "memory": 5}
    nodes = np.repeat([names[name] for name in shares], list(shares.values()))
    natural = torch.zeros(6)
    assert torch.equal(log_prior_ratio(tree, nodes, sampling_weights(nodes, 0.0)), natural)
    ratio = log_prior_ratio(tree, nodes, sampling_weights(nodes, 1.0))
    likelihood = torch.tensor([[0.2, 0.7], [0.5, 0.3]]).double()
    for pair in (["CD4", "CD8"], ["naive", "memory"], ["T", "B"]):  # each group of siblings
        edges = [names[name] - 1 for name in pair]
        natural = {"T": 85, "B": 15} | shares
        share = torch.tensor([float(natural[name]) for name in pair]).double()
        logits = torch.zeros(2, 6).double()
        logits[:, edges] = likelihood.log()  # balanced: both siblings equally often
        if pair == ["T", "B"]:
            drawn = torch.tensor([0.5, 0.5]).double()  # two labels on either side
            logits[:, edges] += drawn.log()
        found = tree.conditional_log_probs(logits + ratio)[:, edges].exp()
        expected = likelihood * share / (likelihood * share).sum(1, keepdim=True)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    probs = tree(torch.randn(3, 6) + ratio).exp()
    below = [names["CD4"], names["CD8"]]
    torch.testing.assert_close(probs[:, below].sum(1), probs[:, names["T"]])


def test_the_same_seed_gives_the_same_model_and_the_reference_stays(reference, fit_tokens, query):
    before = reference.copy()
    first, second = (fit_tokens(reference, train={"max_epochs": 2}, seed=3) for _ in range(2))
    left, right = (model.predict_proba(query).to_numpy() for model in (first, second))
    np.testing.assert_array_equal(left, right)
    assert reference.obs.equals(before.obs)
    assert reference.uns.keys() == before.uns.keys()
    assert (reference.X != before.X).nnz == 0


def test_the_network_is_combined_with_profiles(tokens_model, query):
    model, module = tokens_model, tokens_model.module.eval()
    counts = torch.from_numpy(query[:, list(model.genes)].X.toarray())
    every = torch.ones(len(model.genes))
    network = module.predict(counts, every)["probabilities"][:, module.tree.leaf_index]
    ensemble = ProfileEnsemble(model.profiles_, every, module.normalizer)
    found = model.predict_proba(query).to_numpy()[:, module.tree.leaf_index - 1]
    np.testing.assert_allclose(found, ensemble.reading(counts)(network).numpy(), atol=1e-5)


def test_a_model_of_an_earlier_version_is_its_transformer_alone(tokens_model, query, tmp_path):
    older = copy.copy(tokens_model)
    older.module = copy.deepcopy(tokens_model.module).eval()
    older.module.linear.weight.data[:] = 0.0
    counts = torch.from_numpy(query[:, list(older.genes)].X.toarray())
    expected = older.module.predict(counts, torch.ones(len(older.genes)))["probabilities"]
    del older.module.linear.weight  # its file has neither these weights nor a covariance
    older.profiles_ = replace(older.profiles_, variance=None, directions=None)
    older.save(tmp_path / "older")
    found = load_model(tmp_path / "older").predict_proba(query).to_numpy()
    np.testing.assert_allclose(found, expected.numpy()[:, 1:], atol=1e-5)


OPTIONS = [
    {"pooling": "cls", "binning": "log2_published"},
    {"pooling": "mean", "binning": "rank", "n_bins": 3},
    {"value_encoding": "soft", "n_bins": 7},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_other_encodings_train_and_are_saved(
    reference, query, truth, fit_tokens, tmp_path, options
):
    model = fit_tokens(reference, **options)
    n_bins = options.get("n_bins", 5)
    assert model.module.value_head.out_features == n_bins
    labels = model.predict(query, level="cell_type", threshold=None, reject="off")
    assert (labels == truth).mean() > 0.6  # one in seven by chance
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert options.items() <= loaded.init_params_["non_kwargs"].items()
    left, right = (each.predict_proba(query).to_numpy() for each in (model, loaded))
    np.testing.assert_allclose(left, right, atol=1e-6)
    found = model.explain(query[:12].copy(), "T", n_samples=64)
    size = np.abs(found.outputs - found.base_values).max()
    assert np.median(np.abs(found.additivity_error)) < 0.01 * size
    model.pretrain(max_epochs=1, split_key="batch", **QUIET)
    assert np.log(n_bins) / 2 < model.pretraining["baseline_all_genes"] < np.log(n_bins)


@pytest.mark.parametrize("finetune", ["head", "published"])
def test_only_the_selected_part_is_finetuned(reference, finetune):
    SCLabelNet.setup_anndata(reference, labels_keys=LEVELS)
    model = SCLabelNet(reference)
    before = weights_of(model.module)
    model.train(max_epochs=1, finetune=finetune, validation_size=0.2, **QUIET)
    after = weights_of(model.module)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    head = "head.", "linear."
    free = {"head": head, "published": (*head, "backbone.norm.", "backbone.blocks.0.")}
    others = ("temperature", "log_prior")
    assert all(name.startswith((*free[finetune], *others)) for name in changed)
    assert all(any(name.startswith(part) for name in changed) for part in free[finetune])
    assert all(parameter.requires_grad for parameter in model.module.parameters())


def test_the_published_protocol_scores_higher_by_its_leak_and_says_so(reference, fit_tokens):
    rng = np.random.default_rng(0)
    reference.obs["guess"] = rng.choice(["common", "rare"], reference.n_obs, p=[0.85, 0.15])
    setup, options = {"labels_key": "guess"}, {"masking": {"p_whole": 1.0, "max_rate": 0.0}}
    model = fit_tokens(reference, setup=setup, train={"max_epochs": 1}, dropout=0.0, **options)
    how = {"max_epochs": 15, "plan_kwargs": {"lr": 1e-2}, **QUIET}
    leaky, honest = model.evaluate(protocol="published_leaky", **how), model.evaluate()
    # Labels that no gene predicts are learned by heart, and found again in the copies.
    assert leaky.levels["macro_f1"].iloc[0] > honest.levels["macro_f1"].iloc[0] + 0.2
    said = re.match(r"Leaky protocol: (\d+) test cells of (\d+) have a copy", str(leaky))
    assert 0.4 * leaky.n_cells < int(said[1]) <= leaky.n_cells / 2 == int(said[2]) / 2
    assert honest.note == ""
    assert "guess" in reference.obs
    assert reference.obs_names.is_unique


def test_invalid_options_are_refused(reference, fit_tokens):
    with pytest.raises(ValueError, match="balance must be a number"):
        fit_tokens(reference, train={"balance": 2.0})
    with pytest.raises(ValueError, match="finetune must be one of"):
        fit_tokens(reference, train={"finetune": "tail"})
    with pytest.raises(ValueError, match="which datamodules do not support"):
        SCLabelNet(registry=fit_tokens(reference, train={"max_epochs": 1}).registry)
    options = {"size": "huge", "pooling": "max", "binning": "log10", "value_encoding": "firm"}
    for name, value in options.items():
        with pytest.raises(ValueError, match=f"{name} must be one of"):
            SCLabelNet(reference, **{name: value})
    with pytest.raises(ValueError, match="protocol must be one of 'held_out'"):
        SCLabelNet(reference).evaluate(protocol="by_cell")
    with pytest.raises(ValueError, match="n_bins must be an integer >= 2"):
        SCLabelNet(reference, n_bins=1)


def test_it_is_adapted_explained_and_refined_like_any_model(tokens_model, query):
    adapted = SCLabelNet.load_query_data(query, tokens_model)
    adapted.train(max_steps=5)
    assert len(adapted.annotate()) == query.n_obs
    assert adapted.adaptation.n_cells == query.n_obs
