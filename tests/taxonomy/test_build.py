"""Constructors of taxonomies, and round trips through exporters."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from hdeepinsight.taxonomy import LabelWarning, Taxonomy


@pytest.fixture
def obs():
    return pd.DataFrame(
        {
            "lineage": ["T", "T", "B", "T", "Unknown", None, "NK"],
            "type": ["CD8", "CD4", "naive", None, None, None, "Unknown"],
        }
    )


def test_from_obs_reads_mixed_depth(obs):
    tree = Taxonomy.from_obs(obs, ["lineage", "type"])
    assert tree.names[1:] == (
        ("B",),
        ("NK",),
        ("T",),
        ("B", "naive"),
        ("T", "CD4"),
        ("T", "CD8"),
    )
    assert tree.level_names == ("lineage", "type")
    assert tree.encode_levels(obs).tolist() == [6, 5, 4, 3, 0, 0, 2]


def test_a_repeated_label_beside_others_raises_a_warning(obs):
    obs["type"] = obs["type"].fillna(obs["lineage"])  # "NK" has no other type, "T" has
    said = r"'T' in type \(1 cell\) repeats .*--no-fill"
    with pytest.warns(LabelWarning, match=said) as raised:
        tree = Taxonomy.from_obs(obs, ["lineage", "type"])
    assert len(raised) == 1
    assert ("T", "T") in tree.names


def test_from_obs_takes_anndata_and_leaves_it_alone(obs):
    adata = AnnData(np.ones((7, 2)), obs=obs.set_index(pd.Index([f"c{i}" for i in range(7)])))
    before = adata.obs.copy(deep=True)
    assert Taxonomy.from_obs(adata, ["lineage", "type"]) == Taxonomy.from_obs(
        obs, ["lineage", "type"]
    )
    pd.testing.assert_frame_equal(adata.obs, before)


def test_from_obs_does_not_depend_on_the_order_of_cells(obs):
    tree = Taxonomy.from_obs(obs, ["lineage", "type"])
    for seed in range(5):
        shuffled = obs.sample(frac=1, random_state=seed)
        assert Taxonomy.from_obs(shuffled, ["lineage", "type"]) == tree


def test_from_obs_keeps_the_order_of_categories_and_drops_unused_ones(obs):
    obs["lineage"] = pd.Categorical(obs["lineage"], ["T", "Unknown", "Mast", "NK", "B"])
    tree = Taxonomy.from_obs(obs, ["lineage", "type"])
    assert tree.names[1:4] == (("T",), ("NK",), ("B",))


def test_one_fine_label_under_two_parents_makes_two_nodes():
    obs = pd.DataFrame({"a": ["T", "B", "T"], "b": ["naive", "naive", "memory"]})
    tree = Taxonomy.from_obs(obs, ["a", "b"])
    assert ("T", "naive") in tree.names
    assert ("B", "naive") in tree.names
    with pytest.raises(ValueError, match="'B > naive', 'T > naive'"):
        tree.encode(obs["b"])
    assert [tree.path_name(n) for n in tree.encode_levels(obs)] == [
        "T > naive",
        "B > naive",
        "T > memory",
    ]


def test_from_obs_of_one_column_is_a_flat_tree(obs):
    tree = Taxonomy.from_obs(obs, "lineage", synonyms={"B cell": "B"})
    assert tree.max_depth == 1
    assert tree.level_names == ("lineage",)
    assert tree.resolve("B cell") == tree.resolve("B") == 1


def test_a_column_without_labels_is_not_a_level():
    obs = pd.DataFrame({"a": ["T", "B"], "b": [None, "Unknown"]})
    taxonomy = Taxonomy.from_obs(obs, ["a", "b"])
    assert taxonomy.level_names == ("a",)
    with pytest.raises(ValueError, match="Every column must have labels, got none in 'b'"):
        taxonomy.encode_levels(obs)


def test_from_obs_refuses():
    for columns, keys, message in [
        ({"a": ["T"]}, ["lineage"], "no column 'lineage'"),
        ({"lineage": ["T"]}, ["linage"], "no column 'linage'; it has 'lineage'"),
        ({"a": [None, "T"], "b": ["x", "y"]}, ["a", "b"], "1 cells with a finer label"),
        ({"a": ["x", "y", "z"], "b": ["T", "T", "B"]}, ["a", "b"], "Reverse their order"),
        ({"a": ["Unknown", None]}, ["a"], "any of 2 cells"),
        ({"a": ["T"]}, [], "one or more"),
        ({"a": ["T"]}, ["a", "a"], "distinct"),
        ({"a": ["x > y"]}, ["a"], "separator of text paths"),
    ]:
        with pytest.raises((KeyError, ValueError), match=message):
            Taxonomy.from_obs(pd.DataFrame(columns), keys)


def test_from_obs_refuses_other_types():
    with pytest.raises(TypeError, match="got int in column 'a'"):
        Taxonomy.from_obs(pd.DataFrame({"a": [1, 2]}), ["a"])
    with pytest.raises(TypeError, match="got int in column 'a'"):
        Taxonomy.from_obs(pd.DataFrame({"a": pd.Categorical([1, 2])}), ["a"])


def test_round_trips_keep_the_tree(random_tree):
    for seed in range(6):
        tree = random_tree(seed)
        assert Taxonomy.from_dict(tree.to_dict()) == tree
        assert Taxonomy.from_json(tree.to_json()) == tree
        assert Taxonomy.from_nested(tree.to_nested()) == tree
        assert Taxonomy.from_edges(tree.to_edges()) == tree
        assert Taxonomy.from_paths(tree.names) == tree
        assert Taxonomy.from_paths(map(tree.path_name, range(tree.n_nodes))) == tree


def test_nested_forms_are_equal():
    expected = Taxonomy.from_paths(["T > CD4 > naive", "T > CD8", "B"])
    for nested in (
        {"T": {"CD4": {"naive": None}, "CD8": None}, "B": None},
        {"T": [{"CD4": ["naive"]}, "CD8"], "B": []},
        [{"T": {"CD4": ("naive",), "CD8": {}}}, "B"],
    ):
        assert Taxonomy.from_nested(nested) == expected


def test_nested_objects_are_checked():
    loop = {"a": {}}
    loop["a"]["b"] = loop
    with pytest.raises(
        ValueError, match=r"more under '[ab]'\. Check that no dict or list contains itself"
    ):
        Taxonomy.from_nested(loop)
    with pytest.raises(TypeError, match="'naive' of type str under 'T'"):
        Taxonomy.from_nested({"T": "naive"})
    with pytest.raises(ValueError, match="child of 'T' named 'a', which is the name of a sibling"):
        Taxonomy.from_nested({"T": ["a", {"a": ["b"]}]})
    with pytest.raises(ValueError, match="of type int"):
        Taxonomy.from_nested({"T": [1]})


def test_one_nested_object_may_be_used_twice():
    states = ["naive", "memory"]
    tree = Taxonomy.from_nested({"CD4": states, "CD8": states})
    assert tree.n_leaves == 4


def test_nested_objects_that_explode_are_stopped():
    bomb = ["x"]
    for _ in range(60):
        bomb = [{"a": bomb, "b": bomb}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hdeepinsight.taxonomy._forms.MAX_NODES", 1000)
        with pytest.raises(ValueError, match="at most 1,000 nodes"):
            Taxonomy.from_nested(bomb)


def test_edges_with_one_top_node_have_it_as_root():
    edges = [("T", "CD4"), ("cell", "T"), ("cell", "B"), ("cell", "T")]
    tree = Taxonomy.from_edges(edges)
    assert tree.names[1:] == (("T",), ("B",), ("T", "CD4"))
    assert tree.resolve("cell") == 0


def test_a_forest_of_edges_gets_a_root():
    edges = [("T", "CD4"), ("B", "naive")]
    assert Taxonomy.from_edges(edges).names[1:3] == (("T",), ("B",))
    assert Taxonomy.from_edges([*edges, ("root", "NK")]).names[1:4] == (("T",), ("B",), ("NK",))


def test_edges_are_checked():
    for edges, message in [
        ([("a", "b"), ("b", "c"), ("c", "a")], "no root but a cycle at or above 'a', 'b', 'c'"),
        ([("r", "x"), ("a", "b"), ("b", "a")], "cycle"),
        ([("a", "a")], "a cycle at or above 'a'"),
        ([("a", "c"), ("b", "c")], "'c' below 'a', 'b'"),
        ([("a", "b > c")], "'b > c' below 'a'"),
        ([("a", "")], "is empty"),
        ([], "no root"),
    ]:
        with pytest.raises(ValueError, match=message):
            Taxonomy.from_edges(edges)


def test_edges_that_are_not_pairs_of_names_are_refused():
    for edge in [("a", None), (float("nan"), "a"), (1, 2), ("a",), ("a", "b", "c"), "ab"]:
        with pytest.raises(TypeError, match=r"An edge must be a pair .*the root"):
            Taxonomy.from_edges([("cell", "T"), edge])


def test_json_keeps_everything_in_a_file(immune, tmp_path):
    text = immune.to_json(tmp_path / "immune.json")
    assert (tmp_path / "immune.json").read_text(encoding="utf-8") == text
    assert Taxonomy.from_json(tmp_path / "immune.json") == immune
    assert Taxonomy.from_json(str(tmp_path / "immune.json")) == immune
    assert [path.name for path in tmp_path.iterdir()] == ["immune.json"]
    assert sum('"parent"' in line for line in text.splitlines()) == 65


def test_an_unfinished_file_does_not_replace_the_old_one(small, immune, tmp_path, monkeypatch):
    small.to_json(tmp_path / "tree.json")

    def full_disk(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full_disk)
    with pytest.raises(OSError, match="No space"):
        immune.to_json(tmp_path / "tree.json")
    assert Taxonomy.from_json(tmp_path / "tree.json") == small


def test_to_dict_holds_plain_types_only(immune):
    seen = set()

    def visit(value):
        seen.add(type(value))
        for inner in value.values() if isinstance(value, dict) else value:
            visit(inner) if isinstance(inner, (dict, list)) else seen.add(type(inner))

    visit(immune.to_dict())
    assert seen <= {dict, list, str, int}


def test_numpy_scalars_become_plain():
    tree = Taxonomy.from_paths(np.array(["T > CD4", "B"])).with_annotations(
        level_names=np.array(["a", "b"]),
        synonyms={np.str_("Bs"): "B"},
        ontology_ids={"B": np.str_("CL:0000236")},
    )
    kept = [*tree.labels, *tree.level_names, *tree.synonyms, *tree.ontology_ids.values()]
    assert {type(text) for text in kept} == {str}
    assert Taxonomy.from_json(tree.to_json()) == tree
