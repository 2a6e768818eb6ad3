"""Counts in chunks: equal for every storage; bad input raises or is repaired."""

import json
import pickle
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
from anndata.experimental import AnnCollection
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from hdeepinsight.data import (
    CountSource,
    GeneMatchError,
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
def test_chunk_size_does_not_change_counts(tmp_path_factory, store, small_counts, storage, size):
    data = store(small_counts(), storage, tmp_path_factory.mktemp("chunks"))
    np.testing.assert_array_equal(read(open_counts(data), size), expected(small_counts()))


def test_a_cell_depends_on_no_other_cell_and_on_no_gene_outside_the_model(small):
    whole = read(open_counts(small))
    some = [40, 3, 77]
    np.testing.assert_array_equal(read(open_counts(small[some])), whole[some])
    kept = [name in GENES for name in small.var_names]
    np.testing.assert_array_equal(read(open_counts(small[:, kept])), whole)


def test_gene_order_does_not_change_counts(small):
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
    before = _open_files()  # of earlier tests in the same process
    source = open_counts(path)
    assert _open_files() == before
    chunks = source.chunks(source.align(GENES), 10)
    next(chunks)
    assert _open_files() == before + 1
    chunks.close()
    assert _open_files() == before


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
    monkeypatch.setattr("hdeepinsight.data._matrix.SAMPLE_CELLS", 50)
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
        inspect = partial(inspect_input, open_store(path))
        peaks.append([peak_of(read_all), peak_of(inspect)])
    row_starts = 3000 * 8 * 8  # of the further cells; their values alone take 960,000 bytes
    assert np.all(np.subtract(*peaks[::-1]) < row_starts), peaks


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.float16, np.float64])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_all_numeric_types_are_read(small, dtype, form):
    counts = small.X.toarray().astype(dtype)
    if dtype is np.float16:
        form = np.asarray  # there are no sparse half-precision matrices
    source = open_counts(ad.AnnData(form(counts), obs=small.obs, var=small.var))
    assert source.report.scale == ("binary" if dtype is bool else "counts")
    small.X = sparse.csr_matrix(counts.astype(np.float32))
    np.testing.assert_array_equal(read(source, 20), expected(small))


def test_log_values_with_a_bad_cell_beyond_the_sample_are_refused_when_read(small, normalise):
    values = np.vstack([normalise(small.X)] * 25)  # of which every second cell is in the sample
    values[51, values[51] > 0] *= np.linspace(1, 1.1, (values[51] > 0).sum(), dtype=np.float32)
    source = open_counts(ad.AnnData(values, var=small.var))
    with pytest.raises(InputError, match=r"In 1 of 20 cells 40 to 59"):
        list(source.chunks(source.align(GENES), 20))


def test_chunk_size_must_be_positive(small):
    with pytest.raises(ValueError, match="chunk_size must be an integer >= 1, got 0"):
        next(open_counts(small).chunks(align_genes(small.var, GENES), 0))


def test_alignment_of_other_columns_raises(small):
    alignment = align_genes(small.var_names[:30], GENES)
    with pytest.raises(ValueError, match=r"30 columns, got \(97, 60\)"):
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


def test_selected_cells_equal_those_of_all_cells():
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


def test_normalising_does_not_modify_counts():
    counts = sparse.csr_matrix([[1.0, 0.0, 3.0]])
    before = counts.copy()
    log_normalize(counts)
    assert (counts != before).nnz == 0


def test_totals_are_summed_in_double_precision():
    counts = sparse.csr_matrix([[2**24, *[1] * 64]], dtype=np.float32)  # 2**24 + 1 is not a float32
    found = log_normalize(counts, target_sum=1e9).toarray()
    expected = np.log1p(counts.toarray() * (1e9 / (2**24 + 64)))
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.filterwarnings("ignore:Variable names are not unique")
def test_reference_without_gene_names_raises():
    for name in ["", "nan", "GENE"]:
        counts = np.random.default_rng(0).poisson(2.0, (30, 12)).astype(np.float32)
        source = open_counts(ad.AnnData(counts, var=pd.DataFrame(index=[name] * 12)))
        with pytest.raises(InputError, match="are blank or repeat"):
            select_genes(source, 5)


def test_unnamed_genes_are_not_selected():
    counts = np.random.default_rng(0).poisson(2.0, (30, 3)).astype(np.float32)
    source = open_counts(ad.AnnData(counts, var=pd.DataFrame(index=["CD3D", "", "NKG7"])))
    assert select_genes(source, 3) == ["CD3D", "NKG7"]


def test_selected_genes_are_those_of_a_naive_implementation():
    rng = np.random.default_rng(0)
    counts = rng.negative_binomial(1, 0.2, (300, 40)).astype(float)
    counts[:150, [5, 21]] *= 4
    counts[:, 7] = 0
    counts[:, 30] = np.roll(counts[:, 5], 7)  # the same score, up to the order of a sum
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
    order = np.argsort(-naive.round(9), kind="stable")
    for n in range(1, 39):
        assert select_genes(source, n) == [f"GENE{i}" for i in sorted(order[:n])]
    assert select_genes(source, 3, keep=["GENE7"])[0] == "GENE7"


def test_genes_are_scored_in_the_panels_that_have_them():
    rng = np.random.default_rng(0)
    counts = rng.negative_binomial(2, 0.3, (400, 40)).astype(float)
    panels = np.repeat([0, 1], [300, 100])
    counts[panels == 1, 20:] = 0
    counts[panels == 1, :20] *= 4  # deeper
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(40)])
    source = open_counts(ad.AnnData(sparse.csr_matrix(counts), var=var))
    each = [
        dispersion_scores(lambda part=counts[panels == p]: [sparse.csr_matrix(part)], 40)
        for p in range(2)
    ]
    assert (each[1][20:] == -1).all()
    mean = 0.75 * each[0] + 0.25 * np.r_[each[1][:20], np.ones(20)]
    best = [f"GENE{i}" for i in np.sort(np.argsort(-mean)[:6])]
    assert select_genes(source, 6, panels=panels) == best
    assert select_genes(source, 6) != best
    assert select_genes(source, 6, panels=np.zeros(400, dtype=int)) == select_genes(source, 6)


def test_errors_recommend_only_arguments_of_the_caller(small, normalise):
    logged = ad.AnnData(normalise(small.X), obs=small.obs, var=small.var, layers={"c": small.X})
    with pytest.raises(InputError, match=r"or another `scale`.*pass layer='c'\."):
        open_counts(logged, scale="counts")
    with pytest.raises(InputError, match=r"Pass the raw counts\. .*pass rna_layer='c'\."):
        open_counts(logged, scale="counts", arguments={"layer": "rna_layer"})
    with pytest.raises(InputError, match=r"To go on, omit `rna_layer=` to read X\."):
        open_counts(small, layer="other", arguments={"layer": "rna_layer"})


def test_fold_case_is_recommended_only_if_available(small):
    lower = small.copy()
    lower.var_names = small.var_names.str.lower()
    with pytest.raises(InputError, match="pass fold_case=True"):
        open_counts(lower).align(GENES)
    with pytest.raises(InputError, match="rename them to those of the model"):
        open_counts(lower).align(GENES, arguments={})


MODEL = [f"GENE{i}" for i in range(40)]


def annotate(adata: ad.AnnData, **options) -> tuple[np.ndarray, list[str]]:
    """What every model does first: open, align, read. Gives the counts and what was said."""
    source = open_counts(adata, **options)
    alignment = source.align(MODEL)
    counts = sparse.vstack([c for _, c in source.chunks(alignment, 32)]).toarray()
    report = source.report
    said = [*report.repairs, *report.problems, *report.notes, *alignment.report.messages]
    return counts, said


def with_x(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[ad.AnnData], ad.AnnData]:
    def changed(adata: ad.AnnData) -> ad.AnnData:
        return ad.AnnData(change(adata.X.toarray()), obs=adata.obs, var=adata.var)

    return changed


def with_value(value: float) -> Callable[[ad.AnnData], ad.AnnData]:
    def put(x: np.ndarray) -> np.ndarray:
        x[50, 7] = value
        return x

    return with_x(put)


def renamed(rename: Callable[[int, str], str]) -> Callable[[ad.AnnData], ad.AnnData]:
    def changed(adata: ad.AnnData) -> ad.AnnData:
        names = [rename(i, name) for i, name in enumerate(adata.var_names)]
        return ad.AnnData(adata.X, obs=adata.obs, var=pd.DataFrame(index=names))

    return changed


def in_common(n: int) -> Callable[[ad.AnnData], ad.AnnData]:
    return renamed(lambda _, name: name if name in MODEL[:n] else f"OTHER{name}")


def log_cp10k(x: np.ndarray) -> np.ndarray:
    return np.log1p(1e4 * x / np.maximum(x.sum(1, keepdims=True), 1)).astype(np.float32)


def standardised(x: np.ndarray) -> np.ndarray:
    logged = log_cp10k(x)
    return (logged - logged.mean(0)) / logged.std(0)


def imputed(x: np.ndarray) -> np.ndarray:
    return log_cp10k(x) @ np.random.default_rng(0).dirichlet(np.ones(60), size=60).T


REFUSED = [
    pytest.param(lambda a: a[:0].copy(), InputError, "0 cells × 60 genes", id="no_cells"),
    pytest.param(lambda a: a[:, :0].copy(), InputError, "97 cells × 0 genes", id="no_genes"),
    pytest.param(with_x(np.zeros_like), InputError, "all values are zero", id="zeros_only"),
    pytest.param(in_common(0), GeneMatchError, "0 of the model's 40 genes", id="no_gene_in_common"),
    pytest.param(
        in_common(2), GeneMatchError, r"2 of .*\(5\.0%.*At least 10%", id="5_percent_in_common"
    ),
    pytest.param(
        renamed(lambda _, name: name.capitalize()),
        GeneMatchError,
        "looks like mouse.*human",
        id="mouse",
    ),
    pytest.param(
        renamed(lambda i, _: f"ENSG{i:011d}"),
        GeneMatchError,
        "ensembl names and the model symbol",
        id="ensembl",
    ),
    pytest.param(with_x(standardised), InputError, "looks scaled.*before scaling", id="scaled"),
    pytest.param(
        with_x(imputed), InputError, "looks log1p:.*Pass the counts", id="log_without_counts"
    ),
    pytest.param(
        with_x(lambda x: 0.9 * x + 0.07 * (x > 3)),
        InputError,
        "looks fractional_counts.*as_is",
        id="fractions",
    ),
    pytest.param(with_value(np.nan), InputError, "1 NaN.*cannot be guessed", id="nan"),
    pytest.param(with_value(np.inf), InputError, "1 infinite", id="inf"),
    pytest.param(with_value(-2), InputError, r"1 value is negative \(down to -2\)", id="negative"),
]


@pytest.mark.parametrize(("spoil", "error", "message"), REFUSED)
def test_invalid_input_raises_and_is_unchanged(small, fingerprint, spoil, error, message):
    adata = spoil(small)
    before = fingerprint(adata)
    with pytest.raises(error, match=message) as caught:
        annotate(adata)
    assert fingerprint(adata) == before
    for part in (caught.value.found, caught.value.valid, caught.value.do_next):
        assert part.endswith(".") or part.endswith(")."), part


def doubled(adata: ad.AnnData) -> ad.AnnData:
    both = ad.AnnData(sparse.hstack([adata.X, adata.X], format="csr"), obs=adata.obs)
    both.var_names = [*adata.var_names, *adata.var_names]
    return both


REPAIRED = [
    pytest.param(lambda a: a[:, ::-1].copy(), 1, None, id="permuted_genes"),
    pytest.param(doubled, 2, "same gene name are summed", id="duplicated_names"),
    pytest.param(with_x(lambda x: x.astype(">f4")), 1, None, id="foreign_byte_order"),
    pytest.param(with_x(log_cp10k), 1, "Counts are recovered", id="log_of_counts"),
    pytest.param(with_x(lambda x: x), 1, "1 cell has no counts", id="an_empty_cell"),
]


@pytest.mark.parametrize(("change", "times", "message"), REPAIRED)
def test_repairs_are_reported(small, fingerprint, change, times, message):
    adata = change(small)
    before = fingerprint(adata)
    counts, said = annotate(adata)
    assert fingerprint(adata) == before
    np.testing.assert_array_equal(counts, times * annotate(small)[0])
    assert message is None or any(message in text for text in said), said


def test_one_cell_equals_the_same_cell_among_others(small):
    np.testing.assert_array_equal(annotate(small[[40]])[0], annotate(small)[0][[40]])


def test_fractions_are_used_with_as_is(small):
    adata = with_x(lambda x: 0.9 * x + 0.07 * (x > 3))(small)
    counts, said = annotate(adata, scale="as_is")
    whole = annotate(small)[0]
    np.testing.assert_allclose(counts, 0.9 * whole + 0.07 * (whole > 3), rtol=1e-6)
    assert said[0].startswith("The fractional_counts values are used unchanged")


def test_fractions_of_a_cell_are_read_as_counts_per_10_000_with_as_is(small):
    totals = np.asarray(small.X.sum(axis=1))
    shares, per_10_000 = (
        with_x(lambda x, unit=unit: (x / np.maximum(totals, 1) * unit).astype(np.float32))(small)
        for unit in (1.0, 1e4)
    )
    (found, said), (expected, _) = (annotate(x, scale="as_is") for x in (shares, per_10_000))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert said[0].startswith("The fractions are multiplied by 10,000")


def test_nan_infinite_and_negative_values_always_raise(small):
    for scale in ["auto", "counts", "recover", "as_is"]:
        for value in [np.nan, np.inf, -1.0]:
            with pytest.raises(InputError):
                open_counts(with_value(value)(small), scale=scale)


def test_explicit_scale_must_match(small):
    for change, scale, message in [
        (with_x(log_cp10k), "counts", "looks log1p_counts.*Pass the raw counts"),
        (with_x(lambda x: x), "recover", "looks counts.*Use scale='auto'"),
        (with_x(imputed), "recover", "looks log1p:.*library-size normalised values only"),
    ]:
        with pytest.raises(InputError, match=message):
            open_counts(change(small), scale=scale)


@pytest.mark.parametrize("scale", ["as-is", "AUTO", None])
def test_unknown_scale_raises(small, scale):
    adata = with_x(imputed)(small)
    with pytest.raises(ValueError, match=r"one of 'auto', 'counts', 'recover', 'as_is', got"):
        open_counts(adata, scale=scale)


def test_normalised_values_are_recovered_with_recover(small):
    adata = with_x(lambda x: np.expm1(log_cp10k(x).astype(float)))(small)
    with pytest.raises(InputError, match=r"looks normalized.*scale='recover'"):
        open_counts(adata)
    counts, said = annotate(adata, scale="recover")
    np.testing.assert_array_equal(counts, annotate(small)[0])
    assert any("recovered from the normalised values" in text for text in said)


def test_the_error_names_a_layer_with_counts(small):
    adata = with_x(standardised)(small)
    adata.layers["counts"] = small.X
    with pytest.raises(InputError, match="pass layer='counts'"):
        open_counts(adata)


def test_missing_layer_raises_with_existing_ones(small, tmp_path: Path):
    small.layers["spliced"] = small.X
    with pytest.raises(
        InputError, match=r"no layers\['counts'\].*It holds: X, layers\['spliced'\]"
    ):
        open_counts(small, layer="counts")
    with pytest.raises(InputError, match=r"no \.raw"):
        open_counts(small, use_raw=True)
    with pytest.raises(InputError, match="one of them"):
        open_counts(small, layer="spliced", use_raw=True)
    with pytest.raises(InputError, match="does not exist"):
        open_counts(tmp_path / "nowhere.h5ad")
    with pytest.raises(InputError, match="data is a list"):
        open_counts([1, 2])
    with pytest.raises(InputError, match=r"AnnCollection.*anndata\.concat\(collection\.adatas\)"):
        open_counts(AnnCollection([small[:50], small[50:]], join_vars="inner"))


def test_an_anndata_without_x_is_refused(small, tmp_path):
    empty = ad.AnnData(obs=small.obs, var=small.var, layers={"counts": small.X})
    empty.write_h5ad(tmp_path / "empty.h5ad")
    for adata in (empty, ad.read_h5ad(tmp_path / "empty.h5ad", backed="r")):
        with pytest.raises(InputError, match=r"holds no X.*layers\['counts'\]"):
            open_counts(adata)
        assert open_counts(adata, layer="counts").n_obs == 97


@pytest.mark.parametrize("name", ["broken.h5ad", "broken.zarr"])
def test_file_without_anndata_raises(tmp_path, name):
    path = tmp_path / name
    if name.endswith("zarr"):
        path.mkdir()
    else:
        path.write_text("not a file of this kind")
    with pytest.raises(InputError, match=r"cannot be opened|not an AnnData"):
        open_counts(path)


def test_a_foreign_hdf5_file_is_refused(tmp_path):
    import h5py

    path = tmp_path / "foreign.h5ad"
    with h5py.File(path, "w") as file:
        file["numbers"] = [1, 2, 3]
    with pytest.raises(InputError, match=r"no obs and no var.*write_h5ad"):
        open_counts(path)


def test_errors_travel_between_processes():
    error = pickle.loads(pickle.dumps(InputError("Found.", "Valid.", "Do.")))
    assert (str(error), error.do_next) == ("Found. Valid. Do.", "Do.")


def test_reports_are_plain_after_every_repair(small):
    report = open_counts(with_x(log_cp10k)(small)).report
    assert json.loads(json.dumps(report.to_dict()))["scale"] == "log1p_counts"
