import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

import hdeepinsight as hdi
from hdeepinsight import pl
from hdeepinsight._palette import MISSING

LABELS = ["x", "x", "CD8", None, "x"]


def texts(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def blocks(ax) -> list[Rectangle]:
    return [patch for patch in ax.patches if isinstance(patch, Rectangle)]


def test_cells_follow_their_path_and_stay_where_it_ends(result):
    given, first, second, third = np.split(np.array(texts(pl.alluvial(result, LABELS))), [4, 8, 13])
    assert given.tolist() == ["CD8  1", "x  3", "no label  1", "given"]
    assert first.tolist() == ["T  3", "B  1", "Unknown  1", "level_1"]
    assert second.tolist() == ["CD4  2", "CD8  1", "B  1", "Unknown  1", "level_2"]
    assert third.tolist() == [
        "CD4 (stopped)  1",
        "naive  1",
        "CD8  1",
        "B  1",
        "Unknown  1",
        "level_3",
    ]


def test_heights_are_shares_and_streams_fill_their_blocks(result):
    ax = pl.alluvial(result, LABELS)
    height = {}
    for block in blocks(ax):
        height.setdefault(round(block.get_x(), 6), []).append(block.get_height())
    totals = [sum(column) for column in height.values()]
    np.testing.assert_allclose(totals, totals[0])
    np.testing.assert_allclose(height[min(height)], np.array([1, 3, 1]) / 5 * totals[0])
    for streams in ax.collections:
        widths = [np.ptp(path.vertices[[0, -1], 1]) for path in streams.get_paths()]
        assert sum(widths) == pytest.approx(totals[0])


def test_a_label_has_its_colour_in_every_column_and_hollow_blocks_stop_above_a_type(result):
    ax = pl.alluvial(result, LABELS)
    drawn = [to_hex(block.get_edgecolor()) for block in blocks(ax)]
    ordered = [text.rsplit("  ", 1)[0] for text in texts(ax) if "  " in text]
    for name, color in zip(ordered, drawn, strict=True):
        expected = result.colors.get(name.removesuffix(" (stopped)"), MISSING)
        assert color == expected.lower()
    hollow = [to_hex(b.get_facecolor()) == "#ffffff" for b in blocks(ax)]
    assert [n for n, open_ in zip(ordered, hollow, strict=True) if open_] == [
        "Unknown",
        "Unknown",
        "CD4 (stopped)",
        "Unknown",
    ]


def test_names_of_fifty_types_keep_apart():
    tax = hdi.Taxonomy.immune()
    p = tax.ancestor_matrix.astype(float)  # a cell of each type
    many = hdi.Annotation(taxonomy=tax, obs_names=[*map(str, tax.leaves)], node_probabilities=p)
    ax = pl.alluvial(many, [tax.path_name(int(v)) for v in tax.leaves])
    ax.figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 50 + 15 + 50 + 3
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_one_cell_fills_every_column(tree):
    p = np.array([[1.0, 0, 1, 0, 0, 0, 0]])
    one = hdi.Annotation(taxonomy=tree, obs_names=["a"], node_probabilities=p)
    assert texts(pl.alluvial(one, ["k"]))[::2] == ["k  1", "B  1", "B  1", "B  1"]


def test_bad_input_is_refused(result, empty):
    with pytest.raises(ValueError, match="4 labels for 5 cells"):
        pl.alluvial(result, ["x"] * 4)
    with pytest.raises(ValueError, match="has no cell"):
        pl.alluvial(empty, [])


@pytest.mark.parametrize("draw", [pl.alluvial, pl.dotplot, pl.novelty])
def test_groups_of_cells_in_another_order_are_refused(result, draw):
    groups = pd.Series(list("xxxyz"), index=result.obs_names)
    draw(result, groups)
    draw(result, groups.reset_index(drop=True))  # numbers name no cells
    with pytest.raises(ValueError, match=r"another order.* groups\.loc\[obs_names\]"):
        draw(result, groups[::-1])
