"""Matching with mean profiles, and how far profiles are apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix
from scipy.special import softmax
from scipy.stats import rankdata, spearmanr

from hdeepinsight.nn import (
    CountNormalizer,
    LeafProfiles,
    LeafSums,
    ProfileEnsemble,
    ProfileMatcher,
    QueryProfiles,
    SparseCounts,
    profile_shift,
    usual_shift,
)


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
    odds = matcher(counts) * 0.016
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


def test_held_out_markers_are_none_of_the_best_of_a_pair() -> None:
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


def test_says_when_it_has_nothing_to_say() -> None:
    for n_cells, measured in [([9.0, 1.0], 60), ([9.0, 9.0], 4), ([9.0, 9.0], 0)]:
        mask = (torch.arange(60) < measured).float()
        mean = torch.rand(2, 60, generator=torch.Generator().manual_seed(3))
        assert not ProfileMatcher(LeafProfiles(mean, torch.tensor(n_cells)), mask).is_useful


N_GENES = 200
CENTRES = torch.from_numpy(np.random.default_rng(0).normal(3, 1, (4, N_GENES)))
ALL = torch.ones(N_GENES)


def cells(sizes, seed, moved=0.0):
    """Draw cells of four types around their centres, which may all be moved."""
    rng = np.random.default_rng(seed)
    leaves = torch.from_numpy(np.repeat(np.arange(4), sizes))
    noise = torch.from_numpy(rng.normal(size=(len(leaves), N_GENES)))
    return LeafSums.of(CENTRES[leaves] + noise + moved, leaves, 4)


def test_sums_are_those_of_numpy():
    values, leaves = torch.rand(50, 7), torch.randint(-1, 3, (50,))
    profiles = LeafSums.of(values, leaves, 3).profiles()
    for leaf in range(3):
        here = values[leaves == leaf].numpy()
        np.testing.assert_allclose(profiles.mean[leaf], here.mean(axis=0), rtol=1e-5)
        assert float(profiles.spread[leaf]) == pytest.approx(here.var(axis=0).sum(), rel=1e-4)
    assert profiles.n_cells.sum() == (leaves >= 0).sum()


def test_parts_add_up_and_come_apart():
    first, second = cells([20] * 4, 1), cells([5, 30, 0, 9], 2)
    both = LeafSums.sum([first, second])
    for name in ("n_cells", "total", "squares"):
        rest = getattr(both - second, name)
        torch.testing.assert_close(rest, getattr(first, name))


def test_samples_of_the_same_cells_are_not_apart():
    """Though the means of twelve cells are."""
    for sizes in [[12] * 4, [400] * 4, [12, 900, 40, 11]]:
        query, reference = cells(sizes, 3).profiles(), cells([50] * 4, 4).profiles()
        assert abs(profile_shift(query, reference, ALL)) < 0.02
        naive = (query.mean - reference.mean).square().sum(1).mean() / (
            (reference.mean - reference.mean.mean(0)).square().sum(1).mean()
        )
        assert naive > profile_shift(query, reference, ALL) + 0.02


def test_the_distance_is_in_units_of_that_between_types():
    query, reference = cells([100] * 4, 5, moved=0.5).profiles(), cells([100] * 4, 6).profiles()
    between = float((CENTRES - CENTRES.mean(0)).square().sum(1).mean())
    assert profile_shift(query, reference, ALL) == pytest.approx(0.25 * N_GENES / between, rel=0.1)


def test_genes_that_were_not_measured_do_not_count():
    query, reference = cells([500] * 4, 5).profiles(), cells([500] * 4, 6).profiles()
    query.mean[:, :50] = 99.0
    measured = ALL.clone()
    measured[:50] = 0
    assert profile_shift(query, reference, measured) < 0.05
    assert profile_shift(query, reference, ALL) > 100


@pytest.mark.parametrize("sizes", [[9, 9, 9, 9], [0, 0, 50, 5]], ids=["few_cells", "one_type"])
def test_nothing_is_said_on_too_little(sizes):
    assert profile_shift(cells(sizes, 1).profiles(), cells([50] * 4, 2).profiles(), ALL) is None


def test_a_few_cells_of_a_large_query_under_a_wrong_name_do_not_count():
    reference = cells([50] * 4, 4).profiles()
    wrong = LeafSums.of(CENTRES[0].repeat(12, 1), torch.full((12,), 3), 4)
    small, large = cells([300] * 3 + [0], 3), cells([5000] * 3 + [0], 3)
    assert profile_shift((small + wrong).profiles(), reference, ALL) > 0.3
    assert profile_shift((large + wrong).profiles(), reference, ALL) == profile_shift(
        large.profiles(), reference, ALL
    )


def test_profiles_of_older_models_cannot_be_compared():
    new = cells([50] * 4, 2).profiles()
    assert profile_shift(new, LeafProfiles(new.mean, new.n_cells), ALL) is None


def test_the_usual_shift_is_that_of_the_middle_batch():
    batches = [cells([50] * 4, seed, moved) for seed, moved in ((1, 0.0), (2, 0.1), (3, 2.0))]
    everything = LeafSums.sum(batches)
    each = [
        profile_shift(batch.profiles(), (everything - batch).profiles(), ALL) for batch in batches
    ]
    assert usual_shift(batches) == pytest.approx(sorted(each)[1])
    assert usual_shift(batches[:1]) is None


@pytest.fixture
def network() -> torch.Tensor:
    """Leaf probabilities of eight cells."""
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(2)).softmax(1)


def drawn_profiles(counts, normalizer) -> LeafProfiles:
    """Profiles of cells drawn around four means; the last leaf has one cell."""
    rng = np.random.default_rng(4)
    leaves = torch.from_numpy(np.repeat(np.arange(4), [9, 5, 7, 1]))
    rate = rng.gamma(2.0, 1.0, (4, counts.shape[1]))[leaves.numpy()]
    values = normalizer.log_normalize(
        torch.from_numpy(rng.poisson(rate)).float(), torch.ones(counts.shape[1])
    )
    return LeafSums.of(values, leaves, 4).profiles().with_covariance(values, leaves)


def test_covariance_is_that_of_residuals_with_equal_weight_per_leaf():
    rng = np.random.default_rng(1)
    leaves = np.repeat([0, 1, 2], [30, 6, 1])
    values = rng.normal(size=(37, 40)) + leaves[:, None]
    tensors = torch.from_numpy(values).float(), torch.from_numpy(leaves)
    profiles = LeafSums.of(*tensors, 3).profiles().with_covariance(*tensors)
    covariance = (np.cov(values[:30].T) + np.cov(values[30:36].T)) / 2
    np.testing.assert_allclose(profiles.variance, np.diag(covariance), rtol=1e-4)
    largest = np.linalg.eigvalsh(covariance)[-10:]
    found = (profiles.directions @ profiles.directions.T).numpy()
    np.testing.assert_allclose(found, np.diag(largest), atol=1e-3 * largest[-1])


@pytest.mark.parametrize("n_measured", [60, 50])
def test_ensemble_is_the_weighed_geometric_mean(
    counts: torch.Tensor, network: torch.Tensor, n_measured: int
) -> None:
    measured = torch.ones(60)
    measured[n_measured:] = 0
    counts = counts * measured
    normalizer = CountNormalizer(60).fit(csr_matrix(counts.numpy()))
    profiles = drawn_profiles(counts, normalizer)
    combined = ProfileEnsemble(profiles, measured, normalizer).reading(counts)

    values, mean = (
        each.numpy()[:, :n_measured]
        for each in (normalizer.log_normalize(counts, measured), profiles.mean[:3])
    )
    variance, directions = (
        each.numpy()[..., :n_measured] for each in (profiles.variance, profiles.directions)
    )
    within = np.diag(variance - (directions**2).sum(0)) + directions.T @ directions
    within = within / 2 + np.eye(n_measured) * variance.mean() / 2
    slope = np.linalg.solve(within, mean.T)
    discriminant = values @ slope - (mean.T * slope).sum(0) / 2
    ranks = ProfileMatcher(profiles, measured, n_markers=100)(counts).numpy()[:, :3]
    leaves = network.numpy()
    expected = leaves.copy()  # the last leaf has one cell: its probability is the network's
    discriminant *= 0.12 * 7 / 17
    discriminant = np.maximum(discriminant - discriminant.max(1, keepdims=True), -3)
    for weight in (1.0, 0.5):
        together = np.log(leaves[:, :3]) + weight * discriminant + ranks / 2
        expected[:, :3] = softmax(together / 2, axis=1) * (1 - leaves[:, 3:])
        np.testing.assert_allclose(combined(network, weight), expected, atol=1e-4)


def test_ensemble_reads_sparse_counts_and_leaves_empty_cells_to_the_network(
    counts: torch.Tensor, network: torch.Tensor
) -> None:
    normalizer = CountNormalizer(60)
    profiles = drawn_profiles(counts, normalizer)
    counts[0] = 0
    ensemble = ProfileEnsemble(profiles, torch.ones(60), normalizer)
    found = ensemble.reading(counts)(network)
    torch.testing.assert_close(found[0], network[0])
    assert float((found[1:] - network[1:]).abs().max()) > 0.1
    sparse = SparseCounts.of(csr_matrix(counts.numpy()), "cpu")
    torch.testing.assert_close(ensemble.reading(sparse)(network), found)


def test_ensemble_without_measured_genes_is_the_network(network: torch.Tensor) -> None:
    normalizer = CountNormalizer(60)
    profiles = drawn_profiles(torch.ones(1, 60), normalizer)
    ensemble = ProfileEnsemble(profiles, torch.zeros(60), normalizer)
    torch.testing.assert_close(ensemble.reading(torch.zeros(8, 60))(network), network)


def moved_query(shift: float, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Values of 400 cells of the first two types, with a shift of all genes."""
    leaves = torch.arange(400) % 2
    noise = torch.randn(400, N_GENES, generator=torch.Generator().manual_seed(seed))
    return CENTRES[leaves] + noise + shift, leaves


def query_profiles(values, leaves, share=1.0, measured=ALL) -> QueryProfiles:
    sums = cells([50] * 4, 4)
    reference = replace(
        sums.profiles(), variance=torch.ones(N_GENES), directions=torch.zeros(1, N_GENES)
    )
    return QueryProfiles.of(reference, [LeafSums.of(values, leaves, 4, measured)], share)


def test_the_shift_of_a_query_does_not_depend_on_its_types():
    found = query_profiles(*moved_query(2.0))
    assert float(found.shifts.mean()) == pytest.approx(2 * 400 / 500, abs=0.1)
    assert float(query_profiles(*moved_query(0.0)).shifts.abs().mean()) < 0.2


def test_each_cell_of_a_query_counts_as_one_of_the_reference():
    values, leaves = moved_query(0.0)
    found, mean = query_profiles(values, leaves), cells([50] * 4, 4).profiles().mean
    own = (values - found.shifts)[leaves == 0].mean(0)
    expected = (50 * mean[0] + 200 * own) / 250
    torch.testing.assert_close(found.profiles.mean[0], expected.float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.profiles.mean[3], mean[3])  # absent from the query
    within = LeafSums.of(values, leaves, 4).variance().float()
    torch.testing.assert_close(found.profiles.variance, (1 + within) / 2, atol=1e-4, rtol=1e-4)


def test_a_query_without_weight_and_genes_that_it_lacks_change_nothing():
    values, leaves = moved_query(2.0)
    mean = cells([50] * 4, 4).profiles().mean
    found = query_profiles(values, leaves, share=0.0)
    torch.testing.assert_close(found.profiles.mean, mean)
    assert not found.shifts.any()
    measured = (torch.arange(N_GENES) > 5).float()
    found = query_profiles(values * measured, leaves, measured=measured)
    torch.testing.assert_close(found.profiles.mean[:, :6], mean[:, :6])
    assert not found.shifts[:, :6].any()


def test_probabilities_divide_a_cell_among_leaves():
    values, leaves = moved_query(0.0)
    hard = LeafSums.of(values, leaves, 4)
    soft = LeafSums.of(values, torch.eye(4)[leaves], 4)
    halves = LeafSums.of(values, torch.full((400, 4), 0.25), 4)
    for name in ("n_cells", "total", "squares"):
        torch.testing.assert_close(getattr(soft, name), getattr(hard, name))
        quarter = getattr(hard, name).sum(0, keepdim=True) / 4
        torch.testing.assert_close(getattr(halves, name)[:1].squeeze(), quarter.squeeze())


def test_only_cells_of_a_batch_are_compared_with_the_profiles_of_the_query(
    counts: torch.Tensor, network: torch.Tensor
) -> None:
    normalizer = CountNormalizer(60)
    profiles = drawn_profiles(counts, normalizer)
    values = normalizer.log_normalize(counts, torch.ones(60))
    batches = [LeafSums.of(values[rows], torch.arange(4), 4) for rows in (slice(4), slice(4, 8))]
    query = QueryProfiles.of(profiles, batches)
    every = torch.ones(60), normalizer
    plain, both = ProfileEnsemble(profiles, *every), ProfileEnsemble(profiles, *every, query)
    expected = plain.reading(counts)(network)
    torch.testing.assert_close(both.reading(counts)(network), expected)
    batch = np.array([0, 1, -1, 0, 1, -1, 0, 1])
    found = both.reading(counts, batch=batch)(network)
    torch.testing.assert_close(found[batch < 0], expected[batch < 0])
    assert float((found - expected)[batch >= 0].abs().amax(1).min()) > 1e-4
    pooled = ProfileEnsemble(query.profiles, *every)
    shift = -query.shifts[torch.from_numpy(batch)]
    sparse = SparseCounts.of(csr_matrix(counts.numpy()), "cpu")
    torch.testing.assert_close(both.reading(sparse, batch=batch)(network), found)
    slope = pooled.slope
    torch.testing.assert_close(
        both.offset[1:] - pooled.offset, shift[:2] @ slope, atol=1e-4, rtol=1e-3
    )


def test_zeros_that_are_stored_rank_as_zeros(profiles: LeafProfiles, counts: torch.Tensor) -> None:
    matrix = csr_matrix(counts.numpy())
    stored = csr_matrix(counts.numpy() + 1)
    stored.data -= 1
    matcher = ProfileMatcher(profiles, torch.ones(60))
    found = [matcher(SparseCounts.of(each, "cpu")) for each in (matrix, stored)]
    torch.testing.assert_close(*found)
