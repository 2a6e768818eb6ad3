"""Soft assignments to clusters."""

import torch
from torch.testing import assert_close

from hdeepinsight.nn import sharpened_assignment, student_t_assignment


def test_rows_sum_to_one_and_the_nearest_centre_is_the_most_probable():
    latent = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    centres = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    q = student_t_assignment(latent, centres)
    assert_close(q.sum(dim=1), torch.ones(50))
    assert torch.equal(q.argmax(1), torch.cdist(latent, centres).argmin(1))
    assert_close(
        q[0, 0] / q[0, 1],
        (1 + (latent[0] - centres[1]).square().sum())
        / (1 + (latent[0] - centres[0]).square().sum()),
    )


def test_sharpening_keeps_even_rows_and_sharpens_others():
    even = torch.full((6, 3), 1 / 3)
    assert_close(sharpened_assignment(even), even)
    q = student_t_assignment(
        torch.tensor([[0.0], [0.1], [3.0], [3.1]]), torch.tensor([[0.0], [3.0]])
    )
    p = sharpened_assignment(q)
    assert_close(p.sum(dim=1), torch.ones(4))
    assert torch.all(p.max(dim=1).values > q.max(dim=1).values)
    assert_close(p, (q**2 / q.sum(dim=0)) / (q**2 / q.sum(dim=0)).sum(dim=1, keepdim=True))
