"""Stores that are read faster hold what the file held."""

import warnings
from functools import partial
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from hdeepinsight.data import InputError, map_counts, open_store, read_anndata, write_fast_store


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    counts = sparse.random(5000, 40, 0.2, "csr", np.float32, rng, lambda n: rng.integers(1, 9, n))
    obs = pd.DataFrame(
        {"donor": pd.Categorical(rng.choice(list("ab"), 5000)), "x": rng.random(5000)}
    )
    cells = ad.AnnData(counts, obs=obs.set_index(np.char.add("c", obs.index.to_numpy(str))))
    cells.layers["dense"] = rng.random((5000, 40), dtype=np.float32)
    cells.layers["columns"] = counts.tocsc()
    cells.raw = cells[:, :30].copy()
    cells.obsm["X_pca"] = rng.random((5000, 2))
    cells.obsp["graph"] = sparse.identity(5000, format="csr")
    cells.uns = {"log1p": {"base": 2.0}, "names": np.array(["a", "b"])}
    return cells


@pytest.mark.parametrize("name", ["fast.zarr", "fast.h5ad"])
def test_everything_is_copied(cells, tmp_path, name):
    cells.write_h5ad(tmp_path / "query.h5ad", compression="gzip")
    write_fast_store(tmp_path / "query.h5ad", tmp_path / name)
    found = read_anndata(tmp_path / name)
    for one, other in ((found.X, cells.X), (found.layers["columns"], cells.layers["columns"])):
        assert one.format == "csr"
        assert (one != other).nnz == 0
    assert (found.raw.X != cells.raw.X).nnz == 0
    assert (found.obsp["graph"] != cells.obsp["graph"]).nnz == 0
    np.testing.assert_array_equal(found.layers["dense"], cells.layers["dense"])
    np.testing.assert_array_equal(found.obsm["X_pca"], cells.obsm["X_pca"])
    pd.testing.assert_frame_equal(found.obs, cells.obs, check_index_type=False)
    assert found.var_names.tolist() == cells.var_names.tolist()
    assert found.uns["log1p"]["base"] == 2.0
    blocks = [b for _, b in open_store(tmp_path / name).matrix(None, use_raw=False).blocks(1000)]
    assert (sparse.vstack(blocks, "csr") != cells.X).nnz == 0


def test_the_source_and_other_folders_are_not_replaced(cells, tmp_path):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "precious.txt").write_text("mine")
    cells.write_h5ad(tmp_path / "cells.h5ad")
    size = (tmp_path / "cells.h5ad").stat().st_size
    for target in ("cells.h5ad", "results"):
        with pytest.raises(ValueError, match="a path other than the source"):
            write_fast_store(tmp_path / "cells.h5ad", tmp_path / target)
    assert (tmp_path / "cells.h5ad").stat().st_size == size
    assert (tmp_path / "results" / "precious.txt").exists()


def test_stores_are_packed_as_they_say(cells, tmp_path):
    import zarr

    cells.write_h5ad(tmp_path / "query.h5ad", compression="gzip")
    write_fast_store(tmp_path / "query.h5ad", tmp_path / "fast.h5ad")
    write_fast_store(tmp_path / "fast.h5ad", tmp_path / "fast.zarr")
    with h5py.File(tmp_path / "fast.h5ad") as root:
        assert root["X/data"].compression is None
        assert root["X/indptr"].dtype == np.int64
    codec = str(zarr.open_group(str(tmp_path / "fast.zarr"), mode="r")["X/data"].compressors)
    assert "lz4" in codec
    assert "bitshuffle" in codec


def test_other_formats_and_damaged_files(cells, tmp_path):
    table = cells.to_df().iloc[:60].astype(int)
    table.columns = [f"GENE{i}" for i in range(40)]
    table.to_csv(tmp_path / "query.csv")
    write_fast_store(tmp_path / "query.csv", tmp_path / "fast.h5ad")
    assert read_anndata(tmp_path / "fast.h5ad").shape == (60, 40)
    (tmp_path / "broken.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n")
    with warnings.catch_warnings(), pytest.raises(InputError):
        write_fast_store(tmp_path / "broken.h5ad", tmp_path / "out.zarr")


@pytest.mark.parametrize("limit", [2**31 - 1, 100])
def test_mapped_counts_are_those_written(cells, monkeypatch, limit):
    monkeypatch.setattr("hdeepinsight.data._store.MAX_INT32", limit)
    mapped = map_counts((cells.X[k : k + 999] for k in range(0, 5000, 999)), 40)
    assert (mapped != cells.X).nnz == 0
    rows = np.random.default_rng(0).permutation(5000)[:99]
    assert (mapped[rows] != cells.X[rows]).nnz == 0
    assert not mapped.data.flags.writeable
    assert map_counts([sparse.csr_matrix((3, 4), dtype=np.float32)], 4).shape == (3, 4)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_full_disk_is_named_when_counts_are_mapped(cells, monkeypatch):
    full = "hdeepinsight.data._store.TemporaryFile"
    monkeypatch.setattr(full, partial(open, "/dev/full", "w+b", buffering=0))
    with pytest.raises(OSError, match="Set TMPDIR to a folder with more space"):
        map_counts([cells.X], 40)
