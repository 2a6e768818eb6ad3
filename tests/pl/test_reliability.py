import numpy as np
import pytest

from hdeepinsight import pl
from hdeepinsight.metrics import expected_calibration_error


def dots(ax) -> np.ndarray:
    """(mean confidence, share right) of each bin; the first line is the diagonal."""
    return np.column_stack(ax.lines[1].get_data())


def test_dots_are_the_means_of_equal_bins():
    rng = np.random.default_rng(0)
    confidence = rng.permutation(np.linspace(0.2, 1.0, 300))
    correct = rng.random(300) < confidence
    order = np.argsort(confidence)
    expected = [
        (confidence[part].mean(), correct[part].mean()) for part in np.array_split(order, 10)
    ]
    np.testing.assert_allclose(dots(pl.reliability(confidence, correct, n_bins=10)), expected)


def test_title_is_the_calibration_error_of_the_same_bins():
    rng = np.random.default_rng(1)
    confidence, correct = rng.random(500), rng.random(500) < 0.5
    ax = pl.reliability(confidence, correct)
    error = expected_calibration_error(confidence, correct)
    assert ax.get_title() == f"expected calibration error {error:.3f} (500 cells)"
    said, right = dots(ax).T
    assert np.abs(said - right).mean() == pytest.approx(error, abs=0.01)


def test_gaps_reach_from_the_diagonal_to_the_dots():
    ax = pl.reliability([0.9] * 10, [True] * 6 + [False] * 4)
    interval, gap = (lines.get_segments()[0] for lines in ax.collections)
    np.testing.assert_allclose(gap, [[0.9, 0.9], [0.9, 0.6]])
    # Wilson's interval of 6 of 10, from his formula
    np.testing.assert_allclose(interval[:, 1], [0.3127, 0.8318], atol=1e-4)


def test_histogram_counts_every_cell():
    ax = pl.reliability([0.01, 0.99, 0.98, 1.0], [True] * 4)
    heights = np.array([bar.get_height() for bar in ax.patches])
    np.testing.assert_allclose(heights[[0, -1]], [0.2 / 3, 0.2])
    assert np.count_nonzero(heights) == 2


def test_one_cell():
    np.testing.assert_allclose(dots(pl.reliability([0.7], [True])), [[0.7, 1.0]])


@pytest.mark.parametrize(
    ("confidence", "correct", "match"),
    [
        pytest.param([], [], "At least one is needed", id="no_cell"),
        pytest.param([0.5, 0.5], [True], r"\(2,\) and \(1,\)", id="lengths"),
        pytest.param([1.5], [True], "probability", id="above_one"),
        pytest.param([np.nan], [True], "finite", id="nan"),
        pytest.param([0.5, 0.5], [True, None], "leave out cells without one", id="unknown"),
    ],
)
def test_bad_input_is_refused(confidence, correct, match):
    with pytest.raises(ValueError, match=match):
        pl.reliability(confidence, correct)


def test_a_sum_that_rounding_lifts_above_one_is_one():
    ax = pl.reliability([1 + 1e-7, 1.0], [True, True])
    assert ax.get_title() == "expected calibration error 0.000 (2 cells)"


def test_bins_that_are_no_number_of_bins_are_refused():
    with pytest.raises(ValueError, match="n_bins must be an integer >= 1, got 0"):
        pl.reliability([0.5], [True], n_bins=0)
