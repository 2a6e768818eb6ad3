"""Principal components of cells with missing entries."""

import warnings

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

import hdeepinsight as hdi


def clusters(n_cells=600, n_genes=3_000, noise=2.0, seed=0, apart=6.0, signal=0.08):
    """Three clusters in two dimensions, spread over genes, with noise per entry."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=n_cells)
    angle = 2 * np.pi * np.arange(3) / 3
    centres = apart / np.sqrt(3) * np.column_stack([np.cos(angle), np.sin(angle)])
    latent = centres[kind] + rng.normal(size=(n_cells, 2))
    values = rng.normal(1.0, 1.0, n_genes) + signal * latent @ rng.normal(size=(2, n_genes))
    values += noise * rng.normal(size=(n_cells, n_genes))
    return values, kind, rng


def observe(rng, shape, cells, genes):
    """Draw entries with rates of cells times rates of genes, both uniform."""
    rates = rng.uniform(*cells, size=(shape[0], 1)) * rng.uniform(*genes, size=(1, shape[1]))
    return rng.random(shape) < rates


def cells_of(values, **obs):
    names = [f"cell {i}" for i in range(values.shape[0])]
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(values.shape[1])])
    return ad.AnnData(values, pd.DataFrame(obs, index=names), var)


def embed(values, mask, n_comps=2, **options):
    return hdi.pp.corrected_gram_pca(cells_of(values), mask=mask, n_comps=n_comps, **options)


def ari(result, kind):
    found = KMeans(3, n_init=10, random_state=0).fit_predict(result.embedding)
    return adjusted_rand_score(kind, found)


def same_up_to_sign(found, expected, atol):
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=atol)


@pytest.fixture
def panels():
    """Cells of two panels that share genes; genes outside the panel are 0."""
    values, kind, _ = clusters(160, 60, noise=1.0, signal=1.0)
    table = np.ones((2, 60), dtype=bool)
    table[0, :20], table[1, 40:] = False, False
    batch = np.arange(160) % 2
    adata = cells_of(np.where(table[batch], values, 0.0), panel=np.array(["x", "y"])[batch])
    return adata, hdi.pp.PanelMask(batch, table, ("x", "y")), kind


@pytest.mark.parametrize("sparse", [False, True])
def test_without_missing_entries_it_is_plain_pca(sparse):
    values, _, _ = clusters(700, 80)
    values = np.abs(values)
    adata = cells_of(sp.csr_matrix(values) if sparse else values)
    result = hdi.pp.corrected_gram_pca(adata, n_comps=10)
    plain = PCA(10, svd_solver="full").fit(values)
    same_up_to_sign(result.embedding, plain.transform(values), 1e-4)
    np.testing.assert_allclose(
        result.eigenvalues, plain.singular_values_**2 / values.shape[1], rtol=1e-6
    )
    same_up_to_sign(result.loadings.to_numpy(), plain.components_.T, 1e-4)
    assert list(result.loadings.index) == list(adata.var_names)
    assert (result.coverage == 1).all()
    sc.pp.pca(adata, n_comps=10)
    same_up_to_sign(result.embedding, adata.obsm["X_pca"], 1e-3)
    same_up_to_sign(result.transform(adata), result.embedding, 1e-4)
    gram = hdi.pp.corrected_gram_pca(adata, n_comps=10, scale="gram")
    np.testing.assert_allclose(gram.embedding * np.sqrt(80), result.embedding)


def test_new_cells_are_embedded_as_well_as_the_fitted_ones():
    errors = []
    for seed in range(4):
        values, _, rng = clusters(600, 1_000, apart=8.0, signal=0.3, seed=seed)
        mask = rng.random(values.shape) < rng.uniform(0.4, 0.6, size=(600, 1))
        complete, result = embed(values[:400], None), embed(values[:400], mask[:400])
        new = cells_of(values[400:])
        truth = complete.embedding, complete.transform(new)
        found = result.embedding, result.transform(new, mask[400:])
        u, _, vt = np.linalg.svd(found[0].T @ truth[0])
        pairs = zip(found, truth, strict=True)
        errors.append([np.linalg.norm(x @ u @ vt - y) / np.linalg.norm(y) for x, y in pairs])
    fitted, new = np.mean(errors, axis=0)
    assert new < 1.03 * fitted < 0.1


@pytest.mark.parametrize("center", [False, True])
def test_new_cells_are_centred_like_the_fitted_ones(center):
    values, _, _ = clusters(100, 80, signal=1.0)
    result = embed(values, None, center=center)
    np.testing.assert_allclose(result.transform(cells_of(values)), result.embedding, atol=1e-8)
    mask = np.random.default_rng(0).random(values.shape) < 0.5
    result = embed(values, mask, center=center)
    scores = result.transform(cells_of(values), mask)
    gram = hdi.pp.corrected_gram(values, mask)
    vectors = result.embedding / np.sqrt(80 * result.eigenvalues)
    products = gram @ vectors - gram.extra[:, None] * vectors
    shift = (gram @ vectors).mean(axis=0) if center else 0.0
    expected = (products - shift) / np.sqrt(result.eigenvalues / 80)
    np.testing.assert_allclose(scores, expected, atol=1e-8)


@pytest.mark.parametrize("center", [False, True])
def test_cells_of_panels_are_regressed_on_their_own_genes(panels, center):
    adata, mask, _ = panels
    options = {"mask": mask, "n_comps": 3, "center": center}
    result = hdi.pp.corrected_gram_pca(adata, **options)
    assert result.estimator == "pairwise"
    observed = mask.measured[mask.groups]
    z = observed * (adata.X - (observed * adata.X).sum(0) / observed.sum(0))
    gram = hdi.pp.corrected_gram(adata, mask, center=center).todense()
    w, v = np.linalg.eigh(gram)
    points = v[:, :-4:-1] * np.sqrt(w[:-4:-1])
    loadings = np.stack(
        [np.linalg.lstsq(points[seen], z[seen, d])[0] for d, seen in enumerate(observed.T)], axis=1
    )
    noise = (observed * (z - points @ loadings) ** 2).sum() / observed.sum()
    penalty = noise * np.linalg.inv(points.T @ points / 160)
    places = []
    for x, seen in zip(z, observed, strict=True):
        own = loadings[:, seen]
        places.append(np.linalg.solve(own @ own.T + penalty, own @ x[seen]))
    inner = loadings @ loadings.T
    places = np.array(places) @ np.linalg.solve(inner, inner + penalty)
    plain = np.linalg.svd(places @ loadings, full_matrices=False)
    expected = (plain[0] * plain[1])[:, :3]
    expected = expected - expected.mean(axis=0) if center else expected
    same_up_to_sign(result.embedding, expected, 1e-6)
    same_up_to_sign(result.loadings.to_numpy(), plain[2][:3].T, 1e-6)
    np.testing.assert_allclose(result.transform(adata, mask), result.embedding, atol=1e-8)
    smaller = hdi.pp.corrected_gram_pca(adata, scale="gram", **options)
    np.testing.assert_allclose(smaller.embedding * np.sqrt(60), result.embedding)


def test_new_cells_of_another_panel(panels):
    adata, mask, _ = panels
    result = hdi.pp.corrected_gram_pca(adata, mask=mask, n_comps=2)
    third = np.zeros((1, 60), dtype=bool)
    third[0, 10:50] = True
    own = np.where(mask.measured[mask.groups], adata.X, np.nan)[mask.groups == 0]
    placed = result.transform(adata[mask.groups == 0], hdi.pp.PanelMask(np.zeros(80, int), third))
    assert np.isfinite(own[:, 20:50]).all()
    same = np.corrcoef(placed.T, result.embedding[mask.groups == 0].T)
    assert min(same[0, 2], same[1, 3]) > 0.9
    with pytest.raises(ValueError, match="must have panels, got a mask"):
        result.transform(adata, np.ones(adata.shape))


def test_panels_of_all_genes_give_plain_components():
    values, _, _ = clusters(120, 70, signal=0.5)
    mask = hdi.pp.PanelMask(np.arange(120) % 2, np.ones((2, 70), dtype=bool))
    result, plain = embed(values, mask, 4), PCA(4, svd_solver="full").fit(values)
    same_up_to_sign(result.embedding, plain.transform(values), 1e-8)
    same_up_to_sign(result.loadings.to_numpy(), plain.components_.T, 1e-8)


@pytest.mark.parametrize(("cells", "genes"), [((0.4, 0.6), (0.7, 0.9)), ((0.1, 0.9), (0.1, 0.9))])
def test_products_are_calibrated(cells, genes):
    slopes, apart = [], ~np.eye(600, dtype=bool)
    for seed in range(5):
        values, _, rng = clusters(seed=seed, signal=0.3)
        mask = observe(rng, values.shape, cells, genes)
        found = hdi.pp.corrected_gram(values, mask).todense()[apart]
        truth = hdi.pp.corrected_gram(values).todense()[apart]
        slopes.append(found @ truth / (truth @ truth))
    assert np.mean(slopes) == pytest.approx(1, abs=0.02)


def test_uneven_coverage_hurts_less_than_filling_with_means():
    gains = []
    for seed in range(5):
        values, kind, rng = clusters(seed=seed)
        mask = observe(rng, values.shape, (0.05, 0.95), (1, 1))
        rank1, filled = (embed(values, mask, estimator=e) for e in ("rank1", "mean_fill"))
        gains.append(ari(rank1, kind) - ari(filled, kind))
    assert np.mean(gains) >= 0.2


def test_panels_need_products_of_pairs():
    gains = []
    for seed in range(5):
        values, kind, rng = clusters(seed=seed)
        table = rng.random((4, 3_000)) < np.array([[0.95], [0.5], [0.2], [0.08]])
        table[0] |= ~table.any(axis=0)
        mask = hdi.pp.PanelMask(rng.integers(4, size=600), table)
        pairwise, rank1 = (embed(values, mask, estimator=e) for e in ("auto", "rank1"))
        gains.append(ari(pairwise, kind) - ari(rank1, kind))
    assert np.mean(gains) >= 0.3


def test_products_are_unbiased():
    values, _, rng = clusters(300, 2_000)
    truth = hdi.pp.corrected_gram(values).todense()
    found = np.zeros_like(truth)
    for _ in range(50):
        mask = rng.random(values.shape) < rng.uniform(0.1, 0.9, size=(300, 1))
        found += hdi.pp.corrected_gram(values, mask).todense() / 50
    apart = ~np.eye(300, dtype=bool)
    slope = found[apart] @ truth[apart] / (truth[apart] @ truth[apart])
    assert slope == pytest.approx(1, abs=0.02)
    assert np.mean(np.diagonal(found) / np.diagonal(truth)) == pytest.approx(1, abs=0.02)


def test_numbers_of_components_by_rule():
    values, _, rng = clusters(120, 300, noise=0.5)
    mask = rng.random(values.shape) < 0.7
    assert embed(values, mask, "scree").embedding.shape == (120, 2)
    result = embed(values, mask, "proportion")
    everything = np.linalg.eigvalsh(hdi.pp.corrected_gram(values, mask).todense())
    share = np.cumsum(everything[::-1]) / everything[everything > 0].sum()
    n = len(result.eigenvalues)
    assert share[n - 2] < 0.95 <= share[n - 1]
    n_positive = int((everything > 0).sum())
    assert n_positive < 120
    with pytest.raises(ValueError, match=f"positive eigenvalues, {n_positive}, got 120"):
        embed(values, mask, 120)
    assert len(embed(values, mask, n_positive).eigenvalues) == n_positive
    many, _, _ = clusters(1_100, 200)
    assert "100 largest" in embed(many, rng.random(many.shape) < 0.9, "proportion").notes[0]


def test_data_are_read_in_blocks(panels, tmp_path_factory):
    for kind in ["backed", "path", "zarr", "dask", "dask_dense"]:
        tmp_path = tmp_path_factory.mktemp("case")
        adata, mask, _ = panels
        adata = adata.copy()
        adata.layers["log"] = sp.csr_matrix(np.tile(adata.X, 1))
        expected = hdi.pp.corrected_gram_pca(adata, layer="log", mask=mask, n_comps=4)
        given = adata
        if kind in ("backed", "path"):
            adata.X = adata.layers["log"]
            adata.write_h5ad(tmp_path / "cells.h5ad")
            given = tmp_path / "cells.h5ad"
            given = ad.read_h5ad(given, backed="r") if kind == "backed" else given
        elif kind == "zarr":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the format
                adata.write_zarr(tmp_path / "cells.zarr")
            given = tmp_path / "cells.zarr"
        else:
            dense = da.from_array(adata.X, chunks=(50, 60))
            adata.layers["log"] = dense if kind == "dask_dense" else dense.map_blocks(sp.csr_matrix)
        result = hdi.pp.corrected_gram_pca(given, layer="log", mask=mask, n_comps=4)
        np.testing.assert_allclose(result.embedding, expected.embedding, atol=1e-8)
        placed = result.transform(given, mask)
        np.testing.assert_allclose(placed, expected.transform(adata, mask), atol=1e-8)
        if kind == "backed":
            given.file.close()


def test_operator_accepts_arrays_dask_layers_and_files(panels, tmp_path):
    adata, mask, _ = panels
    v = np.ones(160)
    expected = hdi.pp.corrected_gram(adata.X, mask) @ v
    for given in (sp.csc_matrix(adata.X), adata, da.from_array(adata.X, chunks=(50, 60))):
        np.testing.assert_allclose(hdi.pp.corrected_gram(given, mask) @ v, expected)
    copy = adata.copy()
    copy.layers["log"] = copy.X
    copy.write_h5ad(tmp_path / "cells.h5ad")
    for given in (copy, tmp_path / "cells.h5ad"):
        found = hdi.pp.corrected_gram(given, mask, layer="log") @ v
        np.testing.assert_allclose(found, expected)


def test_masks_from_layers_and_writing(panels):
    adata, mask, _ = panels
    adata.layers["seen"] = mask.measured[mask.groups]
    before = adata.copy()
    by_key = hdi.pp.corrected_gram_pca(adata, mask_key="seen", estimator="rank1", n_comps=3)
    by_mask = hdi.pp.corrected_gram_pca(
        adata, mask=mask.measured[mask.groups], estimator="rank1", n_comps=3
    )
    np.testing.assert_array_equal(by_key.embedding, by_mask.embedding)
    assert list(adata.obsm) == []
    np.testing.assert_array_equal(adata.X, before.X)
    hdi.pp.corrected_gram_pca(adata, mask=mask, n_comps=3, key_added="X_corrected")
    assert adata.obsm["X_corrected"].shape == (160, 3)
    np.testing.assert_allclose(adata.obs["X_corrected_coverage"], 2 / 3)
    sc.pp.neighbors(adata, use_rep="X_corrected", n_neighbors=5)
    with pytest.raises(ValueError, match="one of mask and mask_key"):
        hdi.pp.corrected_gram_pca(adata, mask=mask, mask_key="seen")
    with pytest.raises(ValueError, match="other cells, or in another order"):
        by_key.to_adata(adata[::-1].copy())


def test_shuffled_cells_keep_their_coordinates(panels):
    adata, mask, _ = panels
    order = np.random.default_rng(0).permutation(160)
    moved = hdi.pp.PanelMask(mask.groups[order], mask.measured)
    first = hdi.pp.corrected_gram_pca(adata, mask=mask, n_comps=3)
    second = hdi.pp.corrected_gram_pca(adata[order], mask=moved, n_comps=3)
    np.testing.assert_allclose(second.embedding, first.embedding[order], atol=1e-8)


def test_panels_of_batches(panels):
    adata, mask, _ = panels
    genes = {name: adata.var_names[row] for name, row in zip("xy", mask.measured, strict=True)}
    found = hdi.pp.panel_mask(adata, batch_key="panel", measured=genes)
    np.testing.assert_array_equal(found.measured, mask.measured)
    np.testing.assert_array_equal(found.groups, mask.groups)
    with pytest.warns(UserWarning, match="Panels are inferred"):
        inferred = hdi.pp.panel_mask(adata, batch_key="panel")
    np.testing.assert_array_equal(inferred.measured, mask.measured)
    with pytest.raises(KeyError, match="no column 'batch'"):
        hdi.pp.panel_mask(adata, batch_key="batch")
    with pytest.raises(ValueError, match="panel, got none for 'y'"):
        hdi.pp.panel_mask(adata, batch_key="panel", measured={"x": genes["x"]})
    with pytest.raises(ValueError, match="other names for 'x': ACTB"):
        hdi.pp.panel_mask(adata, batch_key="panel", measured={"x": ["ACTB"], "y": []})


@pytest.mark.parametrize("method", ["leiden", "vote"])
def test_dropout_masks(method):
    rng = np.random.default_rng(0)
    kind = np.repeat([0, 1], 60)
    high = np.where(np.arange(20) < 10, [[0.9], [0.02]], [[0.02], [0.9]])
    values = rng.gamma(20.0, size=(120, 20)) * (rng.random((120, 20)) < high[kind]) / 20
    adata = cells_of(sp.csr_matrix(values), kind=kind.astype(str))
    by_key = hdi.pp.estimate_dropout_mask(adata, groups_key="kind")
    np.testing.assert_array_equal(by_key.dropout, high > 0.5)
    found = hdi.pp.estimate_dropout_mask(adata, method=method)
    missing, expected = (m.dropout[m.groups] & (values == 0) for m in (found, by_key))
    assert (missing == expected).mean() > 0.95
    result = hdi.pp.corrected_gram_pca(adata, mask=found, n_comps=2)
    assert result.estimator == "rank1"
    assert adjusted_rand_score(kind, result.embedding[:, 0] > 0) == 1
    again = hdi.pp.estimate_dropout_mask(adata, method=method)
    np.testing.assert_array_equal(again.groups, found.groups)


def test_invalid_input_is_refused(panels):
    adata, mask, _ = panels
    with pytest.raises(ValueError, match=r"shape of the mask must be \(160, 60\)"):
        hdi.pp.corrected_gram(adata, np.ones((160, 59)))
    with pytest.raises(ValueError, match="shape of the mask"):
        hdi.pp.corrected_gram(adata, hdi.pp.PanelMask(mask.groups[:9], mask.measured))
    with pytest.raises(ValueError, match="groups must be whole numbers from 0 to 1"):
        hdi.pp.corrected_gram(adata, hdi.pp.PanelMask(mask.groups + 1, mask.measured))
    with pytest.raises(ValueError, match="1 for observed and 0 for missing"):
        hdi.pp.corrected_gram(adata, np.full(adata.shape, 0.5))
    with pytest.raises(ValueError, match="n_comps must be an integer"):
        hdi.pp.corrected_gram_pca(adata, n_comps=0)
    with pytest.raises(ValueError, match=r"layers\['log'\]"):
        hdi.pp.corrected_gram_pca(adata, layer="log")
    with pytest.raises(ValueError, match=r"layers\['no'\].*omit `mask_key="):
        hdi.pp.corrected_gram_pca(adata, mask_key="no")
    with pytest.raises(ValueError, match="groups_key must be omitted with method or random_state"):
        hdi.pp.estimate_dropout_mask(adata, groups_key="kind", method="vote", random_state=1)
    seen = np.ones(adata.shape, dtype=bool)
    seen[2] = False
    with pytest.raises(ValueError, match="without any: cell 2"):
        hdi.pp.corrected_gram_pca(adata, mask=seen)
    seen[2], seen[:, 3] = True, False
    with pytest.raises(ValueError, match="without any: GENE3"):
        hdi.pp.corrected_gram_pca(adata, mask=seen)
    result = hdi.pp.corrected_gram_pca(adata, mask=seen, n_comps=2, drop_empty=True)
    assert result.notes == ("1 gene without observed entries: GENE3.",)
    with pytest.raises(ValueError, match="60 genes in the same order, got another order"):
        result.transform(adata[:, ::-1])
    dense = hdi.pp.corrected_gram_pca(
        adata, mask=seen | (np.arange(160) < 9)[:, None], estimator="pairwise", n_comps=2
    )
    with pytest.raises(ValueError, match="operator form for new cells"):
        dense.transform(adata)
    with pytest.warns(UserWarning, match="look like raw counts"):
        hdi.pp.corrected_gram_pca(
            cells_of(np.random.default_rng(0).poisson(2.0, (40, 9))), n_comps=2
        )


def test_log_values_raise_no_warning(panels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hdi.pp.corrected_gram_pca(panels[0], mask=panels[1], n_comps=2)
