"""Soft cluster assignments, and contrastive losses between two views."""

import torch
from torch.testing import assert_close

from hdeepinsight.nn import (
    cluster_contrast,
    info_nce,
    sharpened_assignment,
    student_t_assignment,
)


def views() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(20, 6, generator=generator).softmax(1) for _ in range(2))


def test_it_is_the_cross_entropy_of_partners_among_all_others():
    first, second = views()
    columns = [c / c.norm() for c in (*first.T, *second.T)]
    total = 0.0
    for i, column in enumerate(columns):
        likeness = torch.stack([column @ other / 0.5 for other in columns])
        others = torch.cat([likeness[:i], likeness[i + 1 :]])
        total -= likeness[(i + 6) % 12] - torch.logsumexp(others, 0)
    assert_close(cluster_contrast(first, second), total / 12)


def test_it_is_symmetric_and_invariant_to_the_order_of_clusters():
    first, second = views()
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    assert_close(cluster_contrast(first, second), cluster_contrast(second, first))
    assert_close(
        cluster_contrast(first[:, order], second[:, order]), cluster_contrast(first, second)
    )


def test_equal_views_are_better_than_shuffled_ones():
    view = torch.eye(5).repeat(4, 1)
    shuffled = view[:, [1, 2, 3, 4, 0]]
    assert cluster_contrast(view, view) < cluster_contrast(view, shuffled)


def test_equal_views_have_the_lowest_loss():
    torch.manual_seed(0)
    view, other = torch.randn(2, 30, 5).unbind()
    assert info_nce(view, view, 0.1) < info_nce(view, other, 0.1)
    cosines = torch.nn.functional.cosine_similarity(view[:, None], other[None], dim=2) / 0.7
    expected = (cosines.logsumexp(dim=1) - cosines.diagonal()).mean()
    torch.testing.assert_close(info_nce(view, other, 0.7), expected)


def test_a_single_cell_has_no_loss():
    assert info_nce(torch.ones(1, 3), torch.ones(1, 3), 0.7) == 0


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
    assert_close(sharpened_assignment(torch.rand(6, 1) + 0.1), torch.ones(6, 1))
    q = student_t_assignment(
        torch.tensor([[0.0], [0.1], [3.0], [3.1]]), torch.tensor([[0.0], [3.0]])
    )
    p = sharpened_assignment(q)
    assert_close(p.sum(dim=1), torch.ones(4))
    assert torch.all(p.max(dim=1).values > q.max(dim=1).values)
    assert_close(p, (q**2 / q.sum(dim=0)) / (q**2 / q.sum(dim=0)).sum(dim=1, keepdim=True))
