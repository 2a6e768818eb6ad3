"""Probabilities of ontology terms with several parents."""

import numpy as np
import pandas as pd
import pytest

import hdeepinsight as hdi

TERMS = {
    "CL:1": ("lymphocyte", []),
    "CL:2": ("T cell", ["CL:1"]),
    "CL:3": ("CD4 T cell", ["CL:2"]),
    "CL:4": ("regulatory T cell", ["CL:2"]),
    "CL:5": ("CD4 regulatory T cell", ["CL:3", "CL:4"]),
    "CL:6": ("CD8 T cell", ["CL:2"]),
    "CL:7": ("CD8 regulatory T cell", ["CL:6", "CL:4"]),
    "CL:8": ("B cell", ["CL:1"]),
}
IDS = ["CL:3", "CL:5", "CL:6", "CL:7", "CL:8"]


@pytest.fixture
def obo(tmp_path):
    pytest.importorskip("pronto")
    text = "format-version: 1.2\n"
    for term, (name, parents) in TERMS.items():
        text += f"\n[Term]\nid: {term}\nname: {name}\n"
        text += "".join(f"is_a: {parent}\n" for parent in parents)
    path = tmp_path / "cl.obo"
    path.write_text(text)
    return path


def test_the_probability_of_a_term_includes_all_descendants(obo):
    tree = hdi.Taxonomy.from_cell_ontology(obo, IDS, on_multiple="first")
    assert tree.n_leaves == 3  # each regulatory type under its first parent, and B
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.dirichlet([1, 1, 1], 20), columns=["CL:5", "CL:7", "CL:8"])
    table.index = table.index.astype(str)
    named = table.rename(columns={term: name for term, (name, _) in TERMS.items()})
    result = hdi.Annotation.from_probabilities(named, tree)
    found = hdi.tl.term_probabilities(result, obo, ["CL:4", "T cell", "CL:1", "CD4 T cell"])
    assert found.columns.tolist() == ["CL:4", "CL:2", "CL:1", "CL:3"]
    both = table["CL:5"] + table["CL:7"]
    np.testing.assert_allclose(found["CL:4"], both)
    np.testing.assert_allclose(found["CL:2"], both)
    np.testing.assert_allclose(found["CL:1"], 1.0)
    np.testing.assert_allclose(found["CL:3"], table["CL:5"])
    assert found.index.equals(result.obs_names)


def test_types_without_an_id_count_under_the_node_above(obo):
    tree = hdi.Taxonomy.from_nested({"T": ["a", "b"], "B": []}, ontology_ids={"T": "CL:2"})
    labels = pd.Series(["a", "b", "B"], ["x", "y", "z"])
    found = hdi.tl.term_probabilities(hdi.Annotation.from_labels(labels, tree), obo, ["CL:2"])
    assert found["CL:2"].round(6).tolist() == [1.0, 1.0, 0.0]


def test_trees_without_ids_and_unknown_terms_are_refused(obo):
    tree = hdi.Taxonomy.from_nested({"T": [], "B": []})
    result = hdi.Annotation.from_labels(pd.Series(["T"], ["x"]), tree)
    with pytest.raises(ValueError, match=r"with Cell Ontology ids"):
        hdi.tl.term_probabilities(result, obo, ["CL:2"])
    known = tree.with_annotations(ontology_ids={"T": "CL:2"})
    result = hdi.Annotation.from_labels(pd.Series(["T"], ["x"]), known)
    with pytest.raises(ValueError, match=r"Terms must be ids or exact names .*, got 'T cel'"):
        hdi.tl.term_probabilities(result, obo, ["T cel"])
    other = tree.with_annotations(ontology_ids={"T": "CL:99"})
    result = hdi.Annotation.from_labels(pd.Series(["T"], ["x"]), other)
    with pytest.raises(ValueError, match=r"got 'CL:99'"):
        hdi.tl.term_probabilities(result, obo, ["CL:2"])
