"""Sampling and splitting of cells."""

import numpy as np
import pytest

from hdeepinsight.data import draw_evenly, split_three

BATCH = np.repeat([0, 1, 2], [900, 90, 10])


def drawn(groups: np.ndarray, n_most: int, seed: int = 0, **options: np.ndarray) -> np.ndarray:
    return draw_evenly(groups, n_most, np.random.default_rng(seed), **options)


def test_all_cells_of_a_small_query_in_their_order() -> None:
    assert np.array_equal(drawn(BATCH, 1000), np.arange(1000))


def test_batches_share_the_places() -> None:
    for most, expected in [(30, [10, 10, 10]), (110, [50, 50, 10]), (400, [300, 90, 10])]:
        rows = drawn(BATCH, most)
        assert np.bincount(BATCH[rows], minlength=3).tolist() == expected
        assert np.array_equal(rows, np.unique(rows))


def test_labelled_cells_come_first() -> None:
    labelled = np.zeros(1000, dtype=bool)
    labelled[[5, 700, 999]] = True
    assert {5, 700, 999} <= set(drawn(BATCH, 20, first=labelled))


def test_the_seed_decides_and_every_cell_has_its_chance() -> None:
    one_batch = np.zeros(1000, dtype=int)
    first = drawn(one_batch, 100)
    assert np.array_equal(first, drawn(one_batch, 100))
    taken = np.zeros(1000)
    for seed in range(200):
        taken[drawn(one_batch, 100, seed)] += 1
    assert taken.sum() == 200 * 100
    assert 3 < taken.min() <= taken.max() < 45  # binomial(200, 0.1): mean 20, deviation 4.2


def test_rare_groups_are_drawn_in_full() -> None:
    nodes = np.repeat([1, 2, 3], [1000, 500, 7])
    assert np.bincount(nodes[drawn(nodes, 107)]).tolist() == [0, 50, 50, 7]


def test_a_share_of_every_label_is_held_out_and_nothing_of_rare_or_unlabelled_ones() -> None:
    nodes = np.repeat([0, 1, 2, 3], [50, 100, 60, 49])
    for shuffle in (True, False):
        held_out = split_three(nodes, None, 0.1, np.random.default_rng(0), shuffle=shuffle)[1]
        assert np.bincount(nodes[held_out], minlength=4).tolist() == [0, 10, 6, 0]


def test_a_group_with_a_label_of_its_own_is_never_held_out() -> None:
    nodes = np.array([1, 2, 1, 2, 1, 3])
    groups = np.array(["a", "a", "b", "b", "c", "c"])
    for seed in range(10):
        rng = np.random.default_rng(seed)
        assert not {4, 5} & set(split_three(nodes, None, 0.3, rng, groups=groups)[1])
    with pytest.raises(ValueError, match="None of the 2 groups"):
        split_three(nodes[:2], None, 0.3, rng, groups=np.array(["a", "b"]))
