"""Fixtures: small counts, fingerprints of an AnnData, every way to store a matrix."""

import hashlib
import pickle
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

#: Ways to store one matrix; all must give the same counts.
STORAGES = (
    "dense",
    "dense_fortran",
    "int64",
    "csr_matrix",
    "csc_matrix",
    "csr_array",
    "csc_array",
    "unsorted",
    "explicit_zeros",
    "view",
    "dask_dense",
    "dask_sparse",
    "backed_dense",
    "backed_csr",
    "backed_csc",
    "h5ad_dense",
    "h5ad_csr",
    "h5ad_csc",
    "zarr2_csr",
    "zarr3_dense",
    "zarr3_csr",
    "zarr3_csc",
)


def take_fingerprint(adata: ad.AnnData) -> dict[str, str]:
    """Hash every part of an AnnData in memory: values, types, order and names."""
    parts: dict[str, Any] = {"X": adata.X, "obs": adata.obs, "var": adata.var}
    if adata.raw is not None:
        parts |= {"raw.X": adata.raw.X, "raw.var": adata.raw.var}
    for name in ("layers", "obsm", "varm", "obsp", "uns"):
        parts |= {f"{name}/{key}": value for key, value in getattr(adata, name).items()}
    return {name: hashlib.sha256(pickle.dumps(_plain(v))).hexdigest() for name, v in parts.items()}


def _plain(value: Any) -> Any:
    if sparse.issparse(value):
        arrays = (value.data, value.indices, value.indptr)
        return type(value).__name__, value.shape, [_plain(a) for a in arrays]
    if isinstance(value, np.ndarray) and value.dtype.kind != "O":
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, pd.DataFrame):
        columns = [(name, str(value[name].dtype), value[name].tolist()) for name in value.columns]
        return list(value.index), str(value.index.dtype), columns
    if hasattr(value, "dask"):
        return value.name
    return repr(value)


def make_small() -> ad.AnnData:
    """97 cells × 60 genes of real-looking counts, one empty cell, in a shuffled gene order."""
    rng = np.random.default_rng(1)
    counts = rng.negative_binomial(0.5, 0.2, size=(97, 60)).astype(np.float32)
    counts[13] = 0
    names = [f"GENE{i}" for i in rng.permutation(60)]
    obs = pd.DataFrame({"kind": list("ab") * 48 + ["a"]}, index=[f"cell_{i}" for i in range(97)])
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=names))


def log_normalise(counts: Any, target: float = 1e4, dtype: str = "float32") -> np.ndarray:
    """Library-size normalise and log1p, in the given precision."""
    dense = np.asarray(counts.todense() if sparse.issparse(counts) else counts, dtype=dtype)
    totals = np.maximum(dense.sum(axis=1, keepdims=True), 1)
    return np.log1p(dense / (totals / np.asarray(target, dtype=dtype)))


def _in_memory(storage: str, x: sparse.csr_matrix) -> Any:
    if storage == "unsorted":
        turned = x.tocsc().tocsr()
        order = np.concatenate(
            [np.arange(a, b)[::-1] for a, b in zip(x.indptr[:-1], x.indptr[1:], strict=True)]
        )
        return sparse.csr_matrix((turned.data[order], turned.indices[order], x.indptr), x.shape)
    if storage == "explicit_zeros":
        everywhere = np.indices(x.shape).reshape(2, -1)
        return sparse.csr_matrix((x.toarray().ravel(), everywhere), shape=x.shape)
    if storage.startswith("dask"):
        chunked = da.from_array(x.toarray(), chunks=(20, 25))
        return (
            chunked.rechunk((20, -1)).map_blocks(sparse.csr_matrix)
            if "sparse" in storage
            else chunked
        )
    if storage == "dense_fortran":
        return np.asfortranarray(x.toarray())
    if storage == "int64":
        return x.toarray().astype(np.int64)
    form = storage.rpartition("_")[0] if "_" in storage else storage
    kinds = {"csr_matrix": sparse.csr_matrix, "csc_matrix": sparse.csc_matrix}
    kinds |= {"csr_array": sparse.csr_array, "csc_array": sparse.csc_array}
    if storage in kinds:
        return kinds[storage](x)
    assert form == "dense", storage
    return x.toarray()


def store_in(adata: ad.AnnData, storage: str, folder: Path) -> Any:
    """Give the same data in another storage: an AnnData, or the path of a file."""
    x = sparse.csr_matrix(adata.X)
    if storage == "view":
        padded = ad.concat([adata, adata[:5]], index_unique="-")
        padded.var, padded.obs_names = adata.var, [*adata.obs_names, *"vwxyz"]
        return padded[: adata.n_obs]
    place, _, form = storage.partition("_")
    on_disk = place in ("backed", "h5ad", "zarr2", "zarr3")
    form = {"csr": "csr_matrix", "csc": "csc_matrix"}.get(form, form) if on_disk else storage
    stored = ad.AnnData(_in_memory(form, x), obs=adata.obs.copy(), var=adata.var.copy())
    if not on_disk:
        return stored
    path = folder / f"{storage}.{'zarr' if place.startswith('zarr') else 'h5ad'}"
    if place.startswith("zarr"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # formats that zarr or anndata are about to change
            with ad.settings.override(zarr_write_format=int(place[-1])):
                stored.write_zarr(path)
        return path
    stored.write_h5ad(path)
    return ad.read_h5ad(path, backed="r") if place == "backed" else path


@pytest.fixture
def small() -> ad.AnnData:
    """97 cells × 60 genes; see `make_small`."""
    return make_small()


@pytest.fixture(params=STORAGES)
def storage(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def store_as(tmp_path: Path) -> Iterator[Callable[[ad.AnnData, str], Any]]:
    """`store_in` into a fresh folder; closes the backed objects that it gave."""
    given = []

    def as_storage(adata: ad.AnnData, storage: str) -> Any:
        given.append(store_in(adata, storage, tmp_path))
        return given[-1]

    yield as_storage
    for data in given:
        if isinstance(data, ad.AnnData) and data.isbacked:
            data.file.close()


@pytest.fixture(scope="session")
def small_counts() -> Callable[[], ad.AnnData]:
    return make_small


@pytest.fixture(scope="session")
def fingerprint() -> Callable[[ad.AnnData], dict[str, str]]:
    return take_fingerprint


@pytest.fixture(scope="session")
def normalise() -> Callable[..., np.ndarray]:
    return log_normalise


@pytest.fixture(scope="session")
def store() -> Callable[[ad.AnnData, str, Path], Any]:
    return store_in
