"""Small graphs with two components and a cell alone."""

import numpy as np
import pytest
import scipy.sparse as sp

from hdeepinsight.graph import knn_graph


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def graph(rng) -> sp.csr_matrix:
    """Components of 40 and 25 cells with weighted edges, and one isolated cell."""
    parts = [knn_graph(rng.normal(size=(n, 3)), k=4) for n in (40, 25)]
    upper = sp.triu(sp.block_diag([*parts, sp.csr_matrix((1, 1))], format="csr"), format="csr")
    upper.data = rng.uniform(0.1, 1.0, size=upper.nnz)
    return sp.csr_matrix(upper + upper.T)


@pytest.fixture
def scores(rng, graph) -> np.ndarray:
    return rng.normal(size=(graph.shape[0], 5))


@pytest.fixture
def probabilities(rng, graph) -> np.ndarray:
    return rng.dirichlet(np.ones(5), size=graph.shape[0])
