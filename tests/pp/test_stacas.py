"""Limits, identities and equivariances of batch correction, on data whose answer is known."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hdeepinsight as hdi
from hdeepinsight.pp import StacasConfig

FEW = StacasConfig(n_dims=4)  # three types span three dimensions, the rest is noise
WITHIN = 0.3  # standard deviation of a gene within a type


def corrected(result, dataset=None, chunk_size=10_000):
    return np.concatenate(
        [values for _, values in result.corrected(dataset, chunk_size=chunk_size)]
    )


@pytest.fixture
def run(exact):
    return lambda ref, query, **options: corrected(hdi.pp.stacas(ref, query, **exact, **options))


def test_a_copy_of_the_reference_is_not_corrected(pair, exact, logs):
    ref = pair[0]
    config = StacasConfig(k_anchor=1)
    result = hdi.pp.stacas(ref, ref.copy(), config=config, **exact)
    assert (result.anchors["cell_1"] == result.anchors["cell_2"]).all()
    assert len(result.anchors) > 0.9 * ref.n_obs
    assert np.abs(result.correction()).max() == 0.0
    np.testing.assert_array_equal(corrected(result), logs(ref))


def mean_shift_per_type(result, kind):
    change = result.correction()
    return max(np.abs(change[kind == k].mean(axis=0)).mean() for k in np.unique(kind))


def test_a_copy_is_hardly_corrected_with_five_neighbours(pair, exact):
    ref = pair[0]
    result = hdi.pp.stacas(ref, ref.copy(), config=FEW, **exact)
    assert (result.anchors["cell_1"] != result.anchors["cell_2"]).mean() > 0.5
    assert mean_shift_per_type(result, ref.obs["cell_type"].to_numpy()) < 0.02 * WITHIN


def test_corrections_of_halves_shrink_with_the_number_of_cells(draw, wrap, exact):
    shifts = []
    for n_cells in (120, 1200):
        (first, _), (second, kind) = draw(n_cells, 3), draw(n_cells, 4)
        result = hdi.pp.stacas(wrap(first, prefix="r"), wrap(second), config=FEW, **exact)
        shifts.append(mean_shift_per_type(result, kind))
    assert shifts[1] < 0.7 * shifts[0]
    assert shifts[0] < 0.4 * WITHIN


@pytest.fixture
def vector():
    return np.random.default_rng(7).random(40) * 2


def test_batch_effects_are_removed_and_types_kept_apart(draw, wrap, vector, run):
    (first, a), (second, b) = draw(300, 1), draw(250, 2)
    moved = run(wrap(first, prefix="r"), wrap(second + 0.5 * vector), config=FEW)
    for k in range(3):
        before = np.abs((second + 0.5 * vector)[b == k].mean(0) - first[a == k].mean(0)).mean()
        after = np.abs(moved[b == k].mean(0) - first[a == k].mean(0)).mean()
        assert after < 0.3 * before


def test_orders_and_names_do_not_matter(pair, run):
    ref, query = pair
    there = run(ref, query)
    rng = np.random.default_rng(0)
    cells, genes = rng.permutation(query.n_obs), rng.permutation(query.n_vars)
    np.testing.assert_allclose(run(ref, query[cells]), there[cells], atol=1e-5)
    np.testing.assert_allclose(run(ref[rng.permutation(ref.n_obs)], query), there, atol=1e-5)
    np.testing.assert_allclose(run(ref, query[:, genes]), there, atol=1e-5)
    np.testing.assert_allclose(run(ref[:, genes], query), there, atol=1e-5)
    renamed = query.copy()
    renamed.obs_names = [f"x{i}" for i in range(query.n_obs)]
    np.testing.assert_array_equal(run(ref, renamed), there)


def test_values_equal_the_formula_anchor_by_anchor(pair, exact, logs):
    ref, query = pair
    result = hdi.pp.stacas(ref, query, **exact)
    step, anchors = result.outcome.corrections[0], result.outcome.anchors
    x, y = (logs(one).astype(float) for one in pair)
    z = y - y.mean(0)
    z = z @ np.linalg.svd(z, full_matrices=False)[2][:30].T
    cells = np.unique(anchors["cell_2"][anchors["score"] > 0]) - ref.n_obs
    for c in (0, 17, 149):
        distance = np.linalg.norm(z[cells] - z[c], axis=1)
        order = np.argsort(distance)[:100]
        near = dict(zip(cells[order], 1 - distance[order] / distance[order[-1]], strict=True))
        moved, total = np.zeros(40), 0.0
        for row in anchors[anchors["score"] > 0].itertuples():
            h = 1 - np.exp(-near.get(row.cell_2 - ref.n_obs, 0.0) * row.score / 4)
            moved, total = moved + h * (y[row.cell_2 - ref.n_obs] - x[row.cell_1]), total + h
        np.testing.assert_allclose(result.correction(slice(c, c + 1))[0], -moved / total, atol=1e-9)
    np.testing.assert_allclose(step.weights.shift[:, : ref.n_obs].sum(axis=1), 1)


def test_the_reference_is_unchanged_and_queries_are_independent(pair, draw, wrap, exact, logs):
    ref, query = pair
    alone = hdi.pp.stacas(ref, query, **exact)
    other = wrap(draw(160, 9)[0] * 1.3, prefix="other")
    both = hdi.pp.stacas(ref, [query, other], **exact)
    np.testing.assert_array_equal(corrected(both, "query_1"), corrected(alone))
    np.testing.assert_array_equal(corrected(both, "reference"), logs(ref))


def test_transform_reproduces_the_correction(pair, exact):
    ref, query = pair
    result = hdi.pp.stacas(ref, query, **exact)
    before = corrected(result)
    again = result.transform(query)
    np.testing.assert_allclose(corrected(again), before, atol=1e-6)
    some = result.transform(query[20:60, ::-1])
    np.testing.assert_allclose(corrected(some), before[20:60], atol=1e-6)
    np.testing.assert_array_equal(corrected(result), before)
    np.testing.assert_allclose(corrected(some.transform(query[:9])), before[:9], atol=1e-6)


@pytest.mark.parametrize("chunk_size", [1, 7, 149])
def test_chunks_do_not_matter(pair, chunk_size, exact, run):
    ref, query = pair
    whole = run(ref, query)
    parts = hdi.pp.stacas(ref, query, **exact)
    np.testing.assert_allclose(corrected(parts, chunk_size=chunk_size), whole, atol=1e-6)


def counts(n_cells, seed, prefix):
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=n_cells)
    mean = np.random.default_rng(5).gamma(1.0, 2.0, size=(3, 60))[kind]
    obs = pd.DataFrame({"kind": kind.astype(str)}, index=[f"{prefix}{i}" for i in range(n_cells)])
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(60)])
    return ad.AnnData(rng.poisson(mean).astype(np.float32), obs=obs, var=var)


def test_storage_does_not_matter(tmp_path):
    ref, query = counts(160, 1, "r"), counts(130, 2, "q")
    there = corrected(hdi.pp.stacas(ref, query))
    thin = query.copy()
    thin.X = sparse.csr_matrix(query.X)
    path = tmp_path / "query.h5ad"
    thin.write_h5ad(path)
    backed = ad.read_h5ad(path, backed="r")
    for form in (thin, path, backed):
        np.testing.assert_array_equal(corrected(hdi.pp.stacas(ref, form)), there)
    backed.file.close()


def test_only_anchors_with_inconsistent_labels_are_removed(pair, exact):
    ref, query = pair
    ref.obs["shuffled"] = np.random.default_rng(0).permutation(ref.obs["cell_type"])
    query.obs["partly"] = query.obs["cell_type"].where(np.arange(query.n_obs) % 3 == 0)
    keys = {"labels_key": "cell_type", "query_labels_key": "cell_type"}
    without = hdi.pp.stacas(ref, query, **exact)
    true = hdi.pp.stacas(ref, query, **keys, **exact)
    assert true.anchors["consistent"].all()
    n_partly = len(
        hdi.pp.stacas(ref, query, **{**keys, "query_labels_key": "partly"}, **exact).anchors
    )
    assert len(true.anchors) <= n_partly <= len(without.anchors)
    wrong = hdi.pp.stacas(ref, query, **{**keys, "labels_key": "shuffled"}, **exact)
    assert len(wrong.anchors) < 0.6 * len(without.anchors)
    assert wrong.report.datasets.loc["query", "share_inconsistent"] > 0.4
    a = ref.obs["shuffled"].reindex(wrong.anchors["cell_1"]).to_numpy()
    b = query.obs["cell_type"].reindex(wrong.anchors["cell_2"]).to_numpy()
    assert (a == b).all()


def test_words_for_missing_labels_are_consistent_and_reported(pair, exact):
    ref, query = pair
    keys = {"labels_key": "cell_type", "query_labels_key": "cell_type"}
    query.obs["cell_type"] = query.obs["cell_type"].where(query.obs["cell_type"] != "type 1")
    missing = hdi.pp.stacas(ref, query, **keys, **exact)
    query.obs["cell_type"] = query.obs["cell_type"].fillna("not available")
    with pytest.warns(hdi.taxonomy.LabelWarning, match="of 'query': 'not available'"):
        worded = hdi.pp.stacas(ref, query, **keys, **exact)
    pd.testing.assert_frame_equal(worded.anchors, missing.anchors)


def test_a_query_without_consistent_anchors_is_unchanged(pair, exact, logs):
    ref, query = pair
    query.obs["cell_type"] = "nothing of the kind"
    keys = {"labels_key": "cell_type", "query_labels_key": "cell_type"}
    result = hdi.pp.stacas(ref, query, **keys, **exact)
    np.testing.assert_array_equal(corrected(result), logs(query))
    assert set(result.report.cells["flag"]) == {"no anchors"}
    assert "not corrected: no anchors" in str(result.report)
    with pytest.raises(ValueError, match="must be a query that mode='project' corrected"):
        result.transform(query)


def test_a_taxonomy_makes_labels_of_different_depth_consistent(pair, exact):
    ref, query = pair
    tree = hdi.Taxonomy.from_nested({"even": ["type 0", "type 2"], "odd": ["type 1"]})
    query.obs["coarse"] = query.obs["cell_type"].map({"type 1": "odd"}).fillna("even")
    keys = {"labels_key": "cell_type", "query_labels_key": "coarse"}
    blind = hdi.pp.stacas(ref, query, **keys, **exact)
    aware = hdi.pp.stacas(ref, query, taxonomy=tree, **keys, **exact)
    assert len(blind.anchors) == 0
    assert len(aware.anchors) > 100


def test_datasets_with_few_cells_are_unchanged(pair, exact, logs):
    ref, query = pair
    result = hdi.pp.stacas(ref, query[:99], **exact)
    np.testing.assert_array_equal(corrected(result), logs(query)[:99])
    assert set(result.report.cells["flag"]) == {"too few cells"}
    assert len(hdi.pp.stacas(ref, query[:100], **exact).anchors) > 0


def test_empty_cells_are_unchanged(pair, exact):
    ref, query = pair
    values = query.X.copy()
    values[5] = 0
    query.X = values
    result = hdi.pp.stacas(ref, query, **exact)
    assert np.abs(result.correction(slice(5, 6))).max() == 0
    assert result.report.cells["flag"].iloc[5] == "empty"
    assert set(result.report.cells["flag"].drop("cell_5")) == {""}


def test_report_describes_the_correction(pair, exact):
    result = hdi.pp.stacas(*pair, **exact)
    cells = result.report.cells
    np.testing.assert_allclose(cells["shift"], np.linalg.norm(result.correction(), axis=1))
    assert cells["n_anchors"].sum() == len(result.anchors)
    np.testing.assert_array_equal(cells["nearest_anchor"] == 0, cells["n_anchors"] > 0)
    assert cells["effective_anchors"].between(1, len(result.anchors)).all()
    datasets = result.report.datasets
    assert datasets["n_cells"].tolist() == [180, 150]
    assert datasets.loc["query", "share_anchored"] == (cells["n_anchors"] > 0).mean()


def test_only_to_adata_writes(pair):
    ref, query = pair
    extra = ad.AnnData(np.ones((150, 1), np.float32), var=pd.DataFrame(index=["ONLY_HERE"]))
    wide = ad.AnnData(
        np.hstack([extra.X, query.X]),
        obs=query.obs,
        var=pd.DataFrame(index=["ONLY_HERE", *query.var_names]),
    )
    untouched = wide.copy()
    result = hdi.pp.stacas(ref, wide)
    list(result.corrected())
    assert not wide.layers
    result.to_adata(wide)
    np.testing.assert_array_equal(wide.X, untouched.X)
    pd.testing.assert_frame_equal(wide.obs, untouched.obs)
    np.testing.assert_array_equal(wide.layers["stacas"][:, 1:], corrected(result))
    assert np.isnan(wide.layers["stacas"][:, 0]).all()
    assert wide.var["stacas_corrected"].tolist() == [False] + [True] * 40
    assert result.report.datasets["genes_lost"].tolist() == [0, 1]


def test_housekeeping_and_receptor_genes_are_no_features():
    blocked = ["mt-Nd1", "RPS27A", "HBA1", "Hbb-bs", "IGKC", "TRBC2", "MRPL1", "IGHG2B", "Tcrg-C1"]
    allowed = ["HBEGF", "RPA1", "MTOR", "TRAF3", "IGF1", "TRADD", "IGHMBP2"]
    names = [*blocked, "IGKV1-5", *allowed]
    datasets = [counts(160, 1, "r")[:, : len(names)], counts(130, 2, "q")[:, : len(names)]]
    datasets = [each.copy() for each in datasets]
    for each in datasets:
        each.var_names = names
    assert set(hdi.pp.stacas(*datasets, features=len(names) - 1).features) == set(allowed)


def test_features_of_counts_are_the_variable_ones():
    ref, query = counts(160, 1, "r"), counts(130, 2, "q")
    result = hdi.pp.stacas(ref, query, features=20)
    assert len(result.features) == 20
    assert len(result.genes) == 60
    chosen = set(result.features[:5])
    for one in (ref, query):
        one.X[:, one.var_names.isin(chosen)] = 3.0
    assert not chosen & set(hdi.pp.stacas(ref, query, features=20).features)
    assert hdi.pp.stacas(ref, query, features=["GENE3", "GENE1"]).features == ("GENE1", "GENE3")
    with pytest.warns(UserWarning, match="1 of the 2 features are not in all datasets .*: NO1"):
        assert hdi.pp.stacas(ref, query, features=["GENE3", "NO1"]).features == ("GENE3",)


def test_the_published_settings_remove_the_effect_too(draw, wrap, vector, run):
    (first, a), (second, b) = draw(300, 1), draw(250, 2)
    config = StacasConfig.schdeepinsight()
    moved = run(wrap(first, prefix="r"), wrap(second + 0.5 * vector), config=config)
    gap = [np.abs(moved[b == k].mean(0) - first[a == k].mean(0)).mean() for k in range(3)]
    assert max(gap) < 0.4 * np.abs(0.5 * vector).mean()


KEYS = {"labels_key": "cell_type", "query_labels_key": "cell_type"}
TREE = hdi.Taxonomy.from_nested({"B": ["b"]})
BAD = {
    "no shared genes": ({"rename": "OTHER"}, {}, hdi.data.InputError, "No gene is in all"),
    "unknown feature": ({}, {"features": ["XYZ"]}, hdi.data.InputError, "None of the 1 features"),
    "no such column": ({}, KEYS | {"labels_key": "nope"}, KeyError, "no column 'nope'"),
    "one column": ({}, {"labels_key": "cell_type"}, ValueError, "labels_key has no effect"),
    "other column": ({}, {"query_labels_key": "cell_type"}, ValueError, "query_labels_key has no"),
    "no columns": ({}, {"taxonomy": TREE}, ValueError, "taxonomy has no effect without label"),
    "a model": ({}, {"normalizer": "pbmc"}, ValueError, "normalizer must be the normalizer of"),
    "another config": ({}, {"config": {}}, ValueError, "config must be a hdi.pp.StacasConfig"),
    "no such mode": ({}, {"mode": "both"}, ValueError, "mode must be one of 'project'"),
    "no such search": ({}, {"neighbors": "fast"}, ValueError, "neighbors must be .* got 'fast'"),
    "no feature": ({}, {"features": 0}, ValueError, "features must be an integer >= 1, got 0"),
    "fewer than no feature": ({}, {"features": -1}, ValueError, "features must be .* got -1"),
    "one feature as text": ({}, {"features": "G1"}, ValueError, "None of the 2 features"),
    "no query": ({"query": None}, {}, ValueError, "got 1 and 0"),
    "empty query": ({"query": slice(0, 0)}, {}, ValueError, "cells|empty|no values"),
    "equal cells": (
        {"values": lambda x: np.ones(x.shape)},
        {},
        hdi.data.InputError,
        "All .* the same expression",
    ),
    "negative": ({"values": lambda x: x - 3e3}, {}, hdi.data.InputError, "negative"),
    "nan": ({"values": lambda x: np.where(x > 1, np.nan, x)}, {}, hdi.data.InputError, "NaN"),
    "label outside": (
        {},
        KEYS | {"taxonomy": TREE},
        ValueError,
        "do not lead to a node",
    ),
}


def test_bad_input_is_refused_with_a_reason(pair):
    for change, options, error, says in BAD.values():
        ref, query = pair[0], pair[1].copy()
        if "rename" in change:
            query.var_names = [f"{change['rename']}{i}" for i in range(query.n_vars)]
        if "values" in change:
            query.X = change["values"](query.X).astype(np.float32)
        if "query" in change:
            query = None if change["query"] is None else query[change["query"]]
        with pytest.raises(error, match=says):
            hdi.pp.stacas(ref, query, **options)


def test_settings_out_of_range_are_refused():
    for wrong in [{"k_anchor": 0}, {"n_dims": 1.5}, {"k_weight": True}, {"k_score": -3}]:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            StacasConfig(**wrong)


@pytest.mark.parametrize("ask", ["cells", "genes", "name", "chunk"])
def test_invalid_calls_of_a_result_are_refused(pair, ask, exact):
    ref, query = pair
    result = hdi.pp.stacas(ref, query, **exact)
    asked = {
        "cells": (lambda: result.to_adata(query[:10].copy()), "0 datasets of .* have the 10 cells"),
        "genes": (lambda: result.transform(query[:, :30]), "lack 10 genes"),
        "name": (lambda: next(result.corrected("other")), "dataset must be one of .* got 'other'"),
        "chunk": (lambda: next(result.corrected(chunk_size=0)), "chunk_size must be .* got 0"),
    }
    question, says = asked[ask]
    with pytest.raises(ValueError, match=says):
        question()


def test_the_data_are_not_changed(pair, exact):
    copies = [one.copy() for one in pair]
    result = hdi.pp.stacas(*pair, **KEYS, **exact)
    assert len(result.report.cells) == 150
    for one, copy in zip(pair, copies, strict=True):
        np.testing.assert_array_equal(one.X, copy.X)
        pd.testing.assert_frame_equal(one.obs, copy.obs)
        assert not one.layers
        assert not one.uns
