"""Clusters on a learned graph, with and without the phase that trains them."""

from __future__ import annotations

from functools import partial
from typing import Any

from anndata import AnnData

import hdeepinsight as hdi


def cluster(adata: AnnData, n_clusters: int, seed: int, **settings: Any) -> dict[str, Any]:
    """Cluster cells on a learned graph."""
    cells = adata[:, adata.var["highly_variable"].to_numpy()].copy()
    hdi.SCAGC.setup_anndata(cells)
    model = hdi.SCAGC(cells, n_clusters=n_clusters, use_rep="X_pca", seed=seed)
    model.train(accelerator="cpu", enable_progress_bar=False, **settings)
    degrees = model.degree_report()
    spread = {f"in_degree_sd_{name}": round(x, 2) for name, x in degrees["in_degree_sd"].items()}
    return {"labels": model.predict().to_numpy(), **spread}


one_phase = partial(cluster, cluster_epochs=0)
