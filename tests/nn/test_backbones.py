"""Backbones for gene images."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import get_model, list_models

from hdeepinsight.nn import (
    BACKBONES,
    CompactBackbone,
    EfficientNetBackbone,
    MLPBackbone,
    adapt_first_convolution,
    make_backbone,
)

PATCH = 4


@pytest.fixture(scope="module")
def b0() -> EfficientNetBackbone:
    return EfficientNetBackbone("efficientnet_b0", 2)


def test_patches_equal_a_plain_loop():
    for channels, side, filters in [(1, 1, 3), (2, 3, 5), (3, 2, 1)]:
        module = CompactBackbone(channels, side * PATCH, n_filters=filters).patches.double()
        nn.init.normal_(module.bias)
        image = torch.randn(4, channels, side * PATCH, side * PATCH, dtype=torch.float64)
        got = module(image)
        assert got.shape == (4, filters, side**2)
        for patch in range(side**2):
            top, left = PATCH * (patch // side), PATCH * (patch % side)
            window = image[:, :, top : top + PATCH, left : left + PATCH]
            for f in range(filters):
                weight = module.weight[patch, :, f].reshape(channels, PATCH, PATCH)
                expected = (window * weight).sum(dim=(1, 2, 3)) + module.bias[f, patch]
                torch.testing.assert_close(got[:, f, patch], expected)


@pytest.mark.parametrize("n_cells", [2, 7])
def test_training_gives_the_gradients_of_plain_images(n_cells):
    """The memory layout of filters changes no result, gradient or running statistic."""
    fast = CompactBackbone(2, 16, n_latent=8, n_filters=5).double()
    plain, image = copy.deepcopy(fast), torch.rand(n_cells, 2, 16, 16, dtype=torch.float64)
    found, weights = fast(image), torch.randn(n_cells, 8, dtype=torch.float64)
    norm = nn.BatchNorm1d(5).double()
    local = torch.relu(norm(plain.patches(image).contiguous())).flatten(1)
    expected = torch.relu(plain.dense_norm(plain.dense(local)))
    torch.testing.assert_close(found, expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for part in ("patches.weight", "patches.bias", "dense.weight"):
        got, wanted = fast.get_parameter(part).grad, plain.get_parameter(part).grad
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(fast.norm.weight.grad, norm.weight.grad)
    torch.testing.assert_close(fast.norm.running_var, norm.running_var)


def test_memory_format_does_not_matter():
    module, image = CompactBackbone(2, 16, n_filters=4).patches, torch.randn(3, 2, 16, 16)
    assert torch.equal(module(image.to(memory_format=torch.channels_last)), module(image))


def test_a_pixel_reaches_the_filters_of_its_own_patch_only():
    module = CompactBackbone(1, 3 * PATCH, n_filters=2).patches
    image = torch.zeros(1, 1, 3 * PATCH, 3 * PATCH)
    image[0, 0, PATCH + 1, 2 * PATCH + 1] = 1.0  # row 1, column 2 of the patches
    moved = module(image) - module(torch.zeros_like(image))
    assert moved.abs().sum(dim=(0, 1)).nonzero().ravel().tolist() == [5]


def test_position_keeps_its_meaning():
    """The same pattern in another patch is read by other filters."""
    backbone = CompactBackbone(1, 16, n_latent=8).eval()
    here, there = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 16, 16)
    here[..., :PATCH, :PATCH] = there[..., -PATCH:, -PATCH:] = 1.0
    assert (backbone(here) - backbone(there)).abs().max().item() > 1e-3


def test_compact_backbone_equals_its_parts():
    backbone = CompactBackbone(2, 16, n_latent=6, n_filters=3).eval()
    for norm in (backbone.norm, backbone.dense_norm):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)
    image = torch.rand(5, 2, 16, 16)

    def standardise(x, norm):
        # Features stand in dimension 1, with or without patches behind them.
        shape = (1, -1, *(1,) * (x.ndim - 2))
        spread = (norm.running_var + norm.eps).sqrt().reshape(shape)
        return (x - norm.running_mean.reshape(shape)) / spread

    local = standardise(backbone.patches(image), backbone.norm).relu().flatten(1)
    expected = standardise(local @ backbone.dense.weight.T, backbone.dense_norm).relu()
    assert expected.shape == (5, 6)
    torch.testing.assert_close(backbone(image), expected)


def test_every_weight_learns():
    backbone = CompactBackbone(2, 16, n_latent=8)
    backbone(torch.rand(20, 2, 16, 16)).square().sum().backward()
    for name, weight in backbone.named_parameters():
        assert weight.grad.abs().sum() > 0, name


@pytest.mark.parametrize("n_cells", [1, 2])
def test_a_training_batch_of_few_cells_learns(n_cells):
    backbone = CompactBackbone(2, 16, n_latent=8)
    running = backbone.norm.running_mean.clone()
    features = backbone(torch.rand(n_cells, 2, 16, 16))
    features.sum().backward()
    assert features.shape == (n_cells, 8)
    assert torch.isfinite(backbone.patches.weight.grad).all()
    assert backbone.dense.weight.grad.abs().sum() > 0
    assert torch.equal(backbone.norm.running_mean, running) == (n_cells == 1)


def test_a_single_training_cell_is_read_as_at_prediction():
    backbone = CompactBackbone(1, 8, n_latent=4)
    backbone(torch.rand(30, 1, 8, 8))
    cell = torch.rand(1, 1, 8, 8)
    assert torch.equal(backbone.train()(cell), backbone.eval()(cell))


def test_a_side_that_patches_do_not_fill_is_refused():
    for side, advice in [(2 * PATCH + 1, 3), (3 * PATCH - 1, 3), (0, 1)]:
        message = f"multiple of {PATCH}, got {side}.*side={advice * PATCH}"
        with pytest.raises(ValueError, match=message):
            CompactBackbone(2, side)


def test_efficientnets_exist_in_torchvision():
    assert BACKBONES[:2] == ("compact", "mlp")
    assert len(BACKBONES) == 13
    assert set(BACKBONES[2:]) <= set(list_models())


def test_first_convolution_equals_three_equal_channels():
    original = get_model("efficientnet_b0", weights=None).features[0][0]
    grey = torch.randn(2, 1, 32, 32)
    expected = original(grey.expand(-1, 3, -1, -1))
    torch.testing.assert_close(
        adapt_first_convolution(original, 1)(grey), expected, rtol=0, atol=1e-5
    )
    # The mask channel starts without effect, and learns.
    adapted = adapt_first_convolution(original, 2)
    image = torch.cat([grey, torch.randn(2, 1, 32, 32)], dim=1)
    torch.testing.assert_close(adapted(image), expected, rtol=0, atol=1e-5)
    adapted(image).square().sum().backward()
    assert adapted.weight.grad[:, 1].abs().sum() > 0


def test_first_convolution_keeps_a_bias_and_three_channels():
    original = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    grey = torch.randn(2, 1, 9, 9)
    adapted = adapt_first_convolution(original, 1)
    torch.testing.assert_close(adapted(grey), original(grey.expand(-1, 3, -1, -1)))
    assert adapt_first_convolution(original, 3) is original


@pytest.mark.parametrize("side", [32, 64])
def test_efficientnet_gives_pooled_features(b0, side):
    features = b0.eval()(torch.rand(2, 2, side, side))
    assert features.shape == (2, b0.n_latent) == (2, 1280)
    assert torch.isfinite(features).all()
    assert (features[0] - features[1]).abs().max() > 0


def test_efficientnet_equals_torchvision_on_grey_images(b0):
    network = get_model("efficientnet_b0", weights=None)
    ours = copy.deepcopy(b0)
    state = network.features.state_dict()
    state["0.0.weight"] = adapt_first_convolution(network.features[0][0], 2).weight
    ours.features.load_state_dict(state)
    grey = torch.rand(2, 1, 32, 32)
    expected = network.avgpool(network.eval().features(grey.expand(-1, 3, -1, -1))).flatten(1)
    image = torch.cat([grey, torch.ones_like(grey)], dim=1)
    torch.testing.assert_close(ours.eval()(image), expected, rtol=1e-4, atol=1e-5)


def test_efficientnet_learns_from_a_single_cell_of_one_final_pixel(b0):
    network = copy.deepcopy(b0).train()
    network(torch.rand(1, 2, 32, 32)).sum().backward()
    gradient = network.features[0][0].weight.grad
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


def test_backbones_are_made_by_name():
    assert make_backbone(None, 2, 16) is None
    compact = make_backbone("compact", 2, 16, n_latent=12)
    assert isinstance(compact, CompactBackbone)
    assert compact.n_latent == 12
    assert compact(torch.rand(3, 2, 16, 16)).shape == (3, 12)
    assert isinstance(make_backbone("efficientnet_b0", 2, 32), EfficientNetBackbone)
    with pytest.raises(ValueError, match=r"one of 'compact', .*None, got 'resnet50'"):
        make_backbone("resnet50", 2, 16)


def test_the_position_of_a_pixel_does_not_matter():
    """Permuting pixels together with the columns of the first layer changes nothing."""
    rng = np.random.default_rng(0)
    backbone = MLPBackbone(2, 8, n_latent=16).eval()
    image = torch.rand(5, 2, 8, 8)
    order = torch.from_numpy(rng.permutation(2 * 64))
    permuted = MLPBackbone(2, 8, n_latent=16).eval()
    permuted.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        permuted.layers[1].weight.copy_(backbone.layers[1].weight[:, order])
    shuffled = image.flatten(1)[:, order].view(5, 2, 8, 8)
    torch.testing.assert_close(permuted(shuffled), backbone(image))


def test_a_single_cell_is_supported_in_training():
    backbone = MLPBackbone(2, 8, n_latent=16).train()
    assert torch.isfinite(backbone(torch.rand(1, 2, 8, 8))).all()
