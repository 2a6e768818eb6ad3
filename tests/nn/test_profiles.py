"""The second opinion: rank correlations with mean profiles."""

import numpy as np
import pytest
import torch
from scipy.stats import rankdata, spearmanr

from hdeepinsight.nn import LeafProfiles, ProfileMatcher
from hdeepinsight.nn._profiles import TEMPERATURE


@pytest.fixture
def profiles() -> LeafProfiles:
    generator = torch.Generator().manual_seed(0)
    return LeafProfiles(
        torch.rand(4, 60, generator=generator) * 3, torch.tensor([9.0, 5.0, 7.0, 3])
    )


@pytest.fixture
def counts() -> torch.Tensor:
    rate = torch.full((8, 60), 1.5)
    return torch.poisson(rate, torch.Generator().manual_seed(1))


def test_correlations_are_spearman_s(profiles: LeafProfiles, counts: torch.Tensor) -> None:
    matcher = ProfileMatcher(profiles, torch.ones(60))
    genes = matcher.genes.numpy()
    expected = np.array(
        [
            [spearmanr(cell[genes], mean[genes]).statistic for mean in profiles.mean.numpy()]
            for cell in counts.numpy()
        ]
    )
    odds = matcher(counts) * TEMPERATURE
    difference = (odds - odds[:, :1]).numpy()
    np.testing.assert_allclose(difference, expected - expected[:, :1], atol=1e-5)


def test_depends_on_ranks_alone(profiles: LeafProfiles, counts: torch.Tensor) -> None:
    matcher = ProfileMatcher(profiles, torch.ones(60))
    torch.testing.assert_close(matcher(counts), matcher(counts**3 * 7))
    ranked = torch.as_tensor(rankdata(counts.numpy(), axis=1), dtype=torch.float32)
    torch.testing.assert_close(matcher(counts), matcher(ranked), rtol=1e-4, atol=1e-4)


def test_genes_that_are_not_measured_take_no_part(
    profiles: LeafProfiles, counts: torch.Tensor
) -> None:
    measured = torch.ones(60)
    measured[:25] = 0
    matcher = ProfileMatcher(profiles, measured)
    assert int(matcher.genes.min()) >= 25
    other = counts.clone()
    other[:, :25] = 99
    assert torch.equal(matcher(counts), matcher(other))


def test_referee_has_seen_none_of_the_best_markers_of_a_pair() -> None:
    mean = torch.zeros(2, 60)
    mean[0, :30] = torch.arange(30, 0, -1)
    mean[1, 30:] = torch.arange(30, 0, -1)
    profiles = LeafProfiles(mean, torch.tensor([5.0, 5.0]))
    first = ProfileMatcher(profiles, torch.ones(60), n_markers=12)
    second = ProfileMatcher(profiles, torch.ones(60), n_markers=12, skip=1)
    assert first.genes.tolist() == [*range(12), *range(30, 42)]
    assert second.genes.tolist() == [*range(12, 24), *range(42, 54)]


def test_leaf_with_a_single_cell_is_not_matched(counts: torch.Tensor) -> None:
    mean = torch.rand(3, 60, generator=torch.Generator().manual_seed(2))
    matcher = ProfileMatcher(LeafProfiles(mean, torch.tensor([5.0, 1.0, 5.0])), torch.ones(60))
    probabilities = matcher(counts).exp()
    assert (probabilities[:, 1] == 0).all()
    torch.testing.assert_close(probabilities.sum(1), torch.ones(8))


@pytest.mark.parametrize(
    ("n_cells", "measured"),
    [
        pytest.param([9.0, 1.0], 60, id="one_profile"),
        pytest.param([9.0, 9.0], 4, id="four_genes"),
        pytest.param([9.0, 9.0], 0, id="no_gene"),
    ],
)
def test_says_when_it_has_nothing_to_say(n_cells: list[float], measured: int) -> None:
    mask = (torch.arange(60) < measured).float()
    mean = torch.rand(2, 60, generator=torch.Generator().manual_seed(3))
    assert not ProfileMatcher(LeafProfiles(mean, torch.tensor(n_cells)), mask).is_useful
