"""Files that name other files, declare what they do not hold, or lead compiled code astray."""

import json
import os
import pickle
import time

import anndata as ad
import h5py
import numpy as np
import pytest
from scipy import sparse

from hdeepinsight.data import InputError, inspect_input, open_counts, open_paired


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
    refused(path, "layers/dense takes its values from other files", layer="dense")


def test_a_virtual_array_of_another_file_is_not_read(path, secret):
    def make(file, at):
        layout = h5py.VirtualLayout((97, 60), "f8")
        layout[:] = h5py.VirtualSource(str(secret), "X", (97, 60))
        file.create_virtual_dataset(at, layout)

    replace_dense(path, make)
    refused(path, "takes its values from other files", layer="dense")


def test_a_link_to_another_file_is_not_followed(path, secret):
    with h5py.File(path, "r+") as file:
        file["layers/other"] = h5py.ExternalLink(str(secret), "X")
    refused(path, "layers/other is a link to another file")


@pytest.mark.parametrize("target", ["/obs", "/"])
def test_a_group_that_contains_itself_is_refused(path, target):
    with h5py.File(path, "r+") as file:
        file["obs/kind/again"] = file[target]
    refused(path, "obs/kind/again and .* are one and the same group")


@pytest.mark.parametrize("name", ["obs", "uns", "layers", "layers/same", "obs/kind/again"])
@pytest.mark.parametrize("target", ["/nowhere", "/obsp", "/X", "/"])
def test_a_link_within_the_file_is_refused(path, name, target):
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        file[name] = h5py.SoftLink(target)
    refused(path, f"{name} is a link to another place of the file")


@pytest.mark.parametrize(("name", "target"), [("uns", "obsm"), ("obsm", "layers"), ("uns", "obs")])
def test_two_parts_that_are_one_group_are_refused(path, name, target):
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = file[target]
    refused(path, "are one and the same group")


def test_a_part_that_is_not_what_its_name_says_is_refused(path):
    with h5py.File(path, "r+") as file:
        del file["obsm"]
        file.copy("X", "obsm")
    refused(path, "cannot be opened")


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.zarr", "cells.h5mu", "device.h5ad"])
def test_a_pipe_or_a_device_is_refused_at_once(tmp_path, name):
    place = tmp_path / name
    if name.startswith("device"):
        place.symlink_to("/dev/zero")
    else:
        os.mkfifo(place)
    with pytest.raises(InputError, match=r"neither a file nor a folder.*pipe or a device"):
        (open_paired if name.endswith("h5mu") else open_counts)(place)


@pytest.mark.filterwarnings("ignore")
def test_a_pipe_within_a_zarr_store_is_refused_at_once(small, tmp_path):
    small.write_zarr(tmp_path / "cells.zarr")
    os.mkfifo(tmp_path / "cells.zarr" / "X" / "pipe")
    refused(tmp_path / "cells.zarr", "X/pipe is neither a file nor a folder")


@pytest.mark.parametrize("shape", [(10**12, 60), (97, 10**12), (2**31, 2**31)])
def test_an_array_without_bytes_behind_it_is_refused(path, shape):
    replace_dense(path, lambda file, at: file.create_dataset(at, shape, "f4", chunks=(97, 60)))
    refused(path, r"declares [\d,]+ bytes, with [\d,]+ behind them", layer="dense")


def test_huge_pieces_are_refused(path):
    def make(file, at):
        file.create_dataset(at, (97, 60), "u1", chunks=(2**20, 2**10), maxshape=(None, None))

    replace_dense(path, make)
    refused(path, "stored in pieces of 1,073,741,824 bytes", layer="dense")


def test_packed_zeros_are_no_bomb(path):
    def make(file, at):
        zeros = np.zeros((97, 60), "f4")
        file.create_dataset(at, data=zeros, chunks=(97, 60), compression="gzip")

    replace_dense(path, make)
    assert inspect_input(path, layer="dense").scale == "empty"


def test_a_matrix_has_a_row_a_cell_and_a_column_a_gene(path):
    replace_dense(path, lambda file, at: file.create_dataset(at, data=np.ones((97, 61), "f4")))
    refused(path, r"layers\['dense'\] is 97 × 61 of float32, beside 97 cells and 60", layer="dense")
    replace_dense(path, lambda file, at: file.create_dataset(at, data=np.ones((97, 60), "c8")))
    refused(path, "of complex64", layer="dense")


@pytest.mark.parametrize("form", ["csr", "csc"])
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
@pytest.mark.parametrize("where", ["memory", "file"])
def test_indices_that_lead_out_of_a_matrix_are_refused(
    small, tmp_path, form, part, place, value, where
):
    matrix = sparse.csr_matrix(small.X).asformat(form).copy()
    adata = ad.AnnData(matrix, obs=small.obs, var=small.var)
    if where == "memory":
        getattr(adata.X, part)[place] = value
        return refused(adata, "indices that lie outside|cannot be read")
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        file[f"X/{part}"][place if place >= 0 else len(file[f"X/{part}"]) - 1] = value
    return refused(tmp_path / "cells.h5ad", "indices that lie outside|cannot be read")


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
    refused(path, "obs/_index is packed with pickle, which can run code")
    assert not ran.exists()


@pytest.mark.filterwarnings("ignore")
def test_a_zarr_array_without_bytes_behind_it_is_refused(small, tmp_path):
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
def test_a_table_that_is_none_is_refused(path, at):
    with h5py.File(path, "r+") as file:
        file[at].attrs["encoding-type"] = "dict"
    refused(path, "cannot be opened")
