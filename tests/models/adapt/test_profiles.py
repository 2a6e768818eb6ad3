"""Which cells of a large query an adaptation reads."""

import numpy as np
import pytest

from hdeepinsight.models._adapt import draw_cells

NOTHING = np.zeros(1000, dtype=bool)
BATCH = np.repeat([0, 1, 2], [900, 90, 10])


def test_all_cells_of_a_small_query_in_their_order() -> None:
    assert np.array_equal(draw_cells(BATCH, NOTHING, 1000, seed=0), np.arange(1000))


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        pytest.param(30, [10, 10, 10], id="as_many_from_each"),
        pytest.param(110, [50, 50, 10], id="a_small_batch_gives_all_it_has"),
        pytest.param(400, [300, 90, 10], id="the_largest_fills_up"),
    ],
)
def test_batches_share_the_places(most: int, expected: list[int]) -> None:
    rows = draw_cells(BATCH, NOTHING, most, seed=0)
    assert np.bincount(BATCH[rows], minlength=3).tolist() == expected
    assert np.array_equal(rows, np.unique(rows))


def test_labelled_cells_come_first() -> None:
    labelled = np.zeros(1000, dtype=bool)
    labelled[[5, 700, 999]] = True
    assert {5, 700, 999} <= set(draw_cells(BATCH, labelled, 20, seed=0))


def test_the_seed_decides_and_every_cell_has_its_chance() -> None:
    one_batch = np.zeros(1000, dtype=int)
    first = draw_cells(one_batch, NOTHING, 100, seed=0)
    assert np.array_equal(first, draw_cells(one_batch, NOTHING, 100, seed=0))
    taken = np.zeros(1000)
    for seed in range(200):
        taken[draw_cells(one_batch, NOTHING, 100, seed)] += 1
    assert taken.sum() == 200 * 100
    assert 3 < taken.min() <= taken.max() < 45  # binomial(200, 0.1): mean 20, deviation 4.2
