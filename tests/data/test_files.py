"""Files of every format and age are detected by content; unsafe files raise."""

import bz2
import gzip
import json
import lzma
import os
import pickle
import shutil
import time
import warnings
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse
from scipy.io import mmwrite

from hdeepinsight.data import (
    InputError,
    inspect_input,
    is_paired,
    open_counts,
    open_paired,
    open_query,
    open_store,
    read_anndata,
    write_fast_store,
)

pytestmark = pytest.mark.filterwarnings("ignore")
TEXT = h5py.string_dtype()


def with_raw(small: ad.AnnData) -> ad.AnnData:
    adata = small[:, :40].copy()
    adata.raw = small
    adata.layers["twice"] = 2 * adata.X
    adata.uns["log1p"] = {"base": 2.0}
    adata.obsm["X_umap"] = np.arange(2.0 * adata.n_obs).reshape(-1, 2)
    return adata


def raw_that_is_none(file: h5py.File, adata: ad.AnnData) -> None:
    del file["raw"]
    file["raw"] = h5py.Empty("f")
    file["raw"].attrs.update({"encoding-type": "null", "encoding-version": "0.1.0"})


def raw_without_names(file: h5py.File, adata: ad.AnnData) -> None:
    del file["raw/var"]


def x_that_is_none(file: h5py.File, adata: ad.AnnData) -> None:
    del file["X"]
    file["X"] = h5py.Empty("f")
    file["X"].attrs.update({"encoding-type": "null", "encoding-version": "0.1.0"})


def no_encoding_at_the_root(file: h5py.File, adata: ad.AnnData) -> None:
    for key in list(file.attrs):
        del file.attrs[key]


def a_column_named_index(file: h5py.File, adata: ad.AnnData) -> None:
    """As SeuratDisk leaves it."""
    table = file["raw/var"]
    names = list(adata.raw.var_names)
    del table["_index"]
    for key, values in {"features": np.arange(len(names)).astype(str), "_index": names}.items():
        column = table.create_dataset(key, data=np.array(values, dtype=object), dtype=TEXT)
        column.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    table.attrs["_index"] = "features"
    table.attrs.create("column-order", np.array(["_index"], dtype=object), dtype=TEXT)


def names_that_are_integers(file: h5py.File, adata: ad.AnnData) -> None:
    for part, n in (("obs", adata.n_obs), ("var", adata.n_vars)):
        at = file[part].attrs["_index"]
        del file[part][at]
        file[part][at] = np.arange(n)
        file[part][at].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def tables_as_compound_arrays(file: h5py.File, adata: ad.AnnData) -> None:
    """As anndata wrote them before 0.7."""
    for part, names in (("obs", adata.obs_names), ("var", adata.var_names)):
        del file[part]
        kind = np.dtype([("index", "S20"), ("kind", "i1")])
        rows = [(name.encode(), i % 2) for i, name in enumerate(names)]
        file[part] = np.array(rows, dtype=kind)
    file["uns/kind_categories"] = np.array([b"a", b"b"])
    del file["raw"]
    for key in list(file.attrs):
        del file.attrs[key]


def sparse_as_anndata_07_wrote_it(file: h5py.File, adata: ad.AnnData) -> None:
    for at in ("X", "layers/twice", "raw/X"):
        shape = file[at].attrs["shape"]
        for key in list(file[at].attrs):
            del file[at].attrs[key]
        file[at].attrs.update({"h5sparse_format": "csr", "h5sparse_shape": shape})


def categories_beside_the_table(file: h5py.File, adata: ad.AnnData) -> None:
    """As anndata 0.7 wrote them: codes in the column, and categories under __categories."""
    table = file["obs"]
    del table["kind"]
    table["kind"] = np.array([i % 2 for i in range(adata.n_obs)], dtype="i1")
    table["__categories/kind"] = np.array([b"a", b"b"])
    table["kind"].attrs["categories"] = table["__categories/kind"].ref
    table.attrs["encoding-version"] = "0.1.0"


def raw_at_the_root(file: h5py.File, adata: ad.AnnData) -> None:
    """As anndata 0.6 wrote it."""
    file["raw.X"] = adata.raw.X.toarray()
    rows = [(name.encode(),) for name in adata.raw.var_names]
    file["raw.var"] = np.array(rows, dtype=[("index", "S20")])
    del file["raw"]


def gene_names_in_categories(file: h5py.File, adata: ad.AnnData) -> None:
    at = file["var"].attrs["_index"]
    del file["var"][at]
    ad.io.write_elem(file["var"], at, pd.Categorical(adata.var_names))


def nullable_columns(file: h5py.File, adata: ad.AnnData) -> None:
    whole = pd.array([1, None, *range(adata.n_obs - 2)], dtype="Int64")
    truth = pd.array([True, None, *([False] * (adata.n_obs - 2))], dtype="boolean")
    obs = adata.obs.assign(whole=whole, truth=truth)
    del file["obs"]
    ad.io.write_elem(file, "obs", obs)


def no_tables(file: h5py.File, adata: ad.AnnData) -> None:
    for name in ("raw", "layers", "obsm", "varm", "obsp", "varp", "uns"):
        if name in file:
            del file[name]


ZOO = [
    raw_that_is_none,
    raw_without_names,
    x_that_is_none,
    no_encoding_at_the_root,
    a_column_named_index,
    names_that_are_integers,
    tables_as_compound_arrays,
    sparse_as_anndata_07_wrote_it,
    categories_beside_the_table,
    raw_at_the_root,
    gene_names_in_categories,
    nullable_columns,
    no_tables,
]


def test_a_path_gives_what_read_h5ad_gives(small, tmp_path_factory):
    for spoil in ZOO:
        tmp_path = tmp_path_factory.mktemp("case")
        adata, path = with_raw(small), tmp_path / "odd.h5ad"
        adata.write_h5ad(path)
        with h5py.File(path, "r+") as file:
            spoil(file, adata)
        wanted, found = open_store(ad.read_h5ad(path)), open_store(path)
        assert list(found.slots) == list(wanted.slots)
        assert (found.log_base, sorted(found.uns)) == (wanted.log_base, sorted(wanted.uns))
        pd.testing.assert_frame_equal(found.obs, wanted.obs)
        for name in wanted.obsm:
            np.testing.assert_array_equal(found.obsm[name](), wanted.obsm[name]())
        for slot in wanted.slots:
            use_raw = slot == ".raw"
            layer = None if slot in ("X", ".raw") else slot[8:-2]
            pd.testing.assert_frame_equal(found.genes(use_raw), wanted.genes(use_raw))
            blocks = [
                sparse.vstack(
                    [sparse.csr_matrix(b) for _, b in s.matrix(layer, use_raw).blocks(20)]
                )
                for s in (found, wanted)
            ]
            assert (blocks[0] != blocks[1]).nnz == 0
        whole = read_anndata(path)
        pd.testing.assert_frame_equal(whole.obs, ad.read_h5ad(path).obs)


def test_a_layer_with_a_slash_in_its_name_is_read(small, tmp_path):
    """Releases of anndata before 0.13 write it as nested groups, which they then cannot read."""
    small.layers["counts"] = 2 * small.X
    small.write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        file.move("layers/counts", "layers/of/counts")
    write_fast_store(tmp_path / "cells.h5ad", tmp_path / "fast.h5ad")
    for name in ("cells.h5ad", "fast.h5ad"):
        store = open_store(tmp_path / name)
        assert list(store.slots) == ["X", "layers['of/counts']"]
        (_, block), *_ = store.matrix("of/counts", use_raw=False).blocks(1000)
        assert (block != 2 * small.X).nnz == 0


def packed_with(path: Path, number: int, name: bytes) -> None:
    """Write a file whose matrix says that it is packed with a filter that is not there."""
    ad.AnnData(np.ones((4, 3), dtype=np.float32)).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file["X"]
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_chunk((4, 3))
        made.set_filter(number, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((4, 3))
        at = h5py.h5d.create(file.id, b"X", h5py.h5t.IEEE_F32LE, space, made)
        at.write_direct_chunk((0, 0), b"(\xb5/\xfd nothing that can be unpacked", 0)


@pytest.mark.skipif(h5py.h5z.filter_avail(32015), reason="this HDF5 unpacks zstd")
def test_missing_compression_filter_raises_with_its_package(tmp_path):
    packed_with(tmp_path / "cells.h5ad", 32015, b"zstd")
    with pytest.raises(InputError, match=r"X is compressed with .*32015.*pip install hdf5plugin"):
        open_counts(tmp_path / "cells.h5ad")


GENES = ["CD3D", "NKG7", "MS4A1", "LYZ", "CD3"]
KINDS = ["Gene Expression"] * 4 + ["Antibody Capture"]


@pytest.fixture
def cells() -> ad.AnnData:
    """30 cells × 4 genes and an antibody, as Cell Ranger names them."""
    rng = np.random.default_rng(0)
    var = pd.DataFrame({"feature_types": KINDS}, index=GENES)
    names = ["".join(rng.choice(list("ACGT"), 16)) + "-1" for _ in range(30)]
    counts = sparse.csr_matrix(rng.poisson(2.0, (30, 5)).astype(np.float32))
    return ad.AnnData(counts, obs=pd.DataFrame(index=names), var=var)


def as_10x(cells: ad.AnnData, path: Path) -> Path:
    """Write what Cell Ranger 3 and later write."""
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        turned = sparse.csr_matrix(cells.X)
        for key, values in (("data", "data"), ("indices", "indices"), ("indptr", "indptr")):
            group[key] = getattr(turned, values).astype("i4")
        group["shape"] = np.array([cells.n_vars, cells.n_obs])
        group["barcodes"] = np.array(cells.obs_names, dtype="S")
        for key, values in {
            "id": [f"ENSG{i:011d}" for i in range(cells.n_vars)],
            "name": list(cells.var_names),
            "feature_type": KINDS,
            "genome": ["GRCh38"] * cells.n_vars,
        }.items():
            group[f"features/{key}"] = np.array(values, dtype="S")
    return path


def as_10x_of_version_2(cells: ad.AnnData, path: Path) -> Path:
    with h5py.File(path, "w") as file:
        group = file.create_group("GRCh38")
        turned = sparse.csr_matrix(cells.X)
        for key in ("data", "indices", "indptr"):
            group[key] = getattr(turned, key).astype("i4")
        group["shape"] = np.array([cells.n_vars, cells.n_obs])
        group["barcodes"] = np.array(cells.obs_names, dtype="S")
        group["genes"] = np.array([f"ENSG{i:011d}" for i in range(cells.n_vars)], dtype="S")
        group["gene_names"] = np.array(list(cells.var_names), dtype="S")
    return path


def as_mtx(cells: ad.AnnData, folder: Path, *, packed: bool, features: str = "features") -> Path:
    folder.mkdir()
    mmwrite(folder / "matrix.mtx", sparse.coo_matrix(cells.X.T.astype(int)))
    rows = [f"ENSG{i:011d}\t{gene}" for i, gene in enumerate(cells.var_names)]
    if features == "features":
        rows = [f"{row}\t{kind}" for row, kind in zip(rows, KINDS, strict=True)]
    (folder / f"{features}.tsv").write_text("\n".join(rows) + "\n")
    (folder / "barcodes.tsv").write_text("\n".join(cells.obs_names) + "\n")
    if packed:
        for path in list(folder.iterdir()):
            as_gz(path)
            path.unlink()
    return folder


def as_gz(path: Path) -> Path:
    with path.open("rb") as file, gzip.open(f"{path}.gz", "wb") as packed:
        shutil.copyfileobj(file, packed)
    return Path(f"{path}.gz")


def as_loom(cells: ad.AnnData, path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file["matrix"] = cells.X.toarray().T
        file["layers/spliced"] = cells.X.toarray().T
        file["row_attrs/Gene"] = np.array(list(cells.var_names), dtype="S")
        file["row_attrs/feature_types"] = np.array(KINDS, dtype="S")
        file["col_attrs/CellID"] = np.array(list(cells.obs_names), dtype="S")
        file["col_attrs/donor"] = np.arange(cells.n_obs) % 3
    return path


def as_text(cells: ad.AnnData, path: Path, *, turned: bool = False, separator: str = ",") -> Path:
    table = cells.to_df().iloc[:, :4]
    (table.T if turned else table).to_csv(path, sep=separator)
    return path


def named_cells(cells: ad.AnnData) -> ad.AnnData:
    """Cells whose names look like those of genes."""
    named = cells.copy()
    named.obs_names = [f"lymph_{i % 3}--P{i}" for i in range(cells.n_obs)]
    return named


def as_h5ad(cells: ad.AnnData, path: Path) -> Path:
    cells.write_h5ad(path)
    return path


FORMATS = {
    "10x": lambda cells, folder: as_10x(cells, folder / "cells.h5"),
    "10x_by_another_name": lambda cells, folder: as_10x(cells, folder / "cells.h5ad"),
    "10x_gz": lambda cells, folder: as_gz(as_10x(cells, folder / "cells.h5")),
    "mtx": lambda cells, folder: as_mtx(cells, folder / "run", packed=False),
    "mtx_gz": lambda cells, folder: as_mtx(cells, folder / "run", packed=True),
    "mtx_file": lambda cells, folder: as_mtx(cells, folder / "run", packed=True) / "matrix.mtx.gz",
    "loom": lambda cells, folder: as_loom(cells, folder / "cells.loom"),
    "h5ad_gz": lambda cells, folder: as_gz(as_h5ad(cells, folder / "cells.h5ad")),
    "h5ad_by_another_name": lambda cells, folder: as_h5ad(cells, folder / "cells.h5"),
}
WITHOUT_TYPES = {
    "10x_2": lambda cells, folder: as_10x_of_version_2(cells, folder / "cells.h5"),
    "mtx_2": lambda cells, folder: as_mtx(cells, folder / "r", packed=False, features="genes"),
    "csv": lambda cells, folder: as_text(cells, folder / "cells.csv"),
    "csv_gz": lambda cells, folder: as_gz(as_text(cells, folder / "cells.csv")),
    "csv_of_genes_by_cells": lambda cells, folder: as_text(cells, folder / "c.csv", turned=True),
    "csv_of_genes_by_named_cells": lambda cells, folder: as_text(
        named_cells(cells), folder / "c.csv", turned=True
    ),
    "csv_of_named_cells": lambda cells, folder: as_text(named_cells(cells), folder / "c.csv"),
    "tsv": lambda cells, folder: as_text(cells, folder / "cells.txt", separator="\t"),
    "semicolons": lambda cells, folder: as_text(cells, folder / "cells.csv", separator=";"),
}


def test_formats_are_detected_by_content(cells, tmp_path_factory):
    for name in FORMATS:
        tmp_path = tmp_path_factory.mktemp("case")
        opened = open_query(FORMATS[name](cells, tmp_path), GENES)
        assert list(opened.obs_names) == list(cells.obs_names)
        assert opened.measured.tolist() == [True] * 4 + [False]  # the last one is an antibody
        np.testing.assert_array_equal(opened.read().toarray()[:, :4], cells.X.toarray()[:, :4])
        assert "1 column is not a gene (Antibody Capture)" in str(opened.input_report)


def test_formats_without_feature_types(cells, tmp_path_factory):
    for name in WITHOUT_TYPES:
        tmp_path = tmp_path_factory.mktemp("case")
        opened = open_query(WITHOUT_TYPES[name](cells, tmp_path), GENES[:4])
        named = named_cells(cells) if "named" in name else cells
        assert list(opened.obs_names) == list(named.obs_names)
        np.testing.assert_array_equal(opened.read().toarray(), cells.X.toarray()[:, :4])
        said = str(opened.input_report)
        form = {"10x_2": "10x h5", "mtx_2": "mtx"}.get(name, "text table")
        assert f" in X ({form})" in said
        turned = "The table was transposed" in said
        assert turned == name.startswith("csv_of_genes_by")


def test_a_table_keeps_columns_that_are_not_numbers(tmp_path):
    (tmp_path / "cells.csv").write_text("cell,CD3D,donor,NKG7\na,1,P1,0\nb,0,P2,3\n")
    store = open_store(tmp_path / "cells.csv")
    assert store.obs["donor"].tolist() == ["P1", "P2"]
    assert store.genes(False).index.tolist() == ["CD3D", "NKG7"]


def test_columns_of_a_table_that_are_neither_genes_nor_cells(tmp_path):
    lines = ["# featureCounts", "Geneid\tChr\tStart\tLength\tc_1\tc_2", "CD3D\t11\t5\t900\t3\t0"]
    (tmp_path / "genes.txt").write_text("\n".join([*lines, "NKG7\tX\t7\t800\t0\t1"]) + "\n")
    found = read_anndata(tmp_path / "genes.txt")
    assert found.obs_names.tolist() == ["c_1", "c_2"]
    assert found.X.toarray().tolist() == [[3, 0], [0, 1]]
    assert found.var["Chr"].tolist() == ["11", "X"]
    (tmp_path / "cells.csv").write_text(",CD3D,NKG7,\nc_1,3,0,\nc_2,0,1,\n")
    assert read_anndata(tmp_path / "cells.csv").var_names.tolist() == ["CD3D", "NKG7"]


def test_a_table_keeps_its_first_gene_whatever_is_above_it(tmp_path_factory):
    for heading in [
        "# made by A, B\n# in 2024, twice\ngene,c_1,c_2,c_3",
        "# one\n#gene,c_1,c_2,c_3",
        "gene,17,40,41",
        ",0,1,2",
    ]:
        tmp_path = tmp_path_factory.mktemp("case")
        (tmp_path / "cells.csv").write_text(f"{heading}\nCD3D,3,1,0\nNKG7,1,2,5\n")
        found = read_anndata(tmp_path / "cells.csv")
        assert found.var_names.tolist() == ["CD3D", "NKG7"]
        assert found.X.toarray().tolist() == [[3, 1], [1, 2], [0, 5]]


def test_a_table_as_r_writes_it_has_one_name_less_in_its_first_line(tmp_path):
    (tmp_path / "cells.txt").write_text("CD3D NKG7\ncell1 1 0\ncell2 0 3\n")
    opened = open_query(tmp_path / "cells.txt", ["NKG7", "CD3D"])
    assert list(opened.obs_names) == ["cell1", "cell2"]
    assert opened.read().toarray().tolist() == [[0, 1], [3, 0]]


def test_repeated_names_of_a_table_are_kept(tmp_path):
    (tmp_path / "cells.csv").write_text(",CD3D,NKG7,CD3D\ncell_1,3,0,1\ncell_2,0,1,2\n")
    found = read_anndata(tmp_path / "cells.csv")
    assert found.var_names.tolist() == ["CD3D", "NKG7", "CD3D"]
    assert found.X.toarray().tolist() == [[3, 0, 1], [0, 1, 2]]


def test_headings_beside_a_matrix_are_no_names(cells, tmp_path):
    mmwrite(tmp_path / "matrix.mtx", sparse.coo_matrix(cells.X.T))
    for name, names in (("genes.tsv", cells.var_names), ("barcodes.tsv", cells.obs_names)):
        (tmp_path / name).write_text("\n".join(["x", *names]) + "\n")
    found = read_anndata(tmp_path)
    assert found.var_names.tolist() == cells.var_names.tolist()
    assert found.obs_names.tolist() == cells.obs_names.tolist()


def test_a_truncated_file_is_not_asked_for_modalities(small, tmp_path):
    path = tmp_path / "cut.h5ad"
    small.write_h5ad(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert not is_paired(path)
    with pytest.raises(InputError, match="cannot be opened"):
        open_store(path)


def test_files_of_two_samples_in_one_folder_are_kept_apart(cells, tmp_path):
    one, other = (
        as_mtx(cells[rows].copy(), tmp_path / name, packed=False)
        for name, rows in (("a", slice(10)), ("b", slice(10, None)))
    )
    both = tmp_path / "both"
    both.mkdir()
    for folder in (one, other):
        for path in folder.iterdir():
            shutil.copy(path, both / f"GSM_{folder.name}_{path.name}")
    with pytest.raises(InputError, match=r"holds 2 matrices.*Pass the path of one of them"):
        open_store(both)
    assert list(open_store(both / "GSM_b_matrix.mtx").obs.index) == list(cells.obs_names[10:])


def test_unknown_formats_raise_with_their_kind(tmp_path_factory):
    for write, found, advice in [
        (lambda p: p.write_bytes(b"RDX3\nX\n"), "an R file", "writeH5AD"),
        (lambda p: p.write_bytes(gzip.compress(b"X\n\0\0")), "an R file", "writeH5AD"),
        (lambda p: p.write_bytes(b"PK\3\4"), "Excel", "as .csv"),
        (lambda p: p.write_bytes(pickle.dumps([1])), "pickle", "write_h5ad"),
        (lambda p: p.write_bytes(b"\0\1\2"), "not text", "convert the file"),
        (lambda p: p.write_bytes(b""), "empty", "Check the path"),
        (lambda p: p.mkdir(), "without a zarr store", "Check"),
        (lambda p: p.write_text("a,b\nc,d\n"), "no column contains numbers", "write_h5ad"),
        (lambda p: p.write_text("<!DOCTYPE html>\n<p>1, 2</p>"), "a web page", "Down"),
        (
            lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\nsize 1\n"),
            "Git LFS",
            "git lfs pull",
        ),
        (
            lambda p: p.write_text(",c_1,c_2\nCD3D,3,n/d\nNKG7,1,2\nLYZ,1,2\n"),
            "1 value of column 'c_2'",
            "Correct the table",
        ),
        (lambda p: p.write_text("CD3D,3,3,0\nNKG7,1,2,5\n"), "first line", "would be lost"),
        (lambda p: p.write_text("c_1,3,1,0\nc_2,1,2,5\n"), "first line", "would be lost"),
        (lambda p: p.write_text("CD3D,3,1,0\nNKG7,1,2,5\n"), "first line", "would be lost"),
        (lambda p: p.write_text("0.5 0 2\n1 2.5 5\n"), "first line", "would be lost"),
        (
            lambda p: p.write_text("cell;CD3D;NKG7\na;1,5;0\nb;2,5;1\n"),
            "column 'CD3D'.* as a number: '1,5', '2,5'",
            "decimal=','",
        ),
        (lambda p: p.write_bytes(b"cell,CD3D\nR\xe9mi,1\n"), "byte 0xe9", "iconv"),
        (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "opened", "again"),
        (as_list_of_molecules, "list of molecules", "Pass filtered_feature_bc_matrix.h5"),
        (lambda p: p.write_bytes(lzma.compress(b"a")), "xz", "unxz"),
        (lambda p: p.write_bytes(bz2.compress(b"a")), "bzip2", "bunzip2"),
        (lambda p: p.write_bytes(b"PAR1"), "Parquet", "pandas"),
        (lambda p: p.write_bytes(bytes(257) + b"ustar"), "tar archive", "tar -xf"),
        (
            lambda p: p.write_text("gene,cell,count\nCD3D,a,1\nCD3D,b,1\nLYZ,a,3\n"),
            "one line per gene and cell",
            "pivot_table",
        ),
    ]:
        tmp_path = tmp_path_factory.mktemp("case")
        write(tmp_path / "cells")
        with pytest.raises(InputError, match=f"{found}.*{advice}"):
            open_store(tmp_path / "cells")


def as_list_of_molecules(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["barcode_idx"], file["count"] = np.arange(3), np.ones(3)


def test_two_genomes_of_version_2_are_joined(cells, tmp_path):
    mouse = cells[5:, ::-1].copy()  # each genome has its own cells
    mouse.var_names = [f"mm10_{gene}" for gene in mouse.var_names]
    as_10x_of_version_2(cells[:20].copy(), tmp_path / "cells.h5")
    as_10x_of_version_2(mouse, tmp_path / "mouse.h5")
    with h5py.File(tmp_path / "cells.h5", "r+") as file, h5py.File(tmp_path / "mouse.h5") as other:
        other.copy("GRCh38", file, name="mm10")
    found = read_anndata(tmp_path / "cells.h5")
    assert found.obs_names.tolist() == cells.obs_names.tolist()
    assert found.var["genome"].tolist() == ["GRCh38"] * 5 + ["mm10"] * 5
    expected = cells.X.toarray()
    np.testing.assert_array_equal(found.X.toarray()[:20, :5], expected[:20])
    np.testing.assert_array_equal(found.X.toarray()[5:, 5:], expected[5:, ::-1])
    assert not found.X[20:, :5].nnz
    assert not found.X[:5, 5:].nnz


def test_names_of_genes_are_preferred_to_ids(cells, tmp_path):
    for names in ("genes", "genes.names"), ("genes.names", "genes"):  # kallisto | bustools
        folder = tmp_path / names[0]
        folder.mkdir()
        mmwrite(folder / "cells_x_genes.mtx", sparse.coo_matrix(cells.X))
        ids = [f"ENSG{i:011d}.1" for i in range(cells.n_vars)]
        for name, listed in (
            (names[0], cells.var_names if "names" in names[0] else ids),
            (names[1], cells.var_names if "names" in names[1] else ids),
            ("barcodes", cells.obs_names),
        ):
            (folder / f"cells_x_genes.{name}.txt").write_text("\n".join(listed) + "\n")
        assert read_anndata(folder).var_names.tolist() == cells.var_names.tolist()


def test_a_seurat_file_is_named(tmp_path):
    with h5py.File(tmp_path / "cells.h5seurat", "w") as file:
        file.create_group("assays")
    with pytest.raises(InputError, match=r"h5Seurat.*Convert"):
        open_store(tmp_path / "cells.h5seurat")


def test_the_folder_to_pass_is_named(cells, tmp_path):
    as_mtx(cells, tmp_path / "filtered_feature_bc_matrix", packed=True)
    with pytest.raises(InputError, match=r"Pass .*filtered_feature_bc_matrix"):
        open_store(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata announces its next format
        cells.obs["donor"], cells.obs["Donor"] = "a", "b"
        places = ["cells.zarr", *(f"spatial_{form}.zarr/tables/table" for form in (2, 3))]
        for place in places:
            cells.write_zarr(tmp_path / place)
        for form in (2, 3):  # one of which is not the version of the table in it
            for place in (f"spatial_{form}.zarr", f"spatial_{form}.zarr/tables"):
                zarr.open_group(tmp_path / place, zarr_format=form)
    # Consolidated metadata mix up names that differ only in case.
    assert read_anndata(tmp_path / "cells.zarr").obs["Donor"].tolist() == ["b"] * cells.n_obs
    assert open_store(tmp_path / "cells.zarr").obs["donor"].tolist() == ["a"] * cells.n_obs
    for form in (2, 3):
        with pytest.raises(InputError, match=r"has no obs .* but tables\. .*Pass .*tables/table\."):
            open_store(tmp_path / f"spatial_{form}.zarr")


def test_any_object_with_a_path_is_a_path(small, tmp_path):
    class At(os.PathLike):
        def __fspath__(self):
            return str(tmp_path / "cells.h5ad")

    small.write_h5ad(At())
    assert not is_paired(At())
    assert open_store(At()).obs.index.tolist() == small.obs_names.tolist()


def test_mudata_is_detected_by_content(small, tmp_path):
    mudata = pytest.importorskip("mudata")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mudata.MuData({"rna": small}).write(tmp_path / "cells.h5mu")
    (tmp_path / "cells.h5mu").rename(tmp_path / "cells.h5ad")
    assert is_paired(tmp_path / "cells.h5ad")
    small.write_h5ad(tmp_path / "plain.h5mu")
    assert not is_paired(tmp_path / "plain.h5mu")
    assert inspect_input(tmp_path / "plain.h5mu").n_obs == 97


def test_open_store_is_not_read_again(cells, tmp_path, monkeypatch):
    cells.to_df().to_csv(tmp_path / "cells.csv")
    reads, read = [], pd.read_csv
    monkeypatch.setattr(pd, "read_csv", lambda *a, **k: reads.append(a) or read(*a, **k))
    store = open_store(tmp_path / "cells.csv")
    opened = open_query(store, cells.var_names.tolist())
    np.testing.assert_array_equal(opened.read().toarray(), store.whole().X.toarray())
    assert open_store(store) is store
    assert inspect_input(store).n_obs == cells.n_obs
    assert len(reads) == 1


@pytest.fixture
def path(small, tmp_path):
    """A file with a CSR matrix in ``X`` and a dense one in a layer."""
    small.layers["dense"] = small.X.toarray()
    small.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


@pytest.fixture
def secret(tmp_path):
    """Another file of the machine, with numbers in it."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["X"] = np.full((97, 60), 7.0)
    return tmp_path / "secret.h5"


def replace_dense(path, make) -> None:
    with h5py.File(path, "r+") as file:
        attributes = dict(file["layers/dense"].attrs)
        del file["layers/dense"]
        make(file, "layers/dense")
        file["layers/dense"].attrs.update(attributes)


def refused(path, message: str, **options) -> None:
    began = time.process_time()
    with pytest.raises(InputError, match=message):
        open_counts(path, **options)
    assert time.process_time() - began < 3


def test_storage_in_another_file_is_not_read(path, secret):
    def make(file, at):
        file.create_dataset(at, (97, 60), "f8", external=[(str(secret), 0, 97 * 60 * 8)])

    replace_dense(path, make)
    refused(path, "layers/dense reads its values from other files", layer="dense")


def test_a_virtual_array_of_another_file_is_not_read(path, secret):
    def make(file, at):
        layout = h5py.VirtualLayout((97, 60), "f8")
        layout[:] = h5py.VirtualSource(str(secret), "X", (97, 60))
        file.create_virtual_dataset(at, layout)

    replace_dense(path, make)
    refused(path, "reads its values from other files", layer="dense")


def test_a_link_to_another_file_is_not_followed(path, secret):
    with h5py.File(path, "r+") as file:
        file["layers/other"] = h5py.ExternalLink(str(secret), "X")
    refused(path, "layers/other is a link to another file")


@pytest.mark.parametrize("target", ["/obs", "/"])
def test_group_that_contains_itself_raises(path, target):
    with h5py.File(path, "r+") as file:
        file["obs/kind/again"] = file[target]
    refused(path, "obs/kind/again and .* are the same group")


@pytest.mark.parametrize("name", ["obs", "uns", "layers", "layers/same", "obs/kind/again"])
def test_a_link_within_the_file_is_refused(path, name):
    for target in ("/nowhere", "/obsp", "/X", "/"):
        with h5py.File(path, "r+") as file:
            if name in file:
                del file[name]
            file[name] = h5py.SoftLink(target)
        refused(path, f"{name} is a link to another place of the file")


@pytest.mark.parametrize(("name", "target"), [("uns", "obsm"), ("obsm", "layers"), ("uns", "obs")])
def test_shared_groups_raise(path, name, target):
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = file[target]
    refused(path, "are the same group")


def test_element_of_unexpected_type_raises(path):
    with h5py.File(path, "r+") as file:
        del file["obsm"]
        file.copy("X", "obsm")
    refused(path, "cannot be opened")


def test_a_pipe_or_a_device_is_refused_at_once(tmp_path_factory):
    for name in ["cells.h5ad", "cells.zarr", "cells.h5mu", "device.h5ad"]:
        tmp_path = tmp_path_factory.mktemp("case")
        place = tmp_path / name
        if name.startswith("device"):
            place.symlink_to("/dev/zero")
        else:
            os.mkfifo(place)
        with pytest.raises(InputError, match=r"neither a file nor a folder.*pipe or device"):
            (open_paired if name.endswith("h5mu") else open_counts)(place)


@pytest.mark.filterwarnings("ignore")
def test_a_pipe_within_a_zarr_store_is_refused_at_once(small, tmp_path):
    small.write_zarr(tmp_path / "cells.zarr")
    os.mkfifo(tmp_path / "cells.zarr" / "X" / "pipe")
    refused(tmp_path / "cells.zarr", "X/pipe is neither a file nor a folder")


@pytest.mark.parametrize("shape", [(10**12, 60), (97, 10**12), (2**31, 2**31)])
def test_array_of_implausible_size_raises(path, shape):
    replace_dense(path, lambda file, at: file.create_dataset(at, shape, "f4", chunks=(97, 60)))
    refused(path, r"declares [\d,]+ bytes, but [\d,]+ are stored", layer="dense")


def test_huge_chunks_raise(path):
    def make(file, at):
        file.create_dataset(at, (97, 60), "u1", chunks=(2**20, 2**10), maxshape=(None, None))

    replace_dense(path, make)
    refused(path, "stored in chunks of 1,073,741,824 bytes", layer="dense")


def test_compressed_zeros_are_accepted(path):
    def make(file, at):
        zeros = np.zeros((97, 60), "f4")
        file.create_dataset(at, data=zeros, chunks=(97, 60), compression="gzip")

    replace_dense(path, make)
    assert inspect_input(path, layer="dense").scale == "empty"


def test_matrix_of_another_shape_raises(path):
    replace_dense(path, lambda file, at: file.create_dataset(at, data=np.ones((97, 61), "f4")))
    refused(
        path,
        r"layers\['dense'\] is 97 × 61 of float32, but there are 97 cells and 60",
        layer="dense",
    )
    replace_dense(path, lambda file, at: file.create_dataset(at, data=np.ones((97, 60), "c8")))
    refused(path, "of complex64", layer="dense")


@pytest.mark.parametrize(
    ("part", "place", "value"),
    [
        pytest.param("indices", 5, 10**6, id="beyond_the_end"),
        pytest.param("indices", 5, -3, id="before_the_start"),
        pytest.param("indptr", 5, 0, id="starts_that_fall"),
        pytest.param("indptr", 5, 10**6, id="start_beyond_the_end"),
        pytest.param("indptr", -1, 10**6, id="end_beyond_the_end"),
    ],
)
def test_invalid_indices_raise(small, tmp_path, part, place, value):
    for form in ("csr", "csc"):
        matrix, path = sparse.csr_matrix(small.X).asformat(form).copy(), tmp_path / f"{form}.h5ad"
        adata = ad.AnnData(matrix, obs=small.obs, var=small.var)
        adata.write_h5ad(path)
        with h5py.File(path, "r+") as file:
            stored = file[f"X/{part}"]
            stored[place if place >= 0 else len(stored) - 1] = value
        getattr(adata.X, part)[place] = value
        for damaged in (adata, path):
            refused(damaged, "has invalid indices|cannot be read")


@pytest.mark.filterwarnings("ignore")
def test_a_zarr_store_that_is_packed_with_pickle_is_refused(small, tmp_path):
    path, ran = tmp_path / "cells.zarr", tmp_path / "ran"

    class Run:
        def __reduce__(self):
            return ran.touch, ()

    with ad.settings.override(zarr_write_format=2):
        small.write_zarr(path)
    (path / ".zmetadata").unlink(missing_ok=True)
    names = path / "obs" / "_index"
    if not (names / ".zarray").exists():
        pytest.skip("this release of anndata writes the newer format only, which has no pickle")
    described = json.loads((names / ".zarray").read_text())
    described |= {"compressor": None, "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}]}
    (names / ".zarray").write_text(json.dumps(described))
    (names / "0").write_bytes(pickle.dumps(Run()))
    refused(path, "obs/_index is encoded with pickle, which can run code")
    assert not ran.exists()


@pytest.mark.filterwarnings("ignore")
def test_zarr_array_of_implausible_size_raises(small, tmp_path):
    path = tmp_path / "cells.zarr"
    small.layers["dense"] = small.X.toarray()
    with ad.settings.override(zarr_write_format=3):
        small.write_zarr(path)
    described = json.loads((path / "layers/dense/zarr.json").read_text())
    (path / "layers/dense/zarr.json").write_text(json.dumps(described | {"shape": [10**12, 60]}))
    (path / "zarr.json").write_text(
        json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {}})
    )
    refused(path, r"layers/dense declares [\d,]+ bytes", layer="dense")


@pytest.mark.parametrize("at", ["obs", "var"])
def test_invalid_table_raises(path, at):
    with h5py.File(path, "r+") as file:
        file[at].attrs["encoding-type"] = "dict"
    refused(path, "cannot be opened")
