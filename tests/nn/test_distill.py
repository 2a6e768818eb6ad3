"""Schedule, generator and losses of distillation, against closed forms."""

import pytest
import torch
from torch.nn import functional as F

from hdeepinsight.nn import (
    ComponentDecoder,
    ConditionalDenoiser,
    MatchingNetwork,
    class_means,
    distribution_loss,
    gradient_loss,
    noise_schedule,
    regression_loss,
)


def test_signal_falls_to_nothing_and_squares_sum_to_one():
    signal = noise_schedule()
    assert (signal.diff() < 0).all()
    assert signal[-1] < 1e-4
    net = ConditionalDenoiser(3, 2)
    one, zero = torch.ones(1000, 3), torch.zeros(1000, 3)
    times = torch.arange(1000)
    squares = net.noised(one, times, zero) ** 2 + net.noised(zero, times, one) ** 2
    torch.testing.assert_close(squares, one)


def test_decoding_undoes_encoding_and_has_the_means_of_the_classes():
    components = torch.linalg.qr(torch.randn(9, 4))[0].T
    means = torch.rand(2, 9) + 3
    decoder = ComponentDecoder(components, torch.rand(9), torch.rand(4) + 0.5, means)
    label = torch.tensor([0, 1])
    torch.testing.assert_close(decoder(decoder.encode(means), label), means)
    latent = 0.1 * torch.randn(2, 4)
    plain = ComponentDecoder(components, torch.full((9,), 9.0), torch.rand(4) + 0.5, means)
    plain.offset.zero_()
    torch.testing.assert_close(plain.encode(plain(latent, label)), latent)
    assert (decoder(100 * torch.randn(2, 4), label) >= 0).all()


def test_distribution_loss_is_zero_for_equal_sets_and_has_its_closed_gradient():
    real, label = torch.rand(8, 5, dtype=torch.float64), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    order = torch.randperm(8)
    assert distribution_loss(real, label, real[order], label[order], 2) < 1e-20
    small = torch.rand(4, 5, dtype=torch.float64, requires_grad=True)
    own = torch.tensor([0, 0, 1, 1])
    loss = distribution_loss(real, label, small, own, 2)
    (gradient,) = torch.autograd.grad(loss, small)
    gap = class_means(small, own, 2) - class_means(real, label, 2)
    torch.testing.assert_close(gradient, (2 * gap / 2)[own].detach())
    assert torch.autograd.gradcheck(lambda x: distribution_loss(real, label, x, own, 2), small)
    other = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        distribution_loss(real, label, small[other], own[other], 2), loss, rtol=1e-12, atol=0
    )


def test_gradient_loss_is_zero_for_equal_batches_and_at_most_two_a_row():
    net = MatchingNetwork(6, 3).double()
    real, label = torch.rand(9, 6, dtype=torch.float64), torch.arange(3).repeat(3)
    assert gradient_loss(net, real, label, real, label, 3) < 1e-6
    small = torch.rand(3, 6, dtype=torch.float64, requires_grad=True)
    loss = gradient_loss(net, real, label, small, torch.arange(3), 3)
    assert 0 < loss < 2 * 3 * (256 + 128 + 3)
    (gradient,) = torch.autograd.grad(loss, small)
    assert gradient.abs().max() > 0
    # Cosines do not see how large the loss of a class is: cells twice are the same.
    twice = gradient_loss(net, real, label, small.repeat(2, 1), torch.arange(3).repeat(2), 3)
    torch.testing.assert_close(twice, loss)


def test_regression_loss_is_that_of_the_normal_equations():
    torch.manual_seed(1)
    real, real_label = torch.rand(20, 4, dtype=torch.float64), torch.arange(20) % 3
    small, label = torch.rand(6, 4, dtype=torch.float64), torch.arange(6) % 3
    centre = small.mean(0)
    x, y = small - centre, F.one_hot(label, 3).double() - 1 / 3
    weight = torch.linalg.inv(x.T @ x + 2.0 * torch.eye(4, dtype=torch.float64)) @ x.T @ y
    error = (real - centre) @ weight - (F.one_hot(real_label, 3).double() - 1 / 3)
    expected = error.square().sum(1).mean()
    torch.testing.assert_close(regression_loss(real, real_label, small, label, 3, 2.0), expected)


def test_denoiser_learns_the_mean_of_a_class_from_pure_noise():
    torch.manual_seed(0)
    net, centres = ConditionalDenoiser(2, 2, width=32), torch.tensor([[2.0, 0.0], [-1.0, 1.0]])
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(300):
        label = torch.randint(2, (64,))
        loss = net.loss(centres[label] + 0.1 * torch.randn(64, 2), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    found = net.generate(torch.randn(200, 2), torch.arange(2).repeat(100))
    means = class_means(found, torch.arange(2).repeat(100), 2)
    assert (means - centres).abs().max() < 0.3
    assert loss.item() == pytest.approx(0.5, abs=0.5)
