"""The local prior: identities, optimal weights, and robustness."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from hdeepinsight.graph import knn_graph, refine_by_local_prior


def noisy_clusters(seed=0, sizes=(300, 150, 40, 12), noise=1.2):
    """Separate clusters, and a classifier with independent errors."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    points = 6 * rng.normal(size=(len(sizes), 8))[truth] + rng.normal(size=(len(truth), 8))
    logits = 1.5 * np.eye(len(sizes))[truth] + noise * rng.normal(size=(len(truth), len(sizes)))
    return knn_graph(points), softmax(logits, axis=1), truth


def test_no_strength_no_edges_and_no_graphs_are_the_identity(graph, probabilities):
    for graphs, lam in (([graph], 0), ([sp.csr_matrix(graph.shape)], None), ([], None)):
        result = refine_by_local_prior(graphs, probabilities, lam=lam)
        np.testing.assert_allclose(result.probabilities, probabilities, atol=1e-11)
        assert result.weights[0] == 1


def test_one_round_is_bayes_rule_with_the_mixed_prior(graph, probabilities):
    lam, prior = 3.0, probabilities.mean(axis=0)
    degree = graph.sum(axis=1)
    expected = []
    for cell, own in enumerate(probabilities):
        row = graph[cell].toarray().ravel()
        mean = row @ probabilities / row.sum() if row.any() else prior
        mixed = (lam * mean + prior) / (1 + lam)
        expected.append(own * mixed / prior / np.sum(own * mixed / prior))
    result = refine_by_local_prior([graph], probabilities, lam=lam, n_rounds=1)
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-9)
    assert result.weights.tolist() == [0.25, 0.75]
    assert np.asarray(degree).min() == 0  # the isolated cell was among them


def test_weight_is_the_maximum_of_the_held_out_likelihood():
    graph, p, _ = noisy_clusters()
    mean = graph @ p / graph.sum(axis=1).reshape(-1, 1)
    prior = p.mean(axis=0)

    def loss(weight):
        return -np.sum(p * np.log(weight * np.asarray(mean) + (1 - weight) * prior))

    best = minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-9}).x
    found = refine_by_local_prior([graph], p, n_rounds=1).weights
    assert found[1] == pytest.approx(best, abs=2e-3)


def test_neighbours_help_on_the_true_graph_and_change_nothing_on_a_permuted_one():
    for seed in range(5):
        graph, p, truth = noisy_clusters(seed)
        before = p.argmax(axis=1)
        refined = refine_by_local_prior([graph], p)
        after = refined.probabilities.argmax(axis=1)
        recall = [
            [(labels == c)[truth == c].mean() for c in range(4)] for labels in (before, after)
        ]
        assert np.mean(recall[1]) > np.mean(recall[0]) + 0.05
        assert (
            min(np.array(recall[1]) - recall[0]) > -0.01
        )  # the rare class of 12 cells is not erased
        order = np.random.default_rng(seed).permutation(len(p))
        permuted = refine_by_local_prior([graph[order][:, order]], p)
        assert permuted.weights.tolist() == [1, 0]
        np.testing.assert_allclose(permuted.probabilities, p, atol=1e-11)
        assert refined.weights[0] < 0.5


def test_an_uninformative_graph_gets_no_weight():
    graph, p, _ = noisy_clusters()
    order = np.random.default_rng(0).permutation(len(p))
    noise = graph[order][:, order]
    alone = refine_by_local_prior([graph], p)
    both = refine_by_local_prior([graph, noise], p)
    assert both.weights[2] < 0.15
    assert both.weights[1] > 0.8 * alone.weights[1]
    same = both.probabilities.argmax(axis=1) == alone.probabilities.argmax(axis=1)
    assert same.mean() > 0.97


def test_an_empty_second_graph_changes_nothing():
    graph, p, _ = noisy_clusters()
    one = refine_by_local_prior([graph], p)
    two = refine_by_local_prior([graph, sp.csr_matrix(graph.shape)], p)
    np.testing.assert_allclose(two.probabilities, one.probabilities, atol=1e-6)
    assert two.weights[2] == 0


def test_equivariant_to_cells_and_classes(rng):
    graph, p, _ = noisy_clusters()
    cells, classes = rng.permutation(len(p)), rng.permutation(4)
    plain = refine_by_local_prior([graph], p).probabilities
    moved = refine_by_local_prior([graph[cells][:, cells]], p[cells][:, classes]).probabilities
    np.testing.assert_allclose(moved, plain[cells][:, classes], atol=1e-10)


def test_a_query_of_one_type_stays_one_type():
    rng = np.random.default_rng(0)
    graph = knn_graph(rng.normal(size=(200, 6)))
    p = rng.dirichlet([40, 2, 2], size=200)
    result = refine_by_local_prior([graph], p)
    assert np.array_equal(result.probabilities.argmax(axis=1), p.argmax(axis=1))


def test_bad_input_is_refused(graph):
    for scores, settings, message in [
        (np.full((66, 2), 0.7), {}, "66 of 66 rows"),
        (np.tile([1.5, -0.5], (66, 1)), {}, "66 of 66 rows that are negative"),
        (np.full((66, 2), 0.5), {"lam": -1}, "lam must be .*, got -1"),
        (np.full((66, 2), 0.5), {"lam": np.inf}, "lam must be .*, got inf"),
        (np.full((66, 2), 0.5), {"n_rounds": 0}, "n_rounds must be .*, got 0"),
        (np.full((5, 2), 0.5), {}, r"one row for each of 66 cells, got \(5, 2\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            refine_by_local_prior([graph], scores, **settings)


def test_weights_of_many_cells_are_estimated_from_some_of_them(rng, monkeypatch):
    n_cells = 4_000
    own = rng.dirichlet([1.0, 1.0, 1.0], size=n_cells // 8).repeat(8, axis=0)
    own = 0.7 * own + 0.3 * rng.dirichlet([1.0, 1.0, 1.0], size=n_cells)
    graph = sp.csr_matrix(sp.kron(sp.eye_array(n_cells // 8), sp.csr_array(1 - np.eye(8))))
    of_all = refine_by_local_prior([graph], own).weights
    monkeypatch.setattr("hdeepinsight.graph._smooth._ESTIMATED_CELLS", 1_300)
    of_some = refine_by_local_prior([graph], own).weights
    assert not np.array_equal(of_some, of_all)
    np.testing.assert_allclose(of_some, of_all, atol=0.05)
