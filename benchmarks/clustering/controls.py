"""What a user would do without any of the models."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scanpy as sc
from anndata import AnnData
from sklearn.cluster import KMeans, SpectralClustering


def kmeans(adata: AnnData, n_clusters: int, seed: int, rep: str = "X_pca") -> dict[str, Any]:
    """Cluster principal components into the true number of types."""
    model = KMeans(n_clusters, n_init=10, random_state=seed)
    return {"labels": model.fit_predict(np.asarray(adata.obsm[rep]))}


def leiden(adata: AnnData, n_clusters: int, seed: int, rep: str = "X_pca") -> dict[str, Any]:
    """Cluster the graph of 15 neighbours by Leiden at resolution 1."""
    bare = AnnData(obs=adata.obs[[]].copy(), obsm={rep: adata.obsm[rep]})
    sc.pp.neighbors(bare, use_rep=rep, n_neighbors=15, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        sc.tl.leiden(bare, resolution=1.0, flavor="igraph", n_iterations=2, random_state=seed)
    return {"labels": bare.obs["leiden"].astype(int).to_numpy()}


def spectral(adata: AnnData, n_clusters: int, seed: int) -> dict[str, Any]:
    """Cluster the graph of 15 neighbours spectrally into the true number of types."""
    bare = AnnData(obs=adata.obs[[]].copy(), obsm={"X_pca": adata.obsm["X_pca"]})
    sc.pp.neighbors(bare, use_rep="X_pca", n_neighbors=15, random_state=0)
    graph = (bare.obsp["distances"] > 0).astype(float)
    model = SpectralClustering(
        n_clusters, affinity="precomputed", assign_labels="discretize", random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the graph may fall into parts
        return {"labels": model.fit_predict((graph + graph.T) / 2)}
