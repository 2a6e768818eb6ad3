"""Masks of genes and thinned counts."""

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.stats import ks_2samp

from hdeepinsight.nn import CountThinning, GeneMasking


def test_masks_are_zeros_and_ones():
    masks = GeneMasking().sample(20, 30)
    assert masks.shape == (20, 30)
    assert masks.dtype == torch.float32
    assert set(masks.unique().tolist()) == {0.0, 1.0}


def test_rates_are_those_of_the_settings():
    for p_whole, max_rate in [(0.3, 0.5), (0.0, 1.0), (0.8, 0.2)]:
        masks = GeneMasking(p_whole=p_whole, max_rate=max_rate).sample(4000, 500)
        hidden = 1 - masks.mean(dim=1)
        whole = (hidden == 0).float().mean().item()
        # A cell that is not whole still keeps all genes where its own rate is about 0.
        by_chance = (1 - p_whole) / (max_rate * 501)
        assert whole == pytest.approx(p_whole + by_chance, abs=0.03)
        assert hidden.mean().item() == pytest.approx((1 - p_whole) * max_rate / 2, abs=0.015)
        assert hidden.max().item() < max_rate + 0.08
        # The rate is uniform: of all cells, a quarter of the masked ones hide over 3/4 of the most.
        above = (hidden > 0.75 * max_rate).float().mean().item()
        assert above == pytest.approx((1 - p_whole) / 4, abs=0.02)


def test_genes_drop_independently():
    masks = GeneMasking(p_whole=0.0, max_rate=0.6).sample(6000, 20)
    per_gene = masks.mean(dim=0)
    np.testing.assert_allclose(per_gene, 0.7, atol=0.03)
    residual = masks - masks.mean(dim=1, keepdim=True)
    correlation = np.corrcoef(residual.numpy().T) + 1 / 19  # centring couples genes by -1/(G-1)
    assert np.abs(correlation[~np.eye(20, dtype=bool)]).max() < 0.06


@pytest.mark.parametrize("masking", [GeneMasking.none(), GeneMasking(max_rate=0.0)])
def test_no_masking_keeps_every_gene(masking):
    assert torch.equal(masking.sample(5, 6), torch.ones(5, 6))


def test_masks_repeat_with_the_seed():
    torch.manual_seed(7)
    first = GeneMasking().sample(10, 100)
    second = GeneMasking().sample(10, 100)
    torch.manual_seed(7)
    assert torch.equal(GeneMasking().sample(10, 100), first)
    assert not torch.equal(first, second)


def thin_csr(thinning, counts, seed=0):
    return thinning.sample(sparse.csr_matrix(counts), np.random.default_rng(seed)).toarray()


def thin_dense(thinning, counts, seed=0):
    batch = torch.from_numpy(counts)
    return thinning.sample_dense(batch, torch.Generator().manual_seed(seed)).numpy()


BOTH = (thin_csr, thin_dense)
both_ways = pytest.mark.parametrize("thin", BOTH)


def full(value, n_cells=400, n_genes=50):
    return np.full((n_cells, n_genes), value, dtype=np.float32)


@both_ways
def test_thinned_counts_never_exceed_the_originals(thin):
    counts = np.random.default_rng(0).poisson(1.5, size=(300, 40)).astype(np.float32)
    before = counts.copy()
    thinned = thin(CountThinning(p=1.0, min_rate=0.1), counts)
    assert (thinned >= 0).all()
    assert (thinned == np.rint(thinned)).all()
    assert (thinned <= counts).all()
    assert thinned.sum() < counts.sum()
    assert thinned.dtype == counts.dtype
    np.testing.assert_array_equal(counts, before)


def test_a_thinned_matrix_shares_no_arrays():
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1.5, size=(300, 40)))
    before = counts.copy()
    CountThinning(p=1.0).sample(counts, np.random.default_rng(0)).eliminate_zeros()
    assert (counts != before).nnz == 0


@both_ways
def test_kept_share_is_log_uniform(thin):
    counts = full(200.0, 3000)
    share = thin(CountThinning(p=1.0, min_rate=0.2), counts).sum(axis=1) / counts.sum(axis=1)
    assert np.log(share).mean() == pytest.approx(np.log(0.2) / 2, abs=0.03)
    expected = [np.exp(np.log(0.2) * (1 - q)) for q in (0.1, 0.5, 0.9)]
    np.testing.assert_allclose(np.quantile(share, [0.1, 0.5, 0.9]), expected, atol=0.03)
    assert share.min() > 0.18


@both_ways
def test_molecules_of_a_cell_are_kept_binomially(thin):
    thinned = thin(CountThinning(p=1.0, min_rate=0.2), full(20.0, 1000))
    thinned = thinned[thinned.mean(axis=1) < 19]
    rate = thinned.mean(axis=1) / 20  # 1,000 molecules per cell tell its rate
    variance = thinned.var(axis=1, ddof=1)
    assert (variance / (20 * rate * (1 - rate))).mean() == pytest.approx(1.0, abs=0.06)


@both_ways
def test_share_of_thinned_cells(thin):
    thinned = thin(CountThinning(p=0.7, min_rate=0.2), full(100.0, 2000))
    whole = (thinned.sum(axis=1) == 5000).mean()
    assert whole == pytest.approx(0.3, abs=0.035)


def test_a_mini_batch_is_thinned_as_a_sparse_matrix_is():
    for value in [1.0, 3.0, 12.0, 400.0]:
        thinning, counts = CountThinning(p=0.5, min_rate=0.3), full(value, 4000, 25)
        first, second = (thin(thinning, counts).ravel() / value for thin in BOTH)
        for moment in (1, 2, 3):
            assert (first**moment).mean() == pytest.approx((second**moment).mean(), abs=0.02)
        assert ks_2samp(first, second).statistic < 0.03


def test_genes_without_counts_take_no_random_numbers():
    counts = np.random.default_rng(0).poisson(0.1, size=(20, 90)).astype(np.float32)
    wide = np.concatenate([counts, np.zeros_like(counts)], axis=1)
    np.testing.assert_array_equal(
        thin_dense(CountThinning(), wide)[:, :90], thin_dense(CountThinning(), counts)
    )


@pytest.mark.parametrize("thinning", [CountThinning.none(), CountThinning(min_rate=1.0)])
def test_no_thinning_returns_the_counts(thinning):
    counts = sparse.csr_matrix(full(0.4))
    assert thinning.sample(counts, np.random.default_rng(0)) is counts
    batch = torch.from_numpy(full(0.4))
    assert thinning.sample_dense(batch) is batch


@both_ways
def test_thinning_repeats_with_the_seed(thin):
    draws = [thin(CountThinning(), full(9.0), seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_a_mini_batch_is_thinned_by_the_global_seed():
    batch = torch.full((30, 40), 9.0)
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(CountThinning().sample_dense(batch))
    assert torch.equal(*draws)
    assert not torch.equal(draws[0], CountThinning().sample_dense(batch))


@both_ways
def test_fractional_counts_are_rounded_before_they_are_thinned(thin):
    values = np.array([[0.4, 0.6, 1.5, 2.5, 3.49]], dtype=np.float32).repeat(500, axis=0)
    thinned = thin(CountThinning(p=1.0, min_rate=0.5), values)
    assert thinned.max(axis=0).tolist() == [0, 1, 2, 2, 3]
    assert (thinned == np.rint(thinned)).all()


@both_ways
def test_cells_without_counts_stay_empty(thin):
    thinned = thin(CountThinning(p=1.0), np.zeros((4, 9), dtype=np.float32))
    assert thinned.shape == (4, 9)
    assert thinned.sum() == 0


def test_a_mini_batch_keeps_its_type():
    for dtype in [torch.float16, torch.bfloat16, torch.float64, torch.int64]:
        thinned = CountThinning(p=1.0).sample_dense(torch.full((50, 20), 9, dtype=dtype))
        assert thinned.dtype == dtype
        assert 0 <= int(thinned.min()) < int(thinned.max()) <= 9


@pytest.mark.parametrize(
    "options", [GeneMasking(p_whole=0.1, max_rate=0.9), CountThinning(p=0.2, min_rate=0.4)]
)
def test_settings_round_trip_through_a_dict(options):
    values = options.to_dict()
    assert all(type(value) is float for value in values.values())
    assert type(options).of(values) == options


def test_settings_outside_the_unit_interval_are_refused():
    for value in [-0.1, 1.1, float("nan")]:
        for kind in [GeneMasking, CountThinning]:
            for name in kind().to_dict():
                with pytest.raises(
                    ValueError, match=f"{kind.__name__}: {name} must be a number from 0"
                ):
                    kind(**{name: value})
