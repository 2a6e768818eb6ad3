"""Clusters on a learned graph, and the same network on graphs that are not learned."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from anndata import AnnData

import hdeepinsight as hdi

SAMPLERS = {"published": "published", "static": "static", "random": "static"}


def cluster(
    adata: AnnData, n_clusters: int, seed: int, variant: str = "adaptive"
) -> dict[str, Any]:
    """Cluster cells on a learned graph, or on another one.

    The variants: ``"adaptive"``; ``"published"``, noise of the public code; ``"static"``, the first
    graph throughout; ``"random"``, neighbours of random points; ``"one_phase"``, without training
    the clusters.
    """
    cells = adata[:, adata.var["highly_variable"].to_numpy()].copy()
    cells.obsm["random"] = np.random.default_rng(seed).normal(size=(cells.n_obs, 50))
    settings = {"cluster_epochs": 0} if variant == "one_phase" else {}
    hdi.SCAGC.setup_anndata(cells)
    model = hdi.SCAGC(
        cells,
        n_clusters=n_clusters,
        use_rep="random" if variant == "random" else "X_pca",
        graph_sampler=SAMPLERS.get(variant, "adaptive"),
        seed=seed,
    )
    model.train(accelerator="cpu", enable_progress_bar=False, **settings)
    degrees = model.degree_report()
    spread = {f"in_degree_sd_{name}": round(x, 2) for name, x in degrees["in_degree_sd"].items()}
    return {"labels": model.predict().to_numpy(), **spread}


published = partial(cluster, variant="published")
static = partial(cluster, variant="static")
random = partial(cluster, variant="random")
one_phase = partial(cluster, variant="one_phase")
