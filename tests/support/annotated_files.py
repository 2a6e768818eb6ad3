"""Cells to write results to, and their way to the disk and back."""

import warnings

import anndata as ad
import numpy as np
import pandas as pd


def cells(n_cells=60, **obs):
    index = [f"cell_{i}" for i in range(n_cells)]
    return ad.AnnData(
        np.ones((n_cells, 2), dtype=np.float32), obs=pd.DataFrame(obs or None, index=index)
    )


def saved(adata, path):
    if path.suffix == ".h5ad":
        adata.write_h5ad(path)
        return ad.read_h5ad(path)
    with warnings.catch_warnings():
        # anndata 0.12 announces the defaults of its next version whenever it writes zarr.
        warnings.filterwarnings("ignore", message=".*in the next minor release", module="anndata")
        adata.write_zarr(path)
    return ad.read_zarr(path)
