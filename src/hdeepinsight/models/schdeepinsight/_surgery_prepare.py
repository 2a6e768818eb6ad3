"""A copy of a query with the genes of a model."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

from hdeepinsight.data import align_genes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy.sparse import csr_matrix

    from hdeepinsight.data import GeneAlignment


def pad_query(adata: ad.AnnData, genes: Sequence[str], weights: np.ndarray) -> ad.AnnData:
    """Copy with exactly these genes; ``var["measured"]`` tells which of them are real.

    Parameters
    ----------
    adata
        Query, not changed.
    genes
        Genes of the model.
    weights
        Share of the reference's expression that each carries, shape ``(n_genes,)``.

    Returns
    -------
    Copy of shape ``(n_obs, n_genes)``, matrices in CSR.
    """
    alignment = align_genes(adata.var, genes, weights=weights)
    padded = ad.AnnData(
        X=_aligned(adata.X, alignment),
        obs=adata.obs.copy(),
        var=pd.DataFrame({"measured": alignment.measured}, index=pd.Index(genes)),
        obsm={name: values.copy() for name, values in adata.obsm.items()},
        obsp={name: values.copy() for name, values in adata.obsp.items()},
        uns=deepcopy(dict(adata.uns)),
        layers={
            name: _aligned(values, alignment)
            for name, values in adata.layers.items()
            if name is not None  # newer versions list X among the layers
        },
    )
    if adata.raw is not None:
        padded.raw = adata.raw.to_adata()
    return padded


def _aligned(matrix: object, alignment: GeneAlignment) -> csr_matrix | None:
    if matrix is None:
        return None
    block = matrix.tocsr() if hasattr(matrix, "tocsr") else np.asarray(matrix)
    return alignment.apply(block)
