"""The benchmark is a folder of scripts: make its modules importable, and give it a small pair."""

import json
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.insert(0, str(BENCHMARKS))

LINEAGE = {"CD4": "T", "CD8": "T", "B": "B", "rare": "B", "new": "M"}


@pytest.fixture(autouse=True)
def _threads_as_before():
    n_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(n_threads)


def draw(labels, seed, n_genes=40):
    """Counts in which type i raises genes 5i to 5i+4 tenfold."""
    rng = np.random.default_rng(seed)
    mean = np.full((len(labels), n_genes), 0.5)
    for i, name in enumerate(LINEAGE):
        mean[np.ix_(np.array(labels) == name, np.arange(5 * i, 5 * i + 5))] *= 10
    obs = pd.DataFrame(
        {
            "lineage": [LINEAGE.get(name, name) for name in labels],
            "cell_type": labels,
            "donor": [f"d{i % 2}" for i in range(len(labels))],
            "secret": labels,
        },
        index=[f"{name}_{i}" for i, name in enumerate(labels)],
        dtype="category",
    )
    return ad.AnnData(
        X=sparse.csr_matrix(rng.poisson(mean).astype(np.float32)),
        obs=obs,
        var=pd.DataFrame(index=[f"G{i}" for i in range(n_genes)]),
        obsm={"X_labels": np.arange(len(labels), dtype=float)[:, None]},
        uns={"labels": np.array(labels)},
    )


@pytest.fixture
def own_pair(tmp_path):
    """A pairs file of one's own: three types to score, one too rare, one new, one ignored."""
    reference = ["CD4"] * 40 + ["CD8"] * 30 + ["B"] * 30 + ["rare"] * 3 + ["unknown"] * 4
    query = ["CD4"] * 20 + ["CD8"] * 20 + ["B"] * 10 + ["rare"] * 4 + ["new"] * 5 + ["unknown"] * 6
    draw(reference, 0).write_h5ad(tmp_path / "reference.h5ad")
    draw(query, 1)[:, ::-1].copy().write_h5ad(tmp_path / "query.h5ad")
    entry = {
        "name": "mine",
        "reference": {"file": "reference.h5ad"},
        "query": {"file": "query.h5ad"},
        "levels": ["lineage", "cell_type"],
        "batch_key": "donor",
        "ignore_labels": ["unknown"],
        "min_reference_cells": 5,
    }
    path = tmp_path / "pairs.json"
    path.write_text(json.dumps([entry]))
    return path
