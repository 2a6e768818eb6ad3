"""Resolution of names and encoding of label columns."""

import numpy as np
import pandas as pd
import pytest

from hdeepinsight.taxonomy import Taxonomy


def test_every_path_resolves_to_its_node(random_tree):
    for seed in range(4):
        tree = random_tree(seed)
        for node in range(tree.n_nodes):
            assert tree.resolve(tree.names[node]) == node
            assert tree.resolve(tree.path_name(node)) == node


def test_a_name_on_one_path_gives_the_shallowest_unless_a_level_is_given(immune):
    assert immune.path_name(immune.resolve("Macrophage")) == "Macrophage"
    leaf = immune.resolve("Macrophage", level=2)
    assert immune.path_name(leaf) == "Macrophage > Macrophage"
    assert immune.resolve("Macrophage", level="subtype") == leaf
    assert immune.resolve(("Macrophage", "Macrophage")) == leaf


def test_deep_repeats_give_the_shallowest():
    tree = Taxonomy.from_paths(["a > x > x > x", "b"])
    assert tree.path_name(tree.resolve("x")) == "a > x"
    assert tree.path_name(tree.resolve("x", level=4)) == "a > x > x > x"


def test_a_name_on_different_branches_is_an_error_that_lists_the_paths(small):
    with pytest.raises(ValueError, match="'T > CD4 > naive', 'T > CD8 > naive'"):
        small.resolve("naive")
    with pytest.raises(ValueError, match="different branches"):
        small.resolve("naive", level=3)
    # A shallow node above only one of two deeper ones does not resolve the ambiguity.
    tree = Taxonomy.from_paths(["a > x > x", "b > y > x"])
    with pytest.raises(ValueError, match="different branches"):
        tree.resolve("x")


def test_a_full_path_comes_before_a_synonym_before_a_bare_name():
    tree = Taxonomy.from_paths(["a > x", "b > a"], synonyms={"ex": "a > x"})
    assert tree.path_name(tree.resolve("a")) == "a"  # the path ("a",), not "b > a"
    assert tree.path_name(tree.resolve("a", level=2)) == "b > a"
    assert tree.path_name(tree.resolve("ex")) == "a > x"
    assert tree.path_name(tree.resolve("x")) == "a > x"


def test_a_tuple_is_always_a_full_path(small):
    assert small.resolve(["T", "CD4"]) == 3
    named = Taxonomy.from_nested({"CD4-positive, alpha-beta T cell": [], "B": []})
    with pytest.raises(ValueError, match="double quotes around names with a comma"):
        named.resolve("alpha-beta T cell")
    with pytest.raises(ValueError, match="no node \\('CD4',\\)"):
        small.resolve(("CD4",))


def test_the_root_has_a_name(small):
    assert small.resolve("root") == small.resolve(()) == 0
    assert small.path_name(0) == small.label(0) == "root"


def test_the_error_for_an_unknown_name_lists_similar_names(immune):
    with pytest.raises(ValueError, match="'B_naive'"):
        immune.resolve("b_naive")
    with pytest.raises(ValueError, match="Print the taxonomy"):
        immune.resolve("hepatocyte")


def test_the_error_for_a_name_at_another_level_states_its_depth(immune):
    with pytest.raises(ValueError, match=r"at level 1.* exists at depth 2"):
        immune.resolve("B_naive", level=1)


def test_encode_equals_resolving_one_by_one(immune):
    rng = np.random.default_rng(0)
    nodes = rng.integers(0, immune.n_nodes, 500)
    texts = [immune.path_name(node) if node else None for node in nodes]
    for column in (texts, np.asarray(texts, dtype=object), pd.Series(texts), pd.Categorical(texts)):
        encoded = immune.encode(column)
        assert encoded.dtype == np.int64
        np.testing.assert_array_equal(encoded, nodes)
    paths = [immune.names[node] for node in nodes]
    np.testing.assert_array_equal(immune.encode(paths), nodes)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, "Unknown"])
def test_missing_and_unlabelled_cells_are_at_the_root(small, missing):
    assert small.encode(["B", missing, "Th1"]).tolist() == [2, 0, 6]


def test_the_unlabelled_category_can_be_chosen(small):
    assert small.encode(["B", "?", "nan"], unlabeled=["?", "nan"]).tolist() == [2, 0, 0]
    with pytest.raises(ValueError, match="'Unknown' \\(1 cell\\)"):
        small.encode(["B", "Unknown"], unlabeled=None)


def test_encode_at_a_level(immune):
    leaf = immune.resolve("ILC", level=2)
    assert immune.encode(["ILC", "ILC2"], level="subtype").tolist() == [leaf, leaf + 2]


def test_encode_names_every_wrong_label_with_its_count(small):
    labels = ["B"] * 3 + ["NK"] * 5 + ["naive"] * 2 + [None]
    with pytest.raises(ValueError, match="not lead to a node") as error:
        small.encode(pd.Categorical(labels))
    assert "'NK' (5 cells)" in str(error.value)
    assert "'naive' (2 cells): A bare name must be on a single path" in str(error.value)


def test_of_many_wrong_labels_the_first_are_listed(immune):
    barcodes = [f"ACGT-{i}" for i in range(20_000)]
    with pytest.raises(ValueError, match="not lead to a node") as error:
        immune.encode(barcodes)
    assert len(str(error.value).splitlines()) == 22
    assert str(error.value).endswith("- and more")
    with pytest.raises(ValueError, match="not a path") as error:
        immune.encode_levels(pd.DataFrame({"a": barcodes}))
    assert len(str(error.value).splitlines()) == 22


def test_encode_refuses_labels_that_are_not_text(small):
    with pytest.raises(TypeError, match="got int"):
        small.encode([1, 2])
    with pytest.raises(TypeError, match="the string 'B'"):
        small.encode("B")
    assert small.encode([]).shape == (0,)
    assert small.encode([np.nan, np.nan]).tolist() == [0, 0]


def test_the_deepest_label_wins(small):
    frame = pd.DataFrame(
        {
            "lineage": ["T", "T", "T", "B", None, "Unknown", None],
            "type": ["CD4", "CD8", None, None, None, "CD8", "CD4"],
            "state": ["naive", "naive", None, None, None, "naive", None],
        }
    )
    assert small.encode_levels(frame).tolist() == [5, 7, 1, 2, 0, 7, 3]
    assert small.encode_levels(frame.astype("category")).tolist() == [5, 7, 1, 2, 0, 7, 3]


def test_a_shallow_leaf_may_repeat_its_name_in_finer_columns(small):
    frame = pd.DataFrame({"a": ["B", "T"], "b": ["B", "CD4"], "c": ["B", "CD4"]})
    assert small.encode_levels(frame).tolist() == [2, 3]


def test_a_repeated_name_does_not_hide_a_finer_label_that_contradicts_it(small):
    frame = pd.DataFrame({"a": ["B"], "b": ["B"], "c": ["Th1"]})
    with pytest.raises(ValueError, match="'Th1' is at 'T > CD4 > Th1', not under 'B'"):
        small.encode_levels(frame)


def test_a_child_of_its_parents_name_is_reached_by_its_column(immune):
    frame = pd.DataFrame({"base_type": ["ILC", "ILC"], "subtype": ["ILC", None]})
    node = immune.resolve("ILC")
    assert immune.encode_levels(frame).tolist() == [immune.resolve("ILC", 2), node]
    assert immune.encode_levels(frame[["subtype"]]).tolist() == [immune.resolve("ILC", 2), 0]


def test_columns_named_like_levels_are_those_levels(small):
    tree = small.with_annotations(level_names=["lineage", "type", "state"])
    frame = pd.DataFrame({"type": ["CD4", "CD8"], "state": ["naive", "naive"]})
    assert tree.encode_levels(frame).tolist() == [5, 7]
    with pytest.raises(ValueError, match="coarse to fine"):
        tree.encode_levels(frame[["state", "type"]])


def test_columns_must_agree_as_one_path(small):
    frame = pd.DataFrame({"a": ["B"] * 3 + ["T"], "b": ["CD4"] * 3 + ["CD9"]})
    with pytest.raises(ValueError, match="not a path of the taxonomy") as error:
        small.encode_levels(frame)
    assert "('B', 'CD4') (3 cells): 'CD4' is at 'T > CD4', not under 'B'" in str(error.value)
    assert "('T', 'CD9') (1 cell)" in str(error.value)


def test_a_fine_label_without_its_parent_must_be_clear(small):
    frame = pd.DataFrame({"a": [None], "b": [None], "c": ["naive"]})
    with pytest.raises(ValueError, match="fits several nodes"):
        small.encode_levels(frame)


def test_more_columns_than_levels_are_refused(small):
    with pytest.raises(ValueError, match="up to 3 distinct columns"):
        small.encode_levels(pd.DataFrame({c: ["B"] for c in "abcd"}))


def test_columns_are_not_modified(small):
    frame = pd.DataFrame({"a": ["T", "B"], "b": ["CD4", None]}, dtype="category")
    before = frame.copy(deep=True)
    small.encode_levels(frame)
    pd.testing.assert_frame_equal(frame, before)
