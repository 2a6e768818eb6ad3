"""Centred log-ratios of proteins, against NumPy; and which modalities training hides."""

import numpy as np
import pytest
import torch

from hdeepinsight.nn import ModalityDropout, ProteinNormalizer


@pytest.fixture
def counts():
    rng = np.random.default_rng(0)
    return rng.poisson(rng.gamma(1.0, 30.0, size=(200, 12))).astype(np.float32)


@pytest.fixture
def fitted(counts):
    return ProteinNormalizer(12).fit(counts)


def test_clr_is_that_of_numpy(fitted, counts):
    logged = np.log1p(counts.astype(np.float64))
    expected = logged - logged.mean(axis=1, keepdims=True)
    found = fitted.clr(torch.from_numpy(counts), torch.ones(12)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=1), 0.0, atol=1e-4)


def test_values_run_from_the_first_to_the_99th_percentile(fitted, counts):
    logged = np.log1p(counts.astype(np.float64))
    ratios = logged - logged.mean(axis=1, keepdims=True)
    low, high = np.percentile(ratios, [1, 99], axis=0)
    expected = np.clip((ratios - low) / (high - low), 0, 1)
    values = fitted(torch.from_numpy(counts), torch.ones(200, 12)).numpy()
    np.testing.assert_allclose(values, expected, atol=1e-5)


def test_a_smaller_panel_keeps_its_values_where_they_are_expected(fitted):
    """A cell at the reference's mean has the same ratios under every mask."""
    typical = torch.expm1(fitted.mean_log).unsqueeze(0)
    whole = fitted.clr(typical, torch.ones(12))
    for kept in ([0, 1], [5], [2, 3, 7, 11]):
        mask = torch.zeros(12)
        mask[kept] = 1.0
        torch.testing.assert_close(fitted.clr(typical, mask)[:, kept], whole[:, kept])


def test_unmeasured_proteins_are_zero_whatever_their_counts(fitted, counts):
    mask = torch.ones(12)
    mask[3:6] = 0.0
    other = counts.copy()
    other[:, 3:6] = 1e6
    first, second = (fitted(torch.from_numpy(c), mask) for c in (counts, other))
    assert torch.equal(first, second)
    assert not first[:, 3:6].any()
    assert not fitted(torch.from_numpy(counts), torch.zeros(12)).any()


def test_a_cell_does_not_depend_on_others(fitted, counts):
    whole = fitted(torch.from_numpy(counts), torch.ones(12))
    alone = torch.cat([fitted(torch.from_numpy(row[None]), torch.ones(12)) for row in counts])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-6)


def test_a_deeper_stained_cell_has_the_same_ratios():
    """CLR is about composition: with counts far above 1, ten times as many change little."""
    counts = torch.tensor([[1000.0, 200.0, 5000.0]])
    normalizer = ProteinNormalizer(3)
    shallow, deep = (normalizer.clr(counts * k, torch.ones(3)) for k in (1, 10))
    torch.testing.assert_close(shallow, deep, atol=0.01, rtol=0)


def test_a_flat_protein_is_not_stretched():
    flat = np.full((100, 3), 7.0, dtype=np.float32)
    flat[:50, 0] += 1
    normalizer = ProteinNormalizer(3).fit(flat)
    assert (normalizer.high - normalizer.low >= 0.5 - 1e-6).all()


def test_a_reference_without_counts_is_refused():
    with pytest.raises(ValueError, match="none in any of the 4 cells and 2"):
        ProteinNormalizer(2).fit(np.zeros((4, 2), dtype=np.float32))


def test_fates_of_cells_have_the_given_rates():
    dropout = ModalityDropout(p_rna_only=0.3, p_proteins_only=0.1, p_whole=0.5, max_rate=0.6)
    rna, proteins = dropout.sample(40_000, 30)
    share = proteins.mean(dim=1)
    assert float((rna == 0).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert float((share == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    # Half of the others are whole; the rest keep 1 - 0.3 of their proteins on average.
    assert float(share[share > 0].mean()) == pytest.approx(0.5 + 0.5 * 0.7, abs=0.02)
    assert not ((rna.ravel() == 0) & (share == 0)).any()


def test_without_dropout_nothing_is_masked():
    rna, proteins = ModalityDropout.none().sample(100, 5)
    assert rna.all()
    assert proteins.all()


def test_invalid_rates_are_refused():
    for options in [
        {"p_whole": 1.5},
        {"max_rate": -0.1},
        {"p_rna_only": 0.7, "p_proteins_only": 0.4},
    ]:
        with pytest.raises(ValueError, match=r"must be (a number from 0 to 1|at most 1 together)"):
            ModalityDropout(**options)


def test_dropout_round_trips_through_a_dict():
    dropout = ModalityDropout(p_rna_only=0.2)
    assert ModalityDropout.of(dropout.to_dict()) == dropout
