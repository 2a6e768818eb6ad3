"""``hdeepinsight annotate query.h5ad``, and nothing else."""

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


def test_a_file_is_all_it_takes(hdeepinsight, query, sha256):
    before = sha256(query)
    done = hdeepinsight("annotate", query)
    assert done.exit_code == 0, done.stderr
    assert sha256(query) == before
    written = ad.read_h5ad(query.with_name("query.annotated.h5ad"))
    assert {"hdi_lineage", "hdi_confidence"} <= set(written.obs)
    assert "query.annotated.h5ad" in done.stdout
    assert "Model pbmc is the bundled one, of human blood" in done.stdout


def test_it_replaces_no_earlier_result(hdeepinsight, query):
    assert hdeepinsight("annotate", query).exit_code == 0
    done = hdeepinsight("annotate", query)
    assert done.exit_code == 2
    assert "already exists. Pass --overwrite" in " ".join(done.stderr.split())


def test_its_name_is_that_of_a_model(hdeepinsight, query, tmp_path):
    done = hdeepinsight("annotate", query, "--model", "pbmc", "--out", tmp_path / "x.csv")
    assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize("where", ["all", "bundled"])
def test_models_lists_it_without_a_connection(hdeepinsight, query, where):
    done = hdeepinsight("models", "--where", where)
    assert done.exit_code == 0
    assert "pbmc" in done.stdout
    assert "bundled" in done.stdout
