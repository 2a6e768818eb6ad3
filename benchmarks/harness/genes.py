"""Genes of the controls: chosen on the reference alone, the same ones for each of them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import anndata as ad


def select_genes(reference: ad.AnnData, n_genes: int) -> list[str]:
    """Names of up to `n_genes` highly variable genes of the reference, in its order.

    A panel of at most `n_genes` genes is taken whole. Otherwise scanpy's dispersion rule ranks
    log-normalised values (``flavor="seurat"``).
    """
    if reference.n_vars <= n_genes:
        return list(reference.var_names)
    import scanpy as sc

    normalised = reference.copy()
    sc.pp.normalize_total(normalised, target_sum=1e4)
    sc.pp.log1p(normalised)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.highly_variable_genes(normalised, n_top_genes=n_genes, flavor="seurat")
    return list(normalised.var_names[normalised.var["highly_variable"]])
