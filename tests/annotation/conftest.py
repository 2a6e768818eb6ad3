"""Probabilities over trees of every shape."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from trees import NESTED

from hdeepinsight.annotation import Annotation
from hdeepinsight.taxonomy import Taxonomy

SHAPES = {"ragged": NESTED["ragged"], "chain": {"T": {"CD4": ["naive"]}}}


def _probabilities(taxonomy: Taxonomy, n_cells: int, seed: int = 0, sharpness: float = 2.0):
    """Node probabilities of random logits: a softmax in each group, multiplied down the tree."""
    rng = np.random.default_rng(seed)
    node = np.ones((n_cells, taxonomy.n_nodes))
    for parent in range(taxonomy.n_nodes):  # a parent comes before its children
        children = np.flatnonzero(taxonomy.parent == parent)
        if len(children):
            weight = np.exp(sharpness * rng.normal(size=(n_cells, len(children))))
            share = weight / weight.sum(axis=1, keepdims=True)
            node[:, children] = node[:, [parent]] * share
    return node


@pytest.fixture(scope="session")
def probabilities() -> Callable[..., np.ndarray]:
    return _probabilities


@pytest.fixture(params=SHAPES)
def taxonomy(request) -> Taxonomy:
    return Taxonomy.from_nested(SHAPES[request.param])


@pytest.fixture
def ragged() -> Taxonomy:
    return Taxonomy.from_nested(NESTED["ragged"])


@pytest.fixture
def two_levels() -> Taxonomy:
    return Taxonomy.from_nested(NESTED["two levels"], level_names=("lineage", "cell_type"))


@pytest.fixture(scope="session")
def annotated() -> Callable[..., Annotation]:
    """Make an annotation of cells ``cell_0``, ``cell_1``, ... with random probabilities."""

    def make(taxonomy: Taxonomy, n_cells: int = 60, seed: int = 0, **kwargs) -> Annotation:
        return Annotation(
            taxonomy=taxonomy,
            obs_names=pd.Index([f"cell_{i}" for i in range(n_cells)]),
            node_probabilities=_probabilities(taxonomy, n_cells, seed),
            **kwargs,
        )

    return make
