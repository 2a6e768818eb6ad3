"""Cells with a second view, and one small trained model."""

import anndata as ad
import numpy as np
import pytest

from hdeepinsight import SCE2TM

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def add_view(adata: ad.AnnData, seed: int = 0) -> ad.AnnData:
    """Add a noisy second view of the types, as from another assay."""
    rng = np.random.default_rng(seed)
    codes = adata.obs["cell_type"].cat.codes.to_numpy()
    centres = rng.normal(size=(codes.max() + 1, 6))
    adata.obsm["X_other"] = (3 * centres[codes] + rng.normal(size=(len(codes), 6))).astype("f4")
    return adata


@pytest.fixture
def cells(synthetic_hierarchy: ad.AnnData) -> ad.AnnData:
    return add_view(synthetic_hierarchy)


@pytest.fixture(scope="session")
def _trained(_synthetic_hierarchy: ad.AnnData) -> SCE2TM:
    adata = add_view(_synthetic_hierarchy.copy())
    SCE2TM.setup_anndata(adata, embedding_obsm_key="X_other")
    model = SCE2TM(adata, n_topics=12, n_hidden=32, n_embed=16, seed=0)
    model.train(120, batch_size=128, **QUIET)
    return model


@pytest.fixture
def trained(_trained: SCE2TM) -> SCE2TM:
    return _trained
