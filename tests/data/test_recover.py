"""Recovery of counts from normalised values."""

from math import gcd

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse

from hdeepinsight.data import Denormalizer, InputError, recover_counts


def test_known_counts_come_back_exactly(small, normalise):
    for target in [1e3, 1e4, 1e6]:
        for dtype in ["float32", "float64"]:
            found = recover_counts(normalise(small.X, target, dtype))
            np.testing.assert_array_equal(found.X.toarray(), small.X.toarray())
            assert found.X.dtype == np.float32


def test_counts_normalised_by_scanpy_are_recovered(small):
    small = small[small.X.sum(axis=1).A1 > 0].copy()
    logged = small.copy()
    logged.X = small.X.toarray()
    sc.pp.normalize_total(logged)  # the median total, which no constant tells
    np.testing.assert_array_equal(recover_counts(logged.X).X.toarray(), small.X.toarray())
    sc.pp.log1p(logged)
    np.testing.assert_array_equal(recover_counts(logged).X.toarray(), small.X.toarray())


def test_genes_that_were_dropped_after_normalising_do_not_matter(small, normalise):
    found = recover_counts(normalise(small.X)[:, 20:]).X.toarray()
    counts = small.X.toarray()[:, 20:]
    divisor = np.maximum(np.gcd.reduce(counts.astype(int), axis=1), 1)
    np.testing.assert_array_equal(found, counts / divisor[:, None])


@pytest.mark.parametrize("decimals", [3, 4, 5])
def test_values_rounded_to_decimals_come_back(small, normalise, decimals):
    rounded = np.round(normalise(small.X, dtype="float64"), decimals).astype(np.float32)
    found = recover_counts(sparse.csr_matrix(rounded))
    np.testing.assert_array_equal(found.X.toarray(), small.X.toarray())


def test_real_rounded_file_agrees_with_its_stored_totals(pbmc68k):
    # obs["n_counts"] holds the totals over all genes of the original data, raw only 765 of them.
    # CP10k makes one count worth 1e4 / total: recovery was not told, and finds it.
    found = recover_counts(pbmc68k, use_raw=True).X.toarray()
    assert np.unique(found)[1:6].tolist() == [1, 2, 3, 4, 5]
    units = 1e4 / pbmc68k.obs["n_counts"].to_numpy()[:, None]
    values = pbmc68k.raw.X.toarray()
    np.testing.assert_allclose(np.log1p(found * units), values, atol=6e-4)


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
    np.testing.assert_array_equal(found.X.toarray(), small.X.toarray())


def test_a_path_is_taken(small, normalise, tmp_path):
    ad.AnnData(normalise(small.X), obs=small.obs, var=small.var).write_h5ad(tmp_path / "c.h5ad")
    found = recover_counts(tmp_path / "c.h5ad")
    np.testing.assert_array_equal(found.X.toarray(), small.X.toarray())
    assert list(found.var_names) == list(small.var_names)


def gene_length_normalised(counts: np.ndarray) -> np.ndarray:
    rate = counts / np.random.default_rng(0).uniform(0.5, 9, size=counts.shape[1])
    return np.log1p(1e6 * rate / np.maximum(rate.sum(1, keepdims=True), 1e-9)).astype(np.float32)


def smoothed(counts: np.ndarray) -> np.ndarray:
    return np.log1p((counts + np.roll(counts, 1, axis=0) / np.pi) / 7).astype(np.float32)


@pytest.mark.parametrize("spoil", [gene_length_normalised, smoothed])
def test_values_without_counts_raise(small, spoil):
    with pytest.raises(InputError, match=r"looks log1p.*library-size normalised values only"):
        recover_counts(spoil(small.X.toarray()))


def test_one_bad_cell_is_enough_to_refuse(small, normalise):
    values = normalise(small.X)
    values[5, values[5] > 0] *= np.linspace(1, 1.2, (values[5] > 0).sum())
    with pytest.raises(InputError, match=r"looks log1p"):
        recover_counts(values)


def test_values_that_are_not_normalised_counts_are_refused():
    for matrix, message in [
        ([[1.5, np.nan]], "1 NaN and 0 infinite"),
        ([[1.5, np.inf]], "0 NaN and 1 infinite"),
        ([[1.5, -0.5]], "1 value is negative.*before scaling"),
        ([[1.0, 3.0]], "looks counts.*Use them"),
        ([[0.0, 0.0]], "all values are zero"),
    ]:
        with pytest.raises(InputError, match=message):
            recover_counts(np.array(matrix))


def test_other_types_raise():
    for data, found in [
        ("cells.h5ad", "cells.h5ad does not exist"),
        ([[1.5, 2.5]], "a list"),
        (np.ones(3), "a ndarray"),
    ]:
        with pytest.raises(InputError, match=f"{found}.*Expected an AnnData"):
            recover_counts(data)


def rows_of(*rows) -> sparse.csr_matrix:
    """Rows that hold these values and nothing else."""
    width = max(map(len, rows))
    return sparse.csr_matrix([[*row, *[0.0] * (width - len(row))] for row in rows])


def solve(rows: sparse.csr_matrix, grid: float = 0.0):
    return Denormalizer("normalized", rows.dtype, grid).denormalize(rows)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    counts=arrays(
        np.int64, st.tuples(st.integers(1, 6), st.just(9)), elements=st.integers(1, 3000)
    ),
    smallest=st.integers(1, 16),
    target=st.sampled_from([1e3, 1e4, 1e6]),
)
def test_float32_log_values_give_the_counts_up_to_their_common_divisor(counts, smallest, target):
    counts[:, 0] = smallest
    counts = np.maximum(counts, smallest)
    values = np.log1p((counts / counts.sum(1, keepdims=True) * target).astype(np.float32))
    decoded, solved = Denormalizer("log1p", np.dtype("float32")).denormalize(values)
    divisor = np.gcd.reduce(counts, axis=1)
    assert solved.all()
    np.testing.assert_array_equal(decoded.toarray(), counts // divisor[:, None])


def brute_force(values: list[float], tolerance: float) -> list[int] | None:
    """Try every smallest count in turn, value by value."""
    for smallest in range(1, 17):
        unit = min(values) / smallest
        ratios = [value / unit for value in values]
        if all(abs(ratio - round(ratio)) < tolerance for ratio in ratios):
            return [round(ratio) for ratio in ratios]
    return None


def test_agrees_with_brute_force_on_exact_values():
    rng = np.random.default_rng(0)
    rows = [0.37 * rng.integers(2, 40, size=rng.integers(1, 6)) for _ in range(300)]
    decoded, solved = solve(rows_of(*rows))
    for i, row in enumerate(rows):
        naive = brute_force(list(row), 1e-6)
        assert solved[i] == (naive is not None)
        if naive is not None:
            assert decoded.toarray()[i, : len(row)].tolist() == naive
            assert gcd(*naive) == 1


def test_a_later_value_can_decide_an_earlier_one():
    # Known to 0.01: 1000 is undecided from the 1 alone (990 to 1010), and decided through 30.
    decoded, solved = solve(rows_of([1.0, 30.0, 1000.0]), grid=0.02)
    assert solved.all()
    assert decoded.toarray().tolist() == [[1, 30, 1000]]


def test_rows_without_a_unit_are_not_solved():
    for row, grid in [([1.0, np.e, np.pi], 0.0), ([1.0, 1000.0], 0.04), ([17.0, 18.0], 0.0)]:
        _, solved = solve(rows_of(row), grid)
        assert not solved.any()


def test_empty_rows_are_solved_and_rows_do_not_touch_each_other():
    decoded, solved = solve(rows_of([], [2.0, 3.0], [], [1.0, np.pi], [0.5], []))
    assert solved.tolist() == [True, True, True, False, True, True]
    assert decoded.toarray()[1].tolist() == [2, 3]


def test_no_values_at_all():
    decoded, solved = solve(sparse.csr_matrix((3, 2)))
    assert solved.all()
    assert decoded.nnz == 0


def test_what_float32_and_decimals_round_away_is_tolerated():
    for target in [1e3, 1e4, 1e6]:
        counts = np.random.default_rng(0).integers(1, 2000, size=(200, 50))
        counts[:, 0] = 1
        single = counts.astype(np.float32)
        scaled = single / (single.sum(1, keepdims=True) / np.float32(target))
        for scale, values in (("normalized", scaled), ("log1p", np.log1p(scaled))):
            decoded, solved = Denormalizer(scale, values.dtype).denormalize(values)
            assert solved.all()
            np.testing.assert_array_equal(decoded.toarray(), counts)
        few = np.minimum(counts, 20)
        rounded = np.round(np.log1p(few / few.sum(1, keepdims=True) * target), 4)
        decoded, solved = Denormalizer("log1p", rounded.dtype, 1e-4).denormalize(rounded)
        assert solved.all()
        np.testing.assert_array_equal(decoded.toarray(), few)
