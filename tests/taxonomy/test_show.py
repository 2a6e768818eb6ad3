"""The taxonomy as text."""

import numpy as np
import pandas as pd
import pytest

from hdeepinsight.taxonomy import Taxonomy


def test_the_tree_is_drawn(small):
    assert str(small).splitlines() == [
        "root",
        "├── T",
        "│   ├── CD4",
        "│   │   ├── naive",
        "│   │   └── Th1",
        "│   └── CD8",
        "│       └── naive",
        "└── B",
    ]


@pytest.mark.parametrize(
    "counts",
    [
        np.array([5, 10, 7, 0, 0, 1000, 0, 300]),
        {"root": 5, "T": 10, "B": 7, "T > CD4 > naive": 1000, 7: 300},
        pd.Series({"root": 5, "T": 10, "B": 7, "T > CD4 > naive": 1000, "T > CD8 > naive": 300}),
    ],
    ids=["array", "mapping", "series"],
)
def test_counts_are_summed_up_the_tree(small, counts):
    assert small.show(counts, max_depth=1) == "root (1,322)\n├── T (1,310)\n└── B (7)"
    assert "│   │   ├── naive (1,000)" in small.show(counts)


def test_long_trees_are_cut(small):
    assert small.show(max_lines=3).splitlines()[-1] == "... and 5 more nodes"
    wide = Taxonomy.from_nested([f"t{i}" for i in range(1000)])
    assert len(str(wide).splitlines()) == 201
    assert str(wide).endswith("... and 801 more nodes")


def test_counts_of_another_length_are_refused(small):
    with pytest.raises(ValueError, match=r"per node, \(8,\), got the shape \(3,\)"):
        small.show([1, 2, 3])
    with pytest.raises(ValueError, match="no node 'CD9'"):
        small.show({"CD9": 1})


def test_repr_is_one_line(immune):
    assert repr(immune) == (
        "Taxonomy(50 leaves, 65 nodes below the root, 2 levels: base_type, subtype)"
    )
