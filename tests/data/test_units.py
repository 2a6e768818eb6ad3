"""The unit of a cell: against brute force and against what the counts were."""

from math import gcd

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hdeepinsight.data._units import find_units, linear_tolerance, log_tolerance

EPS = 2.0**-23


def rows_of(*rows):
    return np.concatenate(rows), np.cumsum([0, *map(len, rows)])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    counts=arrays(
        np.int64, st.tuples(st.integers(1, 6), st.just(9)), elements=st.integers(1, 3000)
    ),
    smallest=st.integers(1, 16),
    target=st.sampled_from([1e3, 1e4, 1e6]),
)
def test_float32_log_values_give_the_counts_up_to_their_common_divisor(counts, smallest, target):
    counts[:, 0] = smallest
    counts = np.maximum(counts, smallest)
    values = np.log1p((counts / counts.sum(1, keepdims=True) * target).astype(np.float32))
    values = values.astype(np.float64).ravel()
    x = np.expm1(values)
    found = find_units(x, log_tolerance(values, x, EPS, 0.0), 9 * np.arange(len(counts) + 1))
    divisor = np.gcd.reduce(counts, axis=1)
    assert found.solved.all()
    np.testing.assert_array_equal(found.counts.reshape(counts.shape), counts // divisor[:, None])
    np.testing.assert_allclose(found.units, divisor * target / counts.sum(1), rtol=1e-6)
    assert found.residual.max() < 0.05


def brute_force(values: list[float], tolerance: float) -> list[int] | None:
    """Try every smallest count in turn, value by value."""
    for smallest in range(1, 17):
        unit = min(values) / smallest
        ratios = [value / unit for value in values]
        if all(abs(ratio - round(ratio)) < tolerance for ratio in ratios):
            return [round(ratio) for ratio in ratios]
    return None


def test_agrees_with_brute_force_on_exact_values():
    rng = np.random.default_rng(0)
    rows = [0.37 * rng.integers(2, 40, size=rng.integers(1, 6)) for _ in range(300)]
    x, indptr = rows_of(*rows)
    found = find_units(x, 1e-9 * x, indptr)
    for i, row in enumerate(rows):
        naive = brute_force(list(row), 1e-6)
        assert found.solved[i] == (naive is not None)
        if naive is not None:
            assert found.counts[indptr[i] : indptr[i + 1]].tolist() == naive
            assert gcd(*naive) == 1


def test_a_later_value_can_decide_an_earlier_one():
    # 0.1 off in 1000: undecided from the smallest value alone (known to 1 %), decided through 30.
    x = np.array([1.0, 30.0, 1000.0])
    found = find_units(x, np.array([0.01, 0.001, 0.1]), np.array([0, 3]))
    assert found.solved.all()
    assert found.counts.tolist() == [1, 30, 1000]


@pytest.mark.parametrize(
    ("x", "tolerance"),
    [
        pytest.param([1.0, np.e, np.pi], 1e-6, id="no_common_unit"),
        pytest.param([1.0, 1000.0], 0.02, id="too_coarse_to_tell_counts_apart"),
        pytest.param([17.0, 18.0], 1e-6, id="smallest_count_above_the_limit"),
    ],
)
def test_rows_without_a_unit_are_not_solved(x, tolerance):
    x = np.array(x)
    found = find_units(x, tolerance * x, np.array([0, len(x)]))
    assert not found.solved.any()
    assert np.isnan(found.units).all()
    assert np.isnan(found.residual).all()


def test_empty_rows_are_solved_and_rows_do_not_touch_each_other():
    x, indptr = rows_of([], [2.0, 3.0], [], [1.0, np.pi], [0.5], [])
    found = find_units(x, 1e-9 * x, indptr)
    assert found.solved.tolist() == [True, True, True, False, True, True]
    np.testing.assert_allclose(found.units, [np.nan, 1, np.nan, np.nan, 0.5, np.nan])
    assert found.counts[:2].tolist() == [2, 3]


def test_no_values_at_all():
    found = find_units(np.empty(0), np.empty(0), np.zeros(4, dtype=np.int64))
    assert found.solved.all()
    assert len(found.counts) == 0


@pytest.mark.parametrize("target", [1e3, 1e4, 1e6])
def test_tolerances_cover_what_float32_rounds_away(target):
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 2000, size=(200, 50))
    exact = counts / counts.sum(1, keepdims=True) * target
    single = counts.astype(np.float32)
    scaled = single / (single.sum(1, keepdims=True) / np.float32(target))
    values = np.log1p(scaled).astype(np.float64)
    x = np.expm1(values)
    assert np.all(np.abs(x - exact) <= log_tolerance(values, x, EPS, 0.0))
    assert np.all(np.abs(scaled - exact) <= linear_tolerance(scaled.astype(float), EPS, 0.0))
    rounded = np.round(np.log1p(exact), 3)
    x = np.expm1(rounded)
    assert np.all(np.abs(x - exact) <= 1.01 * log_tolerance(rounded, x, EPS, 1e-3))
