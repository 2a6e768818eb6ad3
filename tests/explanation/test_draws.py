"""Balanced draws over types and positions."""

import numpy as np
import pytest

from hdeepinsight.explanation import balanced_draws


def cells(n):
    return np.random.default_rng(0).poisson(1.0, (n, 9)).astype(np.float32)


def test_types_and_cells_are_drawn_equally_often():
    for n_samples in [1, 4, 5, 12, 29]:
        drawn, _ = balanced_draws(cells(20), 3, 4, n_samples=n_samples, seed=0)
        for rows in drawn.numpy():
            of_type = np.bincount(rows % 4, minlength=4)
            assert of_type.max() - of_type.min() <= 1
            each = np.bincount(rows, minlength=12)
            assert each.max() - each.min() <= 1


@pytest.mark.parametrize(("n_samples", "widest"), [(13, 2.7 / 13), (48, 2.7 / 48)])
def test_positions_leave_no_wide_gap(n_samples, widest):
    _, times = balanced_draws(cells(20), 3, 4, n_samples=n_samples, seed=0)
    ends = np.tile([0.0, 1.0], (20, 1))
    gaps = np.diff(np.sort(np.hstack([times.numpy(), ends]), axis=1), axis=1)
    assert gaps.max() < widest


def test_positions_of_one_background_cell_are_spread_too():
    rows, times = balanced_draws(cells(20), 1, 4, n_samples=32, seed=0)
    of_one = times.numpy()[rows.numpy() == 2].reshape(20, 8)
    assert np.diff(np.sort(of_one, axis=1), axis=1).max() < 2.7 / 8


def test_rows_and_positions_are_not_linked():
    rows, times = balanced_draws(cells(4000), 1, 4, n_samples=4, seed=0)
    for row in range(4):
        mean = times[rows == row].mean()
        assert abs(mean - 0.5) < 4 * np.sqrt(1 / 12 / 4000)


def test_draws_of_a_cell_do_not_depend_on_other_cells():
    counts = cells(8)
    whole, part = (balanced_draws(c, 3, 4, n_samples=10, seed=3) for c in (counts, counts[[5, 2]]))
    for some, every in zip(part, whole, strict=True):
        np.testing.assert_array_equal(some, every[[5, 2]])
    _, times = balanced_draws(counts, 3, 4, n_samples=10, seed=4)
    assert (times != whole[1]).all()


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="n_samples must be an integer >= 1, got 0"):
        balanced_draws(cells(1), 3, 4, n_samples=0)
