from collections.abc import Iterator

import matplotlib as mpl
import pytest

from hdeepinsight.taxonomy import Taxonomy

mpl.use("Agg")


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    """Close what a test draws, as the functions themselves must not."""
    from matplotlib import pyplot as plt

    yield
    plt.close("all")


@pytest.fixture
def tree() -> Taxonomy:
    """Nodes: 1 T, 2 B, 3 CD4, 4 CD8, 5 naive (of CD4), 6 memory."""
    return Taxonomy.from_nested({"T": {"CD4": ["naive", "memory"], "CD8": []}, "B": []})
