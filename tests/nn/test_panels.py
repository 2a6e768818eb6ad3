"""Genes that were measured in the cells of a reference."""

import numpy as np
import pytest
import torch
from scipy import sparse

from hdeepinsight.nn import CountNormalizer, GenePanels, LeafSums

N_CELLS, N_GENES = 4000, 60
#: The first panel has all genes, the second lacks 30 and the third 15 others.
CODES = np.arange(N_CELLS) % 3
MEASURED = np.ones((3, N_GENES), dtype=bool)
MEASURED[1, 30:] = MEASURED[2, :15] = False


@pytest.fixture
def shares():
    drawn = np.random.default_rng(1).gamma(1.0, size=N_GENES)
    return drawn / drawn.sum()


@pytest.fixture
def whole(shares):
    """Counts as if each cell had all genes."""
    rng = np.random.default_rng(0)
    depth = rng.lognormal(6.5, 0.3, N_CELLS)
    return sparse.csr_matrix(rng.poisson(depth[:, None] * shares).astype(np.float32))


@pytest.fixture
def joined(whole):
    """Counts of an outer join: 0 where the panel lacks the gene."""
    return sparse.csr_matrix(whole.multiply(MEASURED[CODES]), dtype=np.float32)


@pytest.fixture
def panels():
    return GenePanels(CODES, MEASURED)


def filled(joined, value):
    """Counts with another value where the panel lacks the gene."""
    return sparse.csr_matrix(joined + value * ~MEASURED[CODES], dtype=np.float32)


def test_a_gene_without_a_count_in_a_panel_was_not_measured_in_it(joined):
    found = GenePanels.find(joined, CODES)
    np.testing.assert_array_equal(found.measured, MEASURED)
    np.testing.assert_array_equal(found.of_cells, MEASURED[CODES])
    np.testing.assert_array_equal(found.n_measured, MEASURED[CODES].sum(axis=0))
    np.testing.assert_array_equal(found[np.array([1, 4])].n_measured, 2 * MEASURED[1])


def test_means_are_over_the_cells_that_measured_the_gene(joined, panels):
    dense = np.where(MEASURED[CODES], joined.toarray(), np.nan)
    np.testing.assert_allclose(panels.mean(joined), np.nanmean(dense, axis=0), rtol=1e-5)
    only = panels[np.flatnonzero(CODES == 1)]
    assert np.isnan(only.mean(joined[CODES == 1])[30:]).all()


def test_coverage_is_the_share_of_the_counts_that_a_panel_would_have(joined, panels, shares):
    expected = MEASURED @ shares
    np.testing.assert_allclose(panels.coverage(joined), expected, rtol=0.01)
    included = np.ones(N_GENES)
    included[:5] = 0
    expected = MEASURED @ (included * shares) / (included @ shares)
    np.testing.assert_allclose(panels.coverage(joined, included), expected, rtol=0.01)


def test_the_normaliser_is_that_of_cells_with_all_genes(whole, joined, panels):
    truth, found = (
        CountNormalizer(N_GENES).fit(counts, panels=given)
        for counts, given in ((whole, None), (joined, panels))
    )
    assert found.target_sum.item() == pytest.approx(truth.target_sum.item(), rel=0.02)
    torch.testing.assert_close(found.library_gene, truth.library_gene)
    errors = [
        (each.mean_share / truth.mean_share).log().abs()
        for each in (found, CountNormalizer(N_GENES).fit(joined))
    ]
    assert errors[0].mean() < 0.03
    assert errors[1].mean() > 0.2
    np.testing.assert_allclose(found.scale, truth.scale, rtol=0.2)


@pytest.mark.parametrize("value", [1.0, 500.0])
def test_the_values_of_genes_that_were_not_measured_are_not_read(joined, panels, value):
    plain, other = (
        CountNormalizer(N_GENES).fit(counts, panels=panels)
        for counts in (joined, filled(joined, value))
    )
    for name, buffer in plain.state_dict().items():
        assert torch.equal(buffer, other.state_dict()[name]), name


def test_one_panel_with_all_genes_is_the_default(whole):
    given = GenePanels.find(whole, np.zeros(N_CELLS, dtype=int))
    plain, other = CountNormalizer(N_GENES).fit(whole), CountNormalizer(N_GENES)
    other.fit(whole, panels=given)
    for name, buffer in plain.state_dict().items():
        assert torch.equal(buffer, other.state_dict()[name]), name


def test_profiles_are_those_of_the_cells_of_each_panel_alone():
    values, leaves = torch.rand(30, 4), torch.arange(30) % 3
    mask = torch.tensor([1.0, 1.0, 0.0, 1.0])
    first, second = slice(0, 15), slice(15, 30)
    lacking = leaves[second].clamp_max(1)  # no cell of the third leaf
    parts = [
        LeafSums.of(values[first], leaves[first], 3),
        LeafSums.of(values[second] * mask, lacking, 3, mask),
    ]
    joint, alone = LeafSums.sum(parts).profiles(), parts[0].profiles()
    torch.testing.assert_close(joint.mean[:, 2], alone.mean[:, 2])
    of_first = torch.cat([values[first][leaves[first] == 0], values[second][lacking == 0]])
    torch.testing.assert_close(joint.mean[0, [0, 1, 3]], of_first.mean(0)[[0, 1, 3]])
    assert joint.n_cells.tolist() == [10.0, 15.0, 5.0]
    spread = of_first[:, [0, 1, 3]].var(0, correction=0).sum()
    spread += values[first][leaves[first] == 0][:, 2].var(correction=0)
    assert float(joint.spread[0]) == pytest.approx(float(spread), rel=1e-4)


def test_a_gene_that_no_cell_of_a_leaf_has_gets_the_mean_of_the_others():
    values, mask = torch.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 0.0]]), torch.tensor([1.0, 0.0])
    sums = LeafSums.of(values[:2], torch.tensor([0, 1]), 4)
    sums += LeafSums.of(values[2:], torch.tensor([2]), 4, mask)
    assert sums.profiles().mean.tolist() == [[1, 2], [3, 6], [5, 4], [0, 0]]


def test_the_covariance_does_not_read_them_either():
    rng = torch.Generator().manual_seed(0)
    values = torch.randn(600, 5, generator=rng) * torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0])
    leaves, measured = torch.arange(600) % 2, torch.ones(600, 5)
    measured[300:, 1] = measured[:200, 4] = 0
    sums = [
        LeafSums.of(values[rows] * measured[rows], leaves[rows], 2, measured[rows][0])
        for rows in (slice(0, 200), slice(200, 300), slice(300, 600))
    ]
    profiles = LeafSums.sum(sums).profiles()
    found = profiles.with_covariance(values * measured, leaves, measured)
    other = profiles.with_covariance(values + 9 * (1 - measured), leaves, measured)
    assert torch.equal(found.variance, other.variance)
    for gene in range(5):
        here = measured[:, gene] > 0
        own = [values[here & (leaves == leaf), gene].var() for leaf in range(2)]
        assert float(found.variance[gene]) == pytest.approx(float(sum(own) / 2), rel=0.02)


def test_counts_of_other_genes_are_drawn_from_the_profile_of_the_type(joined, panels, shares):
    groups = CODES % 2
    profile = panels.mean_shares(joined, groups, 2)
    np.testing.assert_allclose(profile, np.stack([shares, shares]), rtol=0.06, atol=2e-4)
    found = panels.complete(joined, profile, groups, seed=0)
    np.testing.assert_array_equal(
        found.toarray()[MEASURED[CODES]], joined.toarray()[MEASURED[CODES]]
    )
    for panel in range(3):
        mean = found[panel == CODES].mean(axis=0)
        np.testing.assert_allclose(np.asarray(mean).ravel() / mean.sum(), shares, atol=0.001)
    again = panels.complete(joined, profile, groups, seed=0)
    assert (found != again).nnz == 0
