"""Explainers of shap behind our face."""

import numpy as np
import pytest
import torch

from hdeepinsight.explanation._checks import shap_values


@pytest.mark.parametrize(
    ("method", "n_samples"), [("shap_gradient", 20), ("kernel", 300), ("permutation", 2)]
)
def test_every_explainer_finds_a_linear_function(method, n_samples):
    slope, cells, background = torch.randn(8), torch.rand(3, 8), torch.rand(5, 8)
    before = np.random.get_state()[1].copy()
    found = shap_values(
        method, lambda s: s @ slope, cells, background[:1], n_samples=n_samples, batch_size=7
    )
    torch.testing.assert_close(found, slope * (cells - background[0]), atol=1e-4, rtol=1e-3)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
