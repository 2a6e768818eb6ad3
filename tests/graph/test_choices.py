import numpy as np

from hdeepinsight.graph import degree_summary, neighbors_within


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
