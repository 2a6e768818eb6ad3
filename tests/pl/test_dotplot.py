import numpy as np
import pytest

from hdeepinsight import pl

LABELS = ["1", "1", "1", None, "0"]


def drawn(ax) -> dict[tuple[str, str], tuple[float, float]]:
    """Share and confidence of each dot, by row and column."""
    columns = [label.get_text() for label in ax.get_xticklabels()]
    rows = [label.get_text() for label in ax.get_yticklabels()]
    dots = ax.collections[0]
    whole = ax.get_legend().legend_handles[-1].get_markersize() ** 2
    return {
        (rows[int(y)], columns[int(x)]): (size / whole, value)
        for (x, y), size, value in zip(
            dots.get_offsets(), dots.get_sizes(), dots.get_array(), strict=True
        )
    }


def test_dots_are_shares_and_mean_confidences_of_each_label(result):
    found = drawn(pl.dotplot(result, LABELS))
    expected = {
        ("0  (1)", "Unknown"): (1.0, 0.4),
        ("1  (3)", "CD4"): (1 / 3, 0.8),
        ("1  (3)", "naive"): (1 / 3, 0.8),
        ("1  (3)", "CD8"): (1 / 3, 0.7),
        ("no label  (1)", "B"): (1.0, 0.9),
    }
    assert found.keys() == expected.keys()
    for place, numbers in expected.items():
        assert found[place] == pytest.approx(numbers)


def test_a_level_takes_the_decoded_labels_and_their_probabilities_there(result):
    found = drawn(pl.dotplot(result, ["k"] * 5, level="level_2"))
    cd4 = (result.node_probabilities[[0, 1], 3]).mean()
    assert found["k  (5)", "CD4"] == pytest.approx((2 / 5, cd4))
    assert found["k  (5)", "B"] == pytest.approx((2 / 5, 0.65))  # a leaf above the level
    assert sum(share for share, _ in found.values()) == pytest.approx(1.0)


def test_labels_stand_in_tree_order_with_unknown_last(result):
    ax = pl.dotplot(result, LABELS)
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names == ["CD4", "naive", "CD8", "B", "Unknown"]
    assert ax.collections[0].get_clim() == (0.0, 1.0)


@pytest.mark.parametrize(
    ("groups", "options", "match"),
    [
        pytest.param(["a"], {}, "1 labels for 5 cells", id="lengths"),
        pytest.param(["a"] * 5, {"level": "no"}, "level must be one of", id="level"),
    ],
)
def test_bad_input_is_refused(result, groups, options, match):
    with pytest.raises(ValueError, match=match):
        pl.dotplot(result, groups, **options)


def test_no_cell_is_refused(empty):
    with pytest.raises(ValueError, match="has no cell"):
        pl.dotplot(empty, np.empty(0, dtype=object))


def test_the_root_is_no_level(result):
    with pytest.raises(ValueError, match="got 0, which is the root"):
        pl.dotplot(result, LABELS, level=0)
