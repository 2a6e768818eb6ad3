"""Queries that speed is measured on, and the tables that are written."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import speed
from scipy import sparse


def test_a_query_is_made_of_pairs_of_cells_of_one_type(tmp_path, monkeypatch):
    labels = pd.DataFrame({"cell_type_fine": ["a", "a", "b"]}, index=["1", "2", "3"])
    counts = sparse.csr_matrix(np.array([[1, 0, 0], [2, 0, 0], [0, 0, 5]], dtype=np.float32))
    ad.AnnData(counts, obs=labels).write_h5ad(tmp_path / "reference.h5ad")
    monkeypatch.setattr(speed, "N_BLOCK", 4)
    path = speed.make_query(tmp_path / "reference.h5ad", 10, tmp_path / "query.h5ad")
    query = ad.read_h5ad(path)
    assert query.shape == (10, 3)
    assert query.obs_names.is_unique
    assert list(query.obs) == ["donor"]
    found = set(map(tuple, query.X.toarray().astype(int)))
    assert found <= {(2, 0, 0), (3, 0, 0), (4, 0, 0), (0, 0, 10)}
    assert (0, 0, 10) in found
    before = path.stat().st_mtime_ns
    assert speed.make_query(tmp_path / "reference.h5ad", 10, path).stat().st_mtime_ns == before


def test_tables_compare_with_reading_the_same_file_in_the_same_run():
    memory = {"peak_mb": 1500, "added_mb": 20, "reading_s": 2.0}
    rows = [
        {"what": "w", "value": 2.5, "method": "reading", "n_cells": 1000, **memory},
        {"what": "x", "value": 3.0, "method": "bundled", "n_cells": 1000, **memory},
        {"what": "start", "value": 4.0},
    ]
    lines = speed.tables(rows).splitlines()
    assert "| 1,000 cells: **ours, bundled model** | 3.00 | 333 | 1.50 | 1,500 | 20 |" in lines
    assert lines[-1] == "| start | 4.0 |"


def test_a_job_is_measured_in_its_process(tmp_path):
    cells = ad.AnnData(sparse.csr_matrix(np.ones((3, 2), dtype=np.float32)))
    cells.write_h5ad(tmp_path / "query.h5ad")
    found = speed.child(speed.ANNOTATORS[0], tmp_path, tmp_path / "query.h5ad")
    assert found["cpu_s"] == pytest.approx(0, abs=5)
    assert found["host"]["threads"] == 1
    assert "anndata" in found["versions"]
