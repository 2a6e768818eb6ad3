"""Expected calibration error."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdeepinsight.annotation import expected_calibration_error


def naive_error(confidence, correct, n_bins=15):
    """Bins of equal numbers of cells; ties go to the bin in which the first of them falls."""
    ranked = sorted(zip(confidence, correct, strict=True))
    n = len(ranked)
    n_bins = min(n_bins, n)
    bins = {}
    for c, right in ranked:
        rank = next(i for i, (other, _) in enumerate(ranked) if other == c)
        bins.setdefault(rank * n_bins // n, []).append((c, right))
    return sum(abs(sum(c for c, _ in b) - sum(right for _, right in b)) for b in bins.values()) / n


def test_values_equal_a_plain_loop():
    for decimals in [1, 12]:
        for n_bins in [1, 4, 15]:
            for n_cells in [1, 7, 15, 16, 100]:
                rng = np.random.default_rng(n_cells)
                confidence = rng.uniform(0, 1, n_cells).round(decimals)
                correct = rng.random(n_cells) < 0.5
                got = expected_calibration_error(confidence, correct, n_bins=n_bins)
                assert got == pytest.approx(naive_error(confidence, correct, n_bins), abs=1e-9)


def test_bins_hold_equal_numbers_of_cells():
    confidence = np.linspace(0.1, 0.9, 12)
    correct = np.array([0, 0, 0, 1] * 3)
    gaps = [abs(confidence[i : i + 4].mean() - 0.25) for i in (0, 4, 8)]
    error = expected_calibration_error(confidence, correct, n_bins=3)
    assert error == pytest.approx(np.mean(gaps))


def test_calibrated_confidence_has_almost_no_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1.0, 200_000)
    correct = rng.random(200_000) < confidence
    assert expected_calibration_error(confidence, correct) < 0.006
    shifted = np.clip(confidence + 0.1, 0, 1)
    assert expected_calibration_error(shifted, correct) == pytest.approx(0.095, abs=0.006)


@pytest.mark.parametrize(("confidence", "right", "error"), [(1.0, 0, 1.0), (1.0, 1, 0.0)])
def test_certainty(confidence, right, error):
    assert expected_calibration_error(np.full(40, confidence), np.full(40, right)) == error


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), decimals=st.sampled_from([1, 2, 10]))
def test_order_does_not_matter_and_the_error_is_bounded(seed, decimals):
    rng = np.random.default_rng(seed)
    confidence, correct = rng.random(50).round(decimals), rng.random(50) < 0.7
    order = rng.permutation(50)
    error = expected_calibration_error(confidence, correct)
    assert expected_calibration_error(confidence[order], correct[order]) == error
    overall = abs(confidence.mean() - correct.mean())
    assert overall - 1e-9 <= error <= 1.0


def test_no_cells_have_no_error():
    assert math.isnan(expected_calibration_error(np.array([]), np.array([])))


def test_invalid_confidence_raises():
    for confidence, correct, n_bins, says in [
        ([0.5] * 2, [1, 0, 1], 15, r"\(2,\), \(3,\)"),
        ([95.0, 50.0], [1, 0], 15, "not logits or percent"),
        ([0.5, 0.5], [1, 5], 15, "correct must be boolean"),
        ([0.5, 0.5], [1, 0], 0, "n_bins must be an integer >= 1, got 0"),
    ]:
        with pytest.raises(ValueError, match=says):
            expected_calibration_error(confidence, correct, n_bins=n_bins)
