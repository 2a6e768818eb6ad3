"""Structure, validation and identity of a taxonomy."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest

from hdeepinsight.taxonomy import Taxonomy

SEEDS = range(6)


def naive_path(tree, node):
    path = []
    while node > 0:
        path.insert(0, node)
        node = tree.parent[node]
    return path


def test_nodes_stand_in_breadth_first_order_with_siblings_as_given(small):
    assert small.names == (
        (),
        ("T",),
        ("B",),
        ("T", "CD4"),
        ("T", "CD8"),
        ("T", "CD4", "naive"),
        ("T", "CD4", "Th1"),
        ("T", "CD8", "naive"),
    )
    assert small.parent.tolist() == [-1, 0, 0, 1, 1, 3, 3, 4]
    assert small.parent.dtype == np.int32
    assert small.depth.tolist() == [0, 1, 1, 2, 2, 3, 3, 3]
    assert small.leaves.tolist() == [2, 5, 6, 7]
    assert [group.tolist() for group in small.groups] == [[1, 2], [3, 4], [5, 6], [7]]
    assert (small.n_nodes, small.n_edges, small.n_leaves, small.max_depth) == (8, 7, 4, 3)
    assert small.level_names == ("level_1", "level_2", "level_3")


def test_derived_tables_equal_naive_loops(random_tree):
    for seed in SEEDS:
        tree = random_tree(seed)
        nodes = range(tree.n_nodes)
        paths = [naive_path(tree, node) for node in nodes]
        children = {node: [c for c in nodes if tree.parent[c] == node] for node in nodes}
        assert tree.depth.tolist() == [len(path) for path in paths]
        assert tree.leaves.tolist() == [node for node in nodes if not children[node]]
        assert [tree.path(node) for node in nodes] == list(tree.names)
        for node in nodes:
            assert tree.children(node).tolist() == children[node]
            assert tree.ancestors(node).tolist() == paths[node]
            assert tree.descendants(node).tolist() == [
                other for other in nodes if other != node and node in [0, *paths[other]]
            ]
            assert tree.leaves_under(node).tolist() == [
                leaf for leaf in tree.leaves if node in [0, *paths[leaf]]
            ]
            for level in range(1, tree.max_depth + 1):
                expected = paths[node][level - 1] if level <= len(paths[node]) else None
                assert tree.at_level(node, level) == expected
                assert tree.node_at_level[node, level - 1] == (-1 if expected is None else expected)
        for i, leaf in enumerate(tree.leaves):
            above = [0, *paths[leaf]]
            assert np.flatnonzero(tree.ancestor_matrix[i]).tolist() == above


def test_lca_is_the_last_shared_node_of_both_paths(random_tree):
    for seed in SEEDS:
        tree = random_tree(seed)
        for first in range(tree.n_nodes):
            for second in range(tree.n_nodes):
                shared = [0, *(n for n in naive_path(tree, first) if n in naive_path(tree, second))]
                assert tree.lca(first, second) == shared[-1]


def test_any_node_order_gives_the_same_tree(small):
    order = [3, 0, 5, 1, 4, 2, 6, 7]  # keeps the order among siblings
    rank = np.argsort(order)
    parent = [-1 if small.parent[n] < 0 else rank[small.parent[n]] for n in order]
    shuffled = Taxonomy(tuple(small.labels[n] for n in order), np.asarray(parent))
    assert shuffled == small


def test_an_invalid_tree_is_refused_by_name():
    for labels, parent, message in [
        (["", "a", ""], [-1, 0, -1], "more than one root"),
        (["a", "b"], [1, 0], "no root but a cycle at or above 'a', 'b'"),
        (["", "a", "b"], [-1, 2, 1], "a cycle at or above 'a', 'b'"),
        (["", "a"], [-1, 1], "a cycle at or above 'a'"),
        (
            ["", "p", "a", "a"],
            [-1, 0, 1, 1],
            "child of 'p' named 'a', which is the name of a sibling",
        ),
        (["", ""], [-1, 0], "child of 'root' named '', which is empty"),
        (["", "p", " "], [-1, 0, 1], "child of 'p' named ' ', which is empty"),
        (["", "a\nb"], [-1, 0], "control character"),
        (["", "a > b"], [-1, 0], "separator of text paths"),
        (["", "root"], [-1, 0], "stands for the root"),
        (["", 3], [-1, 0], "of type int"),
        (["", "a"], [-1, 7], r"parent of node 1 \('a'\) must be 0 to 1, .* got 7"),
        (["", "a"], [-1], "2 labels and 1 parents"),
        ([""], [-1], "nothing below"),
        ([], [], "no root"),
    ]:
        with pytest.raises(ValueError, match=message):
            Taxonomy(tuple(labels), np.asarray(parent, dtype=np.int64))


def test_invalid_annotations_are_refused_by_name(small):
    for annotations, message in [
        ({"level_names": ("a", "b")}, "2 levels|3 levels"),
        ({"level_names": ("a", "b", "b")}, "distinct"),
        ({"level_names": ("a", "b", "")}, "empty"),
        ({"synonyms": {"B": ("T",)}}, "synonym 'B' of 'T' is already the name of 'B'"),
        ({"synonyms": {"root": ("T",)}}, "already the name of 'root'"),
        ({"synonyms": {"": ("T",)}}, "is empty"),
        ({"synonyms": {"x": ("T", "CD9")}}, r"no node \('T', 'CD9'\)"),
        ({"ontology_ids": {("X",): "CL:1"}}, r"no node \('X',\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(small, **{"level_names": (), **annotations})


def test_ids_are_text(small):
    with pytest.raises(TypeError, match=r"ontology id of 'T' must be text, got 7 of type int"):
        small.with_annotations(ontology_ids={"T": 7})


def test_a_synonym_leads_to_one_node(small):
    with pytest.raises(ValueError, match="different branches: 'T > CD4 > naive', 'T > CD8 > naive"):
        small.with_annotations(synonyms={"young": "naive"})
    once = small.with_annotations(synonyms={"helper": "Th1"})
    with pytest.raises(ValueError, match="two nodes for 'helper'"):
        once.with_annotations(synonyms={"helper": "CD8"})
    assert once.with_annotations(synonyms={"helper": "Th1"}) == once


def test_taxonomies_are_immutable(small):
    with pytest.raises(dataclasses.FrozenInstanceError):
        small.labels = ()
    for array in (small.parent, small.depth, small.leaves, small.groups[0], small.node_at_level):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5
    with pytest.raises(TypeError):
        small.synonyms["x"] = ("T",)


def test_the_callers_array_is_not_kept():
    parent = np.asarray([-1, 0, 0])
    tree = Taxonomy(("", "a", "b"), parent)
    parent[2] = 1
    assert tree.parent.tolist() == [-1, 0, 0]


def test_equality_and_hash_follow_the_content(small):
    same = Taxonomy.from_dict(small.to_dict())
    assert same == small
    assert hash(same) == hash(small)
    others = [
        small.with_annotations(level_names=["a", "b", "c"]),
        small.with_annotations(synonyms={"Bs": "B"}),
        small.with_annotations(ontology_ids={"B": "CL:0000236"}),
        Taxonomy.from_nested({"B": [], "T": {"CD4": ["naive", "Th1"], "CD8": ["naive"]}}),
    ]
    assert len({small, same, *others}) == 5
    assert small != "small"


def test_order_of_annotations_does_not_matter(small):
    first = small.with_annotations(synonyms={"x": "B", "y": "T"})
    second = small.with_annotations(synonyms={"y": "T"}).with_annotations(synonyms={"x": "B"})
    assert first == second
    assert first.to_json() == second.to_json()


def test_pickle_and_copy_keep_it_frozen(immune):
    loaded = pickle.loads(pickle.dumps(immune))
    assert loaded == immune
    assert not loaded.parent.flags.writeable
    assert copy.deepcopy({"taxonomy": immune})["taxonomy"] == immune
    assert copy.copy(immune) == immune


def test_levels_are_named_or_counted(immune):
    assert immune.level_depth("subtype") == immune.level_depth(2) == 2
    assert immune.level_depth(np.int64(1)) == 1
    assert immune.at_level(20, "base_type") == immune.at_level(20, 1)
    for wrong in ("type", 3, -1, True, 1.5):
        with pytest.raises(ValueError, match="base_type"):
            immune.level_depth(wrong)


def test_a_node_out_of_range_is_refused(small):
    for wrong in (-1, 8):
        with pytest.raises(IndexError, match="A node must be 0 to 7"):
            small.label(wrong)


def test_subset_keeps_what_is_below_and_prune_cuts_it(small):
    full = small.with_annotations(
        level_names=["lineage", "type", "state"],
        synonyms={"Bs": "B", "helper": "Th1"},
        ontology_ids={"CD4": "CL:0000624", "B": "CL:0000236"},
    )
    below = full.subset(["CD4"])
    assert below.names[1:] == (("T",), ("T", "CD4"), ("T", "CD4", "naive"), ("T", "CD4", "Th1"))
    assert dict(below.synonyms) == {"helper": ("T", "CD4", "Th1")}
    assert dict(below.ontology_ids) == {("T", "CD4"): "CL:0000624"}
    cut = full.prune([full.resolve("CD4"), "B"])
    assert cut.names[1:] == (("T",), ("B",), ("T", "CD4"))
    assert cut.level_names == ("lineage", "type")
    assert full.subset([0]) == full
    with pytest.raises(ValueError, match="nothing below"):
        full.prune([])


def test_roll_up_equals_the_ancestor_matrix(random_tree):
    taxonomy = random_tree(3)
    at_leaves = np.random.default_rng(0).integers(0, 9, size=(2, taxonomy.n_leaves))
    values = np.zeros((2, taxonomy.n_nodes), dtype=int)
    values[:, taxonomy.leaves] = at_leaves
    expected = at_leaves @ taxonomy.ancestor_matrix
    np.testing.assert_array_equal(taxonomy.roll_up(values), expected)
    np.testing.assert_array_equal(taxonomy.roll_up(values[0]), expected[0])
    assert values.sum() == at_leaves.sum()  # the argument is not modified
