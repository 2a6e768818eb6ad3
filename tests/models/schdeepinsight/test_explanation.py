"""Attributions of a trained model."""

import copy

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from scipy.stats import spearmanr

from hdeepinsight import SCHDeepInsight
from hdeepinsight.data import InputError, own_columns

#: Genes that `make_hierarchy` raises, by node.
MARKERS = {
    "B": range(0, 10),
    "T": range(10, 20),
    "Myeloid": range(20, 30),
    "B naive": range(30, 35),
    "CD4 T": range(40, 45),
    "CD8 T": range(45, 50),
    "DC": range(60, 65),
}


def recovered(explanation, node):
    """Share of a node's markers among as many genes at the top."""
    markers = {f"GENE{i}" for i in MARKERS[node]}
    top = explanation.ranking(node).index[: len(markers)]
    return len(markers & set(top)) / len(markers)


@pytest.fixture(scope="module")
def found(model, _synthetic_hierarchy):
    return model.explain(_synthetic_hierarchy[300:].copy(), list(MARKERS))


def test_markers_lead_the_ranking_of_their_type(found):
    assert np.mean([recovered(found, node) for node in MARKERS]) > 0.65  # 0.07 by chance


def test_random_weights_destroy_the_explanation(model, query, found):
    """Model randomisation test (Adebayo et al. 2018)."""
    random = copy.deepcopy(model)
    for parameter in random.module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    other = random.explain(query, list(MARKERS))
    tops = [
        other.ranking(node, cells="all")
        .index[: len(MARKERS[node])]
        .isin([f"GENE{i}" for i in MARKERS[node]])
        for node in MARKERS
    ]
    assert np.mean(np.concatenate(tops)) < 0.3
    for node in MARKERS:
        before = found.ranking(node, cells="all")["mean"]
        after = other.ranking(node, cells="all")["mean"].loc[before.index]
        assert abs(spearmanr(before, after).statistic) < 0.4


@pytest.mark.usefixtures("network_alone")
def test_outputs_are_the_log_probabilities_that_annotate_gives(model, query):
    found = model.explain(query, ["T", "CD4 T"], target="joint", n_samples=1)
    tree = model.taxonomy
    p = model.annotate(query).node_probabilities[:, [tree.resolve("T"), tree.resolve("CD4 T")]]
    np.testing.assert_allclose(np.exp(found.outputs), p.T.ravel(), atol=1e-5)
    sure = p.T.ravel() > 1e-6
    np.testing.assert_allclose(found.outputs[sure], np.log(p.T.ravel()[sure]), atol=2e-4)


def test_sums_reach_the_outputs_with_enough_samples(model, query):
    few, many = (model.explain(query[:20].copy(), "T", n_samples=n) for n in (21, 1050))
    assert np.abs(many.additivity_error).mean() < 0.2 * np.abs(few.additivity_error).mean()
    explained = np.abs(many.outputs - many.base_values[0])
    assert np.median(np.abs(many.additivity_error)) < 0.02 * np.median(explained)


def test_a_leaf_is_the_sum_of_its_path(model, query):
    path = model.explain(query, ["T", "CD4 T"])
    leaf = model.explain(query, "CD4 T", target="joint")
    total = path.to_frame("T") + path.to_frame("CD4 T")
    np.testing.assert_allclose(leaf.to_frame(), total, atol=1e-5)


def test_a_contrast_turns_its_sign_with_its_sides(model, query):
    one = model.explain(query, "CD4 T", against="DC")
    other = model.explain(query, "DC", against="CD4 T")
    np.testing.assert_allclose(one.values, -other.values, atol=1e-5)
    assert one.against == "Myeloid > DC"
    markers = [f"GENE{i}" for i in MARKERS["CD4 T"]]
    assert one.ranking().loc[markers, "rank"].median() < 30


def test_each_cell_is_explained_for_its_own_node_by_default(model, query):
    own = model.explain(query, target="joint")
    leaves = model.annotate(query, threshold=None).leaf_nodes
    assert (own.targets.nodes[own.target] == leaves).all()
    assert own.own.all()
    named = model.explain(query, ["CD8 T"], target="joint")
    rows = np.flatnonzero(leaves == model.taxonomy.resolve("CD8 T"))
    np.testing.assert_allclose(own.values[rows], named.values[rows], atol=1e-6)
    lineages = model.explain(query, level="lineage", n_samples=2)
    assert set(lineages.nodes) == {"B", "T", "Myeloid"}
    assert lineages.signatures().shape == (3, 120)


def test_the_label_is_explained_where_network_and_profiles_differ(model, query):
    random = copy.deepcopy(model)
    for parameter in random.module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    leaves = random.annotate(query, threshold=None).leaf_nodes
    found = random.explain(query, n_samples=1)
    assert (found.targets.nodes[found.target] == leaves).all()
    random.profiles_ = None
    assert (random.annotate(query, threshold=None).leaf_nodes != leaves).any()


def test_genes_that_were_not_measured_get_nothing(model, query):
    found = model.explain(query[:, 15:].copy(), "T")
    missing = [gene not in set(query.var_names[15:]) for gene in found.genes]
    assert (found.values[:, missing] == 0).all()
    assert (found.values[:, ~np.array(missing)] != 0).any()


def test_neither_neighbours_nor_order_nor_passes_matter(model, query):
    expected = model.explain(query, "T", keep_values=True)
    part = model.explain(query[[9, 4]].copy(), "T", batch_size=70)
    np.testing.assert_allclose(part.values, expected.values[[9, 4]], atol=1e-5)
    shuffled = query[:, np.random.default_rng(0).permutation(query.n_vars)].copy()
    np.testing.assert_allclose(model.explain(shuffled, "T").values, expected.values, atol=1e-5)


def test_nothing_is_written_to_query_background_or_model(model, query, reference):
    reference.obs = reference.obs[[]]
    before = query.copy(), reference.copy()
    weights = {name: w.clone() for name, w in model.module.state_dict().items()}
    state = np.random.get_state()[1].copy()
    model.explain(query, "T", background=reference, n_samples=2)
    for data, was in zip((query, reference), before, strict=True):
        np.testing.assert_array_equal(data.X.toarray(), was.X.toarray())
        assert data.obs.equals(was.obs)
        assert data.var.equals(was.var)
        assert dict(data.uns) == dict(was.uns)
        assert not data.obsm
        assert not data.layers
    assert all(torch.equal(w, weights[name]) for name, w in model.module.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.module.parameters())
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_a_model_without_its_data_compares_with_cells_drawn_from_its_profiles(
    model, query, found, tmp_path
):
    model.save(tmp_path / "model")
    alone = SCHDeepInsight.load(tmp_path / "model", adata=False)
    drawn = alone.explain(query, list(MARKERS))
    assert "mean profiles" in drawn.background
    assert "the reference" in found.background
    for node in MARKERS:
        means = found.ranking(node)["mean"]
        assert np.corrcoef(means, drawn.ranking(node)["mean"].loc[means.index])[0, 1] > 0.9
    alone.profiles_ = None
    with pytest.raises(ValueError, match="background="):
        alone.explain(query, "T")


def test_a_background_is_balanced_by_its_labels_or_by_the_models(model, query, reference):
    few = pd.concat([reference.obs.query("cell_type == 'DC'").iloc[:2], reference.obs]).index
    lopsided = reference[few.drop_duplicates()].copy()
    labelled = model.explain(query[:5].copy(), "T", background=lopsided, n_background=3)
    assert labelled.background == "3 × 7 types, the given background"
    bare = lopsided.copy()
    bare.obs = bare.obs[[]]
    guessed = model.explain(query[:5].copy(), "T", background=bare, n_background=3)
    assert guessed.background == labelled.background
    assert abs(guessed.base_values[0] - labelled.base_values[0]) < 2.0


def test_a_background_that_lacks_genes_of_the_query_is_refused(model, query, reference):
    with pytest.raises(InputError, match="lacks"):
        model.explain(query, "T", background=reference[:, 5:].copy())


def test_without_values_no_memory_per_cell_is_used(model, query, found):
    lean = model.explain(query, list(MARKERS), keep_values=False)
    assert lean.values is None
    pd.testing.assert_frame_equal(lean.signatures(), found.signatures())


def test_invalid_arguments_are_refused(model, query):
    for options, words in [
        ({"nodes": "X cell"}, "no node 'X cell'"),
        ({"against": "T"}, "Name the nodes"),
        ({"nodes": "T", "level": 1}, "level alone"),
        ({"nodes": "T", "n_background": 0}, "n_background .*, got 0"),
        ({"nodes": "T", "n_samples": 0}, "n_samples .*, got 0"),
        ({"nodes": "T", "n_samples": 2.5}, r"n_samples .*2\.5"),
        ({"nodes": "T", "batch_size": 0}, "batch_size .*, got 0"),
        ({"nodes": "T", "batch_size": -1}, "batch_size .*, got -1"),
        ({"level": 0}, "Level 0 is the root"),
    ]:
        with pytest.raises(ValueError, match=words):
            model.explain(query, **options)


@pytest.mark.usefixtures("network_alone")
def test_a_model_of_a_query_explains_as_the_reference_model_does_until_it_is_adapted(model, query):
    mapped = SCHDeepInsight.load_query_data(query, model)
    expected = model.explain(query, "T", background=query)
    found = mapped.explain(nodes="T", background=query)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-5)
    assert found.note == ""


@pytest.mark.filterwarnings("ignore:.* are read without adaptation")
def test_an_adapted_model_explains_its_network_with_the_adapters_of_each_batch(model, query):
    query.obs["batch"] = np.where(np.arange(query.n_obs) % 2, "first", "second")
    mapped = SCHDeepInsight.load_query_data(query, model, batch_key="batch")
    mapped.train(max_steps=20, guard=False)
    cells = query[:30].copy()
    cells.obs["batch"] = ["another", *cells.obs["batch"][1:]]
    found = mapped.explain(cells, "T", n_samples=700)
    assert "network is explained" in found.note
    assert found.note in repr(found)
    explained = np.abs(found.outputs - found.base_values)
    assert np.median(np.abs(found.additivity_error)) < 0.05 * np.median(explained)
    assert len(np.unique(found.base_values)) == 3  # two batches, and cells of neither
    before = model.explain(cells, "T", n_samples=700)
    np.testing.assert_allclose(found.outputs[0], before.outputs[0], atol=1e-4)
    assert not np.allclose(found.outputs[1:], before.outputs[1:], atol=1e-3)


@pytest.mark.usefixtures("network_alone")
def test_cells_without_counts_are_left_out_and_counted(model, query):
    cells = query[:6].copy()
    kept = np.arange(6) != 2
    cells.X = sparse.diags(kept.astype(np.float32)) @ cells.X
    found, others = (model.explain(c, ["T", "B"]) for c in (cells, cells[kept].copy()))
    assert found.note == "1 of 6 cells have no counts and were left out."
    assert ": 5 cells × " in repr(found)
    assert sorted(set(found.cell.tolist())) == [0, 1, 3, 4, 5]
    np.testing.assert_allclose(found.values, others.values, atol=1e-6)
    assert found.expression.shape[0] == 6
    pd.testing.assert_frame_equal(found.ranking("T", cells="all"), others.ranking("T", cells="all"))
    mask = np.array([False, True, True, False, False, False])
    assert len(found.rows_of("T", mask)) == 1


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"backbone": None, "wide": True}, id="linear"),
        pytest.param({"backbone": "compact", "wide": True}, id="compact_and_wide"),
        pytest.param({"backbone": "mlp", "wide": True}, id="mlp_and_wide"),
        pytest.param({"backbone": "mlp", "channels": "rgb"}, id="rgb"),
        pytest.param({"head": "per_parent"}, id="per_parent", marks=pytest.mark.slow),
    ],
)
def test_every_architecture_is_explained(fit, reference, query, options):
    model = fit(reference, train={"max_epochs": 4}, **options)
    found = model.explain(query, "T", n_samples=350)
    explained = np.abs(found.outputs - found.base_values[0])
    assert np.median(np.abs(found.additivity_error)) < 0.05 * np.median(explained)


def test_a_linear_model_and_one_background_cell_are_exact(fit, reference, query):
    model = fit(reference, train={"max_epochs": 4}, backbone=None, wide=True)
    background = reference[reference.obs["cell_type"] == "DC"][:1].copy()
    found = model.explain(
        query, "T", target="logit", background=background, n_background=1, n_samples=1
    )
    module = model.module
    edge = model.taxonomy.resolve("T") - 1
    slope = module.wide.weight[edge].detach().numpy() / module.temperature[0].numpy()
    cells = found.expression.toarray()
    np.testing.assert_allclose(
        found.values, slope * (cells - found.background_expression), atol=1e-5
    )


def test_a_query_with_proteins_is_referred_to_its_genes(model, query):
    from mudata import MuData

    with own_columns():
        proteins = ad.AnnData(np.ones((query.n_obs, 2)), obs=query.obs)
        paired = MuData({"rna": query, "prot": proteins})
    rna = model.explain(paired, "T", n_samples=2)  # this model reads no proteins
    np.testing.assert_allclose(rna.values, model.explain(query, "T", n_samples=2).values)


@pytest.mark.gpu
def test_a_gpu_finds_the_same(model, query):
    expected = model.explain(query, ["T", "CD4 T"])
    moved = copy.deepcopy(model)
    moved.to_device("cuda:0")
    found = moved.explain(query, ["T", "CD4 T"])
    np.testing.assert_allclose(found.values, expected.values, atol=1e-3)
