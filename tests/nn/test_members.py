"""Several networks as one."""

import pytest
import torch

from hdeepinsight.nn import LinearHead, MemberBackbones, MemberHeads, PerParentHead, make_backbone
from hdeepinsight.taxonomy import TreeAlgebra

LATENT, N_CELLS = 8, 6


@pytest.fixture
def small(two_levels):
    return TreeAlgebra(two_levels)


@pytest.fixture
def backbones():
    return MemberBackbones(lambda: make_backbone("compact", 2, 8, n_latent=LATENT), 3)


def heads_of(tree, head=LinearHead, n_members=3):
    return MemberHeads(lambda: head(LATENT, tree), n_members, tree).eval()


@pytest.mark.parametrize("head", [LinearHead, PerParentHead])
def test_probabilities_of_all_nodes_are_the_mean_over_members(small, head):
    heads = heads_of(small, head)
    latent = 5 * torch.randn(N_CELLS, 3 * LATENT)
    parts = [latent[:, i * LATENT : (i + 1) * LATENT] for i in range(3)]
    each = [small(member(part)).exp() for member, part in zip(heads.members, parts, strict=True)]
    torch.testing.assert_close(small(heads(latent)).exp(), sum(each) / 3)


def test_one_member_is_its_own_mean(small):
    heads = heads_of(small, n_members=1)
    latent = torch.randn(N_CELLS, LATENT)
    expected = small.conditional_log_probs(heads.members[0](latent))
    torch.testing.assert_close(heads(latent), expected)
    torch.testing.assert_close(heads.disagreement(latent), torch.zeros(N_CELLS))


def test_disagreement_is_the_probability_that_would_have_to_move(small):
    heads = heads_of(small, n_members=2)
    for member, favourite in zip(heads.members, (0, 1), strict=True):
        torch.nn.init.zeros_(member.linear.weight)
        member.linear.bias.data.fill_(-50.0)[favourite] = 50.0
    # Each member is sure of another lineage: half of its probability is not where the mean is.
    torch.testing.assert_close(heads.disagreement(torch.zeros(1, 2 * LATENT)), torch.tensor([0.5]))


def test_members_start_differently_and_see_the_same_image(backbones):
    latent = backbones.eval()(torch.rand(N_CELLS, 2, 8, 8))
    first, second, third = latent.chunk(3, dim=1)
    assert latent.shape == (N_CELLS, backbones.n_latent)
    assert not torch.equal(first, second)
    assert not torch.equal(second, third)


def test_in_training_each_member_learns_from_its_own_part_alone(backbones, small):
    heads = heads_of(small)
    images, nodes = torch.rand(3 * N_CELLS, 2, 8, 8), torch.ones(3 * N_CELLS, dtype=torch.int64)
    logits = heads.train()(backbones.train()(images), nodes)
    assert logits.shape == (3 * N_CELLS, small.taxonomy.n_edges)
    logits[N_CELLS : 2 * N_CELLS].square().sum().backward()
    learns = [
        any(p.grad is not None and p.grad.any() for p in part.parameters())
        for part in (*backbones.members, *heads.members)
    ]
    assert learns == [False, True, False] * 2
