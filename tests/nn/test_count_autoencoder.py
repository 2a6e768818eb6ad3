"""Parameters of counts from hidden features."""

import pytest
import torch
from torch.testing import assert_close

from hdeepinsight.nn import CountHeads


@pytest.mark.parametrize("per_cell", [True, False])
def test_means_scale_with_depth_and_stay_in_their_bounds(per_cell):
    torch.manual_seed(0)
    heads, hidden = CountHeads(8, 5, per_cell=per_cell), torch.randn(4, 8)
    one, three = (heads(hidden, torch.full((4, 1), factor)) for factor in (1.0, 3.0))
    assert_close(three[0], 3 * one[0])
    assert_close(three[1], one[1])
    mean, dispersion, _ = heads(hidden * 1e6, torch.ones(4, 1))
    assert mean.min() >= 1e-5
    assert mean.max() <= 1e6
    assert 1e-4 <= dispersion.min() <= dispersion.max() <= 1e4
