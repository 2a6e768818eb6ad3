"""Taxonomies from OBO files."""

import sys

import pytest

from hdeepinsight.taxonomy import Taxonomy

TERMS = [
    ("CL:0000000", "cell", []),
    ("CL:0000542", "lymphocyte", ["CL:0000000"]),
    ("CL:0000084", "T cell", ["CL:0000542"]),
    ("CL:0000789", "alpha-beta T cell", ["CL:0000084"]),
    ("CL:0000624", "CD4-positive T cell", ["CL:0000789"]),
    ("CL:0000815", "regulatory T cell", ["CL:0000084"]),
    ("CL:0000792", "CD4 regulatory T cell", ["CL:0000624", "CL:0000815"]),
    ("CL:0000236", "B cell", ["CL:0000542"]),
]
RETIRED = """
[Term]
id: CL:0000001
name: old B cell
is_obsolete: true
replaced_by: CL:0000236

[Term]
id: CL:0000002
name: vague T cell
is_obsolete: true
consider: CL:0000084
consider: CL:0000624

[Term]
id: CL:0000003
name: mistake
is_obsolete: true

[Term]
id: CL:0000004
name: older B cell
is_obsolete: true
replaced_by: CL:0000001

[Term]
id: CL:0000005
name: circle
is_obsolete: true
replaced_by: CL:0000005
"""


@pytest.fixture
def obo(tmp_path):
    text = "format-version: 1.2\nontology: cl\nimport: http://127.0.0.1:9/never-fetched.owl\n"
    for term_id, name, parents in TERMS:
        text += f"\n[Term]\nid: {term_id}\nname: {name}\n"
        text += "alt_id: CL:0009999\n" if term_id == "CL:0000236" else ""
        text += "".join(f"is_a: {parent}\n" for parent in parents)
    path = tmp_path / "cl.obo"
    path.write_text(text + RETIRED)
    return path


def test_parents_are_the_most_specific_requested_terms(obo):
    tree = Taxonomy.from_cell_ontology(
        obo, ["CL:0000792", "CL:0000084", "CD4-positive T cell", "B cell"]
    )
    assert tree.names[1:] == (
        ("T cell",),
        ("B cell",),
        ("T cell", "CD4-positive T cell"),
        ("T cell", "CD4-positive T cell", "CD4 regulatory T cell"),
    )
    assert tree.ontology_ids == {
        ("T cell",): "CL:0000084",
        ("B cell",): "CL:0000236",
        ("T cell", "CD4-positive T cell"): "CL:0000624",
        ("T cell", "CD4-positive T cell", "CD4 regulatory T cell"): "CL:0000792",
    }


def test_terms_without_requested_ancestors_are_at_level_one(obo):
    tree = Taxonomy.from_cell_ontology(obo, ["CL:0000236", "CL:0000624", "CL:0000236"])
    assert tree.names[1:] == (("B cell",), ("CD4-positive T cell",))


def test_two_incomparable_parents_are_an_error_or_the_first(obo):
    terms = ["CL:0000792", "CL:0000815", "CL:0000624", "CL:0000084"]
    with pytest.raises(
        ValueError,
        match=r"2 parents of CL:0000792 .*: 'regulatory T cell \(CL:0000815\)', 'CD4-positive",
    ):
        Taxonomy.from_cell_ontology(obo, terms)
    first = Taxonomy.from_cell_ontology(obo, terms, on_multiple="first")
    assert ("T cell", "regulatory T cell", "CD4 regulatory T cell") in first.names
    terms[1:3] = terms[2:0:-1]
    other = Taxonomy.from_cell_ontology(obo, terms, on_multiple="first")
    assert ("T cell", "CD4-positive T cell", "CD4 regulatory T cell") in other.names
    with pytest.raises(ValueError, match="on_multiple must be one of 'raise', 'first'"):
        Taxonomy.from_cell_ontology(obo, terms, on_multiple="any")


def test_terms_that_are_not_current_name_what_to_use(obo):
    for term, message in [
        ("CL:0000001", r"obsolete.*replaced by CL:0000236 \(B cell\)"),
        ("old B cell", r"obsolete.*replaced by CL:0000236 \(B cell\)"),
        ("CL:0000002", r"Consider CL:0000084 \(T cell\) or CL:0000624"),
        ("CL:0000003", "obsolete. Omit it"),
        ("CL:0000004", r"obsolete.*replaced by CL:0000236 \(B cell\)"),
        ("CL:0000005", "obsolete. Omit it"),
        ("CL:0009999", r"merged into CL:0000236 \(B cell\)"),
        ("CL:000236", "Similar terms: 'CL:0000236'"),
        ("b cells", "Similar terms: 'B cell'"),
        ("zzz", "Look it up"),
        (None, "got None"),
        (float("nan"), "got nan"),
    ]:
        with pytest.raises(ValueError, match=message):
            Taxonomy.from_cell_ontology(obo, ["CL:0000084", term])


def test_the_source_must_be_an_obo_file(obo, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cl-basic\.obo"):
        Taxonomy.from_cell_ontology(tmp_path / "absent.obo", ["B cell"])
    (tmp_path / "other.obo").write_bytes(b"\x89PNG not an ontology")
    with pytest.raises(ValueError, match="which cannot be read"):
        Taxonomy.from_cell_ontology(tmp_path / "other.obo", ["B cell"])
    with pytest.raises(ValueError, match="no terms"):
        Taxonomy.from_cell_ontology(obo, [])
    obo.write_text(obo.read_text() + "\n[Term]\nid: CL:0000236\nname: other\n")
    with pytest.raises(ValueError, match="CL:0000236 is the id of several terms"):
        Taxonomy.from_cell_ontology(obo, ["B cell"])


def test_without_pronto_the_error_says_how_to_install_it(obo, monkeypatch):
    monkeypatch.setitem(sys.modules, "pronto", None)
    with pytest.raises(ImportError, match="pip install"):
        Taxonomy.from_cell_ontology(obo, ["B cell"])


@pytest.fixture
def doubled(tmp_path):
    """Two terms with the same name under "cell", and another one under "lymphocyte"."""
    text = "format-version: 1.2\nontology: cl\n"
    for term_id, name, parent in (
        ("CL:0000000", "cell", None),
        ("CL:0000542", "lymphocyte", "CL:0000000"),
        ("CL:0000084", "T cell", "CL:0000000"),
        ("CL:0009999", "T cell", "CL:0000000"),
        ("CL:0009998", "T cell", "CL:0000542"),
    ):
        text += f"\n[Term]\nid: {term_id}\nname: {name}\n"
        text += f"is_a: {parent}\n" if parent else ""
    text += "\n[Term]\nid: CL:0009997\nname: lymphocyte\nis_obsolete: true\n"
    path = tmp_path / "doubled.obo"
    path.write_text(text)
    return path


def test_two_terms_of_one_name_are_not_merged(doubled):
    with pytest.raises(ValueError, match="CL:0000084 and CL:0009999 are both 'T cell'"):
        Taxonomy.from_cell_ontology(doubled, ["CL:0000084", "CL:0009999"])
    tree = Taxonomy.from_cell_ontology(doubled, ["CL:0000084", "CL:0000542", "CL:0009998"])
    assert tree.ontology_ids == {
        ("T cell",): "CL:0000084",
        ("lymphocyte",): "CL:0000542",
        ("lymphocyte", "T cell"): "CL:0009998",
    }


def test_a_name_of_several_terms_is_refused(doubled):
    with pytest.raises(ValueError, match="CL:0000084, CL:0009998, CL:0009999"):
        Taxonomy.from_cell_ontology(doubled, ["T cell"])
    # an obsolete term does not make a name ambiguous
    assert Taxonomy.from_cell_ontology(doubled, ["lymphocyte"]).ontology_ids == {
        ("lymphocyte",): "CL:0000542"
    }
