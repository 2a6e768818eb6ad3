import dataclasses

import numpy as np
import pandas as pd
import pytest

import hdeepinsight as hdi
from hdeepinsight import pl
from hdeepinsight.metrics import expected_calibration_error


def dots(ax) -> np.ndarray:
    """(mean confidence, accuracy) of each bin; the first line is the diagonal."""
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
    # Wilson interval of 6 of 10
    np.testing.assert_allclose(interval[:, 1], [0.3127, 0.8318], atol=1e-4)


def test_histogram_counts_every_cell():
    ax = pl.reliability([0.01, 0.99, 0.98, 1.0], [True] * 4)
    heights = np.array([bar.get_height() for bar in ax.patches])
    np.testing.assert_allclose(heights[[0, -1]], [0.2 / 3, 0.2])
    assert np.count_nonzero(heights) == 2


def test_one_cell():
    np.testing.assert_allclose(dots(pl.reliability([0.7], [True])), [[0.7, 1.0]])


def test_bad_input_is_refused():
    for confidence, correct, match in [
        ([], [], "at least one cell"),
        ([0.5, 0.5], [True], r"\(2,\), \(1,\)"),
        ([1.5], [True], "from 0 to 1, got"),
        ([np.nan], [True], "finite"),
        ([0.5, 0.5], [True, None], "without unlabelled cells"),
    ]:
        with pytest.raises(ValueError, match=match):
            pl.reliability(confidence, correct)


def test_a_sum_above_one_by_rounding_is_one():
    ax = pl.reliability([1 + 1e-7, 1.0], [True, True])
    assert ax.get_title() == "expected calibration error 0.000 (2 cells)"


def test_invalid_numbers_of_bins_are_refused():
    with pytest.raises(ValueError, match="n_bins must be an integer >= 1, got 0"):
        pl.reliability([0.5], [True], n_bins=0)


def test_every_label_has_a_ridge_in_tree_order_with_its_median(result):
    ax = pl.novelty(result, measure="doublet_score")
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["CD4  (1)", "naive  (1)", "CD8  (1)", "B  (1)", "Unknown  (1)"]
    medians = [line.get_xdata()[0] for line in ax.lines[1::2]]
    assert medians == [1.0, 0.0, 2.0, 3.0, 4.0]


def ridges(values, groups, measure) -> tuple[np.ndarray, np.ndarray]:
    """Plot these values; return the grid and the height of each ridge on it."""
    tree = hdi.Taxonomy.from_nested({"T": [], "B": []})
    cells = hdi.Annotation(
        taxonomy=tree,
        obs_names=[str(i) for i in range(len(values))],
        node_probabilities=np.tile([1, 0.9, 0.1], (len(values), 1)),
        novelty=pd.DataFrame({measure: values}),
    )
    lines = pl.novelty(cells, groups, measure=measure).lines
    lines = [line for line in lines if len(line.get_xdata()) > 2]
    heights = [row - line.get_ydata() for row, line in enumerate(lines)]
    return lines[0].get_xdata(), np.stack(heights)


def test_ridges_are_densities_of_equal_area_around_their_cells():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(size=2_000), rng.normal(5, 1, size=20)])
    grid, height = ridges(values, ["a"] * 2_000 + ["b"] * 20, "doublet_score")
    area = height.sum(axis=1)
    np.testing.assert_allclose(area, area[0])
    means = [values[:2_000].mean(), values[2_000:].mean()]
    np.testing.assert_allclose(height @ grid / area, means, atol=grid[1] - grid[0])
    expected = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi) * (grid[1] - grid[0])
    assert np.abs(height[0] / area[0] - expected).max() < 0.1 * expected.max()


def test_p_values_keep_their_mass_within_0_and_1():
    grid, height = ridges(np.array([0.0, 0.0, 1.0]), ["a"] * 3, "lineage_p_value")
    assert grid[0] > 0
    assert grid[-1] < 1
    assert height[0, :200].sum() / height.sum() == pytest.approx(2 / 3, abs=0.03)


def test_shares_at_or_below_alpha_are_written(result):
    ax = pl.novelty(result, ["a", "a", "b", "b", None], alpha=0.05)
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["0% ≤ 0.05", "100% ≤ 0.05", "100% ≤ 0.05"]
    assert ax.get_xlim() == pytest.approx((0.0, 1.0))


def test_cells_that_are_all_alike(result):
    same = dataclasses.replace(result, novelty=result.novelty.assign(doublet_score=1.0))
    ax = pl.novelty(same, ["a"] * 5, measure="doublet_score")
    assert ax.lines[1].get_xdata()[0] == 1.0
    assert np.isfinite(ax.lines[0].get_ydata()).all()
    scores = [1.0, np.nan, 2.0, np.nan, 2.0]  # cells without counts have none
    some = dataclasses.replace(result, novelty=result.novelty.assign(doublet_score=scores))
    ax = pl.novelty(some, ["a", "b", "a", "b", "c"], measure="doublet_score")
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a  (2)", "c  (1)"]


def test_bad_input_of_novelty_is_refused(result):
    for options, match in [
        ({"measure": "distance"}, "'distance'"),
        ({"measure": "type_p_value"}, "got no type p value"),
        ({"alpha": 5}, "alpha must be .* got 5"),
        ({"groups": ["a"]}, "groups has 1 entries for 5 cells"),
    ]:
        with pytest.raises(ValueError, match=match):
            pl.novelty(result, **options)
    with pytest.raises(ValueError, match="got no lineage p value"):
        pl.novelty(dataclasses.replace(result, novelty=None))
