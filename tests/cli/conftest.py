"""Fixtures: a reference, a query and a model trained by the command line."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import pytest
from typer.testing import CliRunner

from hdeepinsight.cli import app


@dataclass(frozen=True)
class Files:
    """Where everything lies."""

    folder: Path
    reference: Path
    query: Path
    query_zarr: Path
    model: Path
    train_output: str


def run(*arguments):
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def digest(path: Path) -> str:
    """SHA-256 of a file, or of all files of a store with their names."""
    total = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        total.update(file.name.encode() + file.read_bytes())
    return total.hexdigest()


def write_zarr(adata: ad.AnnData, path: Path) -> None:
    """Write a store; anndata warns at every write of formats that are going to change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata.write_zarr(path)


@pytest.fixture(scope="session", name="write_zarr")
def write_zarr_():
    return write_zarr


@pytest.fixture(scope="session")
def hdeepinsight():
    return run


@pytest.fixture(scope="session")
def sha256():
    return digest


@pytest.fixture(scope="session")
def halves(_synthetic_hierarchy) -> tuple[ad.AnnData, ad.AnnData]:
    """Reference and query, 210 cells each; the query's genes stand in another order."""
    reference, query = _synthetic_hierarchy[::2].copy(), _synthetic_hierarchy[1::2].copy()
    return reference, query[:, ::-1].copy()


@pytest.fixture(scope="session")
def files(halves, tmp_path_factory) -> Files:
    folder = tmp_path_factory.mktemp("cli")
    reference, query = folder / "reference.h5ad", folder / "query.h5ad"
    halves[0].write_h5ad(reference)
    halves[1].write_h5ad(query)
    zarr = folder / "query.zarr"
    write_zarr(halves[1], zarr)
    model = folder / "model"
    training = [
        "--labels-keys",
        "lineage,cell_type",
        "--layout",
        "random",
        "--max-epochs",
        12,
        "--validation-size",
        0.2,
    ]
    done = run("train", reference, *training, "--batch-key", "batch", "--out", model)
    assert done.exit_code == 0, done.output
    return Files(folder, reference, query, zarr, model, done.stdout)
