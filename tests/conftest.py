"""Shared fixtures: seeds, real data and a small synthetic hierarchy."""

import os
import random
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch
from scipy import sparse

REPOSITORY = Path(__file__).resolve().parents[1]

#: Leaf -> lineage of the synthetic hierarchy.
SYNTHETIC_LINEAGES = {
    "B naive": "B",
    "B memory": "B",
    "CD4 T": "T",
    "CD8 T": "T",
    "gd T": "T",
    "Mono classical": "Myeloid",
    "DC": "Myeloid",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` on a machine without an accelerator."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, none was found"))


@pytest.fixture(autouse=True)
def seeded() -> int:
    """Seed Python, NumPy and torch before every test."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0


@pytest.fixture(scope="session")
def hdi_data() -> Path:
    """Folder with the real datasets: ``$HDI_DATA``, or ``shared/data`` beside the repository."""
    named = os.environ.get("HDI_DATA")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real datasets: {folder} is not a folder; set HDI_DATA to theirs")
    return folder


@pytest.fixture(scope="session")
def _pbmc68k() -> ad.AnnData:
    with warnings.catch_warnings():
        # The bundled file is from 2018, in an encoding that anndata reads but warns about.
        warnings.simplefilter("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", module="anndata", category=UserWarning)
        return sc.datasets.pbmc68k_reduced()


@pytest.fixture
def pbmc68k(_pbmc68k: ad.AnnData) -> ad.AnnData:
    """700 PBMC, 765 genes, ten types in ``bulk_labels``; ``raw`` holds log-normalised values."""
    return _pbmc68k.copy()


@pytest.fixture(scope="session")
def _synthetic_hierarchy() -> ad.AnnData:
    return make_hierarchy()


@pytest.fixture
def synthetic_hierarchy(_synthetic_hierarchy: ad.AnnData) -> ad.AnnData:
    """420 cells, 120 genes, 3 lineages, 7 types, 2 batches; see `make_hierarchy`."""
    return _synthetic_hierarchy.copy()


def make_hierarchy(n_cells_per_type: int = 60, n_genes: int = 120, seed: int = 0) -> ad.AnnData:
    """Draw negative binomial counts in which lineages and types each have markers of their own.

    Every lineage raises ten genes twelvefold and every type five further ones, the rest is noise.
    The second batch has a gentle factor per gene. ``X`` holds the counts as CSR float32; ``obs``
    holds ``lineage``, ``cell_type`` and ``batch``.
    """
    rng = np.random.default_rng(seed)
    types = list(SYNTHETIC_LINEAGES)
    lineages = list(dict.fromkeys(SYNTHETIC_LINEAGES.values()))
    cell_type = np.repeat(types, n_cells_per_type)
    lineage = np.array([SYNTHETIC_LINEAGES[name] for name in cell_type])
    batch = np.where(np.arange(len(cell_type)) % 2, "second", "first")

    mean = np.tile(rng.gamma(2.0, 0.5, size=n_genes), (len(cell_type), 1))
    for i, name in enumerate(lineages):
        mean[np.ix_(lineage == name, np.arange(10 * i, 10 * i + 10))] *= 12
    for j, name in enumerate(types):
        start = 10 * len(lineages) + 5 * j
        mean[np.ix_(cell_type == name, np.arange(start, start + 5))] *= 12
    mean[batch == "second"] *= np.exp(rng.normal(0, 0.1, size=n_genes))
    mean *= rng.lognormal(0, 0.2, size=(len(cell_type), 1))  # sequencing depth of each cell

    dispersion = 4.0
    counts = rng.negative_binomial(dispersion, dispersion / (dispersion + mean))
    order = rng.permutation(len(cell_type))
    obs = pd.DataFrame(
        {"lineage": lineage, "cell_type": cell_type, "batch": batch},
        index=[f"cell_{i}" for i in range(len(cell_type))],
        dtype="category",
    )
    adata = ad.AnnData(
        X=sparse.csr_matrix(counts, dtype=np.float32),
        obs=obs,
        var=pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)]),
    )
    return adata[order].copy()
