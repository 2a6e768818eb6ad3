"""The dense control."""

import numpy as np
import torch

from hdeepinsight.nn import MLPBackbone


def test_the_place_of_a_pixel_means_nothing():
    """Permuting pixels and the columns of the first layer alike changes nothing."""
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


def test_one_cell_is_survived_in_training():
    backbone = MLPBackbone(2, 8, n_latent=16).train()
    assert torch.isfinite(backbone(torch.rand(1, 2, 8, 8))).all()
