"""Batch normalisation with a mini-batch of one cell."""

import copy

import pytest
import torch
from torch import nn

from hdeepinsight.adaptation import freeze_norms
from hdeepinsight.nn import BatchNorm1d, BatchNorm2d, tolerate_single_cells

KINDS = [(BatchNorm1d, nn.BatchNorm1d, (5,)), (BatchNorm2d, nn.BatchNorm2d, (5, 1, 1))]


def test_several_cells_are_normalised_as_by_torch():
    for training in [True, False]:
        for ours, theirs, shape in KINDS:
            own, original = ours(5).train(training), theirs(5).train(training)
            for _ in range(3):
                x = torch.randn(7, *shape) * 3 + 1
                assert torch.equal(own(x), original(x))
            for name, value in original.state_dict().items():
                assert torch.equal(own.state_dict()[name], value)


@pytest.mark.parametrize(("ours", "theirs", "shape"), KINDS)
def test_a_single_cell_takes_the_running_statistics(ours, theirs, shape):
    norm = ours(5)
    norm(torch.randn(50, *shape) * 3 + 1)
    state = {name: value.clone() for name, value in norm.state_dict().items()}
    cell = torch.randn(1, *shape, requires_grad=True)
    trained = norm(cell)
    assert torch.equal(trained, norm.eval()(cell))
    assert all(torch.equal(norm.state_dict()[name], value) for name, value in state.items())
    trained.sum().backward()
    expected = (norm.weight / (norm.running_var + norm.eps).sqrt()).reshape(1, *shape)
    torch.testing.assert_close(cell.grad, expected.detach())
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        theirs(5)(cell)  # the reason for the class


def test_norms_of_a_network_are_replaced_with_their_weights():
    network = nn.Sequential(nn.Conv2d(1, 3, 2), nn.Sequential(nn.BatchNorm2d(3, eps=0.5)))
    network(torch.randn(9, 1, 4, 4))
    nn.init.normal_(network[1][0].weight)
    x = torch.randn(4, 1, 4, 4)
    before = network.eval()(x)
    tolerate_single_cells(network)
    assert type(network[1][0]) is BatchNorm2d
    assert torch.equal(network.eval()(x), before)
    assert network.train()(x[:1, :, :2, :2]).shape == (1, 3, 1, 1)


@pytest.mark.parametrize(("norm", "shape"), [(BatchNorm1d, (5, 3)), (BatchNorm2d, (5, 3, 2, 2))])
def test_frozen_normalisations_equal_evaluation_mode(norm, shape):
    network = nn.Sequential(norm(3), nn.ReLU(), norm(3))
    network(3 * torch.randn(shape) + 1)
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    expected, frozen = network.eval(), copy.deepcopy(network)
    freeze_norms(frozen)
    assert not any(isinstance(part, norm) for part in frozen.modules())
    values = torch.randn(shape, requires_grad=True)
    torch.testing.assert_close(frozen(values), expected(values))
    slopes = [torch.autograd.grad(f(values).sum(), values)[0] for f in (frozen, expected)]
    torch.testing.assert_close(*slopes)
