import dataclasses

import numpy as np
import pandas as pd
import pytest

import hdeepinsight as hdi
from hdeepinsight import pl


def test_every_label_has_a_ridge_in_tree_order_with_its_median(result):
    ax = pl.novelty(result, measure="doublet_score")
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["CD4  (1)", "naive  (1)", "CD8  (1)", "B  (1)", "Unknown  (1)"]
    medians = [line.get_xdata()[0] for line in ax.lines[1::2]]
    assert medians == [1.0, 0.0, 2.0, 3.0, 4.0]


def ridges(values, groups, measure) -> tuple[np.ndarray, np.ndarray]:
    """Draw cells with these values; the grid, and the height of each group's ridge on it."""
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


@pytest.mark.parametrize(
    ("options", "match"),
    [
        pytest.param({"measure": "distance"}, "'distance'", id="measure"),
        pytest.param({"measure": "type_p_value"}, "knows no type p value", id="unknown"),
        pytest.param({"alpha": 5}, "alpha must be .* got 5", id="alpha"),
        pytest.param({"groups": ["a"]}, "1 labels for 5 cells", id="lengths"),
    ],
)
def test_bad_input_is_refused(result, options, match):
    with pytest.raises(ValueError, match=match):
        pl.novelty(result, **options)


def test_an_annotation_without_novelty_is_refused(result):
    with pytest.raises(ValueError, match="knows no lineage p value"):
        pl.novelty(dataclasses.replace(result, novelty=None))
