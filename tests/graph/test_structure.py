"""Lists of mutual neighbours, neighbours within groups, degrees and communities."""

import random

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from hdeepinsight.graph import (
    degree_summary,
    knn_graph,
    leiden_communities,
    mutual_neighbors,
    nearest_neighbors,
    neighbors_within,
)


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


def test_equal_cells_and_few_cells_are_supported():
    assert components(mutual_neighbors(np.zeros((30, 2)), k=5)) >= 1
    assert mutual_neighbors([[0.0], [1.0]], k=15).tolist() == [[0, 1], [1, 0]]
    assert mutual_neighbors([[0.0]], k=15).tolist() == [[0]]
    with pytest.raises(ValueError, match="k must be an integer >= 1"):
        mutual_neighbors([[0.0]], k=0)


def test_neighbours_are_of_the_same_group_and_the_nearest():
    rng = np.random.default_rng(0)
    points, groups = rng.normal(size=(60, 2)), rng.choice(["a", "b"], size=60)
    groups[0] = "c"  # alone
    found = neighbors_within(points, groups, k=3)
    assert (found[0] == -1).all()
    for cell in range(1, 60):
        others = np.flatnonzero((groups == groups[cell]) & (np.arange(60) != cell))
        distance = np.linalg.norm(points[others] - points[cell], axis=1)
        assert set(found[cell]) == set(others[np.argsort(distance)[:3]])


def test_degrees_count_edges_once_and_choices_each():
    neighbors = np.array([[1, 2], [0, -1], [1, -1], [1, 0]])
    summary = degree_summary(neighbors)
    assert [summary[name] for name in ("min", "50%", "max")] == [2.0, 2.5, 3.0]
    assert np.isclose(summary["in_degree_sd"], np.std([2, 3, 1, 0]))


def test_even_choices_have_no_hubs():
    ring = (np.arange(20)[:, None] + [1, 2]) % 20
    summary = degree_summary(ring)
    assert summary["in_degree_sd"] == summary["hubness"] == 0.0


def test_separate_groups_are_found_the_largest_first():
    rng = np.random.default_rng(0)
    label = np.repeat([1, 0, 2], [60, 90, 30])
    points = 10 * np.eye(3)[label] + 0.1 * rng.normal(size=(180, 3))
    np.testing.assert_array_equal(leiden_communities(knn_graph(points, k=10), 0.1), label)


def test_a_seed_is_reproducible_and_keeps_the_global_state():
    graph = knn_graph(np.random.default_rng(0).normal(size=(200, 4)), k=8)
    random.seed(1)
    expected = random.random()
    random.seed(1)
    one, two = leiden_communities(graph, seed=3), leiden_communities(graph, seed=3)
    np.testing.assert_array_equal(one, two)
    assert random.random() == expected


def test_cells_without_edges_are_separate_clusters():
    assert sorted(leiden_communities(sp.csr_matrix((3, 3)))) == [0, 1, 2]
