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


def info_nce(view: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Compute how badly each cell is told apart from the rest by its other view.

    Parameters
    ----------
    view, other
        Positions of the same cells in both views, shape ``(n_cells, n_latent)``.
    temperature
        What divides the cosines.

    Returns
    -------
    Mean cross-entropy of finding each cell among all cells of the other view, a scalar.

    References
    ----------
    van den Oord, Li and Vinyals, Representation learning with contrastive predictive coding, 2018,
    arXiv:1807.03748.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import info_nce
    >>> info_nce(torch.eye(2), torch.eye(2), 1.0).round(decimals=3)
    tensor(0.3130)
    """
    cosines = functional.normalize(view, dim=1) @ functional.normalize(other, dim=1).T
    return functional.cross_entropy(
        cosines / temperature, torch.arange(len(view), device=view.device)
    )
