"""Entropic optimal transport against its kernel form, assignments and finite differences."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.testing import assert_close

from hdeepinsight.nn import sinkhorn

EXACT = {"tol": 1e-13, "max_iter": 20_000}


def costs(n: int, m: int, seed: int = 0) -> torch.Tensor:
    return 2 * torch.rand(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_marginals_are_even_within_the_tolerance():
    plan, _ = sinkhorn(costs(7, 30), tol=1e-3)
    assert_close(plan.sum(0), torch.full((30,), 1 / 30, dtype=torch.float64))
    assert (plan.sum(1) - 1 / 7).abs().sum() < 1e-3


def test_a_large_epsilon_gives_the_product():
    plan, _ = sinkhorn(costs(4, 9), 1e6)
    assert_close(plan, torch.full_like(plan, 1 / 36), rtol=1e-4, atol=0)


def test_a_small_epsilon_gives_the_optimal_assignment():
    cost = costs(6, 6)
    plan, _ = sinkhorn(cost, 2e-3, tol=1e-6, max_iter=20_000)
    rows, columns = linear_sum_assignment(cost.numpy())
    expected = np.zeros((6, 6))
    expected[rows, columns] = 1 / 6
    np.testing.assert_allclose(plan.numpy(), expected, atol=1e-3)


def test_permuting_rows_or_columns_permutes_the_plan():
    cost, generator = costs(5, 11), torch.Generator().manual_seed(1)
    rows, columns = (torch.randperm(n, generator=generator) for n in (5, 11))
    plan, _ = sinkhorn(cost, **EXACT)
    moved, _ = sinkhorn(cost[rows][:, columns], **EXACT)
    assert_close(moved, plan[rows][:, columns])


def test_it_equals_the_kernel_form():
    cost = costs(5, 8)
    kernel, u = torch.exp(-cost / 0.05), torch.ones(5, dtype=torch.float64)
    for _ in range(5000):
        v = (1 / 8) / (kernel.T @ u)
        u = (1 / 5) / (kernel @ v)
    plan, _ = sinkhorn(cost, **EXACT)
    assert_close(plan, u[:, None] * kernel * v, rtol=1e-8, atol=1e-12)


def test_finite_differences_of_the_value_are_the_plan():
    cost, epsilon = costs(4, 6), 0.3

    def value(at: torch.Tensor) -> torch.Tensor:
        plan, _ = sinkhorn(at, epsilon, **EXACT)
        return (plan * at).sum() + epsilon * (plan * plan.log()).sum()

    plan, _ = sinkhorn(cost, epsilon, **EXACT)
    for row, column in [(0, 0), (1, 5), (3, 2)]:
        step = torch.zeros_like(cost)
        step[row, column] = 1e-4
        slope = (value(cost + step) - value(cost - step)) / 2e-4
        assert abs(slope - plan[row, column]) < 1e-6


def test_a_warm_start_comes_to_the_same_plan_in_fewer_iterations():
    cost = costs(5, 40).float()
    plan, potential = sinkhorn(cost, tol=1e-4)
    near, _ = sinkhorn(cost, tol=1e-4, start=potential, max_iter=1)
    assert_close(near, plan, atol=1e-4, rtol=1e-2)


@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_far_points_do_not_underflow_in_single_precision(scale):
    plan, _ = sinkhorn(costs(3, 5).float() * scale, 0.05)
    assert torch.isfinite(plan).all()
    assert_close(plan.sum(), torch.tensor(1.0), rtol=1e-4, atol=0)
