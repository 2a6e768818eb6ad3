"""An explanation that no model made: twenty cells, thirty genes, half of which speak for a node."""

import numpy as np
import pandas as pd

from hdeepinsight.explanation import AttributionAccumulator, Explanation, Targets
from hdeepinsight.taxonomy import Taxonomy

TREE = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})


def explain(
    *, keep_values: bool = True, others: bool = True, against: str | None = None, seed: int = 0
) -> Explanation:
    """Twenty cells, the first half of the node, and thirty genes."""
    rng = np.random.default_rng(seed)
    own = np.arange(20) < (10 if others else 20)
    lean = np.roll(np.linspace(1, -1, 30), 3 * seed)
    values = rng.normal(0, 0.05, (20, 30)) + np.where(own[:, None], lean, -lean)
    expression = np.where(own[:, None], lean > 0, lean < 0).astype(np.float32)
    targets = Targets.of(TREE, "CD4", against=against)
    names = pd.Index([f"cell {i}" for i in range(20)])
    genes = pd.Index([f"GENE{i}" for i in range(30)])
    collected = AttributionAccumulator(targets, names, genes, keep_values=keep_values)
    cells, zeros = np.arange(20), np.zeros(20, dtype=np.int64)
    chunk = {"target": zeros, "cell": cells, "own": own, "values": values}
    outputs = {"outputs": values.sum(1), "base_values": zeros, "expression": expression}
    collected.add(cells, chunk | outputs)
    return collected.finish(
        background_expression=np.full(30, 0.5),
        background="2 × 3 types",
    )
