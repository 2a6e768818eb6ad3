"""Graphs against their definitions."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from hdeepinsight.graph import batch_graphs, knn_graph, nearest_neighbors


@pytest.fixture
def points() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(80, 6))


def test_binary_graph_is_the_union_of_neighbours(points):
    indices, _ = nearest_neighbors(points, k=5)
    named = np.zeros((80, 80))
    np.put_along_axis(named, indices, 1.0, axis=1)
    assert np.array_equal(knn_graph(points, k=5).toarray(), np.maximum(named, named.T))


def test_few_cells_are_all_connected(points):
    assert np.array_equal(knn_graph(points[:4], k=15).toarray(), 1 - np.eye(4))
    assert knn_graph(points[:1], k=15).nnz == 0


def test_one_batch_is_the_plain_graph(points):
    within, between = batch_graphs(points, ["one"] * 80, k=6)
    assert (within != knn_graph(points, k=6)).nnz == 0
    assert between.nnz == 0


def test_batches_connect_by_mutual_neighbours_only(points):
    batch = np.array(["a", "b", "c", "a"] * 20)
    within, between = batch_graphs(points, batch, k=4)
    same = batch[:, None] == batch
    assert not within.toarray()[~same].any()
    assert not between.toarray()[same].any()
    for graph in (within, between):
        np.testing.assert_array_equal(graph.toarray(), graph.toarray().T)
    distances = np.where(same, np.inf, cdist(points, points))
    names = np.zeros((80, 80), dtype=bool)
    for other in "abc":
        there = np.flatnonzero(batch == other)
        nearest = there[np.argsort(distances[:, there], axis=1)[:, :4]]
        rows = np.flatnonzero(batch != other)
        names[rows[:, None], nearest[rows]] = True
    assert np.array_equal(between.toarray() > 0, names & names.T)


def test_a_type_missing_from_a_batch_finds_few_partners_there(rng):
    centres = np.array([[0.0] * 5, [8.0] * 5])
    kind = np.array([0] * 60 + [1] * 60 + [0] * 60)  # the second batch lacks the second type
    batch = np.array(["a"] * 120 + ["b"] * 60)
    points = centres[kind] + rng.normal(size=(180, 5))
    between = batch_graphs(points, batch, k=5).between.tocoo()
    assert between.nnz > 100
    assert (kind[between.row] == kind[between.col]).mean() == 1.0


def test_a_small_batch_gives_fewer_neighbours(rng):
    points = rng.normal(size=(320, 4))
    batch = np.repeat(["small", "middle", "large"], [20, 80, 220])
    within = batch_graphs(points, batch, k=15).within
    for name, k in (("small", 5), ("middle", 8), ("large", 15)):
        here = batch == name
        assert (within[here][:, here] != knn_graph(points[here], k=k)).nnz == 0


def test_of_many_batches_each_is_compared_with_those_that_are_near(rng, monkeypatch):
    """Two studies of fifteen batches each, far apart: all pairs would be 870 searches."""
    searches = []

    def counted(*args, **options):
        searches.append(len(args[0]))
        return nearest_neighbors(*args, **options)

    monkeypatch.setattr("hdeepinsight.graph._neighbors.nearest_neighbors", counted)
    batch = np.repeat(np.arange(30), 12)
    cells = rng.normal(size=(360, 4)) + 50 * (batch >= 15)[:, None]
    within, between = batch_graphs(cells, batch, k=5)
    assert 30 + 30 * 8 <= len(searches) <= 30 + 2 * 30 * 8
    rows, columns = between.nonzero()
    assert set(batch[rows]) == set(range(30))
    assert ((batch[rows] < 15) == (batch[columns] < 15)).all()
    assert (between != between.T).nnz == 0
    assert (batch[within.nonzero()[0]] == batch[within.nonzero()[1]]).all()


@pytest.mark.parametrize("n_batches", [2, 9])
def test_of_few_batches_all_are_compared(rng, n_batches):
    batch = np.repeat(np.arange(n_batches), 5)
    cells = rng.normal(size=(5 * n_batches, 3))
    between = batch_graphs(cells, batch, k=5).between.toarray() > 0
    # With as many neighbours as a batch has cells, everyone names everyone.
    assert np.array_equal(between, batch[:, None] != batch)


def test_a_batch_of_one_cell_is_alone_within(points):
    within, between = batch_graphs(points[:10], ["a"] * 9 + ["b"], k=3)
    assert within[9].nnz == 0
    assert between[9].nnz == 3


@pytest.mark.parametrize(
    ("k", "batch", "message"),
    [
        (0, ["a"] * 80, "an integer >= 1, got 0"),
        (3, ["a"] * 79, r"numbers of samples: \[80, 79\]"),
    ],
)
def test_bad_input_is_refused(points, k, batch, message):
    with pytest.raises(ValueError, match=message):
        batch_graphs(points, batch, k=k)
