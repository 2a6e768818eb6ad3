"""Contrast between two views of the same cells."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def cluster_contrast(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """Compute how badly the clusters of two assignments can be matched with each other.

    Parameters
    ----------
    first, second
        Probabilities of the clusters in two views of the same cells, shape ``(n_cells,
        n_clusters)``.
    temperature
        Divides the cosine of two clusters.

    Returns
    -------
    Mean cross-entropy over the ``2 * n_clusters`` clusters of both views, a scalar. The cells of a
    cluster in one view should be those of the same cluster in the other view, and of no other
    cluster in either.

    References
    ----------
    Li et al., Contrastive clustering, AAAI 2021; Li et al., Image clustering with external guidance
    (TAC), ICML 2024.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import cluster_contrast
    >>> view = torch.eye(3)
    >>> bool(cluster_contrast(view, view) < cluster_contrast(view, view[:, [1, 2, 0]]))
    True
    """
    clusters = functional.normalize(torch.cat([first, second], dim=1), dim=0)
    likeness = clusters.T @ clusters / temperature
    n_clusters, itself = first.shape[1], torch.eye(len(likeness), device=likeness.device).bool()
    partner = torch.arange(len(likeness), device=likeness.device).roll(n_clusters)
    return functional.cross_entropy(likeness.masked_fill(itself, -torch.inf), partner)
