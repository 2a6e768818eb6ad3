"""Fixtures for batch correction: small populations with known types and known effects."""

from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

N_GENES = 40


class Thousandths:
    """Normalisation in which counts are thousandths of log values."""

    genes = tuple(f"GENE{i}" for i in range(N_GENES))

    def log_normalize(self, counts: sparse.csr_matrix, measured: Any) -> sparse.csr_matrix:
        return counts.astype(np.float32) * np.float32(1e-3)

    def is_like(self, other: object) -> bool:
        return self is other


def population(n_cells: int, seed: int, types: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Log values around a mean per type, all positive, and the type of each cell."""
    means = np.random.default_rng(99).gamma(2.0, 1.0, size=(types, N_GENES))
    rng = np.random.default_rng(seed)
    kind = rng.integers(types, size=n_cells)
    return np.abs(means[kind] + rng.normal(0, 0.3, size=(n_cells, N_GENES))) + 0.05, kind


def as_adata(values: Any, kind: np.ndarray | None = None, prefix: str = "cell") -> ad.AnnData:
    """Store log values as counts, in thousandths."""
    obs = pd.DataFrame(index=[f"{prefix}_{i}" for i in range(values.shape[0])])
    if kind is not None:
        obs["cell_type"] = [f"type {k}" for k in kind]
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(values.shape[1])])
    counts = np.round(1e3 * np.asarray(values)).astype(np.float32)
    return ad.AnnData(counts, obs=obs, var=var)


@pytest.fixture
def exact() -> dict[str, Any]:
    """Options of an exact search on the log values themselves."""
    return {"normalizer": Thousandths(), "neighbors": "exact"}


@pytest.fixture
def logs() -> Callable[[ad.AnnData], np.ndarray]:
    """Function from the counts of an object to its log values."""
    return lambda adata: adata.X * np.float32(1e-3)


@pytest.fixture
def draw() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    return population


@pytest.fixture
def wrap() -> Callable[..., ad.AnnData]:
    return as_adata


@pytest.fixture
def pair() -> tuple[ad.AnnData, ad.AnnData]:
    """Two draws of one population, 180 and 150 cells, with types in ``cell_type``."""
    return as_adata(*population(180, 1), prefix="ref"), as_adata(*population(150, 2))
