"""The benchmark of marker lists: classes in the words of a file, and its table."""

import numpy as np
from markers import METHODS, classes_of, table

import hdeepinsight as hdi


def test_leaves_are_named_by_the_deepest_class_that_a_file_has():
    tree = hdi.Taxonomy.from_nested({"T": {"CD4 T": ["naive"], "CD8 T": []}, "Platelet": []})
    known = {"CD4 T", "CD8 T", "Megakaryocyte"}
    found = dict(zip([tree.label(int(v)) for v in tree.leaves], range(3), strict=True))
    classes = classes_of(tree, "cell_type", known, marrow=False)
    assert classes[[found["naive"], found["CD8 T"], found["Platelet"]]].tolist() == [
        "CD4 T",
        "CD8 T",
        "Megakaryocyte",
    ]
    lineages = classes_of(tree, "lineage", {"Lymphoid", "Erythroid/Mk"}, marrow=True)
    assert sorted(lineages) == ["Erythroid/Mk", "Lymphoid", "Lymphoid"]


def test_the_table_has_a_line_per_query_and_their_mean():
    rows = [
        {"pair": pair, "level": "cell_type", "method": method, "macro_f1": value, "ece": 0.1}
        | {"n_markers": 9, "lam": 0.0}
        for pair, value in (("kang_donors", 0.5), ("bm_donors", 0.7), ("zheng_sorted", 0.9))
        for method in METHODS
    ]
    lines = table(rows).splitlines()
    assert len(lines) == 6
    assert lines[-1].count("**0.600**") == 4
    assert np.all([line.count("|") == lines[0].count("|") for line in lines])
