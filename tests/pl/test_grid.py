import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import confusion_matrix

from hdeepinsight import pl
from hdeepinsight.taxonomy import Taxonomy


def labels(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_rows_are_shares_of_the_true_type(tree):
    leaves = tree.leaves
    rng = np.random.default_rng(0)
    truth, predicted = rng.choice(leaves, 200), rng.choice(leaves, 200)
    ax = pl.confusion(tree, truth, predicted)
    order = [tree.resolve(name) for name in labels(ax.xaxis)]
    expected = confusion_matrix(truth, predicted, labels=order, normalize="true")
    np.testing.assert_allclose(np.asarray(ax.images[0].get_array()), expected)
    np.testing.assert_allclose(expected.sum(axis=1), 1.0)


def test_types_stand_in_tree_order_with_their_numbers_of_cells(tree):
    truth = tree.encode(["B", "CD8", "CD8", "naive", "memory", "memory"])
    ax = pl.confusion(tree, truth, truth)
    assert labels(ax.yaxis) == ["naive  (1)", "memory  (2)", "CD8  (2)", "B  (1)"]
    assert ax.get_title() == "6 of 6 cells correct (100.0%)"
    assert [text.get_text() for text in ax.texts] == ["100"] * 4


def test_a_level_merges_deeper_nodes_and_counts_predictions_above_it(tree):
    truth = tree.encode(["naive", "memory", "CD8", "CD8", "B"])
    predicted = np.array([5, 5, 3, 1, 0])  # naive, naive, CD4, T, root
    ax = pl.confusion(tree, truth, predicted, level=2)
    assert labels(ax.yaxis) == ["CD4  (2)", "CD8  (2)"]  # B ends above level 2
    assert labels(ax.xaxis) == ["CD4", "CD8", "stopped above"]
    np.testing.assert_allclose(ax.images[0].get_array(), [[1, 0, 0], [0.5, 0, 0.5]])
    assert ax.get_title() == "level_2: 2 of 4 cells correct (50.0%)"


def test_levels_by_name_and_number_agree(tree):
    truth = tree.encode(["naive", "CD8", "B"])
    by_name = pl.confusion(tree, truth, truth, level="level_1")
    by_depth = pl.confusion(tree, truth, truth, level=1)
    assert by_name.get_title() == by_depth.get_title()
    assert labels(by_name.yaxis) == ["T  (2)", "B  (1)"]


def test_types_without_true_cells_are_the_last_columns(tree):
    ax = pl.confusion(tree, tree.encode(["B", "CD8"]), tree.encode(["naive", "CD8"]))
    assert labels(ax.xaxis) == ["CD8", "B", "naive"]
    np.testing.assert_array_equal(ax.images[0].get_array(), [[1, 0, 0], [0, 0, 1]])


def test_repeated_names_are_told_apart_by_their_paths():
    tax = Taxonomy.from_nested({"NKT": ["NKT", "type1"], "B": []})
    truth = np.array([tax.resolve(("NKT", "NKT")), tax.resolve("B")])
    ax = pl.confusion(tax, truth, np.array([tax.resolve(("NKT",)), tax.resolve("B")]))
    assert labels(ax.xaxis) == ["NKT > NKT", "B", "NKT"]


def test_bad_input_is_refused(tree):
    for truth, predicted, level, match in [
        ([3, 4], [3], None, r"y_pred must be node indices .* one for each of 2 cells"),
        ([2, 2], [2, 2], 2, "At least one cell must have a true label"),
        ([3], [3], 9, "level must be one of"),
        ([1], [-1], 1, "y_pred must be node indices .* type int64"),
        ([1.7], [1.2], None, "y_true must be node indices .* type float64"),
        (["B"], ["B"], None, r"taxonomy\.encode"),
    ]:
        with pytest.raises(ValueError, match=match):
            pl.confusion(tree, truth, predicted, level=level)


def test_the_root_is_no_level(tree):
    with pytest.raises(ValueError, match=r"level must be one of \['level_1'.*the root"):
        pl.confusion(tree, [1], [1], level=0)


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


def test_a_level_shows_labels_and_probabilities_at_that_level(result):
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
        pytest.param(["a"], {}, "groups has 1 entries for 5 cells", id="lengths"),
        pytest.param(["a"] * 5, {"level": "no"}, "level must be one of", id="level"),
    ],
)
def test_bad_input_of_dots_is_refused(result, groups, options, match):
    with pytest.raises(ValueError, match=match):
        pl.dotplot(result, groups, **options)


def test_no_cell_is_refused(empty):
    with pytest.raises(ValueError, match="at least one cell"):
        pl.dotplot(empty, np.empty(0, dtype=object))


def test_the_root_is_no_level_of_dots(result):
    with pytest.raises(ValueError, match="got 0, which is the root"):
        pl.dotplot(result, LABELS, level=0)


def test_topics_are_in_the_order_of_their_groups():
    rng = np.random.default_rng(0)
    names, cells = [f"topic_{k}" for k in range(5)], [f"cell {i}" for i in range(40)]
    groups = np.array(["B", "T"])[np.arange(40) % 2]
    shares = rng.random((40, 5)) + 3 * np.eye(5)[np.where(groups == "B", 3, 1)]
    table = pd.DataFrame(shares / shares.sum(1, keepdims=True), cells, names)
    loadings = pd.DataFrame(rng.random((5, 20)), names, [f"G{i}" for i in range(20)])
    ax = pl.topics(table, loadings, groups, n_topics=1, n_genes=2)
    tops = {t: ", ".join(loadings.loc[t].sort_values().index[[-1, -2]]) for t in names}
    assert labels(ax.xaxis) == [f"topic_3: {tops['topic_3']}", f"topic_1: {tops['topic_1']}"]
    assert labels(ax.yaxis) == ["B  (20)", "T  (20)"]
    sizes = ax.collections[0].get_sizes()
    np.testing.assert_allclose(sizes / sizes.max(), [1, 0, 0, 1])
    means = table.groupby(groups).mean()[["topic_3", "topic_1"]].to_numpy().ravel()
    np.testing.assert_allclose(ax.collections[0].get_array(), means)
