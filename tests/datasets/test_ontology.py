"""Taxonomies and labels from Cell Ontology ids."""

import pandas as pd
import pytest

from hdeepinsight import Taxonomy
from hdeepinsight.datasets import DatasetError, PublicFile, label_terms, ontology_taxonomy

OBO = """format-version: 1.4

[Term]
id: CL:0000084
name: T cell

[Term]
id: CL:0000624
name: CD4-positive T cell
is_a: CL:0000084

[Term]
id: CL:0000895
name: naive CD4-positive T cell
is_a: CL:0000624

[Term]
id: CL:0000236
name: B cell
"""


@pytest.fixture
def obo(tmp_path):
    path = tmp_path / "cl.obo"
    path.write_text(OBO)
    return path


def test_the_tree_of_the_cells_and_the_groups(obo):
    terms = pd.Series(["CL:0000895", "CL:0000236", "CL:0000895", "unknown", None])
    tree = ontology_taxonomy(terms, groups=["CL:0000084"], obo=obo)
    assert tree.names[1:] == (
        ("T cell",),
        ("B cell",),
        ("T cell", "naive CD4-positive T cell"),
    )
    assert tree.ontology_ids["B cell",] == "CL:0000236"


def test_every_cell_gets_the_path_of_its_node(obo):
    terms = pd.Series(["CL:0000895", "CL:0000236", "CL:0000084", "CL:9999999", None])
    tree = ontology_taxonomy(terms[:2], groups=["CL:0000084"], obo=obo)
    labels = label_terms(terms, tree)
    assert labels.tolist() == [
        "T cell > naive CD4-positive T cell",
        "B cell",
        "T cell",
        "Unknown",
        "Unknown",
    ]
    assert tree.encode(labels, unlabeled="Unknown")[:3].tolist() == [3, 2, 1]


def test_the_deeper_node_is_used_for_a_repeated_id():
    labels = label_terms(pd.Series(["CL:0000815"]), Taxonomy.immune())
    assert labels.tolist() == ["Treg > Treg"]


def test_the_ontology_is_fetched_where_none_is_given(monkeypatch, obo):
    monkeypatch.setattr("hdeepinsight.datasets._census.fetch", lambda name: obo)
    assert ontology_taxonomy(["CL:0000236"]).names[1:] == (("B cell",),)


def test_the_error_for_the_ontology_without_a_connection_is_one_sentence(monkeypatch, cache, files):
    gone = PublicFile(name="cell_ontology", url=f"{files.url}/cl.obo")
    monkeypatch.setattr("hdeepinsight.datasets._fetch.FILES", {"cell_ontology": gone})
    files.go_offline()
    with pytest.raises(DatasetError, match="could not be reached"):
        ontology_taxonomy(["CL:0000236"])
