"""JSON form of taxonomies with invalid input, and text drawings."""

import copy
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdeepinsight.taxonomy import Taxonomy


@pytest.fixture
def record(immune):
    return immune.to_dict()


def change(record, *path, value):
    record = copy.deepcopy(record)
    target = record
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    return record


def test_a_changed_record_is_refused(record):
    for path, value, message in [
        (("format",), "pickle", "got 'pickle'"),
        (("schema_version",), 2, "schema version 1, got 2"),
        (("schema_version",), "1", "schema version 1, got '1'"),
        (("nodes",), {}, "'nodes' of type dict"),
        (("extra",), 1, "the keys .*'extra'"),
        (("nodes", 0), "B", "str as node 1"),
        (("nodes", 0, "parent"), 1, "node 1 .'B'. with the parent 1"),
        (("nodes", 3, "parent"), 60, "parents listed before"),
        (("nodes", 3, "parent"), -1, "with the parent -1"),
        (("nodes", 3, "parent"), True, "'parent' of type bool"),
        (("nodes", 3, "parent"), 0.0, "'parent' of type float"),
        (("nodes", 3, "name"), None, "'name' of type NoneType"),
        (("nodes", 3, "name"), "", "is empty"),
        (("nodes", 3, "name"), "B", "named 'B', which is the name of a sibling"),
        (("nodes", 3, "code"), "x", "'code'"),
        (("nodes", 3, "synonyms"), [3], "synonym 3 at node 4"),
        (("nodes", 3, "synonyms"), ["B cell"], "synonym 'B cell' at node 4"),
        (("nodes", 3, "synonyms"), ["NK"], "already the name of 'NK'"),
        (("nodes", 3, "unspecified"), 1, "'unspecified' of type int"),
        (("level_names",), ["a"], "2 levels"),
        (("level_names",), [1, 2], "of type int"),
    ]:
        with pytest.raises(ValueError, match=message):
            Taxonomy.from_dict(change(record, *path, value=value))


@pytest.mark.parametrize("key", ["format", "schema_version", "nodes", "level_names"])
def test_a_record_without_a_key_is_refused(record, key):
    del record[key]
    with pytest.raises(ValueError, match="taxonomy"):
        Taxonomy.from_dict(record)


def test_invalid_json_is_refused():
    for text, message in [
        ("{", "not JSON"),
        ("{}", "got None"),
        ('{"a": 1, "a": 2}', "repeated keys among 'a', 'a'"),
        ('{"nodes": ' + "[" * 200_000, "not JSON"),
    ]:
        with pytest.raises(ValueError, match=message):
            Taxonomy.from_json(text)


def test_a_byte_order_mark_is_skipped(immune, tmp_path):
    file = tmp_path / "immune.json"
    file.write_text(immune.to_json(), encoding="utf-8-sig")
    assert Taxonomy.from_json(file) == immune


def test_other_json_files_are_refused(tmp_path):
    file = tmp_path / "list.json"
    file.write_text(json.dumps([1, 2]))
    with pytest.raises(ValueError, match="got 'list'"):
        Taxonomy.from_json(file)
    with pytest.raises(FileNotFoundError):
        Taxonomy.from_json(tmp_path / "absent.json")


def test_obsolete_keys_of_older_files_are_ignored(record, immune):
    more = change(record, "nodes", 0, value={**record["nodes"][0], "published_id": 3})
    assert Taxonomy.from_dict(change(more, "nodes", 1, "unspecified", value=True)) == immune


def test_synonyms_of_the_root_are_kept():
    tree = Taxonomy.from_edges([("cell", "B"), ("cell", "T")])
    assert tree.to_dict()["root_synonyms"] == ["cell"]
    assert Taxonomy.from_json(tree.to_json()).resolve("cell") == 0


AWKWARD = [
    "it's",
    "a, b",
    "(x)",
    "[y]",
    "a:b",
    "B_naive",
    "é ü",
    "x;y",
    "'",
    "NK CD16+",
    '"',
    "1.5",
]


def test_names_with_special_characters_survive():
    tree = Taxonomy.from_nested({name: [f"{name} child"] for name in AWKWARD})
    assert Taxonomy.from_json(tree.to_json()) == tree


def is_valid(name):
    try:
        return bool(Taxonomy.from_nested([name]))
    except ValueError:
        return False


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(min_size=1).filter(is_valid), min_size=1, unique=True))
def test_any_valid_name_survives(names):
    tree = Taxonomy.from_nested({"top": names})
    assert Taxonomy.from_json(tree.to_json()) == tree


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
    with pytest.raises(ValueError, match=r"one number per node, shape \(8,\), got \(3,\)"):
        small.show([1, 2, 3])
    with pytest.raises(ValueError, match="no node 'CD9'"):
        small.show({"CD9": 1})


def test_repr_is_one_line(immune):
    assert repr(immune) == (
        "Taxonomy(50 leaves, 65 nodes below the root, 2 levels: base_type, subtype)"
    )
