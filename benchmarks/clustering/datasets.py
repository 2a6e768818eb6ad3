"""Labelled cells whose labels only the scorer sees."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import scanpy as sc
from anndata import AnnData

#: Name of a row: file, column of the labels.
ROWS: dict[str, tuple[str, str]] = {
    "zheng6": ("pbmc_zheng2017_facs", "cell_type"),
    "zheng10": ("pbmc_zheng2017_facs", "cell_type_fine"),
    "pbmc3k": ("pbmc3k", "cell_type_fine"),
    "pbmc4k": ("pbmc4k", "cell_type_fine"),
    "kang": ("kang_ctrl_8donors", "cell_type_fine"),
    "marrow12": ("bm_triana_citeseq", "cell_type"),
    "marrow40": ("bm_triana_citeseq", "cell_type_fine"),
    "lung": ("lung_mouse_zilionis_immune", "cell_type_fine"),
    "pancreas": ("pancreas_human_3tech", "cell_type_fine"),
    "seqfish": ("embryo_mouse_seqfish_3", "cell_type_fine"),
    "oligodendrocytes": ("oligodendrocyte_mouse_marques", "cell_type_fine"),
}
#: The rows of the tables; the last two are harder and stand apart.
NINE = tuple(ROWS)[:9]
UNKNOWN = {"unknown", "nan", ""}
KEPT_COLUMNS = "batch", "donor", "study", "condition"
N_GENES, N_COMPONENTS = 2000, 50


def load(row: str, folder: Path) -> tuple[AnnData, np.ndarray]:
    """Read counts, choose genes and components, and take the labels away.

    Parameters
    ----------
    row
        Key of :data:`ROWS`.
    folder
        Folder of the files.

    Returns
    -------
    Cells with counts in ``X``, at most 2,000 ``var["highly_variable"]``, 50 principal components
    of their log-normalised values in ``obsm["X_pca"]`` and no labels; and the labels.
    """
    file, column = ROWS[row]
    adata = sc.read_h5ad(folder / f"{file}.h5ad")
    labels = adata.obs[column].astype(str).to_numpy()
    known = np.array([label.lower() not in UNKNOWN for label in labels])
    adata, labels = adata[known].copy(), labels[known]
    kept = adata.obs[[name for name in KEPT_COLUMNS if name in adata.obs]]
    adata = AnnData(adata.X, obs=kept, var=adata.var, obsm=dict(adata.obsm))
    sc.pp.filter_genes(adata, min_cells=1)
    log = adata.copy()
    sc.pp.normalize_total(log, target_sum=1e4)
    sc.pp.log1p(log)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.highly_variable_genes(log, n_top_genes=min(N_GENES, log.n_vars))
    adata.var["highly_variable"] = log.var["highly_variable"].to_numpy()
    log = log[:, adata.var["highly_variable"].to_numpy()].copy()
    sc.pp.pca(log, n_comps=min(N_COMPONENTS, min(log.shape) - 1), random_state=0)
    adata.obsm["X_pca"] = log.obsm["X_pca"]
    return adata, labels
