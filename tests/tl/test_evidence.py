"""Marker evidence compared with an independent computation."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from hdeepinsight.annotation import Annotation
from hdeepinsight.nn import LeafProfiles
from hdeepinsight.taxonomy import Taxonomy
from hdeepinsight.tl import cell_type, marker_evidence, marker_genes

GENES = ["CD3D", "CD8A", "LTB", "MS4A1", "RPL3", "CD79A"]
TREE = Taxonomy.from_nested({"T": ["CD4 T", "CD8 T"], "B": []}).with_annotations(
    ontology_ids={"CD8 T": "CL:0000625", "B": "CL:0000236"}
)
#: Mean log expression of the leaves, in the order of `TREE.leaves`: B, CD4 T, CD8 T.
MEANS = np.array(
    [
        [0.0, 0.0, 0.5, 2.0, 3.0, 1.8],
        [2.0, 0.0, 2.0, 0.0, 2.0, 0.0],
        [2.0, 1.5, 0.5, 0.0, 2.0, 0.0],
    ]
)


class Model:
    """Model with the attributes that `marker_genes` reads."""

    taxonomy = TREE
    genes = GENES
    profiles_ = LeafProfiles(torch.tensor(MEANS), torch.tensor([50.0, 100.0, 50.0]))


@pytest.fixture(scope="module")
def query() -> ad.AnnData:
    """Thirty cells of each leaf, with counts as the reference expects them."""
    rng = np.random.default_rng(0)
    rate = np.expm1(np.repeat(MEANS, 30, axis=0))
    filler = np.full((len(rate), 20), 40.0)
    counts = rng.poisson(np.hstack([rate, filler]) * 5).astype(np.float32)
    names = [*GENES, *(f"GENE{i}" for i in range(20))]
    cells = ad.AnnData(sp.csr_matrix(counts), var=pd.DataFrame(index=names))
    cells.obs_names = [f"cell_{i}" for i in range(len(rate))]
    return cells


def annotation(labels) -> Annotation:
    names = [f"cell_{i}" for i in range(len(labels))]
    return Annotation.from_labels(pd.Series(labels, index=names), TREE)


@pytest.fixture(scope="module")
def result() -> Annotation:
    return annotation(np.repeat(["B", "CD4 T", "CD8 T"], 30))


def log_values(query: ad.AnnData) -> pd.DataFrame:
    counts = query.X.toarray()
    values = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    return pd.DataFrame(values, columns=query.var_names)


def test_markers_are_highest_over_their_best_sibling_and_not_ribosomal():
    table = marker_genes(Model(), n_genes=3).set_index(["label", "gene"])
    assert table.index.tolist() == [
        ("T", "CD3D"),
        ("T", "LTB"),
        ("T", "CD8A"),
        ("B", "MS4A1"),
        ("B", "CD79A"),
        ("CD4 T", "LTB"),
        ("CD8 T", "CD8A"),
    ]
    assert table.loc[("T", "LTB"), "mean"] == pytest.approx((2.0 * 100 + 0.5 * 50) / 150)
    assert table.loc[("CD4 T", "LTB"), "difference"] == pytest.approx(1.5)


def test_numbers_are_those_of_the_cells(query, result):
    evidence = marker_evidence(result, query, Model())
    table = evidence.table.set_index(["label", "gene"])
    values = log_values(query)
    own, other = values[60:], values[30:60]  # CD8 T against its sibling CD4 T
    row = table.loc[("CD8 T", "CD8A")]
    assert row["mean"] == pytest.approx(own["CD8A"].mean(), rel=1e-5)
    assert row["other_mean"] == pytest.approx(other["CD8A"].mean(), rel=1e-5)
    assert row["share"] == pytest.approx((own["CD8A"] > 0).mean())
    assert row["expected_difference"] == pytest.approx(1.5)
    assert row["source"] == "canonical, reference"
    assert row["compared_with"] == "the cells of CD4 T"
    assert evidence.means.loc["T", "CD3D"] == pytest.approx(values[30:]["CD3D"].mean(), rel=1e-5)
    assert evidence.expression.shape == (90, evidence.means.shape[1])


def test_markers_support_correct_labels(query, result):
    evidence = marker_evidence(result, query, Model())
    assert evidence.contradicted == []
    assert evidence.supporting("T > CD8 T") == ["CD8A"]
    with pytest.raises(ValueError, match=r"a label of these cells, got 'CD8'\. See evidence"):
        evidence.supporting("CD8")
    assert evidence.labels.loc["T", ["n_cells", "verdict"]].tolist() == [60, "supported"]
    assert evidence.sentences()[0] == "No label is contradicted by its own markers."
    assert "CD8B" in evidence.table["gene"].tolist()  # not measured
    assert evidence.table.set_index("gene").loc["CD8B", "supports"] is pd.NA


def test_contradicted_labels_are_listed(query):
    swapped = annotation(np.repeat(["CD4 T", "B", "CD8 T"], 30))
    evidence = marker_evidence(swapped, query, Model())
    assert "B" in evidence.contradicted
    said = [
        text for text in evidence.sentences() if text.startswith("B is contradicted by its own")
    ]
    assert "0 of 2" in said[0]


def test_few_cells_are_not_judged(query):
    few = annotation(["B"] * 85 + ["CD8 T"] * 5)
    evidence = marker_evidence(few, query, Model())
    verdicts = evidence.labels["verdict"].drop("B")
    assert verdicts.to_dict() == dict.fromkeys(["T", "T > CD8 T"], "too few cells")
    assert evidence.sentences()[-1] == "Not assessed (fewer than 10 cells): T, CD8 T."


def test_without_a_model_common_markers_remain(query, result):
    evidence = marker_evidence(result, query)
    assert set(evidence.table["source"]) == {"canonical"}
    assert evidence.table["expected_difference"].isna().all()
    assert evidence.supporting("CD8 T") == ["CD8A"]


def test_own_markers_are_evidence_beside_the_known_ones(query, result):
    own = {"CD4 T": ["LTB", "CD3D"], "B": {"+": ["CD79A"], "-": ["CD3D"]}, "CD8 T": ["CD8A"]}
    evidence = marker_evidence(result, query, markers=own)
    table = evidence.table.set_index(["label", "gene"])
    assert table.loc["CD4 T", "source"].to_dict() == {"LTB": "given", "CD3D": "given"}
    assert table.loc[("CD8 T", "CD8A"), "source"] == "canonical, given"
    assert evidence.labels["n_markers"].tolist() == [0, 2, 1, 2]  # T, CD4 T, CD8 T, B
    assert ("B", "CD3D") not in table.index
    with pytest.raises(ValueError, match="NK"):
        marker_evidence(result, query, markers={"NK": ["NKG7"]})


def test_a_sample_contains_cells_of_each_label(query):
    labels = np.repeat(["B", "CD4 T", "CD8 T"], [88, 1, 1])
    evidence = marker_evidence(annotation(labels), query, Model(), max_cells=60)
    assert len(evidence.rows) == 60
    assert {88, 89} <= set(evidence.rows)
    assert (np.diff(evidence.rows) > 0).all()


def test_a_file_and_logs_give_the_same(query, result, tmp_path):
    expected = marker_evidence(result, query, Model()).means
    query.write_h5ad(tmp_path / "cells.h5ad")
    found = marker_evidence(result, tmp_path / "cells.h5ad", Model()).means
    pd.testing.assert_frame_equal(found, expected)


def test_columns_that_are_not_genes_are_left_out(query, result):
    antibody = ad.AnnData(np.ones((query.n_obs, 1)), obs=query.obs, var=pd.DataFrame(index=["CD3"]))
    both = ad.concat([query, antibody], axis=1)
    both.var["feature_types"] = ["Gene Expression"] * query.n_vars + ["Antibody Capture"]
    found, expected = (marker_evidence(result, each, Model()).table for each in (both, query))
    pd.testing.assert_frame_equal(found, expected)


def test_other_cells_are_refused(query, result):
    with pytest.raises(ValueError, match="query"):
        marker_evidence(result, query[:10], Model())


def test_a_model_name_is_refused_with_advice(query, result):
    with pytest.raises(TypeError, match="must be a trained model, got 'pbmc'"):
        marker_evidence(result, query, "pbmc")


def test_a_model_of_another_tree_gives_no_markers(query, result):
    model = Model()
    model.taxonomy = Taxonomy.from_nested({"X": [], "Y": [], "Z": []})
    assert set(marker_evidence(result, query, model).table["source"]) == {"canonical"}


@pytest.mark.parametrize("term", list(TREE.ontology_ids.values()))
def test_known_types_have_a_name_a_sentence_and_markers(term):
    known = cell_type(term)
    assert known is not None
    assert known.definition.endswith(".")
    assert known.link == f"http://purl.obolibrary.org/obo/{term.replace(':', '_')}"


def test_every_immune_type_with_an_id_is_known():
    terms = Taxonomy.immune().ontology_ids.values()
    assert [term for term in terms if cell_type(term) is None] == []
    assert cell_type("CL:0000000") is None
