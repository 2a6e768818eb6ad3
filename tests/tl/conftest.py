"""Clusters of cells, a taxonomy and a classifier with random errors."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax

from hdeepinsight.annotation import Annotation
from hdeepinsight.taxonomy import Taxonomy

LEAVES = ("CD4", "CD8", "naive", "memory", "NK")
SIZES = (120, 60, 60, 30, 20)


@pytest.fixture(scope="session")
def tree() -> Taxonomy:
    return Taxonomy.from_nested(
        {"T": ["CD4", "CD8"], "B": ["naive", "memory"], "NK": []}, level_names=("lineage", "type")
    )


@pytest.fixture
def cells() -> ad.AnnData:
    """290 cells of five types in two batches, separated by ``obsm["X_pca"]``; ``p`` has errors."""
    rng = np.random.default_rng(0)
    kind = np.repeat(np.arange(5), SIZES)
    points = 5 * rng.normal(size=(5, 6))[kind] + rng.normal(size=(290, 6))
    scores = 2.0 * np.eye(5)[kind] + 1.2 * rng.normal(size=(290, 5))
    names = [f"cell_{i}" for i in range(290)]
    obs = pd.DataFrame(
        {"type": np.array(LEAVES)[kind], "batch": rng.choice(["one", "two"], 290)}, index=names
    )
    p = pd.DataFrame(softmax(scores, axis=1), index=names, columns=list(LEAVES))
    return ad.AnnData(obs=obs, obsm={"X_pca": points.astype(np.float32), "p": p, "logits": scores})


@pytest.fixture
def annotation(cells, tree) -> Annotation:
    """The classifier's probabilities on every node of the tree."""
    p = cells.obsm["p"]
    table = p.assign(T=p.CD4 + p.CD8, B=p.naive + p.memory)
    node = np.column_stack([np.ones(290), *(table[tree.label(i)] for i in range(1, 8))])
    return Annotation(taxonomy=tree, obs_names=cells.obs_names, node_probabilities=node)
