"""Reading large matrices: each byte is decompressed once, and changes of scale raise."""

import pickle
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hdeepinsight.data import InputError, inspect_input, open_query, spread_rows

GENES = [f"GENE{i}" for i in range(40)]
N_CELLS = 6000


@pytest.fixture(scope="module")
def counts() -> sparse.csr_matrix:
    rng = np.random.default_rng(0)
    found = sparse.random(N_CELLS, 40, 0.3, "csr", np.float32, rng)
    found.data = np.ceil(found.data * 9).astype(np.float32)
    found.data[found.indptr[:-1][np.diff(found.indptr) > 0]] = 1  # so that logs tell counts
    return found


def cells(counts: sparse.csr_matrix) -> ad.AnnData:
    obs = pd.DataFrame(index=[f"cell_{i}" for i in range(counts.shape[0])])
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=GENES))


def write(path: Path, counts: sparse.csr_matrix, **how: object) -> Path:
    """Write a file in small pieces, as a large one has many."""
    made = cells(counts)
    made.write_h5ad(path)
    how = {"chunks": (100,), "compression": "gzip"} | how
    with h5py.File(path, "r+") as root:
        for name in ("data", "indices"):
            values = root["X"][name][:]
            del root["X"][name]
            root["X"].create_dataset(name, data=values, **how)
    return path


def read(opened, size: int = 700) -> np.ndarray:
    return sparse.vstack([c for _, c in opened.chunks(size)]).toarray()


@pytest.mark.parametrize("how", [{}, {"shuffle": True}], ids=["deflate", "shuffle_and_deflate"])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int32, np.uint16])
def test_each_byte_is_decompressed_once(counts, tmp_path, how, kind):
    path = write(tmp_path / "cells.h5ad", counts.astype(kind), **how)
    with h5py.File(path) as root:
        stored = sum(root["X"][name].id.get_storage_size() for name in ("data", "indices"))
    opened = open_query(path, GENES)
    assert (opened.n_scans, opened.n_passes) == (1, 0)
    assert opened.source.matrix.counter["bytes"] < 0.55 * stored
    np.testing.assert_array_equal(read(opened), counts.toarray())
    assert (opened.n_scans, opened.n_passes) == (1, 1)
    assert opened.source.matrix.counter["bytes"] == stored
    assert not opened.source.matrix.cache
    # From then on the report is what a look at every value gives.
    assert opened.input_report == inspect_input(path)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"compression": None}, id="not_packed"),
        pytest.param({"compression": None, "chunks": None}, id="in_one_piece"),
        pytest.param({"compression": "lzf"}, id="lzf"),
        pytest.param({"fletcher32": True}, id="with_checksums"),
        pytest.param({"scaleoffset": 0, "dtype": "i4"}, id="scaled"),
        pytest.param({"dtype": ">f4"}, id="big_endian"),
    ],
)
def test_other_compression_is_left_to_hdf5(counts, tmp_path, how):
    opened = open_query(write(tmp_path / "cells.h5ad", counts, **how), GENES)
    np.testing.assert_array_equal(read(opened), counts.toarray())
    assert not opened.source.matrix.counter["bytes"] or how == {"dtype": ">f4"}


def test_uncompressed_and_unwritten_chunks_are_read(counts, tmp_path):
    path = write(tmp_path / "cells.h5ad", counts)
    expected = counts.copy()
    with h5py.File(path, "r+") as root:
        values = root["X"]["data"][:]
        del root["X"]["data"]
        settings = {"chunks": (100,), "compression": "gzip"}
        written = root["X"].create_dataset("data", values.shape, "f4", **settings)
        written[:20_000], written[20_300:] = values[:20_000], values[20_300:]
        written.id.write_direct_chunk((300,), values[300:400].tobytes(), filter_mask=1)
        expected.data[20_000:20_300] = 0
    np.testing.assert_array_equal(read(open_query(path, GENES)), expected.toarray())


@pytest.mark.parametrize("damage", ["cut", "changed", "short"])
@pytest.mark.parametrize("name", ["data", "indices"])
def test_damaged_chunk_raises_the_library_error(counts, tmp_path, damage, name):
    path = write(tmp_path / "cells.h5ad", counts)
    with h5py.File(path, "r+") as root:
        array = root["X"][name]
        at = (array.shape[0] // 2 // 100 * 100 + 100,)
        _, packed = array.id.read_direct_chunk(at)
        spoiled = packed[:-9] if damage == "cut" else packed[:40] + b"odd" + packed[43:]
        array.id.write_direct_chunk(at, packed[:1] if damage == "short" else spoiled)
    with pytest.raises(InputError, match="cannot be read as an AnnData"):
        read(open_query(path, GENES))


def spoiled(counts: sparse.csr_matrix, value: float) -> sparse.csr_matrix:
    """Change one value that is not looked at beforehand."""
    other = counts.copy()
    rows = np.setdiff1d(np.arange(N_CELLS), spread_rows(N_CELLS, 2000))
    other.data[other.indptr[rows[len(rows) // 2]]] = value
    return other


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.5, 1e30])
@pytest.mark.parametrize("kind", ["memory", "h5ad"])
def test_unsampled_values_are_checked_while_reading(counts, tmp_path, value, kind):
    other = spoiled(counts, value)
    data = cells(other) if kind == "memory" else write(tmp_path / "cells.h5ad", other)
    opened = open_query(data, GENES)
    assert opened.input_report.scale == "counts"
    assert "in a sample of" in opened.input_report.evidence
    told = inspect_input(data).problems[0]
    looked_at = spread_rows(N_CELLS, 2000)
    np.testing.assert_array_equal(read(opened.subset(looked_at)), counts[looked_at].toarray())
    for _ in range(2):
        with pytest.raises(InputError) as error:
            read(opened)
        assert str(error.value) == told
    some = np.arange(100)
    np.testing.assert_array_equal(read(opened.subset(some)), other[some].toarray())


def test_fractions_pass_with_as_is(counts):
    other = spoiled(counts, 0.5)
    opened = open_query(cells(other), GENES, scale="as_is")
    np.testing.assert_array_equal(read(opened), other.toarray())
    assert opened.input_report.scale == "fractional_counts"
    assert "used unchanged" in opened.input_report.repairs[-1]


def test_unsampled_logs_raise(counts, normalise):
    logged = sparse.csr_matrix(normalise(counts))
    opened = open_query(cells(logged), GENES)
    np.testing.assert_array_equal(read(opened), counts.toarray())
    assert opened.input_report.scale == "log1p_counts"
    rounded = logged.copy()
    rounded.data = np.round(rounded.data, 3)
    opened = open_query(cells(rounded), GENES)
    np.testing.assert_array_equal(read(opened), counts.toarray())
    other = spoiled(rounded, 0.12345)
    with pytest.raises(InputError):
        read(open_query(cells(other), GENES))


def test_zeros_and_empty_cells_are_reported_after_a_pass(counts):
    other = counts.copy()
    looked_at = spread_rows(N_CELLS, 2000)
    for row in looked_at:
        other.data[other.indptr[row] : other.indptr[row + 1]] = 0
    opened = open_query(cells(other), GENES)  # judged by all, as some say nothing
    assert opened.input_report.n_empty_cells >= len(looked_at)
    opened = open_query(cells(counts), GENES)
    read(opened)
    assert opened.input_report == inspect_input(cells(counts))


def test_sampled_cells_are_read_from_memory(counts, tmp_path):
    path = write(tmp_path / "cells.h5ad", counts)
    opened = open_query(path, GENES)
    rows, before = spread_rows(N_CELLS, 2000), opened.source.matrix.counter["bytes"]
    np.testing.assert_array_equal(read(opened.subset(rows)), counts[rows].toarray())
    assert opened.source.matrix.counter["bytes"] == before
    again = pickle.loads(pickle.dumps(opened))
    np.testing.assert_array_equal(read(again), counts.toarray())
    np.testing.assert_array_equal(read(opened.subset(rows[::-1])), counts[rows[::-1]].toarray())


def test_reading_may_stop_anywhere(counts, tmp_path):
    opened = open_query(write(tmp_path / "cells.h5ad", counts), GENES)
    chunks = opened.chunks(500)
    next(chunks)
    chunks.close()
    np.testing.assert_array_equal(read(opened), counts.toarray())
    (tmp_path / "cells.h5ad").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        read(opened)


def test_few_cells_are_read_without_the_rest(counts, tmp_path):
    opened = open_query(write(tmp_path / "cells.h5ad", counts), GENES)
    before = opened.source.matrix.counter["bytes"]
    rows = np.array([5, 6, 3000, 5999])
    np.testing.assert_array_equal(read(opened.subset(rows)), counts[rows].toarray())
    assert opened.source.matrix.counter["bytes"] - before < 4000


@pytest.mark.parametrize("last", [2**62, -5])
def test_invalid_indptr_raises(counts, tmp_path, last):
    path = write(tmp_path / "cells.h5ad", counts)
    with h5py.File(path, "r+") as root:
        starts = root["X"]["indptr"][:].astype(np.int64)
        starts[-1] = last
        del root["X"]["indptr"]
        root["X"]["indptr"] = starts
    with pytest.raises(InputError):
        read(open_query(path, GENES))
