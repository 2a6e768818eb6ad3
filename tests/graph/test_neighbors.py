"""Neighbours against a full distance matrix."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from hdeepinsight.graph import nearest_neighbors


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(300, 20))


def test_within_equals_the_full_distance_matrix_without_the_diagonal(points):
    distances = cdist(points, points)
    np.fill_diagonal(distances, np.inf)
    indices, found = nearest_neighbors(points, k=7)
    assert np.array_equal(indices, np.argsort(distances, axis=1)[:, :7])
    np.testing.assert_allclose(found, np.sort(distances, axis=1)[:, :7], rtol=1e-12)
    assert indices.dtype == np.int64
    assert found.dtype == np.float64


def test_between_two_sets_a_point_may_find_its_equal(points):
    indices, found = nearest_neighbors(points[:40], points, k=3)
    assert np.array_equal(indices[:, 0], np.arange(40))
    assert np.array_equal(found[:, 0], np.zeros(40))
    full = cdist(points[:40], points)
    assert np.array_equal(indices, np.argsort(full, axis=1)[:, :3])


def test_no_point_is_its_own_neighbour_even_among_equals():
    indices, distances = nearest_neighbors(np.zeros((9, 30)), k=4)
    assert not (indices == np.arange(9)[:, None]).any()
    assert all(len(set(row)) == 4 for row in indices.tolist())
    assert not distances.any()


def test_equal_distances_are_ordered_by_index():
    square = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    indices, _ = nearest_neighbors(square, k=3)
    assert indices.tolist() == [[1, 2, 3], [0, 3, 2], [0, 3, 1], [1, 2, 0]]


def test_chunks_change_nothing(points, monkeypatch):
    expected = nearest_neighbors(points, k=5)
    monkeypatch.setattr("hdeepinsight.graph._neighbors._CHUNK", 7)
    for one, other in zip(expected, nearest_neighbors(points, k=5), strict=True):
        assert np.array_equal(one, other)


def test_approximate_search_repeats_itself_and_finds_nearly_all(points):
    exact, _ = nearest_neighbors(points, k=6)
    approximate, distances = nearest_neighbors(points, k=6, exact=False, seed=3)
    shared = [len(set(a) & set(b)) for a, b in zip(exact, approximate, strict=True)]
    assert np.mean(shared) / 6 > 0.95
    again, _ = nearest_neighbors(points, k=6, exact=False, seed=3)
    assert np.array_equal(approximate, again)
    assert not (approximate == np.arange(300)[:, None]).any()
    picked = np.take_along_axis(cdist(points, points), approximate, 1)
    np.testing.assert_allclose(distances, picked, rtol=1e-12)
    across, _ = nearest_neighbors(points[:20], points, k=1, exact=False)
    assert np.array_equal(across[:, 0], np.arange(20))


def test_bad_input_is_refused():
    for x, y, k, message in [
        (np.zeros(3), None, 1, "Expected 2D array"),
        (np.zeros((3, 2)), np.zeros((3, 4)), 1, "2 features, but NearestNeighbors is expecting 4"),
        (np.zeros((3, 2)), None, 3, "k must be from 1 to 2, .*, got 3"),
        (np.zeros((3, 2)), None, 0, "k must be .*, got 0"),
        (np.full((3, 2), np.nan), None, 1, "x contains NaN"),
    ]:
        with pytest.raises(ValueError, match=message):
            nearest_neighbors(x, y, k=k)
