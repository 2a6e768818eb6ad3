"""Sums over cells, of which profiles are made that travel with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from hdeepinsight.models.schdeepinsight._adaptation_cells import chunks
from hdeepinsight.nn import LeafSums

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from torch import Tensor

    from hdeepinsight.models.schdeepinsight._module import GeneImageClassifier
    from hdeepinsight.taxonomy import TreeAlgebra


def leaf_numbers(tree: TreeAlgebra, nodes: np.ndarray) -> Tensor:
    """Return the number of every cell's leaf, int64, shape ``(n_cells,)``; -1 for other nodes."""
    of_node = torch.full((tree.taxonomy.n_nodes,), -1)
    leaves = tree.leaf_index.cpu()
    of_node[leaves] = torch.arange(len(leaves))
    return of_node[torch.as_tensor(nodes)]


def leaf_sums(
    module: GeneImageClassifier, counts: csr_matrix, leaves: Tensor, measured: Tensor
) -> LeafSums:
    """Add up the log values of the cells of every leaf."""
    n_leaves = len(module.tree.leaf_index)
    sums = LeafSums.of(torch.zeros(0, counts.shape[1]), leaves[:0], n_leaves)
    for rows, part in chunks(counts, measured.device):
        values = module.normalizer.log_normalize(part, measured).cpu()
        sums = sums + LeafSums.of(values, leaves[rows], n_leaves)
    return sums


def reference_sums(
    module: GeneImageClassifier,
    counts: csr_matrix,
    nodes: np.ndarray,
    batches: np.ndarray | None = None,
) -> list[LeafSums]:
    """Add up the log values of a reference, batch by batch where it has some."""
    leaves = leaf_numbers(module.tree, nodes)
    measured = torch.ones(counts.shape[1], device=module.temperature.device)
    parts = [slice(None)] if batches is None else [batches == name for name in np.unique(batches)]
    return [leaf_sums(module, counts[part], leaves[part], measured) for part in parts]
