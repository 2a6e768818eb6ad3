"""The Census client on a small local Census; requires the ``datasets`` extra."""

import warnings

import pytest

from hdeepinsight.datasets import census

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # those of TileDB


@pytest.fixture
def uri(tmp_path, census_cells):
    soma = pytest.importorskip("tiledbsoma")
    pytest.importorskip("cellxgene_census")
    import tiledbsoma.io

    cells = census_cells.copy()
    cells.obs = cells.obs.drop(columns="soma_joinid")  # the store numbers rows itself
    cells.var = cells.var.drop(columns="soma_joinid")
    root = str(tmp_path / "census")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with soma.Collection.create(root) as made:
            made.add_new_collection("census_data")
        human = f"{root}/census_data/homo_sapiens"
        tiledbsoma.io.from_anndata(human, cells, measurement_name="RNA", X_layer_name="raw")
        with soma.Collection.open(f"{root}/census_data", "w") as data:
            data.set("homo_sapiens", soma.Experiment.open(human), use_relative_uri=True)
    return root


def test_cells_are_found_drawn_and_named(uri, census_cells):
    terms = ["CL:0000236", "CL:0000895", "CL:0001054"]
    found = census(terms, tissue="blood", max_per_type=10, uri=uri)
    counts = found.obs["cell_type_ontology_term_id"].astype(str).value_counts().to_dict()
    assert counts == dict(zip(terms, (10, 10, 8), strict=True))
    rows = found.obs["soma_joinid"].to_numpy()
    assert (census_cells.X[rows] != found.X).nnz == 0
    assert found.var_names.tolist() == census_cells.var["feature_id"].tolist()
