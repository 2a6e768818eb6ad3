"""Clusters under differential privacy, and what costs nothing or guarantees nothing beside them.

The genes are those of the row, which were not chosen privately: every budget is conditional on
them. The noise has no seed; the seed is that of k-means and of random projections.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from anndata import AnnData
from scipy.sparse import csr_matrix
from sklearn.cluster import KMeans

import hdeepinsight as hdi
from hdeepinsight.data import log_normalize

N_COMPONENTS = 16


def _clusters(points: np.ndarray, n_clusters: int, seed: int) -> dict[str, Any]:
    """Cluster coordinates as the control does."""
    return {"labels": KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(points)}


def dp_pca(
    adata: AnnData, n_clusters: int, seed: int, epsilon: float, *, centred: bool = False
) -> dict[str, Any]:
    """Cluster coordinates along private directions around 0, as published."""
    genes = adata.var_names[adata.var["highly_variable"]].tolist()
    result = hdi.tl.dp_pca(
        adata, epsilon=epsilon, genes=genes, n_comps=N_COMPONENTS, centred=centred
    )
    return {**_clusters(result.transform(adata), n_clusters, seed), "epsilon": result.epsilon}


def dp_pca_centred(adata: AnnData, n_clusters: int, seed: int, epsilon: float) -> dict[str, Any]:
    """Cluster coordinates along private directions around a private mean."""
    return dp_pca(adata, n_clusters, seed, epsilon, centred=True)


def no_projection(adata: AnnData, n_clusters: int, seed: int) -> dict[str, Any]:
    """Cluster the log-normalised values themselves: no map to release, and epsilon is 0."""
    values = log_normalize(csr_matrix(adata.X))[:, adata.var["highly_variable"].to_numpy()]
    return {**_clusters(values.toarray(), n_clusters, seed), "epsilon": 0.0}


def random_projection(adata: AnnData, n_clusters: int, seed: int) -> dict[str, Any]:
    """Cluster a random projection to 32 directions, which has seen no cell: epsilon is 0."""
    values = log_normalize(csr_matrix(adata.X))[:, adata.var["highly_variable"].to_numpy()]
    directions = np.random.default_rng(seed).normal(size=(values.shape[1], 32)) / np.sqrt(32)
    return {**_clusters(values @ directions, n_clusters, seed), "epsilon": 0.0}


def dpdcan(adata: AnnData, n_clusters: int, seed: int, epsilon: float = 0.0) -> dict[str, Any]:
    """Cluster latent positions of a whole private training; of one without noise for epsilon 0."""
    adata.obs["depth"] = np.asarray(adata.X.sum(axis=1)).ravel()
    cells = adata[:, adata.var["highly_variable"].to_numpy()].copy()
    cells = cells[np.asarray(cells.X.sum(axis=1)).ravel() > 0].copy()
    hdi.DPDCAN.setup_anndata(cells, size_factor_key="depth")
    model = hdi.DPDCAN(cells, seed=seed)
    settings = {"target_epsilon": epsilon} if epsilon else {"privacy": None}
    model.train(accelerator="cpu", enable_progress_bar=False, **settings)
    report = model.privacy_report
    # Cells without counts of these genes cannot train; they have a position all the same.
    every = adata[:, adata.var["highly_variable"].to_numpy()].copy()
    points = model.get_latent_representation(every)
    return {**_clusters(points, n_clusters, seed), "epsilon": report and round(report.epsilon, 3)}
