"""Census cells: queries, sampling and names."""

import sys

import numpy as np
import pytest

from hdeepinsight import Taxonomy
from hdeepinsight.datasets import census

TERMS = ["CL:0000236", "CL:0000895", "CL:0001054"]


def n_of(adata):
    return adata.obs["cell_type_ontology_term_id"].astype(str).value_counts().to_dict()


def test_primary_normal_cells_of_the_tissue_come_back(client):
    adata = census(TERMS, tissue="blood")
    assert n_of(adata) == {TERMS[0]: 27, TERMS[1]: 40, TERMS[2]: 8}
    assert client.opened == [{"census_version": "stable"}]


def test_filters_can_be_opened(client):
    assert n_of(census(TERMS, disease=None))[TERMS[0]] == 30
    assert n_of(census(TERMS, tissue=["blood", "lung"]))[TERMS[0]] == 28


def test_at_most_so_many_of_each_type(client):
    adata = census(TERMS, tissue="blood", max_per_type=10)
    assert n_of(adata) == {TERMS[0]: 10, TERMS[1]: 10, TERMS[2]: 8}


def test_the_draw_is_that_of_the_seed(client):
    first, again, other = (census(TERMS, max_per_type=5, seed=seed) for seed in (0, 0, 1))
    assert first.obs_names.tolist() == again.obs_names.tolist()
    assert first.obs_names.tolist() != other.obs_names.tolist()


def test_genes_and_cells_are_named(client):
    adata = census(TERMS)
    assert adata.var_names[0] == "ENSG00000000000"
    assert adata.var["feature_name"].iloc[0] == "GENE0"
    assert adata.obs_names.tolist() == adata.obs["soma_joinid"].astype(str).tolist()
    assert np.all(adata.X.data == np.round(adata.X.data))


def test_a_taxonomy_names_its_terms(client, caplog):
    adata = census(Taxonomy.immune(), tissue="blood")
    assert n_of(adata) == {TERMS[0]: 27, TERMS[1]: 40, TERMS[2]: 8}
    assert "no such cells of" in caplog.text


def test_a_copy_is_opened_instead(client):
    census(TERMS, uri="/mirror/census")
    assert client.opened == [{"uri": "/mirror/census"}]


def test_invalid_terms_are_refused(client):
    for cell_types in [["B cell"], [], ["CL:1"], ["CL:0000236' or 1 == 1"]]:
        with pytest.raises(ValueError, match="must be one or more Cell Ontology ids"):
            census(cell_types)


def test_invalid_filter_values_are_refused(client):
    for value in ["", "blood' or True", ["blood", '"'], []]:
        with pytest.raises(ValueError, match="tissue_general"):
            census(TERMS, tissue=value)


def test_no_labelled_cell_is_an_error(client):
    with pytest.raises(ValueError, match="no cell of 3 cell types"):
        census(TERMS, tissue="heart")


def test_the_error_without_a_connection_is_one_sentence(client, monkeypatch):
    def unreachable(**_):
        raise ConnectionError("<urlopen error [Errno -2]>")

    monkeypatch.setattr(client, "open_soma", unreachable)
    with pytest.raises(OSError, match=r"could not be opened .* Connect and try again") as error:
        census(TERMS)
    assert "\n" not in str(error.value)


def test_without_the_client_the_install_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cellxgene_census", None)
    with pytest.raises(ImportError, match=r'pip install "hdeepinsight\[datasets\]"'):
        census(TERMS)
