"""Sampling frequencies of edges, and gradients through them."""

import numpy as np
import pytest
import torch

from hdeepinsight.nn import (
    TAGConv,
    adjacency_error,
    are_joined,
    candidate_similarity,
    chosen_cells,
    draw_neighbors,
    gumbel_noise,
    info_nce,
    union_graph,
)

K = 3


@pytest.fixture
def points():
    return torch.randn(20, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def everyone():
    """All other cells as candidates."""
    cells = torch.arange(20)
    return torch.stack([cells[cells != cell] for cell in cells])


def test_similarities_are_those_of_all_pairs(points, everyone):
    squared = torch.cdist(points, points).square()
    directions = torch.nn.functional.normalize(points, dim=1)
    expected = {
        "cosine": directions @ directions.T,
        "rbf": (-squared / 2).exp(),
        "neg_sqdist": -squared / 2,
    }
    for kind, table in expected.items():
        found = candidate_similarity(points, everyone, kind)
        torch.testing.assert_close(found, table.gather(1, everyone), atol=1e-5, rtol=1e-5)


def test_one_draw_is_as_frequent_as_its_softmax():
    torch.manual_seed(0)
    scores = torch.tensor([0.5, -1.0, 2.0, 0.0]) / 0.7
    repeated = scores.expand(400_000, 4)
    chosen, soft = draw_neighbors(repeated + gumbel_noise(repeated), 1)
    frequency = torch.bincount(chosen.ravel(), minlength=4) / len(chosen)
    torch.testing.assert_close(frequency, scores.softmax(0), atol=3e-3, rtol=0)
    torch.testing.assert_close(soft.sum(1), torch.ones(len(soft)), atol=1e-5, rtol=0)


def test_rows_choose_k_and_the_union_is_symmetric(points, everyone):
    torch.manual_seed(0)
    scores = candidate_similarity(points, everyone) / 0.1
    chosen, soft = draw_neighbors(scores + gumbel_noise(scores), K)
    assert [len(set(row)) for row in chosen.tolist()] == [K] * 20
    graph = union_graph(everyone, chosen, soft)
    matrix = graph.to_scipy().toarray()
    np.testing.assert_array_equal(matrix, matrix.T)
    assert not matrix.diagonal().any()
    assert set(np.unique(matrix)) == {0.0, 1.0}
    expected = np.zeros_like(matrix)
    expected[np.arange(20)[:, None], chosen_cells(everyone, chosen).numpy()] = 1
    np.testing.assert_array_equal(matrix, np.maximum(expected, expected.T))


def test_without_noise_the_highest_are_chosen(points, everyone):
    scores = candidate_similarity(points, everyone)
    chosen, _ = draw_neighbors(scores, K)
    expected = np.argsort(-scores.numpy(), axis=1)[:, :K]
    np.testing.assert_array_equal(np.sort(chosen, axis=1), np.sort(expected, axis=1))


@pytest.mark.parametrize("temperature", [0.1, 0.5, 10.0])
def test_scaling_similarity_and_noise_changes_no_draw(points, everyone, temperature):
    torch.manual_seed(0)
    scores = candidate_similarity(points, everyone)
    noisy = scores + gumbel_noise(scores)
    torch.testing.assert_close(
        draw_neighbors(noisy / temperature, K)[0].sort(1), draw_neighbors(noisy, K)[0].sort(1)
    )


def test_an_edge_passes_the_mean_gradient_of_both_directions(points, everyone):
    scores = candidate_similarity(points, everyone)
    chosen, _ = draw_neighbors(scores, K)
    soft = scores.softmax(dim=1).detach().requires_grad_()
    graph = union_graph(everyone, chosen, soft)
    upstream = torch.rand(len(graph.weights))
    (graph.weights * upstream).sum().backward()
    matrix = np.zeros((20, 20))
    matrix[graph.origins.numpy(), graph.ends.numpy()] = upstream.numpy()
    both = (matrix + matrix.T) / 2  # ½(soft_ij + soft_ji) stands in each of the two directions
    expected = np.take_along_axis(both, everyone.numpy(), axis=1)
    np.testing.assert_allclose(soft.grad.numpy(), expected, atol=1e-6)


def test_cells_without_candidates_have_no_edges():
    candidates = torch.tensor([[1, -1], [0, -1], [-1, -1]])
    latent = torch.randn(3, 2).requires_grad_()
    scores = candidate_similarity(latent, candidates)
    chosen, soft = draw_neighbors(scores, 2)
    graph = union_graph(candidates, chosen, soft)
    assert graph.to_scipy().sum(axis=1).ravel().tolist() == [[1.0, 1.0, 0.0]]
    graph.weights.sum().backward()
    assert torch.isfinite(latent.grad).all()


def test_joined_cells_are_those_of_the_union(points, everyone):
    chosen, _ = draw_neighbors(candidate_similarity(points, everyone), K)
    neighbors = chosen_cells(everyone, chosen)
    matrix = union_graph(neighbors).to_scipy().toarray()
    cells = torch.tensor([3, 17, 0])
    others = torch.arange(20).expand(3, 20)
    np.testing.assert_array_equal(are_joined(neighbors, cells, others), matrix[cells] > 0)


def test_drawn_edges_stay_inside_clusters_and_even_the_degrees():
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(8), 100)
    centres = 4 * rng.normal(size=(8, 15))
    points = torch.as_tensor(centres[label] + rng.normal(size=(800, 15)), dtype=torch.float32)
    cells = torch.arange(800)
    candidates = torch.stack([cells[cells != cell] for cell in cells])
    similarity = candidate_similarity(points, candidates)
    in_degree, inside = {}, {}
    torch.manual_seed(0)
    noise = gumbel_noise(similarity)
    for name, scores in {
        "nearest": similarity,
        "adaptive": similarity / 0.1 + noise,
        "published": similarity + noise,
    }.items():
        neighbors = chosen_cells(candidates, draw_neighbors(scores, 15)[0]).numpy()
        inside[name] = (label[neighbors] == label[:, None]).mean()
        in_degree[name] = np.bincount(neighbors.ravel(), minlength=800).std()
    assert inside["adaptive"] > 0.9
    assert inside["published"] < 0.6
    assert in_degree["adaptive"] < in_degree["nearest"]


def error_of_all_pairs(neighbors, probability):
    matrix = union_graph(neighbors).to_scipy().toarray()
    decoded = probability(torch.arange(20), torch.arange(20).expand(20, 20)).detach().numpy()
    return np.mean((matrix - decoded) ** 2)


def decoder(points):
    return lambda cells, others: torch.einsum("nd,nmd->nm", points[cells], points[others]).sigmoid()


def test_the_error_of_edges_is_unbiased(points, everyone):
    chosen, _ = draw_neighbors(candidate_similarity(points, everyone), K)
    neighbors, probability = chosen_cells(everyone, chosen), decoder(points)
    expected = error_of_all_pairs(neighbors, probability)
    few, torch_rows = everyone.clone(), torch.arange(20)
    few[:, 6:] = -1
    torch.manual_seed(0)
    draws = [
        float(adjacency_error(probability, torch_rows[torch.randperm(20)[:8]], few, neighbors))
        for _ in range(2000)
    ]
    assert abs(np.mean(draws) - expected) < 3 * np.std(draws) / np.sqrt(2000)


def test_the_error_of_edges_passes_no_gradient_to_the_edges(points, everyone):
    latent = points.clone().requires_grad_()
    scores = candidate_similarity(latent, everyone)
    chosen, soft = draw_neighbors(scores, K)
    neighbors = chosen_cells(everyone, chosen)
    loss = adjacency_error(decoder(points), torch.arange(20), everyone, neighbors)
    assert not loss.requires_grad  # the points of the decoder are constant here
    assert soft.requires_grad


def test_the_contrast_reaches_the_embedding_through_the_edges_alone(points, everyone):
    torch.manual_seed(0)
    latent = points.clone().requires_grad_()
    chosen, soft = draw_neighbors(candidate_similarity(latent, everyone) / 0.1, K)
    layer = TAGConv(5, 4)
    renewed = layer(torch.randn(20, 5), union_graph(everyone, chosen, soft).normalized())
    info_nce(latent.detach(), renewed, 0.7).backward()
    assert latent.grad.abs().sum() > 0
