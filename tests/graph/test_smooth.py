"""Smoothing: limits, invariances, conservation, and a dense inverse to compare with."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import log_softmax, softmax

from hdeepinsight.graph import degrees, dirichlet_energy, knn_graph, laplacian, smooth

KINDS = ("rw", "comb", "sym")


def test_solvers_equal_the_dense_inverse(graph, scores):
    for lam in [0.3, 5.0]:
        for kind in KINDS:
            system = np.eye(len(scores)) + lam * laplacian(graph, kind).toarray()
            expected = np.linalg.inv(system) @ scores
            for solver in ("direct", "cg"):
                found = smooth(graph, scores, lam=lam, laplacian=kind, solver=solver, tol=1e-9)
                np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_no_strength_and_no_edges_are_the_identity(graph, scores, kind):
    assert np.array_equal(smooth(graph, scores, lam=0, laplacian=kind), scores)
    empty = sp.csr_matrix(graph.shape)
    for solver in ("direct", "cg"):
        alone = smooth(empty, scores, lam=9, laplacian=kind, solver=solver)
        np.testing.assert_allclose(alone, scores, atol=1e-15)


def test_great_strength_gives_component_means(graph, scores):
    degree = degrees(graph)
    for kind, weight in (("rw", degree), ("comb", np.ones_like(degree))):
        limit = smooth(graph, scores, lam=1e7, laplacian=kind, solver="direct")
        for part in (slice(0, 40), slice(40, 65)):
            mean = np.average(scores[part], axis=0, weights=weight[part])
            np.testing.assert_allclose(limit[part], np.tile(mean, (len(limit[part]), 1)), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_components_are_separate_and_isolated_cells_unchanged(graph, scores, kind):
    whole = smooth(graph, scores, lam=3, laplacian=kind)
    for part in (slice(0, 40), slice(40, 65)):
        alone = smooth(graph[part, part], scores[part], lam=3, laplacian=kind)
        np.testing.assert_allclose(whole[part], alone, atol=1e-12)
    np.testing.assert_allclose(whole[65], scores[65], atol=1e-14)


def test_distributions_stay_so_and_masses_are_kept(graph, probabilities):
    degree = np.where(degrees(graph) > 0, degrees(graph), 1.0)
    for kind, weight in (("rw", degree), ("comb", np.ones_like(degree))):
        result = smooth(graph, probabilities, lam=4, laplacian=kind, solver="direct")
        assert result.min() >= 0
        np.testing.assert_allclose(result.sum(axis=1), 1, atol=1e-12)
        np.testing.assert_allclose(weight @ result, weight @ probabilities, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_scale_of_logits_is_immaterial(graph, scores, kind, rng):
    plain = smooth(graph, scores, lam=3, laplacian=kind, solver="direct")
    shifted = scores + rng.normal(size=(len(scores), 1))
    for other in (shifted, log_softmax(scores, axis=1)):
        found = smooth(graph, other, lam=3, laplacian=kind, solver="direct")
        np.testing.assert_allclose(softmax(found, 1), softmax(plain, 1), atol=1e-10)
    scaled = smooth(graph, 7 * scores, lam=3, laplacian=kind, solver="direct")
    assert np.array_equal(scaled.argmax(axis=1), plain.argmax(axis=1))


@pytest.mark.parametrize("kind", KINDS)
def test_linear_and_equivariant(graph, scores, kind, rng):
    def apply(matrix, values):
        return smooth(matrix, values, lam=2, laplacian=kind, solver="direct")

    other = rng.normal(size=scores.shape)
    combined = apply(graph, 2 * scores - 3 * other)
    np.testing.assert_allclose(
        combined, 2 * apply(graph, scores) - 3 * apply(graph, other), atol=1e-12
    )
    cells, classes = rng.permutation(len(scores)), rng.permutation(scores.shape[1])
    moved = apply(graph[cells][:, cells], scores[cells][:, classes])
    np.testing.assert_allclose(moved, apply(graph, scores)[cells][:, classes], atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_energy_falls_with_strength_and_matches_the_sum_over_edges(graph, scores, kind):
    energies = [
        dirichlet_energy(graph, smooth(graph, scores, lam=lam, laplacian=kind), kind)
        for lam in (0, 0.5, 2, 8, 32)
    ]
    assert all(later < earlier for earlier, later in pairwise(energies))
    if kind != "sym":
        edges = graph.tocoo()
        squares = ((scores[edges.row] - scores[edges.col]) ** 2).sum(axis=1)
        assert energies[0] == pytest.approx((edges.data * squares).sum() / 2)


def test_iterations_follow_the_condition_number(rng):
    """The error decreases by (√κ − 1)/(√κ + 1) per iteration, with κ ≤ 1 + 2λ."""
    graph = knn_graph(rng.normal(size=(600, 8)))
    scores, lam, tol = rng.normal(size=(600, 4)), 5.0, 1e-5
    root = np.sqrt(1 + 2 * lam)
    bound = int(
        np.ceil(
            np.log(2 * root * np.sqrt(degrees(graph).max()) / tol) / np.log((root + 1) / (root - 1))
        )
    )
    smooth(graph, scores, lam=lam, solver="cg", tol=tol, max_iter=bound)
    with pytest.raises(RuntimeError, match="after 2 iterations"):
        smooth(graph, scores, lam=lam, solver="cg", max_iter=2)


def test_single_precision_and_long_indices_are_accepted(graph, scores):
    other = graph.astype(np.float32)
    other.indices, other.indptr = other.indices.astype(np.int64), other.indptr.astype(np.int64)
    before = other.copy()
    found = smooth(other, scores.astype(np.float32), lam=3)
    np.testing.assert_allclose(found, smooth(graph, scores, lam=3), atol=1e-5)
    assert np.array_equal(other.data, before.data)


def test_scores_are_not_modified(graph, scores):
    before = scores.copy()
    smooth(graph, scores, lam=3, solver="cg")
    assert np.array_equal(scores, before)


PAIR = sp.csr_matrix([[0.0, 1.0], [1.0, 0.0]])


def test_bad_input_is_refused():
    for graph, scores, settings, message in [
        (
            sp.csr_matrix([[0.0, 1.0], [0.0, 0.0]]),
            np.eye(2),
            {},
            "symmetric",
        ),
        (-PAIR, np.eye(2), {}, "Negative values"),
        (PAIR * np.nan, np.eye(2), {}, "graph contains NaN"),
        (sp.csr_matrix((2, 3)), np.eye(2), {}, r"square. shape = \(2, 3\)"),
        (PAIR, np.eye(3), {}, r"one row for each of 2 cells, got \(3, 3\)"),
        (PAIR, np.array([[np.nan], [0]]), {}, "scores contains NaN"),
        (PAIR, np.eye(2), {"lam": np.inf}, "finite number >= 0, got inf"),
        (PAIR, np.eye(2), {"lam": -1}, "lam must be a finite number >= 0, got -1"),
        (PAIR, np.eye(2), {"laplacian": "signed"}, "laplacian must be one of .*, got 'signed'"),
        (PAIR, np.eye(2), {"solver": "guess"}, "solver must be one of .*, got 'guess'"),
    ]:
        with pytest.raises(ValueError, match=message):
            smooth(graph, scores, **settings)
