"""``hdeepinsight annotate --report``."""

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
    """The query with coordinates and clusters."""
    adata = ad.read_h5ad(files.query)
    rng = np.random.default_rng(0)
    adata.obsm["X_umap"] = rng.normal(size=(adata.n_obs, 2))
    adata.obs["leiden"] = rng.choice(["0", "1"], adata.n_obs)
    path = tmp_path_factory.mktemp("report") / "query.h5ad"
    adata.write_h5ad(path)
    return path


def test_annotate_writes_a_page_with_coordinates_and_clusters_of_the_query(
    files, query, hdeepinsight, sha256, tmp_path
):
    before, labels, page = sha256(query), tmp_path / "labels.csv", tmp_path / "report.html"
    given = ["annotate", query, "--model", files.model, "--threshold", "0.8", "--out", labels]
    done = hdeepinsight(*given, "--report", page)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.endswith(f"Written to {labels} and {page}\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == [labels.name, page.name]
    assert sha256(query) == before
    found = facts(page)
    assert found["title"] == "Cell types of query.h5ad"
    assert found["model"] == str(files.model)
    assert (found["threshold"], found["n_cells"]) == (0.8, 210)
    assert {row["Cluster"] for row in found["tables"]["clusters"]["rows"]} == {"0", "1"}
    assert "cells in two dimensions" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "says"),
    [("page.htm", "must end in .html"), ("there.html", "Pass --overwrite")],
)
def test_page_that_cannot_be_written_raises(files, query, hdeepinsight, tmp_path, page, says):
    (tmp_path / "there.html").write_text("kept")
    given = ["annotate", query, "--model", files.model, "--out", tmp_path / "labels.csv"]
    done = hdeepinsight(*given, "--report", tmp_path / page)
    assert done.exit_code == 2, done.output
    assert says in " ".join(done.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == ["there.html"]
    assert (tmp_path / "there.html").read_text() == "kept"
