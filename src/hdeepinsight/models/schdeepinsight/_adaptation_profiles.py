"""Mean profiles of the reference, which travel with the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from hdeepinsight.models.schdeepinsight._adaptation_cells import chunks
from hdeepinsight.nn import LeafProfiles

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from hdeepinsight.models.schdeepinsight._module import GeneImageClassifier


def leaf_profiles(
    module: GeneImageClassifier, counts: csr_matrix, nodes: np.ndarray
) -> LeafProfiles:
    """Mean log values of the cells of every leaf."""
    leaves = module.tree.leaf_index.cpu().numpy()
    n_genes = counts.shape[1]
    mean, sizes = torch.zeros(len(leaves), n_genes), torch.zeros(len(leaves))
    device = module.temperature.device
    measured = torch.ones(n_genes, device=device)
    for k, leaf in enumerate(leaves):
        rows = np.flatnonzero(nodes == leaf)
        sizes[k] = len(rows)
        for _, part in chunks(counts[rows], device):
            mean[k] += module.normalizer.log_normalize(part, measured).sum(0).cpu()
    return LeafProfiles(mean / sizes.clamp_min(1).unsqueeze(1), sizes)
