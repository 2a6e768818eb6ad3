"""Expected gradients: identities, and comparison with shap."""

import numpy as np
import pytest
import shap
import torch
from torch import nn

from hdeepinsight.explanation import Targets, balanced_draws, expected_gradients
from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra

N_GENES = 12


@pytest.fixture
def network():
    """A smooth function of expression with five outputs."""
    return nn.Sequential(nn.Linear(N_GENES, 16), nn.Tanh(), nn.Linear(16, 5)).requires_grad_(False)


@pytest.fixture
def cells():
    return torch.rand(4, N_GENES)


@pytest.fixture
def background():
    return torch.rand(6, N_GENES)


def draw(cells, background, n_samples, seed=0):
    return balanced_draws(cells.numpy(), len(background), 1, n_samples=n_samples, seed=seed)


def test_a_linear_function_and_one_background_cell_are_exact(cells):
    slope, start = torch.randn(N_GENES, 1), torch.rand(1, N_GENES)
    found = expected_gradients(
        lambda s: s @ slope + 3.0, cells, start, draw(cells, start, 3), torch.ones(1, 4, 1)
    )
    torch.testing.assert_close(found[0], slope[:, 0] * (cells - start))


def test_a_square_is_divided_as_the_integral_says(cells):
    start = torch.zeros(1, N_GENES)
    found = expected_gradients(
        lambda s: (s**2).sum(1, keepdim=True),
        cells,
        start,
        draw(cells, start, 500),
        torch.ones(1, 4, 1),
    )
    # The integral of 2 t s² over t is s²; 500 even steps leave some thousandths.
    torch.testing.assert_close(found[0], cells**2, atol=5e-3, rtol=0)


def test_attributions_add_up_to_the_difference_from_the_background(network, cells, background):
    weights = torch.eye(5).unsqueeze(1).expand(5, 4, 5)
    found = expected_gradients(network, cells, background, draw(cells, background, 3000), weights)
    difference = network(cells) - network(background).mean(0)
    torch.testing.assert_close(found.sum(2), difference.T, atol=2e-3, rtol=0)


def test_a_leaf_is_the_sum_of_its_path_draw_by_draw(network, cells, background):
    tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": ["B cell"]})
    algebra = TreeAlgebra(tree)

    def scores(values):
        return algebra.conditional_log_probs(network(values))

    path = torch.from_numpy(Targets.of(tree, ["T", "CD4"]).weights)
    leaf = torch.from_numpy(Targets.of(tree, "CD4", kind="joint").weights)
    weights = torch.cat([path, leaf]).unsqueeze(1).expand(3, 4, 5)
    found = expected_gradients(scores, cells, background, draw(cells, background, 2), weights)
    torch.testing.assert_close(found[2], found[0] + found[1])


def test_shap_finds_the_same_from_the_same_draws(network, cells, background):
    n_samples = 7
    explainer = shap.GradientExplainer(network, background)
    expected = np.asarray(explainer.shap_values(cells, nsamples=n_samples, rseed=5))
    np.random.seed(5)  # shap draws a row and a position for every sample, cell by cell
    pairs = [(np.random.choice(6), np.random.uniform()) for _ in range(4 * n_samples)]
    rows, times = (np.array(part).reshape(4, n_samples) for part in zip(*pairs, strict=True))
    draws = torch.from_numpy(rows), torch.from_numpy(times.astype(np.float32))
    weights = torch.eye(5).unsqueeze(1).expand(5, 4, 5)
    found = expected_gradients(network, cells, background, draws, weights)
    np.testing.assert_allclose(found.permute(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 10, 25, 1000])
def test_the_size_of_a_pass_does_not_matter(network, cells, background, size):
    draws, weights = draw(cells, background, 10), torch.ones(1, 4, 5)
    expected = expected_gradients(network, cells, background, draws, weights)
    found = expected_gradients(network, cells, background, draws, weights, batch_size=size)
    torch.testing.assert_close(found, expected)


def test_balanced_draws_miss_by_less_than_independent_ones(network, cells, background):
    weights, n_samples = torch.ones(1, 4, 5), 12
    exact = network(cells).sum(1) - network(background).sum(1).mean()

    def error(draws):
        found = expected_gradients(network, cells, background, draws, weights)
        return float(((found[0].sum(1) - exact) ** 2).mean())

    balanced = np.mean([error(draw(cells, background, n_samples, seed)) for seed in range(30)])
    independent = np.mean(
        [error((torch.randint(6, (4, n_samples)), torch.rand(4, n_samples))) for _ in range(30)]
    )
    assert balanced < independent / 3


def test_shapley_values_of_a_network_are_near(network, cells, background):
    weights, start = torch.ones(1, 4, 5), background[:1]
    found = expected_gradients(network, cells, start, draw(cells, start, 200), weights)
    masker = shap.maskers.Independent(start.numpy())
    explainer = shap.PermutationExplainer(
        lambda x: network(torch.from_numpy(x).float()).sum(1).numpy(), masker, seed=0
    )
    theirs = explainer(cells.numpy(), max_evals=50 * (2 * N_GENES + 1), silent=True).values
    assert np.corrcoef(found[0].numpy().ravel(), theirs.ravel())[0, 1] > 0.98


@pytest.mark.gpu
def test_results_are_the_same_on_a_gpu(network, cells, background):
    draws, weights = draw(cells, background, 20), torch.ones(1, 4, 5)
    expected = expected_gradients(network, cells, background, draws, weights)
    cuda = torch.device("cuda")
    found = expected_gradients(
        network.to(cuda), cells.to(cuda), background.to(cuda), draws, weights.to(cuda)
    )
    torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=1e-3)
