import random

import numpy as np
import scipy.sparse as sp

from hdeepinsight.graph import knn_graph, leiden_communities


def test_separate_groups_are_found_the_largest_first():
    rng = np.random.default_rng(0)
    label = np.repeat([1, 0, 2], [60, 90, 30])
    points = 10 * np.eye(3)[label] + 0.1 * rng.normal(size=(180, 3))
    np.testing.assert_array_equal(leiden_communities(knn_graph(points, k=10), 0.1), label)


def test_a_seed_gives_one_result_and_leaves_the_global_one_alone():
    graph = knn_graph(np.random.default_rng(0).normal(size=(200, 4)), k=8)
    random.seed(1)
    expected = random.random()
    random.seed(1)
    one, two = leiden_communities(graph, seed=3), leiden_communities(graph, seed=3)
    np.testing.assert_array_equal(one, two)
    assert random.random() == expected


def test_cells_without_edges_are_their_own():
    assert sorted(leiden_communities(sp.csr_matrix((3, 3)))) == [0, 1, 2]
