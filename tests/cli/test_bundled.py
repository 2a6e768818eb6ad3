"""``hdeepinsight annotate query.h5ad`` with the bundled model."""

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import hdeepinsight as hdi


@pytest.fixture
def query(tmp_path, monkeypatch):
    """Sixty cells of counts over the genes of the bundled model, on a machine without a hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HDEEPINSIGHT_CACHE", str(tmp_path / "cache"))
    model = hdi.hub.pull("pbmc")
    rates = 2000 * model.module.normalizer.mean_share.numpy()
    counts = np.random.default_rng(0).poisson(np.tile(rates, (60, 1)))
    cells = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    cells.var_names = list(model.layout.genes)
    path = tmp_path / "query.h5ad"
    cells.write_h5ad(path)
    return path


def test_annotate_needs_only_the_file(hdeepinsight, query, sha256):
    before = sha256(query)
    done = hdeepinsight("annotate", query)
    assert done.exit_code == 0, done.stderr
    assert sha256(query) == before
    written = ad.read_h5ad(query.with_name("query.annotated.h5ad"))
    assert {"hdi_lineage", "hdi_confidence"} <= set(written.obs)
    assert "query.annotated.h5ad" in done.stdout
    assert "Model pbmc comes with the package" in done.stdout


def test_existing_output_is_not_replaced(hdeepinsight, query):
    assert hdeepinsight("annotate", query).exit_code == 0
    done = hdeepinsight("annotate", query)
    assert done.exit_code == 2
    assert "already exists. Pass --overwrite" in " ".join(done.stderr.split())


def test_bundled_model_is_selected_by_name(hdeepinsight, query, tmp_path):
    done = hdeepinsight("annotate", query, "--model", "pbmc", "--out", tmp_path / "x.csv")
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize("where", ["all", "bundled"])
def test_models_lists_the_bundled_model_offline(hdeepinsight, query, where):
    done = hdeepinsight("models", "--where", where)
    assert done.exit_code == 0
    assert "pbmc" in done.stdout
    assert "bundled" in done.stdout
