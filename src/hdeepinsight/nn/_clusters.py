"""Soft cluster assignments, and contrastive losses between two views of the same cells."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def cluster_contrast(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """Compute the contrastive loss between the clusters of two soft assignments.

    Parameters
    ----------
    first, second
        Cluster probabilities in two views of the same cells, shape ``(n_cells, n_clusters)``.
    temperature
        Divisor of the cosine similarities.

    Returns
    -------
    Mean cross-entropy over the ``2 * n_clusters`` clusters of both views, a scalar. The positive
    pair of a cluster is the same cluster in the other view; all other clusters are negatives.

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
    similarity = clusters.T @ clusters / temperature
    positive = torch.arange(len(similarity), device=similarity.device).roll(first.shape[1])
    return functional.cross_entropy(similarity.fill_diagonal_(-torch.inf), positive)


def info_nce(view: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Compute the InfoNCE loss between two views of the same cells.

    Parameters
    ----------
    view, other
        Embeddings of the same cells in two views, shape ``(n_cells, n_latent)``.
    temperature
        Divisor of the cosine similarities.

    Returns
    -------
    Mean cross-entropy of identifying each cell among all cells of the other view, a scalar.

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


def student_t_assignment(latent: Tensor, centres: Tensor) -> Tensor:
    """Compute cluster probabilities with a Student t kernel with one degree of freedom.

    Parameters
    ----------
    latent
        Embedding of the cells, shape ``(n_cells, n_latent)``.
    centres
        Cluster centres, shape ``(n_clusters, n_latent)``.

    Returns
    -------
    Probabilities, shape ``(n_cells, n_clusters)``; rows sum to 1.

    References
    ----------
    Xie, Girshick and Farhadi, Unsupervised deep embedding for clustering analysis, ICML 2016.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import student_t_assignment
    >>> student_t_assignment(torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0]])).round(decimals=3)
    tensor([[0.6670, 0.3330]])
    """
    squared = (latent[:, None] - centres[None]).square().sum(dim=2)
    kernel = 1 / (1 + squared)
    return kernel / kernel.sum(dim=1, keepdim=True)


def sharpened_assignment(assignment: Tensor) -> Tensor:
    """Compute target probabilities: squared, divided by cluster size, and normalised.

    Parameters
    ----------
    assignment
        Probabilities, shape ``(n_cells, n_clusters)``.

    Returns
    -------
    Target probabilities, shape ``(n_cells, n_clusters)``; rows sum to 1.

    References
    ----------
    Xie, Girshick and Farhadi, Unsupervised deep embedding for clustering analysis, ICML 2016.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import sharpened_assignment
    >>> sharpened_assignment(torch.tensor([[0.75, 0.25], [0.25, 0.75]]))
    tensor([[0.9000, 0.1000],
            [0.1000, 0.9000]])
    """
    sharp = assignment.square() / assignment.sum(dim=0)
    return sharp / sharp.sum(dim=1, keepdim=True)
