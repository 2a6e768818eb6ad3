"""A model trains on a reference that is read from disk as on one in memory, in less memory."""

import tracemalloc
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

from hdeepinsight import SCHDeepInsight

LEVELS = ["lineage", "cell_type"]
BRIEF = {"accelerator": "cpu", "enable_progress_bar": False}


def train(cells: ad.AnnData, **options) -> SCHDeepInsight:
    SCHDeepInsight.setup_anndata(cells, labels_keys=LEVELS)
    model = SCHDeepInsight(cells, layout="random", n_latent=16)
    model.train(validation_size=0.2, **BRIEF | options)
    return model


def opened(cells: ad.AnnData, how: str, folder: Path) -> ad.AnnData:
    """Return the same cells, read from disk when they are needed."""
    cells = cells.copy()
    cells.X = cells.X.toarray() if how == "dense" else sparse.csr_matrix(cells.X)
    if how != "zarr":
        cells.write_h5ad(folder / "cells.h5ad", compression="gzip")
        return ad.read_h5ad(folder / "cells.h5ad", backed="r")
    import zarr

    stored = zarr.open_group(folder / "cells.zarr", mode="w")
    ad.io.write_elem(stored, "X", cells.X, dataset_kwargs={"shards": None})
    return ad.AnnData(ad.io.sparse_dataset(stored["X"]), obs=cells.obs, var=cells.var)


@pytest.mark.parametrize("how", ["sparse", "dense", "zarr"])
def test_weights_are_those_of_training_in_memory(reference, query, tmp_path, how):
    on_disk = opened(reference, how, tmp_path)
    known, found = train(reference, max_epochs=2), train(on_disk, max_epochs=2)
    for name, weight in known.module.state_dict().items():
        assert torch.equal(weight, found.module.state_dict()[name]), name
    assert (known.bank_.counts != found.bank_.counts).nnz == 0
    np.testing.assert_array_equal(found.predict(query), known.predict(query))
    np.testing.assert_array_equal(found.evaluate().levels, known.evaluate().levels)
    with pytest.raises(ValueError, match="read-only"):
        found.adata_manager.adata.X.data[:] = 0


def peak_of_training(n_cells: int, path: Path) -> tuple[int, int]:
    """Return the size of a matrix on disk, and the most memory that training on it takes."""
    rng = np.random.default_rng(0)
    shape = n_cells, 600
    counts = sparse.random(*shape, 0.2, "csr", np.float32, rng, lambda n: rng.integers(1, 9, n))
    types = rng.choice(["a1", "a2", "b1"], n_cells)
    obs = pd.DataFrame({"lineage": [name[0] for name in types], "cell_type": types})
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(shape[1])])
    ad.AnnData(counts, obs=obs.set_index(obs.index.astype(str)), var=var).write_h5ad(path)
    tracemalloc.start()
    model = train(ad.read_h5ad(path, backed="r"), max_epochs=1, limit_train_batches=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(model.bank_.nodes) > 0
    return counts.data.nbytes + counts.indices.nbytes, peak


def test_memory_does_not_grow_with_the_matrix(tmp_path, monkeypatch):
    for samples in ("data._sampling.N_SOME", "models.schdeepinsight._model.LAYOUT_CELLS"):
        monkeypatch.setattr(f"hdeepinsight.{samples}", 1_000)
    (small, least), (large, most) = (
        peak_of_training(n_cells, tmp_path / f"{n_cells}.h5ad") for n_cells in (10_000, 40_000)
    )
    assert most - least < (large - small) / 5
