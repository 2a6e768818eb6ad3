"""Counts from normalised values: known counts, a real file, and what cannot be recovered."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

from hdeepinsight.data import InputError, RecoveredCounts, recover_counts


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", [1e3, 1e4, 1e6])
def test_known_counts_come_back_exactly(small, normalise, dtype, target):
    found = recover_counts(normalise(small.X, target, dtype))
    np.testing.assert_array_equal(found.matrix.toarray(), small.X.toarray())
    assert found.matrix.dtype == np.float32
    assert found.residual < 1e-3
    totals = np.asarray(small.X.sum(axis=1)).ravel()
    filled = totals > 0
    np.testing.assert_allclose(found.units[filled], target / totals[filled], rtol=1e-5)
    assert np.isnan(found.units[~filled]).all()


def test_what_scanpy_normalises_comes_back(small):
    small = small[small.X.sum(axis=1).A1 > 0].copy()
    logged = small.copy()
    sc.pp.normalize_total(logged)  # the median total, which no constant tells
    np.testing.assert_array_equal(
        recover_counts(logged.X, scale="normalized").matrix.toarray(), small.X.toarray()
    )
    sc.pp.log1p(logged)
    np.testing.assert_array_equal(recover_counts(logged.X).matrix.toarray(), small.X.toarray())


def test_genes_that_were_dropped_after_normalising_do_not_matter(small, normalise):
    values = normalise(small.X)[:, 20:]
    found = recover_counts(values).matrix.toarray()
    counts = small.X.toarray()[:, 20:]
    divisor = np.maximum(np.gcd.reduce(counts.astype(int), axis=1), 1)
    np.testing.assert_array_equal(found, counts / divisor[:, None])


@pytest.mark.parametrize("decimals", [3, 4, 5])
def test_values_rounded_to_decimals_come_back(small, normalise, decimals):
    rounded = np.round(normalise(small.X, dtype="float64"), decimals).astype(np.float32)
    found = recover_counts(sparse.csr_matrix(rounded))
    assert found.rounding == 10.0**-decimals
    np.testing.assert_array_equal(found.matrix.toarray(), small.X.toarray())


def test_real_rounded_file_agrees_with_its_stored_totals(pbmc68k):
    # obs["n_counts"] holds the totals over all genes of the original data, raw only 765 of them.
    # CP10k makes one count worth 1e4 / total: recovery was not told, and finds it.
    found = recover_counts(pbmc68k.raw.X)
    assert found.n_cells == 700
    assert found.rounding == 1e-3
    assert found.residual < 0.1
    np.testing.assert_allclose(found.units * pbmc68k.obs["n_counts"], 1e4, rtol=3e-4)
    assert np.unique(found.matrix.data)[:5].tolist() == [1, 2, 3, 4, 5]
    back = found.matrix.toarray() * found.units[:, None]
    np.testing.assert_allclose(np.log1p(back), pbmc68k.raw.X.toarray(), atol=6e-4)


def test_anndata_in_gives_a_new_anndata_out(pbmc68k, fingerprint):
    before = fingerprint(pbmc68k)
    counts = recover_counts(pbmc68k, use_raw=True)
    assert fingerprint(pbmc68k) == before
    assert counts.shape == (700, 765)
    assert sparse.isspmatrix_csr(counts.X)
    assert list(counts.obs_names) == list(pbmc68k.obs_names)
    assert list(counts.var_names) == list(pbmc68k.raw.var_names)
    counts.obs["bulk_labels"] = "other"
    counts.var["new"] = 0
    assert fingerprint(pbmc68k) == before


def test_a_layer_is_recovered_from_a_layer(small, normalise):
    small.layers["logged"] = normalise(small.X)
    found = recover_counts(small, layer="logged")
    np.testing.assert_array_equal(found.X.toarray(), small.X.toarray())


@pytest.mark.parametrize("form", [np.asfortranarray, sparse.csc_matrix, sparse.csr_array])
def test_any_matrix_is_taken(small, normalise, form):
    found = recover_counts(form(normalise(small.X)))
    np.testing.assert_array_equal(found.matrix.toarray(), small.X.toarray())


def gene_length_normalised(counts: np.ndarray) -> np.ndarray:
    rate = counts / np.random.default_rng(0).uniform(0.5, 9, size=counts.shape[1])
    return np.log1p(1e6 * rate / np.maximum(rate.sum(1, keepdims=True), 1e-9)).astype(np.float32)


def smoothed(counts: np.ndarray) -> np.ndarray:
    return np.log1p((counts + np.roll(counts, 1, axis=0) / np.pi) / 7).astype(np.float32)


@pytest.mark.parametrize("spoil", [gene_length_normalised, smoothed])
def test_values_that_hold_no_counts_are_refused_with_the_share_of_cells(small, spoil):
    with pytest.raises(
        InputError, match=r"In 9\d of 97 cells \(9\d\.\d%\).*natural log1p.*imputed"
    ):
        recover_counts(spoil(small.X.toarray()))


def test_one_bad_cell_is_enough_to_refuse(small, normalise):
    values = normalise(small.X)
    values[5, values[5] > 0] *= np.linspace(1, 1.2, (values[5] > 0).sum())
    with pytest.raises(InputError, match=r"In 1 of 97 cells \(1\.0%\)"):
        recover_counts(values)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        pytest.param([[1.5, np.nan]], "1 NaN and 0 infinite", id="nan"),
        pytest.param([[1.5, np.inf]], "0 NaN and 1 infinite", id="inf"),
        pytest.param([[1.5, -0.5]], "1 negative values.*before scaling", id="scaled"),
        pytest.param([[1.0, 3.0]], "whole numbers only.*the counts it is", id="counts_already"),
    ],
)
def test_values_that_are_not_normalised_counts_are_refused(matrix, message):
    with pytest.raises(InputError, match=message):
        recover_counts(np.array(matrix))


def test_an_unknown_scale_is_refused_and_not_taken_for_another(small, normalise):
    with pytest.raises(InputError, match=r"scale='log'.*'log1p', 'normalized'"):
        recover_counts(normalise(small.X), scale="log")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        pytest.param("cells.h5ad", "a str", id="path"),
        pytest.param([[1.5, 2.5]], "a list", id="list"),
        pytest.param(np.ones(3), r"a ndarray of shape \(3,\)", id="one_cell_flat"),
        pytest.param(pd.DataFrame([[1.5, 2.5]]), "a DataFrame", id="table"),
    ],
)
def test_what_is_no_matrix_is_refused(data, found):
    with pytest.raises(InputError, match=f"{found}.*Valid are an AnnData"):
        recover_counts(data)


def test_result_describes_itself(small, normalise):
    found = recover_counts(normalise(small.X))
    assert isinstance(found, RecoveredCounts)
    assert repr(found).startswith("RecoveredCounts(97 cells × 60 genes, residual ")


def test_zeros_stay_zeros():
    found = recover_counts(np.zeros((3, 2)))
    assert found.matrix.nnz == 0
    assert found.matrix.shape == (3, 2)
    assert ad.AnnData(found.matrix).n_obs == 3
