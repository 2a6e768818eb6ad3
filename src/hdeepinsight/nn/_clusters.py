"""Soft cluster assignments, and the sharpened assignments that serve as training targets."""

from __future__ import annotations

from torch import Tensor


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
