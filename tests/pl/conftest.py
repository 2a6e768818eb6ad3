from collections.abc import Iterator

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from hdeepinsight.annotation import Annotation
from hdeepinsight.taxonomy import Taxonomy

mpl.use("Agg")


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    """Close the figures of a test, which the functions must not do."""
    from matplotlib import pyplot as plt

    yield
    plt.close("all")


@pytest.fixture
def tree() -> Taxonomy:
    """Nodes: 1 T, 2 B, 3 CD4, 4 CD8, 5 naive (of CD4), 6 memory."""
    return Taxonomy.from_nested({"T": {"CD4": ["naive", "memory"], "CD8": []}, "B": []})


@pytest.fixture
def result(tree: Taxonomy) -> Annotation:
    """Five cells labelled at naive, CD4, CD8, B and the root."""
    leaves = [  # B, CD8, naive, memory
        [0.05, 0.05, 0.8, 0.1],
        [0.1, 0.1, 0.4, 0.4],
        [0.1, 0.7, 0.1, 0.1],
        [0.9, 0.1, 0.0, 0.0],
        [0.4, 0.3, 0.2, 0.1],
    ]
    return Annotation(
        taxonomy=tree,
        obs_names=list("abcde"),
        node_probabilities=np.array(leaves) @ tree.ancestor_matrix.astype(float),
        threshold=0.65,
        novelty=pd.DataFrame(
            {
                "doublet_score": [0.0, 1.0, 2.0, 3.0, 4.0],
                "lineage_p_value": [0.9, 0.5, 0.04, 0.05, 0.01],
            }
        ),
    )


@pytest.fixture
def empty(tree: Taxonomy) -> Annotation:
    """No cell."""
    return Annotation(taxonomy=tree, obs_names=[], node_probabilities=np.empty((0, 7)))
