"""Writing a result into an AnnData, and that AnnData to disk."""

import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from annotated_files import saved
from scipy import sparse

from hdeepinsight.taxonomy import Taxonomy

ADDED = ["stop_label", "confidence", "margin", "stop_depth"]


def query(n_cells, prefix="cell_"):
    rng = np.random.default_rng(0)
    adata = ad.AnnData(
        X=sparse.csr_matrix(rng.poisson(1.0, size=(n_cells, 6)).astype(np.float32)),
        obs=pd.DataFrame(
            {"donor": pd.Categorical(rng.choice(["x", "y"], n_cells))},
            index=[f"{prefix}{i}" for i in range(n_cells)],
        ),
        var=pd.DataFrame(index=[f"G{i}" for i in range(6)]),
        layers={"counts": np.ones((n_cells, 6), dtype=np.float32)},
        obsm={"X_pca": rng.normal(size=(n_cells, 2))},
        uns={"kept": {"answer": 42}},
    )
    return adata


@pytest.mark.parametrize("key", ["hdi", "mine"])
def test_exactly_the_documented_keys_are_added(two_levels, annotated, key):
    adata, result = query(60), annotated(two_levels)
    before = adata.copy()
    assert result.to_adata(adata, key_added=key) is None
    added = [f"{key}_{name}" for name in ("lineage", "cell_type", *ADDED)]
    assert adata.obs.columns.tolist() == ["donor", *added]
    assert set(adata.obsm) == {"X_pca", f"{key}_probabilities"}
    colors = {f"{key}_{name}_colors" for name in ("lineage", "cell_type", "stop_label")}
    assert set(adata.uns) == {"kept", key, *colors}
    assert set(adata.layers) == set(before.layers)
    assert adata.raw is None
    assert not {*adata.varm, *adata.obsp, *adata.varp}
    # What was there is bit-identical.
    assert (adata.X != before.X).nnz == 0
    np.testing.assert_array_equal(adata.obsm["X_pca"], before.obsm["X_pca"])
    np.testing.assert_array_equal(adata.layers["counts"], before.layers["counts"])
    pd.testing.assert_frame_equal(adata.var, before.var)
    pd.testing.assert_frame_equal(adata.obs[["donor"]], before.obs)
    assert adata.uns["kept"] == {"answer": 42}


def test_what_is_added_is_the_result(ragged, annotated):
    adata, result = query(60), annotated(ragged, recipe={"seed": 3})
    result.to_adata(adata)
    for name, column in result.to_frame().items():
        pd.testing.assert_series_equal(adata.obs[f"hdi_{name}"], column, check_names=False)
    pd.testing.assert_frame_equal(adata.obsm["hdi_probabilities"], result.probabilities())
    notes = adata.uns["hdi"]
    assert notes["decoder"] == "joint"
    assert notes["threshold"] == 0.5
    assert notes["recipe"] == {"seed": "3"}
    assert Taxonomy.from_json(notes["taxonomy"]) == ragged


def test_a_second_result_replaces_the_first(two_levels, annotated):
    adata = query(60)
    annotated(two_levels, seed=1).to_adata(adata)
    columns = adata.obs.columns.tolist()
    second = annotated(two_levels, seed=2, threshold=None)
    second.to_adata(adata)
    assert adata.obs.columns.tolist() == columns
    assert adata.obs["hdi_confidence"].tolist() == second.confidence.tolist()
    assert adata.uns["hdi"]["threshold"] == "none"


@pytest.mark.parametrize(
    "adata",
    [
        pytest.param(query(59), id="fewer_cells"),
        pytest.param(query(60, prefix="other_"), id="other_cells"),
        pytest.param(query(60)[::-1].copy(), id="other_order"),
    ],
)
def test_other_cells_are_refused(two_levels, annotated, adata):
    before = adata.copy()
    with pytest.raises(ValueError, match=r"The annotation has 60 cells.*not the same.*reorder"):
        annotated(two_levels).to_adata(adata)
    assert adata.obs.columns.tolist() == before.obs.columns.tolist()
    assert set(adata.uns) == set(before.uns)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
@pytest.mark.parametrize("n_cells", [60, 1, 0])
def test_an_annotated_object_survives_the_disk(tmp_path, ragged, annotated, suffix, n_cells):
    result = annotated(ragged, n_cells=n_cells, recipe={"model": "m", "epochs": 3})
    adata = query(n_cells)
    result.to_adata(adata)
    read = saved(adata, tmp_path / f"annotated{suffix}")
    for name, column in result.to_frame().items():
        stored = read.obs[f"hdi_{name}"]
        if isinstance(column.dtype, pd.CategoricalDtype):
            stored, column = stored.astype(object), column.astype(object)
            assert stored.fillna("-").tolist() == column.fillna("-").tolist()
        else:
            np.testing.assert_array_equal(stored, column)
    table = read.obsm["hdi_probabilities"]
    assert table.columns.tolist() == result.probabilities().columns.tolist()
    np.testing.assert_array_equal(table.to_numpy(), result.probabilities().to_numpy())
    notes = read.uns["hdi"]
    assert Taxonomy.from_json(str(notes["taxonomy"])) == ragged
    assert {key: str(value) for key, value in notes["recipe"].items()} == {
        "model": "m",
        "epochs": "3",
    }


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_names_with_a_slash_survive_the_disk(tmp_path, annotated, suffix):
    """A published type is called Megakaryocytes/platelets; a slash is a folder in both formats."""
    taxonomy = Taxonomy.from_nested({"Mk/Plt": ["Mk/Plt", "Mk"], "B": []}, level_names=["a/b", "c"])
    result = annotated(taxonomy, n_cells=20, recipe={"path/key": 1})
    adata = query(20)
    result.to_adata(adata)
    read = saved(adata, tmp_path / f"slash{suffix}")
    columns = ["Mk|Plt", "B", "Mk|Plt > Mk|Plt", "Mk|Plt > Mk"]
    assert read.obsm["hdi_probabilities"].columns.tolist() == columns
    np.testing.assert_array_equal(
        read.obsm["hdi_probabilities"].to_numpy(), result.probabilities().to_numpy()
    )
    # Values keep their slash; only names of columns lose it.
    assert read.obs["hdi_a|b"].tolist() == result.labels["a/b"].tolist()
    assert "Mk/Plt" in set(read.obs["hdi_a|b"])
    assert set(read.uns["hdi"]["recipe"]) == {"path|key"}


def test_the_notes_are_plain(ragged, annotated):
    notes = annotated(ragged, recipe={"split": (1, 2), "seed": 0}).to_dict()
    assert json.loads(json.dumps(notes)) == notes
    assert set(notes) == {"decoder", "threshold", "taxonomy", "recipe"}


def test_reports_are_among_the_notes(two_levels, annotated):
    notes = annotated(two_levels, input_report="found counts", gene_report="all genes").to_dict()
    assert notes["input_report"] == "found counts"
    assert notes["gene_report"] == "all genes"
