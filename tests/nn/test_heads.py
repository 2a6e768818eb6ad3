"""Classification heads."""

import copy

import pytest
import torch
from torch import nn

from hdeepinsight.nn import LinearHead, PerParentHead
from hdeepinsight.taxonomy import TreeAlgebra

LATENT = 16


@pytest.fixture
def small(two_levels):
    """Tree T > (CD4, CD8, gd), B > (naive, memory)."""
    return TreeAlgebra(two_levels)


def nodes_of(tree, *names):
    return torch.tensor([tree.taxonomy.resolve(name) for name in names])


def edges_of(tree, group):
    return torch.tensor(tree.taxonomy.groups[group].astype("int64")) - 1


def test_linear_head_is_an_affine_map(tree):
    head = LinearHead(LATENT, tree).eval()
    latent = torch.randn(5, LATENT)
    expected = latent @ head.linear.weight.T + head.linear.bias
    assert expected.shape == (5, tree.taxonomy.n_edges)
    torch.testing.assert_close(head(latent), expected)


def test_linear_head_drops_features_in_training_only(tree):
    latent = torch.randn(50, LATENT)
    head = LinearHead(LATENT, tree, dropout=0.5)
    assert not torch.equal(head.train()(latent), head.eval()(latent))
    whole = LinearHead(LATENT, tree, dropout=0.0)
    assert torch.equal(whole.train()(latent), whole.eval()(latent))


def test_networks_have_the_published_widths(small):
    head = PerParentHead(LATENT, small)
    widths = [
        [layer.out_features for layer in network if isinstance(layer, nn.Linear)]
        for network in head.networks
    ]
    assert widths == [[1024, 2], [1024, 512, 3], [1024, 512, 2]]


def test_every_network_writes_the_logits_of_its_own_group(tree):
    head = PerParentHead(LATENT, tree).eval()
    latent = torch.randn(4, LATENT)
    logits = head(latent)
    assert logits.shape == (4, tree.taxonomy.n_edges)
    for group, network in enumerate(head.networks):
        torch.testing.assert_close(logits[:, edges_of(tree, group)], network(latent))


def test_labels_are_ignored_at_prediction(small):
    head = PerParentHead(LATENT, small).eval()
    latent = torch.randn(3, LATENT)
    assert torch.equal(head(latent, nodes_of(small, "CD4", "B", "root")), head(latent))


def test_statistics_of_a_parent_see_its_own_cells_alone(small):
    head = PerParentHead(LATENT, small)
    latent = torch.randn(7, LATENT)
    # Three cells below T; one labelled T itself; two below B; one unlabelled.
    nodes = nodes_of(small, "CD4", "CD8", "gd", "T", "naive", "memory", "root")
    head(latent, nodes)
    for group, rows in {0: range(6), 1: range(3), 2: range(4, 6)}.items():
        linear, norm = head.networks[group][0], head.networks[group][1]
        seen = linear(latent[list(rows)]).detach()
        torch.testing.assert_close(norm.running_mean, 0.1 * seen.mean(dim=0))
        torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * seen.var(dim=0))


def test_cells_of_other_parents_change_nothing(small):
    torch.manual_seed(0)
    head = PerParentHead(LATENT, small, dropout=0.0)
    other = copy.deepcopy(head)
    latent = torch.randn(5, LATENT)
    nodes = nodes_of(small, "CD4", "CD8", "gd", "naive", "memory")
    changed = latent.clone()
    changed[3:] += 5.0
    below_t = edges_of(small, 1)
    assert torch.equal(head(latent, nodes)[:3, below_t], other(changed, nodes)[:3, below_t])


def test_cells_outside_a_group_get_no_logits_there_in_training(small):
    head = PerParentHead(LATENT, small)
    logits = head(torch.randn(4, LATENT), nodes_of(small, "CD4", "CD8", "T", "naive"))
    assert (logits[:2, edges_of(small, 1)] != 0).all()
    assert (logits[2:, edges_of(small, 1)] == 0).all()
    assert (logits[:, edges_of(small, 0)] != 0).all()


def test_training_without_labels_uses_every_cell(small):
    logits = PerParentHead(LATENT, small)(torch.randn(6, LATENT))
    assert (logits != 0).all()


@pytest.mark.parametrize("name", ["CD4", "T", "root"])
def test_a_training_batch_of_one_cell_learns(small, name):
    head = PerParentHead(LATENT, small)
    latent = torch.randn(1, LATENT, requires_grad=True)
    logits = head(latent, nodes_of(small, name))
    logits.square().sum().backward()
    learning = [bool(network[0].weight.grad.any()) for network in head.networks]
    assert learning == [name != "root", name == "CD4", False]
    assert bool(latent.grad.any()) == (name != "root")
    assert torch.isfinite(latent.grad).all()


def test_one_cell_of_a_parent_learns_and_leaves_the_statistics(small):
    head = PerParentHead(LATENT, small)
    head(torch.randn(4, LATENT), nodes_of(small, "CD4", "CD8", "gd", "memory")).sum().backward()
    assert torch.equal(head.networks[2][1].running_mean, torch.zeros(1024))
    assert head.networks[2][0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("head", [LinearHead, PerParentHead])
def test_no_cells_give_no_logits(head, small, training):
    module = head(LATENT, small).train(training)
    assert module(torch.zeros(0, LATENT)).shape == (0, small.taxonomy.n_edges)
