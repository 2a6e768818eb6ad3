"""Training, annotation and evaluation from the command line."""

import json
import re
from dataclasses import replace
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from pandas.testing import assert_frame_equal
from scipy import sparse

import hdeepinsight as hdi
from hdeepinsight.models import SCHDeepInsight

LEVELS = ["lineage", "cell_type"]


@pytest.fixture(scope="module")
def expected(files):
    """The same annotation, made in Python."""
    return SCHDeepInsight.load(files.model, adata=False).annotate(files.query)


def test_train_reports_the_model_and_the_cells_held_out(files):
    assert "7 types at levels lineage (3), cell_type (7)" in files.train_output
    recipe = SCHDeepInsight.load(files.model, adata=False).recipe
    assert 28 <= recipe["n_held_out"] <= 42  # a fifth of about 30 cells of each of seven types
    assert f"{recipe['n_held_out']} held-out cells" in files.train_output
    assert "balanced_accuracy" in files.train_output
    assert f"Saved to {files.model}" in files.train_output


def test_info_of_a_model_shows_taxonomy_and_recipe(files, hdeepinsight):
    done = hdeepinsight("info", files.model)
    model = SCHDeepInsight.load(files.model, adata=False)
    assert done.exit_code == 0
    assert str(model.taxonomy) in done.stdout
    assert repr(model) in done.stdout
    assert re.search(r"│ max_epochs +│ 12", done.stdout)


def test_info_of_the_bundled_model(hdeepinsight):
    for address in ("pbmc", hdi.hub.download("pbmc").address):
        done = hdeepinsight("info", address)
        assert done.exit_code == 0, done.stderr
        assert repr(hdi.hub.pull("pbmc")) in done.stdout
        done = hdeepinsight("info", address, "--use-raw")
        assert "--use-raw has no effect for a model" in done.stderr


@pytest.mark.parametrize("name", ["query", "query_zarr"])
def test_info_of_a_data_file_is_the_input_report(files, hdeepinsight, name):
    path = getattr(files, name)
    done = hdeepinsight("info", path)
    assert done.exit_code == 0
    assert done.stdout.startswith(str(hdi.pp.inspect_input(path)))
    assert "lineage: " in done.stdout


def test_annotate_writes_the_labels_of_hdi_annotate(
    files, hdeepinsight, expected, sha256, tmp_path_factory
):
    for ending in [".h5ad", ".zarr", ".csv"]:
        for source in ["query", "query_zarr"]:
            tmp_path = tmp_path_factory.mktemp("case")
            query, out = getattr(files, source), tmp_path / f"annotated{ending}"
            before = sha256(query)
            done = hdeepinsight("annotate", query, "--model", files.model, "--out", out)
            assert done.exit_code == 0, done.stderr
            assert sha256(query) == before
            assert [path.name for path in tmp_path.iterdir()] == [
                out.name
            ]  # nothing unfinished is left
            table = expected.to_frame()
            if ending == ".csv":
                labels = pd.read_csv(out, index_col="cell", keep_default_na=False)
                assert list(labels) == list(table)
            else:
                labels = (ad.read_h5ad if ending == ".h5ad" else ad.read_zarr)(out).obs
            for name, column in table.items():
                written = labels[name if ending == ".csv" else f"hdi_{name}"]
                if column.dtype.kind == "f":
                    np.testing.assert_allclose(written, column, atol=1e-5)
                else:
                    assert written.astype(str).tolist() == column.astype(str).tolist()


@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
def test_annotated_copy_keeps_the_query(files, hdeepinsight, tmp_path, ending):
    query = ad.read_h5ad(files.query)
    query.layers["twice"] = query.X * 2
    query.obsm["place"] = np.arange(2.0 * query.n_obs).reshape(-1, 2)
    query.uns["note"] = "kept"
    source, out = tmp_path / "query.h5ad", tmp_path / f"annotated{ending}"
    query.write_h5ad(source)
    done = hdeepinsight(
        "annotate",
        source,
        "-m",
        files.model,
        "-o",
        out,
        "--key-added",
        "auto",
        "--threshold",
        "none",
    )
    assert done.exit_code == 0, done.stderr
    copy = (ad.read_h5ad if ending == ".h5ad" else ad.read_zarr)(out)
    assert (copy.X != query.X).nnz == 0
    assert (copy.layers["twice"] != query.layers["twice"]).nnz == 0
    np.testing.assert_array_equal(copy.obsm["place"], query.obsm["place"])
    assert_frame_equal(copy.obs[list(query.obs)], query.obs)
    assert copy.uns["note"] == "kept"
    assert copy.uns["auto"]["threshold"] == "none"
    assert set(copy.obs) - set(query.obs) == {
        f"auto_{name}"
        for name in SCHDeepInsight.load(files.model, adata=False).annotate(query).to_frame()
    }
    assert (copy.obs["auto_stop_label"].astype(str) == copy.obs["auto_cell_type"].astype(str)).all()


@pytest.mark.parametrize("kind", ["h5ad", "10x"])
def test_query_is_opened_once_for_labels_copy_and_report(
    files, halves, hdeepinsight, tmp_path, monkeypatch, kind
):
    path = files.query if kind == "h5ad" else tmp_path / "query.h5"
    if kind == "10x":
        write_10x(halves[1], path)
    opened, read_elem, read_10x = [], ad.io.read_elem, sc.read_10x_h5

    def elem(found):
        opened.extend([found.file.filename] * (found.name == "/obs"))
        return read_elem(found)

    def matrix(name, **how):
        opened.append(str(name))
        return read_10x(name, **how)

    monkeypatch.setattr(ad.io, "read_elem", elem)
    monkeypatch.setattr(sc, "read_10x_h5", matrix)
    out = tmp_path / "out.h5ad"
    command = ["annotate", path, "-m", files.model, "-o", out, "--report", tmp_path / "page.html"]
    done = hdeepinsight(*command)
    assert done.exit_code == 0, done.output
    assert opened == [str(path)]
    opened.clear()
    result = hdi.annotate(path, files.model)
    assert opened == [str(path)]
    written = ad.read_h5ad(out)
    assert written.obs["hdi_leaf"].tolist() == result.to_frame()["leaf"].tolist()
    assert (written.X != halves[1].X).nnz == 0


def write_10x(adata, path):
    """Write a feature-barcode matrix as Cell Ranger does."""
    counts = sparse.csc_matrix(adata.X.T)
    with h5py.File(path, "w") as root:
        group = root.create_group("matrix")
        group["barcodes"] = adata.obs_names.to_numpy().astype("S")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(counts, name)
        group["shape"] = counts.shape
        names = adata.var_names.to_numpy().astype("S")
        group["features/id"] = group["features/name"] = names
        for name, value in {"feature_type": b"Gene Expression", "genome": b"GRCh38"}.items():
            group[f"features/{name}"] = np.full(len(names), value)


def test_defaults_equal_those_of_hdi_annotate(files, hdeepinsight, tmp_path):
    out = tmp_path / "labels.csv"
    done = hdeepinsight("annotate", files.query, "-m", files.model, "-o", out)
    assert done.exit_code == 0, done.stderr
    result = hdi.annotate(ad.read_h5ad(files.query), files.model)
    table = pd.read_csv(out, index_col="cell", keep_default_na=False)
    for level in LEVELS:
        assert table[level].tolist() == result.labels[level].astype(str).tolist()
    said = " ".join(done.stdout.split())
    for decision in result.decisions:
        assert said.count(" ".join(str(decision).split())) == 1
        assert decision.reason not in done.stderr
    for name in (*LEVELS, "share", "confidence"):
        assert name in done.stdout


def test_options_equal_the_arguments_of_hdi_annotate(files, hdeepinsight, tmp_path):
    out = tmp_path / "labels.csv"
    options = ["--types", "T, Myeloid", "--exclude", "DC", "--vote", "cell_type", "--details"]
    command = ["annotate", files.query, "-m", files.model, "-o", out, "--fast", "--no-fill"]
    done = hdeepinsight(*command, *options)
    assert done.exit_code == 0, done.stderr
    assert "Labels voted on by clusters" in done.stdout
    result = hdi.annotate(
        files.query,
        files.model,
        adapt="off",
        refine="off",
        types=["T", "Myeloid"],
        exclude=["DC"],
        vote="cell_type",
    )
    expected = result.to_frame(fill=False, details=True)
    table = pd.read_csv(out, index_col="cell", keep_default_na=False)
    assert list(table) == list(expected)
    for level in LEVELS:
        assert table[level].tolist() == expected[level].astype(object).fillna("").tolist()
        runner_up = expected[f"{level}_runner_up"].astype(str)
        assert table[f"{level}_runner_up"].tolist() == runner_up.tolist()


def test_invalid_options_raise(files, hdeepinsight, tmp_path_factory):
    for options, code, says in [
        (["--types", "CD4 X"], 1, "no node 'CD4 X'"),
        (["--types", "T,"], 2, "Remove the stray comma"),
        (["--vote", "leiden"], 1, "Pass --vote auto"),
        (["--threshold", "0.3"], 2, "from 0.5 to 1, or none"),
    ]:
        tmp_path = tmp_path_factory.mktemp("case")
        out = tmp_path / "labels.csv"
        done = hdeepinsight("annotate", files.query, "-m", files.model, "-o", out, *options)
        assert done.exit_code == code, done.output
        assert says in " ".join(done.stderr.replace("│", " ").split())
        assert not out.exists()


@pytest.mark.parametrize("light", ["green", "yellow", "red"])
def test_red_verdict_is_an_error_with_strict(files, hdeepinsight, tmp_path, monkeypatch, light):
    verdict = hdi.annotation.Verdict(light=light, sentences=("It is not blood.", "No lineage."))
    annotate = hdi.annotate
    monkeypatch.setattr(
        hdi, "annotate", lambda *words, **named: replace(annotate(*words, **named), verdict=verdict)
    )
    for strict in (False, True):
        out = tmp_path / f"{strict}.csv"
        command = ["annotate", files.query, "-m", files.model, "-o", out, "--fast"]
        done = hdeepinsight(*command, *["--strict"] * strict)
        assert done.exit_code == (3 if strict and light == "red" else 0)
        assert out.exists()
        assert f"{light.upper()}: It is not blood." in done.stdout
        assert ("It is not blood. (--strict)" in done.stderr) == (strict and light == "red")


def test_flags_take_no_value_in_the_help(hdeepinsight):
    for command in ("annotate", "train", "evaluate"):
        shown = hdeepinsight(command, "--help").stdout
        assert "<bool>" not in shown
        assert "--use-raw" in shown
    assert "<bool>" not in hdeepinsight("--help").stdout


def test_evaluate_equals_model_evaluate(files, hdeepinsight):
    model = SCHDeepInsight.load(files.model, adata=False)
    truth = model.evaluate(ad.read_h5ad(files.query)).to_dict()
    done = hdeepinsight("evaluate", files.query, "--model", files.model, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["n_cells"] == truth["n_cells"] == 210
    assert found["hierarchical"]["f1"] == pytest.approx(truth["hierarchical"]["f1"])
    for row, true_row in zip(found["levels"], truth["levels"], strict=True):
        assert row == pytest.approx(true_row)
    assert found["levels"][0]["accuracy"] > 0.9  # lineages of the synthetic data are easy


def test_evaluate_reads_other_columns(files, hdeepinsight, tmp_path_factory):
    for columns in [
        ["--labels-key", "type_too"],
        ["--labels-keys", "lineage,type_too"],
        ["-l", "lineage", "-l", "type_too"],
        ["--labels-key", "lineage", "--labels-keys", "type_too"],
    ]:
        tmp_path = tmp_path_factory.mktemp("case")
        query = ad.read_h5ad(files.query)
        query.obs["type_too"] = query.obs["cell_type"].astype(str)
        query.obs.iloc[:10, query.obs.columns.get_loc("type_too")] = "Unknown"
        path = tmp_path / "other.h5ad"
        query[:, :].copy().write_h5ad(path)
        done = hdeepinsight("evaluate", path, "--model", files.model, *columns, "--json")
        assert done.exit_code == 0, done.stderr
        fine = json.loads(done.stdout)["levels"][1]
        assert fine["n_cells"] == query.n_obs - 10


def test_evaluate_prints_a_table(files, hdeepinsight):
    done = hdeepinsight("evaluate", files.query, "--model", files.model)
    assert done.exit_code == 0
    assert "210 cells with known labels" in done.stdout
    assert all(name in done.stdout for name in (*LEVELS, "macro_f1", "ece", "hierarchical"))


def test_train_with_a_taxonomy_file_and_a_layer(files, halves, hdeepinsight, write_zarr, tmp_path):
    reference = halves[0].copy()
    reference.layers["counts"] = reference.X.copy()
    reference.X = reference.X * -1.5  # refused, if it were read
    path, tree = tmp_path / "reference.zarr", tmp_path / "tree.json"
    write_zarr(reference, path)
    taxonomy = hdi.Taxonomy.from_nested(
        {
            "Lymphoid": {"B": ["B naive", "B memory"], "T": ["CD4 T", "CD8 T", "gd T"]},
            "Myeloid": ["Mono classical", "DC"],
        }
    )
    taxonomy.to_json(tree)
    out = tmp_path / "model"
    options = [
        "--labels-key",
        "cell_type",
        "--taxonomy",
        tree,
        "--layer",
        "counts",
        "--max-epochs",
        1,
    ]
    done = hdeepinsight("train", path, *options, "--layout", "random", "--seed", 3, "--out", out)
    assert done.exit_code == 0, done.stderr
    model = SCHDeepInsight.load(out, adata=False)
    assert model.taxonomy == taxonomy
    assert model.recipe["seed"] == 3
    assert model.recipe["n_held_out"] == 0  # a tenth of 30 cells is too little to score
    assert "no cells were held out" in done.stderr
    reference.X = None
    reference.write_h5ad(tmp_path / "layers.h5ad")  # whose X cannot be read
    options += ["--layout", "random", "--seed", 3, "--out", tmp_path / "other"]
    done = hdeepinsight("train", tmp_path / "layers.h5ad", *options)
    assert done.exit_code == 0, done.stderr


def test_outputs_are_replaced_only_with_overwrite(files, hdeepinsight, tmp_path):
    for ending in (".h5ad", ".zarr", ".csv"):
        out = tmp_path / f"annotated{ending}"
        command = ["annotate", files.query, "--fast", "--model", files.model, "--out", out]
        assert hdeepinsight(*command).exit_code == 0
        assert hdeepinsight(*command).exit_code == 2
        assert hdeepinsight(*command, "--overwrite").exit_code == 0


def test_failed_write_keeps_the_old_output(files, hdeepinsight, tmp_path, monkeypatch):
    out = tmp_path / "annotated.csv"
    out.write_text("precious")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", full)
    words = [files.query, "--fast", "-m", files.model, "-o", out, "--overwrite"]
    done = hdeepinsight("annotate", *words)
    assert done.exit_code == 1
    assert "No space left on device" in done.stderr
    assert out.read_text() == "precious"
    assert [Path(p).name for p in tmp_path.iterdir()] == ["annotated.csv"]


def test_counts_of_raw(files, halves, hdeepinsight, tmp_path):
    query = halves[1].copy()
    query.raw = query.copy()
    query.X = query.X * -1.0  # refused, if it were read
    path, out, plain = (tmp_path / name for name in ("q.h5ad", "out.csv", "plain.csv"))
    query.write_h5ad(path)
    assert hdeepinsight("annotate", files.query, "-m", files.model, "-o", plain).exit_code == 0
    done = hdeepinsight("annotate", path, "--use-raw", "-m", files.model, "-o", out)
    assert done.exit_code == 0, done.stderr
    assert out.read_text() == plain.read_text()
    assert "in .raw" in hdeepinsight("info", path, "--use-raw").stdout


def test_a_reference_with_its_counts_in_raw(files, halves, hdeepinsight, sha256, tmp_path):
    reference = halves[0].copy()
    reference.raw = reference.copy()
    reference = reference[:, :30].copy()
    reference.X = reference.X * -1.0
    path = tmp_path / "reference.h5ad"
    reference.write_h5ad(path)
    before = sha256(path)
    options = ["--labels-key", "cell_type", "--layout", "random", "--max-epochs", 1, "--out"]
    refused = hdeepinsight("train", path, *options, tmp_path / "refused")
    assert refused.exit_code == 1
    assert "pass --use-raw" in " ".join(refused.stderr.split())
    for source, flag in ((path, ["--use-raw"]), (files.reference, [])):
        out = tmp_path / f"of_{source.parent.name}"
        done = hdeepinsight("train", source, *flag, *options, out)
        assert done.exit_code == 0, done.stderr
    loaded = (SCHDeepInsight.load(folder, adata=False) for folder in sorted(tmp_path.glob("of_*")))
    first, second = (model.module.state_dict() for model in loaded)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)
    assert sha256(path) == before
    both = hdeepinsight("train", path, "--use-raw", "--layer", "x", *options, tmp_path / "both")
    assert both.exit_code == 1
    assert "Both --use-raw and --layer x" in " ".join(both.stderr.split())


def test_genes_in_another_case(files, halves, hdeepinsight, tmp_path):
    query = halves[1].copy()
    query.var_names = [name.capitalize() for name in query.var_names]
    path = tmp_path / "mouse.h5ad"
    query.write_h5ad(path)
    command = ["evaluate", path, "--model", files.model, "--json"]
    refused = hdeepinsight(*command)
    assert refused.exit_code == 1
    done = hdeepinsight(*command, "--fold-case")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == hdeepinsight("evaluate", files.query, *command[2:]).stdout
