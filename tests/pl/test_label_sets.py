from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from hdeepinsight import pl
from hdeepinsight.annotation import LabelSets


@pytest.fixture
def sets(tree) -> LabelSets:
    """Sets of 1, 1, 2 and 4 types of B, CD8, naive, memory."""
    contains = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 1], [1, 1, 1, 1]], dtype=bool)
    return LabelSets(
        taxonomy=tree,
        obs_names=pd.Index(list("abcd")),
        contains=contains,
        alpha=0.2,
        kind="leaves",
        groups=None,
        thresholds=pd.DataFrame({"n_cells": [9], "threshold": [0.5]}, index=["all"]),
        source="test",
    )


def heights(ax) -> list[float]:
    return [bar.get_height() for bar in ax.patches]


def test_bars_are_shares_of_cells_by_size(sets):
    ax = pl.label_set_sizes(sets)
    assert heights(ax) == [0.5, 0.25, 0.0, 0.25]
    assert [text.get_text() for text in ax.texts] == ["50%", "25%", "0%", "25%"]
    assert ax.get_title() == "2.00 types per set\ncoverage promised 80.0%"


def test_sets_that_miss_the_truth_stand_on_top(sets):
    ax = pl.label_set_sizes(sets, sets.holds(np.array([2, 2, 5, 5])))
    assert heights(ax) == [0.25, 0.25, 0.0, 0.25, 0.25, 0.0, 0.0, 0.0]
    assert [bar.get_y() for bar in ax.patches[4:]] == [0.25, 0.25, 0.0, 0.25]
    assert ax.get_title().endswith("observed 75.0%")


def test_empty_sets_are_shown(sets):
    none = replace(sets, contains=np.zeros((4, 4), dtype=bool))
    ax = pl.label_set_sizes(none, title="mine")
    assert heights(ax)[0] == 1.0
    assert ax.patches[0].get_x() + ax.patches[0].get_width() / 2 == 0.0
    assert ax.get_title() == "mine"


def test_bad_input_is_refused(sets):
    with pytest.raises(ValueError, match=r"shape \(2,\).*\(4,\)"):
        pl.label_set_sizes(sets, [True, False])
    none = replace(sets, contains=np.zeros((0, 4), dtype=bool), obs_names=pd.Index([]))
    with pytest.raises(ValueError, match="no label set"):
        pl.label_set_sizes(none)


def test_nodes_do_not_say_which_sets_hold_the_truth(sets):
    with pytest.raises(ValueError, match=r"One true or false per set .* sets\.holds\(true_nodes\)"):
        pl.label_set_sizes(sets, np.ones(len(sets), dtype=np.int64))
