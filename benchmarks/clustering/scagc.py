"""Clusters on a learned graph, on others, and without the phase that trains them."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from anndata import AnnData

import hdeepinsight as hdi


def cluster(
    adata: AnnData,
    n_clusters: int,
    seed: int,
    graph_sampler: Any = "adaptive",
    use_rep: str = "X_pca",
    **settings: Any,
) -> dict[str, Any]:
    """Cluster cells on a learned graph, or on one that stays as it is."""
    cells = adata[:, adata.var["highly_variable"].to_numpy()].copy()
    cells.obsm["random"] = np.random.default_rng(seed).normal(size=(cells.n_obs, 50))
    hdi.SCAGC.setup_anndata(cells)
    how = {"use_rep": use_rep, "graph_sampler": graph_sampler, "seed": seed}
    model = hdi.SCAGC(cells, n_clusters=n_clusters, **how)
    model.train(accelerator="cpu", enable_progress_bar=False, **settings)
    degrees = model.degree_report()
    spread = {f"in_degree_sd_{name}": round(x, 2) for name, x in degrees["in_degree_sd"].items()}
    return {"labels": model.predict().to_numpy(), **spread}


static = partial(cluster, graph_sampler="static")
random = partial(cluster, graph_sampler="static", use_rep="random")
one_phase = partial(cluster, cluster_epochs=0)
