"""The JSON form under hostile input."""

import copy
import json

import pytest

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


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "pickle", "got 'pickle'"),
        (("schema_version",), 2, "schema version 1, got 2"),
        (("schema_version",), "1", "schema version 1, got '1'"),
        (("nodes",), {}, "'nodes' of type dict"),
        (("extra",), 1, "the keys .*'extra'"),
        (("nodes", 0), "B", "str as node 1"),
        (("nodes", 0, "parent"), 1, "node 1 .'B'. with the parent 1"),
        (("nodes", 3, "parent"), 60, "parents stand before"),
        (("nodes", 3, "parent"), -1, "with the parent -1"),
        (("nodes", 3, "parent"), True, "'parent' of type bool"),
        (("nodes", 3, "parent"), 0.0, "'parent' of type float"),
        (("nodes", 3, "name"), None, "'name' of type NoneType"),
        (("nodes", 3, "name"), "", "is empty"),
        (("nodes", 3, "name"), "B", "two siblings named 'B'"),
        (("nodes", 3, "code"), "x", "'code'"),
        (("nodes", 3, "synonyms"), [3], "synonym 3 at node 4"),
        (("nodes", 3, "synonyms"), ["B cell"], "synonym 'B cell' at node 4"),
        (("nodes", 3, "synonyms"), ["NK"], "already the name of 'NK'"),
        (("nodes", 3, "unspecified"), True, "Unspecified leaves must be leaves, got 'Mono'"),
        (("level_names",), ["a"], "2 levels"),
        (("level_names",), [1, 2], "of type int"),
    ],
)
def test_a_changed_record_is_refused(record, path, value, message):
    with pytest.raises(ValueError, match=message):
        Taxonomy.from_dict(change(record, *path, value=value))


@pytest.mark.parametrize("key", ["format", "schema_version", "nodes", "level_names"])
def test_a_record_without_a_key_is_refused(record, key):
    del record[key]
    with pytest.raises(ValueError, match="taxonomy"):
        Taxonomy.from_dict(record)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("{}", "got None"),
        ('{"a": 1, "a": 2}', "repeated keys among 'a', 'a'"),
        ('{"nodes": ' + "[" * 200_000, "nested too deeply|not JSON"),
    ],
)
def test_text_that_is_no_taxonomy_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Taxonomy.from_json(text)


def test_a_mark_before_the_text_is_skipped(immune, tmp_path):
    file = tmp_path / "immune.json"
    file.write_text(immune.to_json(), encoding="utf-8-sig")
    assert Taxonomy.from_json(file) == immune


def test_a_file_with_something_else_is_refused(tmp_path):
    file = tmp_path / "list.json"
    file.write_text(json.dumps([1, 2]))
    with pytest.raises(ValueError, match="got 'list'"):
        Taxonomy.from_json(file)
    with pytest.raises(FileNotFoundError):
        Taxonomy.from_json(tmp_path / "absent.json")


def test_synonyms_of_the_root_are_kept():
    tree = Taxonomy.from_edges([("cell", "B"), ("cell", "T")])
    assert tree.to_dict()["root_synonyms"] == ["cell"]
    assert Taxonomy.from_json(tree.to_json()).resolve("cell") == 0
