"""The Newick reader and writer."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdeepinsight.taxonomy import Taxonomy
from hdeepinsight.taxonomy._build import name_problem

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
    assert Taxonomy.from_newick(tree.to_newick()) == tree


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(min_size=1).filter(lambda n: not name_problem(n)), min_size=1, unique=True))
def test_any_valid_name_survives(names):
    tree = Taxonomy.from_nested({"top": names})
    assert Taxonomy.from_newick(tree.to_newick()) == tree


def test_the_text_is_plain_where_names_are():
    tree = Taxonomy.from_paths(["T > CD4+", "T > CD8+", "B_cell"])
    assert tree.to_newick() == "((CD4+,CD8+)T,'B_cell');"


def test_lengths_comments_and_blanks_are_skipped():
    text = " ( (CD4:0.1 , CD8:1e-3)[a (b] T : .5 ,\n B_cell:2 ) [&R] cell ; "
    tree = Taxonomy.from_newick(text)
    assert tree.names[1:] == (("T",), ("B_cell",), ("T", "CD4"), ("T", "CD8"))
    assert tree.resolve("cell") == 0


def test_a_root_named_like_one_of_its_types_stays_unnamed():
    tree = Taxonomy.from_newick("((a)T,B)T;")
    assert tree.resolve("T") == 1
    assert not tree.synonyms


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("((a,b)x,c", "never closed"),
        ("(a,b)x),c);", r"'\)' outside"),
        ("(a,b),c;", "',' outside|without a name"),
        ("(a,b)r,c;", "',' outside of all brackets"),
        ("((a,b),c);", "node without a name before ','"),
        ("(a,);", "node without a name before '\\)'"),
        ("();", "node without a name"),
        ("(a b);", "'name' right after 'name'"),
        ("(a(b));", "right after 'name'"),
        ("(a,b);(c);", "after the final ';'"),
        ("('a,b);", "starts no name"),
        ("(a[b);", "starts no name"),
        ("(a:x,b);", "starts no name"),
        ("(a,a);", "two siblings named 'a'"),
        ("", "nothing below"),
        (";", "right after 'the start'"),
        ("a;", "nothing below"),
    ],
)
def test_broken_text_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        Taxonomy.from_newick(text)


def test_the_place_of_the_fault_is_given():
    with pytest.raises(ValueError, match="at character 4"):
        Taxonomy.from_newick("(a,b'")
