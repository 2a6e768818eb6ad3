"""Commands with files of several modalities."""

import shutil
import warnings

import anndata as ad
import h5py
import mudata
import pandas as pd
import pytest
from paired import make_mudata, subset

import hdeepinsight as hdi
from hdeepinsight.data import own_columns, read_anndata

KEYS = ["lineage", "cell_type"]


@pytest.fixture(autouse=True)
def columns():
    with own_columns(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


@pytest.fixture(scope="module")
def folder(_synthetic_hierarchy, tmp_path_factory):
    """A model of both modalities, and cells with and without labels."""
    place = tmp_path_factory.mktemp("paired")
    with own_columns(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        cells = make_mudata(_synthetic_hierarchy[::2])
        cells.write(place / "labelled.h5mu")
        subset(cells).write(place / "query.h5mu")
    hdi.SCHDeepInsight.setup_mudata(cells, labels_keys=KEYS)
    model = hdi.SCHDeepInsight(cells, layout="random", n_genes=60)
    model.train(3, validation_size=0.2, enable_progress_bar=False, accelerator="cpu")
    model.save(place / "model")
    return place


def test_annotated_mudata_has_the_labels_of_hdi_annotate(hdeepinsight, folder, tmp_path):
    out, page = tmp_path / "labels.h5mu", tmp_path / "page.html"
    source = shutil.copy(folder / "query.h5mu", tmp_path / "query.h5mu")
    with h5py.File(source, "r+") as file:  # a column that anndata reads, but does not write
        table = file["mod/rna/var"]
        table.copy(table.attrs["_index"], "gene")
        table.attrs["column-order"] = [*table.attrs["column-order"], "_index"]
        table.attrs["_index"] = "gene"
    given = ["annotate", source, "--model", folder / "model", "--fast"]
    done = hdeepinsight(*given, "--out", out, "--report", page)
    assert done.exit_code == 0, done.output
    found, query = mudata.read(out), mudata.read(folder / "query.h5mu")
    assert (found["rna"].X != query["rna"].X).nnz == 0
    assert found["rna"].var["index"].tolist() == list(query["rna"].var_names)
    expected = hdi.annotate(query, folder / "model", adapt="off", refine="off").to_frame()
    assert found.obs["hdi_cell_type"].astype(str).tolist() == expected["cell_type"].tolist()
    assert f"{query.n_obs} cells" in page.read_text()


@pytest.mark.filterwarnings("ignore:This setting will be removed:DeprecationWarning")  # mudata
def test_a_mudata_in_a_zarr_store_is_annotated(hdeepinsight, folder, tmp_path):
    query = mudata.read(folder / "query.h5mu")
    try:
        query.write_zarr(tmp_path / "query.zarr")
    except TypeError as error:
        pytest.skip(f"this mudata cannot write zarr: {error}")
    given = ["annotate", tmp_path / "query.zarr", "--model", folder / "model", "--fast"]
    done = hdeepinsight(*given)
    assert done.exit_code == 0, done.output
    assert "hdi_cell_type" in mudata.read(tmp_path / "query.annotated.h5mu").obs
    done = hdeepinsight(*given, "--out", tmp_path / "labels.csv")
    assert done.exit_code == 0, done.output
    table = pd.read_csv(tmp_path / "labels.csv", index_col=0)
    expected = hdi.annotate(query, folder / "model", adapt="off", refine="off").to_frame()
    assert table["cell_type"].tolist() == expected["cell_type"].tolist()


def test_mudata_needs_h5mu_output(hdeepinsight, folder, tmp_path):
    given = ["annotate", folder / "query.h5mu", "--model", folder / "model"]
    done = hdeepinsight(*given, "--out", tmp_path / "labels.h5ad")
    assert done.exit_code == 2
    assert "must end in .h5mu or .csv for" in " ".join(done.output.split())
    mudata.read(folder / "query.h5mu")["rna"].write_h5ad(tmp_path / "rna.h5ad")
    given = ["annotate", tmp_path / "rna.h5ad", "--model", folder / "model"]
    done = hdeepinsight(*given, "--out", tmp_path / "labels.h5mu")
    assert done.exit_code == 2
    assert "must end in .h5ad or .zarr or .csv for" in " ".join(done.output.split())


def test_evaluate_and_report_read_a_mudata(hdeepinsight, folder, tmp_path):
    given = [folder / "labelled.h5mu", "--model", folder / "model"]
    done = hdeepinsight("evaluate", *given)
    assert done.exit_code == 0, done.output
    page, out = tmp_path / "page.html", tmp_path / "labels.csv"
    done = hdeepinsight("annotate", *given, "--fast", "--out", out, "--report", page)
    assert done.exit_code == 0, done.output
    assert page.stat().st_size > 10_000


def test_info_of_a_mudata_lists_its_modalities(hdeepinsight, folder):
    done = hdeepinsight("info", folder / "labelled.h5mu")
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    n_cells = mudata.read(folder / "labelled.h5mu").n_obs
    assert f"MuData of {n_cells} cells: rna (" in said
    assert "prot (6 columns) its RNA, 'rna':" in said
    assert "scale counts" in said
    assert "lineage: " in said


def test_info_of_a_mudata_without_rna(hdeepinsight, folder, tmp_path):
    proteins = mudata.read(folder / "query.h5mu")["prot"]
    mudata.MuData({"prot": proteins}).write(tmp_path / "proteins.h5mu")
    done = hdeepinsight("info", tmp_path / "proteins.h5mu")
    assert done.exit_code == 0, done.output
    assert "prot (6 columns)" in done.output


def test_single_modality_of_a_mudata_is_annotated(hdeepinsight, folder, tmp_path):
    mudata.read(folder / "query.h5mu")["rna"].write_h5ad(tmp_path / "rna.h5ad")
    out = tmp_path / "labels.h5ad"
    given = ["annotate", tmp_path / "rna.h5ad", "--model", folder / "model", "--fast"]
    done = hdeepinsight(*given, "--out", out)
    assert done.exit_code == 0, done.output
    assert isinstance(read_anndata(out), ad.AnnData)
