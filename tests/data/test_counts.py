"""Counts in chunks: the same from every storage, in any chunk size, beside any other cells."""

import tracemalloc
import warnings
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from hdeepinsight.data import (
    CountSource,
    InputError,
    align_genes,
    dispersion_scores,
    inspect_input,
    log_normalize,
    open_counts,
    open_store,
    select_genes,
)

GENES = [f"GENE{i}" for i in (41, 3, 59, 7, 22)] + ["ABSENT1", *(f"GENE{i}" for i in range(30, 37))]


def expected(adata: ad.AnnData) -> np.ndarray:
    """Reorder by pandas: an implementation of its own."""
    dense = pd.DataFrame(sparse.csr_matrix(adata.X).toarray(), columns=adata.var_names)
    return dense.reindex(columns=GENES, fill_value=0).to_numpy()


def read(source: CountSource, chunk_size: int = 4096) -> np.ndarray:
    chunks = list(source.chunks(source.align(GENES), chunk_size))
    starts = [rows.start for rows, _ in chunks]
    assert starts == sorted(starts)
    assert sum(rows.stop - rows.start for rows, _ in chunks) == source.n_obs
    assert all(counts.shape == (rows.stop - rows.start, len(GENES)) for rows, counts in chunks)
    return sparse.vstack([counts for _, counts in chunks]).toarray()


def test_every_storage_gives_the_same_counts_and_stays_bit_identical(
    small, fingerprint, storage, store_as
):
    data = store_as(small, storage)

    def state() -> object:
        if isinstance(data, ad.AnnData) and not data.isbacked:
            return fingerprint(data)
        place = Path(data.filename if isinstance(data, ad.AnnData) else data)
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        return [(file, file.read_bytes()) for file in files if file.is_file()]

    before = state()
    source = open_counts(data)
    np.testing.assert_array_equal(read(source, chunk_size=17), expected(small))
    assert source.report.scale == "counts"
    assert source.report.n_empty_cells == 1
    assert list(source.obs_names) == list(small.obs_names)
    assert list(source.var_names) == list(small.var_names)
    for _, counts in source.chunks(source.align(GENES), 20):
        counts.data[:] = -1
    source.obs["new"] = 1
    source.var["new"] = 1
    assert state() == before


def test_every_storage_of_log_values_gives_the_same_counts(small, storage, store_as):
    if storage == "int64":
        pytest.skip("logs are no integers")
    logged = small.copy()
    logged.X = small.X.multiply(1 / np.maximum(small.X.sum(1), 1)).tocsr().astype(np.float32)
    logged.X.data = np.log1p(1e4 * logged.X.data)
    source = open_counts(store_as(logged, storage))
    assert source.report.scale == "log1p_counts"
    assert "recovered" in source.report.repairs[0]
    np.testing.assert_array_equal(read(source, chunk_size=17), expected(small))


def test_chunks_are_canonical_float32_with_their_own_memory(small):
    for _, counts in open_counts(small).chunks(align_genes(small.var, GENES), 10):
        assert sparse.isspmatrix_csr(counts)
        assert counts.dtype == np.float32
        assert counts.has_canonical_format
        assert np.all(counts.data != 0)
        assert not np.shares_memory(counts.data, small.X.data)


@pytest.mark.parametrize(
    "storage", ["csr_matrix", "csc_matrix", "dense", "h5ad_csr", "h5ad_csc", "dask_sparse"]
)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(size=st.integers(1, 130))
def test_chunk_size_changes_nothing(tmp_path_factory, store, small_counts, storage, size):
    data = store(small_counts(), storage, tmp_path_factory.mktemp("chunks"))
    np.testing.assert_array_equal(read(open_counts(data), size), expected(small_counts()))


def test_a_cell_depends_on_no_other_cell_and_on_no_gene_outside_the_model(small):
    whole = read(open_counts(small))
    some = [40, 3, 77]
    np.testing.assert_array_equal(read(open_counts(small[some])), whole[some])
    kept = [name in GENES for name in small.var_names]
    np.testing.assert_array_equal(read(open_counts(small[:, kept])), whole)


def test_permuted_genes_change_nothing(small):
    order = np.random.default_rng(0).permutation(small.n_vars)
    np.testing.assert_array_equal(read(open_counts(small[:, order])), read(open_counts(small)))


def test_duplicated_columns_are_summed(small):
    doubled = ad.AnnData(sparse.hstack([small.X, 2 * small.X], format="csr"))
    doubled.var_names = [*small.var_names, *small.var_names]
    source = open_counts(doubled)
    assert len(source.report.duplicated_genes) == small.n_vars
    np.testing.assert_array_equal(read(source), 3 * expected(small))


def with_raw_and_layer(small: ad.AnnData) -> ad.AnnData:
    """Keep a third of the genes, all in ``raw``, and a layer with twice the counts."""
    adata = small[:, [name in GENES or name.endswith("5") for name in small.var_names]].copy()
    adata.raw = small
    adata.layers["doubled"] = 2 * adata.X
    return adata


def test_raw_and_layers_are_read_with_their_own_genes(small):
    adata = with_raw_and_layer(small)
    np.testing.assert_array_equal(read(open_counts(adata, use_raw=True)), expected(small))
    np.testing.assert_array_equal(read(open_counts(adata, layer="doubled")), 2 * expected(small))


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_raw_and_layers_are_read_from_files(small, tmp_path, suffix):
    adata = with_raw_and_layer(small)
    path = tmp_path / f"data.{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the format of zarr files is about to change
        getattr(adata, f"write_{suffix}")(path)
    np.testing.assert_array_equal(read(open_counts(str(path), use_raw=True)), expected(small))
    np.testing.assert_array_equal(read(open_counts(path, layer="doubled")), 2 * expected(small))


def test_files_are_open_only_while_they_are_read(small, tmp_path):
    path = tmp_path / "data.h5ad"
    small.write_h5ad(path)
    source = open_counts(path)
    assert _open_files() == 0
    chunks = source.chunks(source.align(GENES), 10)
    next(chunks)
    assert _open_files() == 1
    chunks.close()
    assert _open_files() == 0


def _open_files() -> int:
    return h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE)


def test_a_backed_object_stays_open_and_usable(small, store_as):
    backed = store_as(small, "backed_csr")
    read(open_counts(backed))
    assert backed.file.is_open
    np.testing.assert_array_equal(backed.X[:].toarray(), small.X.toarray())


def peak_of(work: Callable[[], object]) -> int:
    """Most bytes that ``work`` holds at once, beyond what was there."""
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    work()
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return peak


def store_in_small_pieces(adata: ad.AnnData, storage: str, folder: Path) -> Path:
    """Write a zarr store whose pieces do not grow with it, as those of a small file do."""
    group = zarr.open_group(folder / "data.zarr", mode="w", zarr_format=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # defaults that are about to change
        ad.io.write_elem(group, "obs", adata.obs)
        ad.io.write_elem(group, "var", adata.var)
        ad.io.write_elem(group, "X", adata.X, dataset_kwargs={"chunks": (4096,)})
    return folder / "data.zarr"


@pytest.mark.parametrize("storage", ["h5ad_csr", "zarr3_csr", "h5ad_dense"])
def test_memory_does_not_grow_with_the_number_of_cells(tmp_path, storage, monkeypatch, store):
    monkeypatch.setattr("hdeepinsight.data._matrix.ROWS", 128)
    peaks = []
    for n_cells in (1000, 4000):
        counts = sparse.random(n_cells, 200, 0.2, format="csr", dtype=np.float32, rng=0)
        counts.data = np.ceil(9 * counts.data)
        adata = ad.AnnData(counts)
        adata.var_names = [f"GENE{i}" for i in range(200)]
        folder = tmp_path / str(n_cells)
        folder.mkdir()
        write = store_in_small_pieces if storage == "zarr3_csr" else store
        path = write(adata, storage, folder)
        source = open_counts(path)
        alignment = source.align(GENES[:5])
        read_all = partial(deque, source.chunks(alignment, 128), maxlen=0)
        inspect = partial(inspect_input, open_store(path), max_cells=50)
        peaks.append([peak_of(read_all), peak_of(inspect)])
    row_starts = 3000 * 8 * 8  # of the further cells; their values alone take 960,000 bytes
    assert np.all(np.subtract(*peaks[::-1]) < row_starts), peaks


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float16, np.float64])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_any_type_of_number_is_read(small, dtype, form):
    counts = small.X.toarray().astype(dtype)
    if dtype is np.float16:
        form = np.asarray  # there are no sparse half-precision matrices
    source = open_counts(ad.AnnData(form(counts), obs=small.obs, var=small.var))
    assert source.report.scale == ("binary" if dtype is bool else "counts")
    small.X = sparse.csr_matrix(counts.astype(np.float32))
    np.testing.assert_array_equal(read(source, 20), expected(small))


def test_log_values_with_a_bad_cell_beyond_the_sample_are_refused_when_read(
    small, normalise, monkeypatch
):
    values = normalise(small.X)
    values[50, values[50] > 0] *= np.linspace(1, 1.1, (values[50] > 0).sum(), dtype=np.float32)
    from hdeepinsight.data import _counts

    few = partial(_counts.inspect_store, max_cells=3)
    monkeypatch.setattr(_counts, "inspect_store", few)
    source = open_counts(ad.AnnData(values, obs=small.obs, var=small.var))
    with pytest.raises(InputError, match=r"In 1 of 20 cells 40 to 59"):
        list(source.chunks(source.align(GENES), 20))


def test_chunk_size_must_be_positive(small):
    with pytest.raises(ValueError, match="chunk_size must be an integer >= 1, got 0"):
        next(open_counts(small).chunks(align_genes(small.var, GENES), 0))


def test_an_alignment_made_for_other_columns_is_refused(small):
    alignment = align_genes(small.var_names[:30], GENES)
    with pytest.raises(ValueError, match="60 columns"):
        next(open_counts(small).chunks(alignment))


@pytest.mark.parametrize("masked", [True, False])
def test_a_masked_array_is_read_only_if_nothing_is_masked(small, masked):
    values = np.ma.masked_array(small.X.toarray(), mask=False)
    values[3, 4] = np.ma.masked if masked else 2
    adata = ad.AnnData(values, obs=small.obs, var=small.var)
    if masked:
        with pytest.raises(InputError, match=r"masked array with 1 masked values.*filled"):
            open_counts(adata)
    else:
        assert open_counts(adata).report.scale == "counts"


def test_repr_says_where_the_counts_are(small):
    assert repr(open_counts(small)) == "CountSource(97 cells × 60 genes, counts in X, csr_matrix)"


def test_real_file_is_read_as_it_is(hdi_data: Path):
    path = hdi_data / "pbmc_citeseq_10x_400.h5ad"
    adata = ad.read_h5ad(path)
    genes = list(adata.var_names[::7])
    source = open_counts(path)
    read_back = sparse.vstack([c for _, c in source.chunks(source.align(genes), 128)])
    assert abs(read_back - adata.X[:, ::7]).max() == 0


def test_some_cells_are_those_of_the_whole_also_across_chunks():
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.poisson(1.0, (9000, 2)).astype(np.float32))
    source = open_counts(ad.AnnData(counts, var=pd.DataFrame(index=["NKG7", "CD3D"])))
    alignment = source.align(["CD3D", "NKG7"])
    rows = np.array([0, 17, 4095, 4096, 8999])
    assert (source.read(alignment, rows) != source.read(alignment)[rows]).nnz == 0
    assert source.read(alignment, rows[:0]).shape == (0, 2)


def test_every_cell_has_the_same_sum_before_the_logarithm():
    counts = np.random.default_rng(0).poisson(1.0, size=(20, 30)).astype(np.float32)
    counts[3] = 0  # an empty cell stays empty
    found = log_normalize(sparse.csr_matrix(counts), target_sum=500.0)
    assert found.dtype == np.float32
    total = counts.sum(axis=1, keepdims=True)
    expected = np.log1p(500 * counts / np.where(total > 0, total, 1))
    np.testing.assert_allclose(found.toarray(), expected, rtol=1e-6)
    sums = np.expm1(found.toarray()).sum(axis=1)
    np.testing.assert_allclose(np.delete(sums, 3), 500, rtol=1e-5)
    assert sums[3] == 0


def test_normalising_leaves_the_counts_as_they_were():
    counts = sparse.csr_matrix([[1.0, 0.0, 3.0]])
    before = counts.copy()
    log_normalize(counts)
    assert (counts != before).nnz == 0


def test_totals_are_summed_in_double_precision():
    counts = sparse.csr_matrix([[2**24, *[1] * 64]], dtype=np.float32)  # 2**24 + 1 is not a float32
    found = log_normalize(counts, target_sum=1e9).toarray()
    expected = np.log1p(counts.toarray() * (1e9 / (2**24 + 64)))
    np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_selected_genes_are_those_of_a_naive_implementation():
    rng = np.random.default_rng(0)
    counts = rng.negative_binomial(1, 0.2, (300, 40)).astype(float)
    counts[:150, [5, 21]] *= 4
    counts[:, 7] = 0
    used = np.delete(np.arange(40), 7)
    log_mean, log_variance = np.log10(counts.mean(0)[used]), np.log10(counts.var(0)[used])
    trend = np.polyval(np.polyfit(log_mean, log_variance, 2), log_mean)
    z = (counts[:, used] - counts.mean(0)[used]) / 10 ** (trend / 2)
    naive = np.full(40, -1.0)
    naive[used] = (np.minimum(z, np.sqrt(300)) ** 2).mean(0)
    blocks = [sparse.csr_matrix(counts[:100]), sparse.csr_matrix(counts[100:])]
    np.testing.assert_allclose(dispersion_scores(lambda: blocks, 40), naive, rtol=1e-9)
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(40)])
    source = open_counts(ad.AnnData(counts, var=var))
    best = [f"GENE{i}" for i in sorted(np.argsort(-naive)[:5])]
    assert select_genes(source, 5) == best
    assert select_genes(source, 3, keep=["GENE7"])[0] == "GENE7"
    with pytest.raises(InputError, match=r"1 of the genes to keep.*ABSENT"):
        select_genes(source, 5, keep=["ABSENT"])


def test_errors_advise_only_what_the_caller_takes(small, normalise):
    logged = ad.AnnData(normalise(small.X), obs=small.obs, var=small.var, layers={"c": small.X})
    with pytest.raises(InputError, match=r"or another `scale`.*pass layer='c'\."):
        open_counts(logged, scale="counts")
    with pytest.raises(InputError, match=r"Pass the raw counts\. .*pass rna_layer='c'\."):
        open_counts(logged, scale="counts", arguments={"layer": "rna_layer"})
    with pytest.raises(InputError, match=r"Name one of them with `rna_layer=` \(None means X\)\."):
        open_counts(small, layer="other", arguments={"layer": "rna_layer"})


def test_fold_case_is_advised_only_where_it_is_taken(small):
    lower = small.copy()
    lower.var_names = small.var_names.str.lower()
    with pytest.raises(InputError, match="pass fold_case=True"):
        open_counts(lower).align(GENES)
    with pytest.raises(InputError, match="spell them as the model does"):
        open_counts(lower).align(GENES, arguments={})
