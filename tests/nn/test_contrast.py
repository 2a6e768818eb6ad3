import torch

from hdeepinsight.nn import info_nce


def test_equal_views_are_told_apart_best():
    torch.manual_seed(0)
    view, other = torch.randn(2, 30, 5).unbind()
    assert info_nce(view, view, 0.1) < info_nce(view, other, 0.1)
    cosines = torch.nn.functional.cosine_similarity(view[:, None], other[None], dim=2) / 0.7
    expected = (cosines.logsumexp(dim=1) - cosines.diagonal()).mean()
    torch.testing.assert_close(info_nce(view, other, 0.7), expected)


def test_one_cell_has_nothing_to_be_told_from():
    assert info_nce(torch.ones(1, 3), torch.ones(1, 3), 0.7) == 0
