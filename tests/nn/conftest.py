"""Taxonomies of different shapes."""

import numpy as np
import pytest
import torch
from scipy import sparse
from trees import NESTED

from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra


@pytest.fixture
def two_levels() -> Taxonomy:
    return Taxonomy.from_nested(NESTED["two levels"])


@pytest.fixture
def ragged() -> Taxonomy:
    return Taxonomy.from_nested(NESTED["ragged"])


@pytest.fixture(params=["flat", "ragged"])
def taxonomy(request) -> Taxonomy:
    return Taxonomy.from_nested(NESTED[request.param])


@pytest.fixture
def tree(taxonomy) -> TreeAlgebra:
    return TreeAlgebra(taxonomy)


@pytest.fixture
def reference() -> sparse.csr_matrix:
    """Counts of 300 cells and 40 genes: gene 0 dominates five cells, genes 38 and 39 are rare."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1.0, 2.0, size=40), size=(300, 40)).astype(np.float32)
    counts[:, 38:] = 0
    counts[:30, 38] = rng.integers(1, 9, 30)
    counts[:5, 0] = 500
    return sparse.csr_matrix(counts)


@pytest.fixture
def masks() -> torch.Tensor:
    """A mask of measured genes per cell, shape ``(8, 40)``, about half of them measured."""
    return (torch.rand(8, 40, generator=torch.Generator().manual_seed(3)) < 0.5).float()
