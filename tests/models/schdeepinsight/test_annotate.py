"""Queries need no set-up, and labels depend on their counts and gene names alone."""

import hashlib
import pickle
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hdeepinsight as hdi
from hdeepinsight import SCHDeepInsight, Taxonomy
from hdeepinsight.data import GeneCoverageWarning, InputError


def fingerprint(adata: ad.AnnData) -> str:
    """Hash of the content of an AnnData, including storage formats."""
    x = adata.X
    parts = [
        type(x).__name__,
        x.data.tobytes() if sparse.issparse(x) else np.asarray(x).tobytes(),
        x.indices.tobytes() if sparse.issparse(x) else b"",
        adata.obs.to_json(),
        adata.var.to_json(),
        pickle.dumps({key: np.asarray(value) for key, value in adata.obsm.items()}),
        repr(sorted(adata.uns.items())),
        repr(sorted(map(str, adata.layers.keys()))),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def test_separable_types_are_found(model, query, truth):
    result = model.annotate(query, threshold=None, reject="off")
    assert (result.labels["cell_type"] == truth).mean() > 0.97
    assert (result.labels["stop_label"] == result.labels["cell_type"].astype(str)).all()


def test_children_sum_to_their_parent_and_columns_follow_one_path(model, query):
    result = model.annotate(query, reject="off")
    tree, p = result.taxonomy, result.node_probabilities
    for children in tree.groups:
        parent = tree.parent[children[0]]
        np.testing.assert_allclose(p[:, children].sum(axis=1), p[:, parent], atol=1e-5)
    for _, row in result.labels.iterrows():
        assert tree.parent[tree.resolve(row["cell_type"], level=2)] == tree.resolve(row["lineage"])


def test_the_query_is_left_bit_identical(model, query):
    query.obsm["X_pca"] = np.ones((query.n_obs, 2))
    query.uns["note"] = "mine"
    query.layers["log"] = query.X.copy()
    before = fingerprint(query)
    model.annotate(query)
    model.predict(query)
    model.predict_proba(query)
    model.get_latent_representation(query)
    assert fingerprint(query) == before


def test_probabilities_are_those_of_the_annotation_without_judging(model, query, monkeypatch):
    expected = model.annotate(query).probabilities()
    monkeypatch.setattr("hdeepinsight.models._base._reader.QueryComparison", None)
    np.testing.assert_array_equal(model.predict_proba(query), expected)
    np.testing.assert_array_equal(model.predict(query, soft=True), expected)
    with pytest.raises(TypeError):
        model.annotate(query)


def test_order_of_genes_and_cells_does_not_matter(model, query):
    rng = np.random.default_rng(1)
    cells, genes = rng.permutation(query.n_obs), rng.permutation(query.n_vars)
    expected = model.predict_proba(query).iloc[cells]
    found = model.predict_proba(query[cells][:, genes].copy())
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.index.equals(expected.index)


@pytest.mark.usefixtures("network_alone")
def test_order_of_classes_does_not_matter(model, query):
    paths = [model.taxonomy.path(int(leaf)) for leaf in model.taxonomy.leaves]
    turned = Taxonomy.from_paths(paths[::-1], level_names=model.taxonomy.level_names)
    assert turned.labels != model.taxonomy.labels
    other = SCHDeepInsight(model.adata, taxonomy=turned, layout=model.layout)
    edges = np.array([model.taxonomy.resolve(path) for path in turned.names[1:]]) - 1
    weights = model.module.state_dict()
    for name in ("head.linear.weight", "head.linear.bias", "objective.node_weights"):
        weights[name] = weights[name][edges]
    other.module.load_state_dict(weights)
    other.is_trained_ = True
    expected, found = (one.annotate(query, threshold=0.8, reject="off") for one in (model, other))
    for level in model.taxonomy.level_names:
        columns = expected.probabilities(level).columns
        np.testing.assert_allclose(
            found.probabilities(level)[columns], expected.probabilities(level), atol=1e-5
        )
    assert found.labels.astype(str).equals(expected.labels.astype(str))


def test_a_subset_gets_the_answer_of_the_whole(model, query):
    whole = model.predict_proba(query)
    np.testing.assert_allclose(model.predict_proba(query[:7].copy()), whole.iloc[:7], atol=1e-5)
    np.testing.assert_allclose(model.predict_proba(query[5:6].copy()), whole.iloc[5:6], atol=1e-5)


def test_other_genes_of_the_query_change_nothing(model, query):
    rng = np.random.default_rng(2)
    extra = sparse.csr_matrix(rng.poisson(3.0, (query.n_obs, 40)).astype(np.float32))
    wide = ad.AnnData(sparse.hstack([extra, query.X], format="csr"), obs=query.obs)
    wide.var_names = [*(f"OTHER{i}" for i in range(40)), *query.var_names]
    np.testing.assert_allclose(model.predict_proba(wide), model.predict_proba(query), atol=1e-5)


def test_missing_genes_are_reported_and_tolerated(model, query, truth):
    fewer = query[:, 10:].copy()
    result = model.annotate(fewer, threshold=None)
    assert result.gene_report.n_measured == len(model.layout.genes) - sum(
        gene not in set(fewer.var_names) for gene in model.layout.genes
    )
    assert (result.labels["cell_type"] == truth).mean() > 0.9


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_does_not_matter(model, query, batch_size):
    found = model.predict_proba(query, batch_size=batch_size)
    np.testing.assert_allclose(found, model.predict_proba(query), atol=1e-5)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_has_a_cell(model, query, batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be an integer >= 1, got {batch_size}"):
        model.annotate(query, batch_size=batch_size)


def test_every_storage_gets_the_same_answer(model, query, tmp_path_factory):
    expected = model.predict_proba(query)
    for kind in ["dense", "csc", "csr_array", "h5ad", "zarr", "backed"]:
        tmp_path = tmp_path_factory.mktemp("case")
        data = query.copy()
        if kind == "dense":
            data.X = data.X.toarray()
        elif kind == "csc":
            data.X = data.X.tocsc()
        elif kind == "csr_array":
            data.X = sparse.csr_array(data.X)
        if kind in ("h5ad", "backed"):
            query.write_h5ad(tmp_path / "query.h5ad")
            data = tmp_path / "query.h5ad"
        if kind == "zarr":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # formats that anndata is about to change
                query.write_zarr(tmp_path / "query.zarr")
            data = tmp_path / "query.zarr"
        if kind == "backed":
            data = ad.read_h5ad(data, backed="r")
        np.testing.assert_allclose(model.predict_proba(data), expected, atol=1e-5)
        if kind == "backed":
            data.file.close()


def test_the_layer_of_the_reference_is_used_if_present(fit, reference, query):
    reference.layers["counts"] = reference.X
    reference.X = np.log1p(reference.X)
    setup = {"labels_keys": ["lineage", "cell_type"], "layer": "counts"}
    model = fit(reference, setup=setup, train={"max_epochs": 2})
    expected = model.predict_proba(query)
    query.layers["counts"] = query.X.copy()
    query.X = query.X * 0.37
    np.testing.assert_allclose(model.predict_proba(query), expected, atol=1e-5)


def test_latent_features_have_the_width_of_the_model(model, query):
    latent = model.get_latent_representation(query)
    assert latent.shape == (query.n_obs, model.module.backbone.n_latent)
    assert np.isfinite(latent).all()
    assert latent.std() > 0


def test_predict_gives_one_label_a_cell(model, query, truth):
    assert (model.predict(query, threshold=None, reject="off") == truth).mean() > 0.97
    lineages = model.predict(query, level="lineage")
    assert set(lineages) == {"B", "T", "Myeloid"}
    assert model.predict_proba(query, level="lineage").columns.tolist() == list(
        lineages.cat.categories
    )


def scaled(query):
    dense = query.X.toarray()
    query.X = (dense - dense.mean(axis=0)) / (dense.std(axis=0) + 1)
    return query


def with_value(value):
    def change(query):
        query.X = query.X.toarray()
        query.X[3, 4] = value
        return query

    return change


def renamed(names):
    def change(query):
        query.var_names = [names(i, gene) for i, gene in enumerate(query.var_names)]
        return query

    return change


def test_bad_input_is_refused_with_the_reason(model, query):
    for change, words in [
        (scaled, "scaled"),
        (with_value(np.nan), "NaN"),
        (with_value(np.inf), "inf"),
        (with_value(-1.0), "negative"),
        (with_value(0.3), "fraction"),
        (renamed(lambda i, g: f"X{i}"), "0 of the model's 120"),
        (renamed(lambda i, g: g if i < 6 else f"X{i}"), "at least 10% is needed"),
        (renamed(lambda i, g: g.capitalize()), "mouse"),
        (renamed(lambda i, g: f"ENSG{i:011d}.3"), "Ensembl"),
        (lambda q: q[:0].copy(), "there are 0 cells"),
        (lambda q: q[:, :0].copy(), "× 0 genes"),
    ]:
        bad = change(query.copy())
        before = fingerprint(bad)
        with pytest.raises(InputError) as caught:
            model.annotate(bad)
        assert words.lower() in str(caught.value).lower()
        assert fingerprint(bad) == before


def test_few_genes_in_common_are_a_warning(model, query):
    with pytest.warns(GeneCoverageWarning):
        model.annotate(query[:, 85:].copy())


@pytest.mark.parametrize("threshold", [0.5, None])
def test_cells_without_counts_of_the_model_get_the_root_and_are_reported(model, query, threshold):
    expected = model.annotate(query, threshold=threshold)
    extra = ad.AnnData(np.ones((query.n_obs, 1)), obs=query.obs, var=pd.DataFrame(index=["OTHER"]))
    query.X = query.X.toarray()
    query.X[[2, 5]] = 0
    query = ad.concat([query, extra], axis=1, merge="first")
    query.X[5] = 0  # cell 2 has a count, but of a gene that the model does not know
    result = model.annotate(query, threshold=threshold)
    assert result.input_report.n_empty_cells == 1
    assert "1 cell has no counts" in str(result.input_report)
    assert "2 cells have no counts in any feature of the model" in str(result.gene_report)
    assert (result.labels["stop_label"].iloc[[2, 5]] == "Unknown").all()
    scores = result.novelty.select_dtypes(float)
    assert scores.index[scores.isna().all(axis=1)].tolist() == query.obs_names[[2, 5]].tolist()
    assert scores.notna().to_numpy().sum() == (query.n_obs - 2) * 4
    others = np.delete(np.arange(query.n_obs), [2, 5])
    np.testing.assert_allclose(
        result.node_probabilities[others], expected.node_probabilities[others], atol=1e-6
    )
    # The query is judged as a whole, so that single cells near a limit may change.
    same = (result.labels.astype(str) == expected.labels.astype(str)).all(axis=1)
    assert same.iloc[others].mean() > 0.98
    for node in model.taxonomy.inner_nodes:  # every child as likely as its siblings
        below = model.taxonomy.children(int(node))
        shares = result.node_probabilities[np.ix_([2, 5], below)] * len(below)
        wanted = np.repeat(result.node_probabilities[[2, 5]][:, [node]], len(below), axis=1)
        np.testing.assert_allclose(shares, wanted, rtol=1e-6)


def test_a_single_cell_is_enough(model, query):
    alone, whole = model.annotate(query[4].copy()), model.annotate(query)
    np.testing.assert_allclose(
        alone.node_probabilities, whole.node_probabilities[[4]], rtol=0, atol=1e-5
    )
    assert alone.labels.astype(str).equals(whole.labels.astype(str).iloc[[4]])


def test_duplicated_genes_are_summed_and_reported(model, query):
    expected = model.predict_proba(query)
    halves = query.X.toarray() // 2
    doubled = ad.AnnData(np.hstack([halves, query.X.toarray() - halves]))
    doubled.obs_names = query.obs_names
    doubled.var = doubled.var.set_index(np.array([*query.var_names, *query.var_names]))
    result = model.annotate(doubled)
    np.testing.assert_allclose(result.probabilities(), expected, atol=1e-5)
    assert "summed" in str(result.gene_report)


def test_log_normalised_values_are_turned_back_into_counts(model, query):
    logged = query.copy()
    totals = np.asarray(query.X.sum(axis=1))
    logged.X = sparse.csr_matrix(np.log1p(query.X.toarray() / totals * 1e4).astype(np.float32))
    result = model.annotate(logged)
    np.testing.assert_allclose(result.probabilities(), model.predict_proba(query), atol=1e-5)
    assert result.input_report.scale == "log1p_counts"


def test_an_untrained_model_does_not_annotate(reference, query):
    SCHDeepInsight.setup_anndata(reference, labels_key="cell_type")
    untrained = SCHDeepInsight(reference, layout="random")
    with pytest.raises(RuntimeError, match="train"):
        untrained.annotate(query)
    with pytest.raises(RuntimeError, match="untrained"):
        untrained.evaluate()
    with pytest.raises(ValueError, match="must be trained, got an untrained SCHDeepInsight"):
        hdi.annotate(query, untrained)


def test_a_threshold_below_a_half_is_refused(model, query):
    with pytest.raises(ValueError, match=r"threshold must be a number from 0\.5 to 1.*got 0\.3"):
        model.annotate(query, threshold=0.3)


def test_evaluate_scores_held_out_cells_and_labelled_objects(model, labelled):
    held_out = model.evaluate()
    assert held_out.n_cells == len(model.validation_indices)
    scores = model.evaluate(labelled)
    assert scores.levels.loc["cell_type", "accuracy"] > 0.97
    assert scores.hierarchical.f1 > 0.9
