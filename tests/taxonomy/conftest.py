"""Random taxonomies for the tests."""

from collections.abc import Callable

import numpy as np
import pytest

from hdeepinsight.taxonomy import Taxonomy


def _random_tree(seed: int, n_nodes: int = 40) -> Taxonomy:
    """Ragged tree in shuffled node order, with single children and repeated names."""
    rng = np.random.default_rng(seed)
    parents = [-1, *(int(rng.integers(max(0, node - 12), node)) for node in range(1, n_nodes))]
    order = rng.permutation(n_nodes)
    position = np.argsort(order)
    labels, shuffled = [], []
    for node in order:
        # A third of the nodes carry their parent's name; the rest are named by their index.
        carries = parents[node] > 0 and parents.index(parents[node]) == node and node % 3 == 0
        labels.append(f"n{parents[node] if carries else node}")
        shuffled.append(-1 if parents[node] < 0 else int(position[parents[node]]))
    return Taxonomy(tuple(labels), np.asarray(shuffled))


@pytest.fixture(scope="session")
def random_tree() -> Callable[..., Taxonomy]:
    return _random_tree


@pytest.fixture
def immune() -> Taxonomy:
    return Taxonomy.immune()


@pytest.fixture
def small() -> Taxonomy:
    """T > (CD4 > (naive, Th1), CD8 > naive), B; two levels below T, a leaf at level 1."""
    return Taxonomy.from_nested({"T": {"CD4": ["naive", "Th1"], "CD8": ["naive"]}, "B": []})
