"""Topics, and clusters of the topic scores."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
from anndata import AnnData
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF

from clustering.controls import leiden

N_TOPICS = 30


def _prepared(adata: AnnData) -> tuple[AnnData, dict[str, list[str]]]:
    """Return the variable genes, and the genes that are detected in each of at most 2,000 cells."""
    from scipy.sparse import csr_matrix

    chosen = adata[:, adata.var["highly_variable"].to_numpy()].copy()
    chosen.X = csr_matrix(chosen.X)
    rows = np.random.default_rng(0).permutation(chosen.n_obs)[:2000]
    names = chosen.var_names.to_numpy()
    return chosen, {str(row): names[chosen.X[row].indices].tolist() for row in rows}


def _topics(loadings: np.ndarray, genes: list[str], documents: dict[str, list[str]]) -> dict:
    """Return diversity and coherence of topics."""
    import hdeepinsight as hdi

    return {
        "topic_diversity": round(hdi.metrics.topic_diversity(loadings), 3),
        "topic_coherence": round(hdi.metrics.topic_coherence(loadings, genes, documents), 3),
    }


def _clusters(latent: np.ndarray, n_clusters: int, seed: int) -> np.ndarray:
    return KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(latent)


def sce2tm(
    adata: AnnData, n_clusters: int, seed: int, view: str | None = "pca", **options: Any
) -> dict[str, Any]:
    """Cluster topic scores into the true number of types; Leiden at resolution 1 beside it."""
    import hdeepinsight as hdi

    chosen, documents = _prepared(adata)
    if view == "permuted":
        rows = np.random.default_rng(seed).permutation(chosen.n_obs)
        chosen.obsm["X_pca"] = chosen.obsm["X_pca"][rows]
    key = None if view is None else "X_pca"
    hdi.SCE2TM.setup_anndata(chosen, embedding_obsm_key=key)
    model = hdi.SCE2TM(chosen, seed=seed, **{"n_topics": N_TOPICS, **options})
    model.train(accelerator="cpu", enable_progress_bar=False)
    latent = model.get_latent_representation()
    chosen.obsm["X_topics"] = latent
    return {
        "labels": _clusters(latent, n_clusters, seed),
        "labels_leiden": leiden(chosen, n_clusters, seed, "X_topics")["labels"],
        "labels_largest_topic": model.predict().to_numpy(),
        **_topics(model.get_topic_gene().to_numpy(), list(model.genes), documents),
    }


sce2tm_alone = partial(sce2tm, view=None)
sce2tm_permuted = partial(sce2tm, view="permuted")
sce2tm_no_transport = partial(sce2tm, view=None, ecr_weight=0.0)


def nmf(adata: AnnData, n_clusters: int, seed: int) -> dict[str, Any]:
    """Cluster the weights of a non-negative factorisation of log-normalised counts."""
    import scanpy as sc

    chosen, documents = _prepared(adata)
    sc.pp.normalize_total(chosen, target_sum=1e4)
    sc.pp.log1p(chosen)
    model = NMF(N_TOPICS, init="nndsvda", max_iter=400, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = model.fit_transform(chosen.X)
    return {
        "labels": _clusters(weights, n_clusters, seed),
        **_topics(model.components_, chosen.var_names.tolist(), documents),
    }


def ldvae(adata: AnnData, n_clusters: int, seed: int) -> dict[str, Any]:
    """Cluster the latent space of a variational autoencoder with a linear decoder, on counts."""
    import scvi

    chosen, documents = _prepared(adata)
    scvi.settings.seed = seed
    scvi.model.LinearSCVI.setup_anndata(chosen)
    model = scvi.model.LinearSCVI(chosen, n_latent=N_TOPICS)
    epochs = min(200, 400_000 // chosen.n_obs)
    model.train(epochs, accelerator="cpu", enable_progress_bar=False, train_size=1.0)
    loadings = model.get_loadings().to_numpy().T
    return {
        "labels": _clusters(model.get_latent_representation(), n_clusters, seed),
        **_topics(loadings, chosen.var_names.tolist(), documents),
    }
