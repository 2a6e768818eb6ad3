"""Lists of mutual neighbours."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from hdeepinsight.graph import mutual_neighbors, nearest_neighbors


def components(lists: np.ndarray) -> int:
    rows, places = np.nonzero(lists >= 0)
    graph = csr_matrix((np.ones(len(rows)), (rows, lists[rows, places])), shape=[len(lists)] * 2)
    return connected_components(graph, directed=False)[0]


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(300, 8))


def test_cells_come_first_and_neighbours_by_growing_distance(points):
    lists = mutual_neighbors(points, k=15)
    assert lists.shape == (300, 15)
    np.testing.assert_array_equal(lists[:, 0], np.arange(300))
    for cell, listed in enumerate(lists):
        near = listed[listed >= 0]
        assert len(set(near)) == len(near)
        assert (listed[len(near) :] == -1).all()
        distance = np.linalg.norm(points[near] - points[cell], axis=1)
        assert (np.diff(distance) >= -1e-12).all()


def test_mutual_pairs_are_listed_and_others_only_to_join_parts(points):
    lists = mutual_neighbors(points, k=15)
    found, _ = nearest_neighbors(points, k=14)
    named = np.zeros((300, 300), dtype=bool)
    np.put_along_axis(named, found, True, axis=1)
    listed = np.zeros_like(named)
    for cell, near in enumerate(lists):
        listed[cell, near[near >= 0][1:]] = True
    mutual, either = named & named.T, named | named.T
    assert (mutual & ~listed).sum() == 0
    assert (listed & ~either).sum() == 0
    n_parts = connected_components(csr_matrix(mutual), directed=False)[0]
    assert n_parts > 1  # else joining is not tested
    assert (listed & ~mutual).sum() == 2 * (n_parts - 1)
    assert components(lists) == 1


def test_equal_cells_and_few_cells_are_taken():
    assert components(mutual_neighbors(np.zeros((30, 2)), k=5)) >= 1
    assert mutual_neighbors([[0.0], [1.0]], k=15).tolist() == [[0, 1], [1, 0]]
    assert mutual_neighbors([[0.0]], k=15).tolist() == [[0]]
    with pytest.raises(ValueError, match="k must be an integer >= 1"):
        mutual_neighbors([[0.0]], k=0)
