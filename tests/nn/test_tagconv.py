"""Graph convolution equals the dense sum of powers, and edges pass gradients on."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from hdeepinsight.nn import CellGraph, SparseFeatures, TAGConv

N_CELLS, N_GENES = 12, 7


@pytest.fixture
def adjacency(rng):
    upper = np.triu(rng.random((N_CELLS, N_CELLS)) < 0.3, k=1).astype(float)
    upper[0] = upper[:, 0] = 0  # a cell without edges
    return upper + upper.T


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def graph_of(adjacency):
    matrix = sp.csr_matrix(adjacency)
    parts = map(torch.as_tensor, (matrix.indptr, matrix.indices, matrix.data.astype(float)))
    return CellGraph(*parts)


def dense_normalized(adjacency):
    degrees = adjacency.sum(axis=1)
    root = 1 / np.sqrt(np.where(degrees > 0, degrees, 1))
    return adjacency * root[:, None] * root


def test_horner_equals_the_sum_of_powers(adjacency, rng):
    layer = TAGConv(N_GENES, 4, n_hops=3).double()
    x = rng.random((N_CELLS, N_GENES))
    powers = [np.linalg.matrix_power(dense_normalized(adjacency), h) for h in range(4)]
    expected = sum(p @ x @ w for p, w in zip(powers, layer.weight.detach().numpy(), strict=True))
    found = layer(torch.as_tensor(x), graph_of(adjacency).normalized())
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-10)


def test_folded_standardisation_equals_the_explicit_one(adjacency, rng):
    layer = TAGConv(N_GENES, 4, n_hops=2).double()
    x = sp.random(N_CELLS, N_GENES, 0.4, format="csr", rng=0)
    mean, deviation = rng.random(N_GENES), rng.random(N_GENES) + 0.5
    factor = torch.as_tensor(1 / deviation)
    folded = layer.project(SparseFeatures.from_scipy(x), torch.as_tensor(mean), factor)
    explicit = layer.project(torch.as_tensor((x.toarray() - mean) / deviation))
    np.testing.assert_allclose(folded.detach(), explicit.detach(), atol=1e-10)


def test_sparse_features_pass_the_gradient_of_dense_ones(adjacency):
    layer = TAGConv(N_GENES, 4).double()
    x, graph = sp.random(N_CELLS, N_GENES, 0.4, format="csr", rng=0), graph_of(adjacency)
    gradients = []
    for features in (SparseFeatures.from_scipy(x), torch.as_tensor(x.toarray())):
        layer.zero_grad()
        layer(features, graph.normalized()).square().sum().backward()
        gradients.append(layer.weight.grad.numpy().copy())
    np.testing.assert_allclose(*gradients, atol=1e-10)


def test_cells_in_another_order_give_the_same(adjacency, rng):
    layer, order = TAGConv(N_GENES, 4).double(), rng.permutation(N_CELLS)
    x = torch.as_tensor(rng.random((N_CELLS, N_GENES)))
    found = layer(x, graph_of(adjacency).normalized())
    moved = layer(x[order], graph_of(adjacency[np.ix_(order, order)]).normalized())
    np.testing.assert_allclose(found[order].detach(), moved.detach(), atol=1e-10)


def test_a_cell_without_edges_keeps_its_own_features(adjacency, rng):
    layer = TAGConv(N_GENES, 4).double()
    x = torch.as_tensor(rng.random((N_CELLS, N_GENES)))
    found = layer(x, graph_of(adjacency).normalized())
    np.testing.assert_allclose(found[0].detach(), (x[0] @ layer.weight[0]).detach(), atol=1e-12)


def test_gradients_of_weights_and_values_are_right(adjacency, rng):
    graph = graph_of(adjacency)
    pairs = torch.stack([graph.origins, graph.ends], dim=1).sort(dim=1).values
    _, edge = pairs.unique(dim=0, return_inverse=True)
    values = torch.as_tensor(rng.random((N_CELLS, 2))).requires_grad_()
    weights = torch.as_tensor(rng.random(int(edge.max()) + 1) + 0.5).requires_grad_()
    torch.autograd.gradcheck(
        lambda w, v: graph._replace(weights=w[edge]).normalized() @ v, (weights, values)
    )


def test_a_graph_round_trips_through_scipy(adjacency):
    matrix = graph_of(adjacency).to_scipy()
    np.testing.assert_array_equal(matrix.toarray(), adjacency)
