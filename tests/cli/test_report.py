"""``hdeepinsight report`` and ``annotate --report``."""

import json
import re

import anndata as ad
import numpy as np
import pytest


def facts(page) -> dict:
    """Figures that stand in a page for machines."""
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="hdeepinsight-report">(.*?)</script>', text)[1])


@pytest.fixture(scope="module")
def query(files, tmp_path_factory):
    """The query with coordinates, clusters and known labels."""
    adata = ad.read_h5ad(files.query)
    rng = np.random.default_rng(0)
    adata.obsm["X_umap"] = rng.normal(size=(adata.n_obs, 2))
    adata.obsm["X_other"] = rng.normal(size=(adata.n_obs, 3))
    adata.obs["leiden"] = rng.choice(["0", "1"], adata.n_obs)
    path = tmp_path_factory.mktemp("report") / "query.h5ad"
    adata.write_h5ad(path)
    return path


def test_report_of_a_query(files, query, hdeepinsight, sha256, tmp_path):
    before, out = sha256(query), tmp_path / "report.html"
    options = ["--clusters", "leiden", "--labels-keys", "lineage,cell_type", "--threshold", "0.8"]
    done = hdeepinsight("report", query, "--model", files.model, "--out", out, *options)
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"Written to {out}\n"
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert sha256(query) == before
    found = facts(out)
    assert found["title"] == "Cell types of query.h5ad"
    assert found["model"] == str(files.model)
    assert found["threshold"] == 0.8
    assert found["n_cells"] == found["evaluation"]["n_cells"] == 210
    assert {row["Cluster"] for row in found["tables"]["clusters"]["rows"]} == {"0", "1"}
    assert "cells in two dimensions" in out.read_text(encoding="utf-8")  # X_umap unasked


def test_annotate_also_writes_the_report(files, hdeepinsight, tmp_path):
    labels, out = tmp_path / "labels.csv", tmp_path / "report.html"
    command = ["annotate", files.query, "--model", files.model, "--out", labels, "--report", out]
    done = hdeepinsight(*command)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.endswith(f"Written to {labels} and {out}\n")
    assert facts(out)["n_cells"] == 210
    again = hdeepinsight(*command[:-1], tmp_path / "labels.html")
    assert (again.exit_code, "labels.csv already exists" in again.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        pytest.param(["--out", "page.htm"], 2, "must end in .html", id="ending"),
        pytest.param(["--out", "{there}"], 2, "Pass --overwrite", id="exists"),
        pytest.param(
            ["--clusters", "louvain"], 1, "has no column 'louvain'; it has", id="no_clusters"
        ),
        pytest.param(["--embedding", "X_no"], 1, "it has X_other, X_umap", id="no_embedding"),
        pytest.param(["--labels-key", "leiden"], 1, "do not lead to a node", id="other_labels"),
    ],
)
def test_invalid_report_options_raise(files, query, hdeepinsight, tmp_path, options, code, says):
    there = tmp_path / "there.html"
    there.write_text("kept")
    filled = [option.format(there=there) for option in options]
    out = [] if "--out" in filled else ["--out", tmp_path / "report.html"]
    done = hdeepinsight("report", query, "--model", files.model, *filled, *out)
    assert done.exit_code == code, done.output
    assert says in " ".join(done.stderr.split())
    assert "Traceback" not in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["there.html"]
    assert there.read_text() == "kept"
