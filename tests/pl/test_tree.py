from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex

from hdeepinsight import pl
from hdeepinsight._palette import MISSING, PALETTE
from hdeepinsight.taxonomy import Taxonomy


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def dots(ax) -> PathCollection:
    return ax.collections[-1]


def test_nodes_show_the_number_of_cells_at_or_below_them(tree):
    ax = pl.taxonomy(tree, [1, 2, 3, 4, 5, 6, 1000])
    assert texts(ax) == ["T  1,017", "B  3", "CD4  1,010", "CD8  5", "naive  6", "memory  1,000"]


def test_counts_by_any_name(tree):
    for counts in [
        {"CD4": 4, "B": 3},
        {("T", "CD4"): 4, ("B",): 3},
        {3: 4, 2: 3},
        pd.Series({"CD4": 4, "B": 3}),
        np.array([0, 0, 3, 4, 0, 0, 0]),
    ]:
        assert texts(pl.taxonomy(tree, counts))[:3] == ["T  4", "B  3", "CD4  4"]


def test_the_input_is_not_modified(tree):
    counts = np.arange(7)
    pl.taxonomy(tree, counts)
    np.testing.assert_array_equal(counts, np.arange(7))


def test_edges_join_each_child_to_its_parent(tree):
    ax = pl.taxonomy(tree)
    places = dots(ax).get_offsets()
    edges = ax.collections[0].get_paths()
    assert len(edges) == tree.n_edges
    for edge, path in enumerate(edges):
        np.testing.assert_allclose(path.vertices[0], places[tree.parent[edge + 1]])
        np.testing.assert_allclose(path.vertices[-1], places[edge + 1])


def test_nodes_stand_in_columns_of_their_depth_and_leaves_in_rows_of_their_own(tree):
    x, y = np.asarray(dots(pl.taxonomy(tree)).get_offsets()).T
    for depth in range(tree.max_depth + 1):
        assert len(set(x[tree.depth == depth])) == 1
    assert sorted(y[tree.leaves]) == list(range(tree.n_leaves))
    assert y[3] == (y[5] + y[6]) / 2


def test_nodes_and_the_edges_to_them_have_the_colour_of_their_label(tree):
    ax = pl.taxonomy(tree)
    colors = [to_hex(color) for color in dots(ax).get_facecolors()]
    assert colors[:3] == [MISSING.lower(), *(color.lower() for color in PALETTE[:2])]
    assert len(set(colors)) == 7
    assert [to_hex(color) for color in ax.collections[0].get_edgecolors()] == colors[1:]


def test_nodes_of_one_label_have_one_colour():
    tax = Taxonomy.from_nested({"NKT": ["NKT", "type1"]})
    colors = dots(pl.taxonomy(tax)).get_facecolors()
    np.testing.assert_array_equal(colors[1], colors[tax.resolve(("NKT", "NKT"))])


def test_dots_grow_with_the_count(tree):
    sizes = dots(pl.taxonomy(tree, {"naive": 900, "CD8": 100})).get_sizes()
    assert sizes[0] == sizes.max()
    assert sizes[5] > sizes[4] > sizes[2]


def test_level_names_head_their_columns(tree):
    ax = pl.taxonomy(tree, title="mine")
    assert [label.get_text() for label in ax.get_xticklabels()] == list(tree.level_names)
    assert ax.get_title() == "mine"


def test_names_of_the_immune_tree_do_not_overlap():
    ax = pl.taxonomy(Taxonomy.immune(), np.full(66, 1000))
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 65
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_confidence_is_written_and_colours_the_dots(tree):
    ax = pl.taxonomy(tree, {"CD4": 4}, confidence={"T": 0.5, ("B",): 1.0})
    assert texts(ax) == ["T  4  0.50", "B  0  1.00", "CD4  4", "CD8  0", "naive  0", "memory  0"]
    values = np.ma.filled(np.ma.masked_invalid(dots(ax).get_array()), -1.0)
    np.testing.assert_array_equal(values, [-1, 0.5, 1, -1, -1, -1, -1])
    assert dots(ax).get_clim() == (0.0, 1.0)
    assert ax.figure.axes[1].get_ylabel() == "mean confidence"


def test_counts_and_confidence_of_an_annotation_are_shown(result):
    p = result.node_probabilities
    at_or_under = {"T": [0, 1, 2], "B": [3], "CD4": [0, 1], "CD8": [2], "naive": [0]}
    expected = [
        f"{name}  {len(cells)}  {p[cells, node].mean():.2f}"
        for node, (name, cells) in enumerate(at_or_under.items(), start=1)
    ]
    assert texts(pl.taxonomy(result)) == [*expected, "memory  0"]


@pytest.mark.parametrize("confidence", [[2.0] * 7, {"T": -0.1}])
def test_confidence_outside_0_and_1_is_refused(tree, confidence):
    with pytest.raises(ValueError, match="from 0 to 1"):
        pl.taxonomy(tree, confidence=confidence)


def test_names_are_not_interpreted_as_mathematics():
    ax = pl.taxonomy(Taxonomy.from_nested({"$x$": [], "γδ": []}))
    ax.figure.canvas.draw()
    assert texts(ax) == [r"\$x\$", "γδ"]


@pytest.mark.parametrize("counts", [[1, 2], np.zeros((7, 1))])
def test_counts_of_another_length_are_refused(tree, counts):
    with pytest.raises(ValueError, match=r"one number per node, shape \(7,\)"):
        pl.taxonomy(tree, counts)


def test_invalid_counts_are_refused(tree):
    for counts, says in [
        ({"B": np.nan}, "must be integers"),
        ({"B": 0.5}, "not fractions of cells"),
        ({"B": -4}, "from -4 to 0"),
        ({-1: 5}, "A node must be 0 to 6, got -1"),
        ({99: 5}, "A node must be 0 to 6, got 99"),
    ]:
        with pytest.raises((ValueError, IndexError), match=says):
            pl.taxonomy(tree, counts)
    with pytest.raises(ValueError, match="cmap has no effect without confidence"):
        pl.taxonomy(tree, cmap="viridis")


def test_a_confidence_of_one_plus_rounding_is_accepted(tree):
    ax = pl.taxonomy(tree, confidence={"B": 1 + 1e-7})
    assert "B  1.00" in [text.get_text() for text in ax.texts]


def test_models_are_accepted(tree):
    model = SimpleNamespace(taxonomy=tree)
    drawn, expected = (pl.taxonomy(given).texts for given in (model, tree))
    assert [text.get_text() for text in drawn] == [text.get_text() for text in expected]


@pytest.mark.parametrize("draw", [pl.dotplot, pl.novelty])
def test_groups_of_cells_in_another_order_are_refused(result, draw):
    groups = pd.Series(list("xxxyz"), index=result.obs_names)
    draw(result, groups)
    draw(result, groups.reset_index(drop=True))  # an index of numbers is not matched
    with pytest.raises(ValueError, match=r"another order.* groups\.loc\[obs_names\]"):
        draw(result, groups[::-1])
