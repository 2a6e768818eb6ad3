"""The layer against the sparse solver, and its gradients against differences."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from hdeepinsight.graph import GraphRefinement, smooth

KINDS = ("rw", "comb", "sym")
#: Six cells, the last one alone.
EDGES = torch.tensor([[0, 0, 1, 3, 2], [1, 2, 2, 4, 3]])


@pytest.fixture
def problem():
    torch.manual_seed(1)
    return (
        torch.randn(6, 3, dtype=torch.float64, requires_grad=True),
        (0.5 + torch.rand(5, dtype=torch.float64)).requires_grad_(),
        torch.tensor(1.7, dtype=torch.float64, requires_grad=True),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_layer_equals_the_sparse_solver(problem, kind):
    scores, weights, lam = problem
    rows, columns = EDGES.numpy()
    half = sp.csr_matrix((weights.detach().numpy(), (rows, columns)), shape=(6, 6))
    expected = smooth(
        half + half.T, scores.detach().numpy(), lam=1.7, laplacian=kind, solver="direct"
    )
    layer = GraphRefinement(EDGES, 6, laplacian=kind, tol=1e-12)
    result = layer(scores, weights, lam).detach().numpy()
    np.testing.assert_allclose(result, expected, atol=1e-10)
    assert np.array_equal(result[5], scores[5].detach().numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_scores_weights_and_strength(problem, kind):
    layer = GraphRefinement(EDGES, 6, laplacian=kind, tol=1e-13)
    assert torch.autograd.gradcheck(layer, problem)


def test_strength_can_be_learned(problem):
    scores, weights, _ = (each.detach() for each in problem)
    layer = GraphRefinement(EDGES, 6, tol=1e-10)
    goal = layer(scores, weights, torch.tensor(3.0, dtype=torch.float64))
    log_lam = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([log_lam], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        (layer(scores, weights, log_lam.exp()) - goal).square().sum().backward()
        optimizer.step()
    assert log_lam.exp().item() == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (torch.tensor([[0, 1]]), r"shape \(1, 2\)"),
        (torch.tensor([[0.0], [1.0]]), "type torch.float32"),
        (torch.tensor([[0], [9]]), "from 0 to 5"),
        (torch.tensor([[0, 1], [1, 1]]), "1 edges from a cell to itself"),
    ],
)
def test_bad_edges_are_named(edges, message):
    with pytest.raises(ValueError, match=message):
        GraphRefinement(edges, 6)


def test_too_few_iterations_are_an_error(problem):
    with pytest.raises(RuntimeError, match="after 1 iterations"):
        GraphRefinement(EDGES, 6, tol=1e-12, max_iter=1)(*problem)
