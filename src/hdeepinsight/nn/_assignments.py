"""Soft assignments: clusters, transport plans, and losses between two views of the same cells."""

from __future__ import annotations

import math

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


@torch.no_grad()
def sinkhorn(
    cost: Tensor,
    epsilon: float = 0.05,
    *,
    max_iter: int = 1000,
    tol: float = 0.005,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Compute the entropic transport plan between uniformly weighted rows and columns.

    Parameters
    ----------
    cost
        Cost of transport from each row to each column, shape ``(n, m)``.
    epsilon
        Weight of the entropy; larger values give a more uniform plan.
    max_iter
        Maximum number of iterations.
    tol
        Tolerance: stop when the total deviation of the row sums from ``1 / n`` is smaller.
    start
        Initial potential of the columns, as returned for similar costs, shape ``(m,)``.

    Returns
    -------
    plan, potential
        Plan, shape ``(n, m)``, whose columns sum to ``1 / m``; and the potential of the columns in
        units of ``epsilon``, shape ``(m,)``.

    Notes
    -----
    Iterations in the log domain, so that the kernel :math:`e^{-C/\varepsilon}` does not underflow
    (Peyré and Cuturi, Computational optimal transport, 2019, section 4.4). Gradients are not
    tracked: the gradient of
    :math:`\min_\pi \langle\pi, C\rangle + \varepsilon \sum \pi \log\pi` with respect to the cost is
    the plan itself (envelope theorem), which is the gradient of ``(plan * cost).sum()``.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import sinkhorn
    >>> plan, _ = sinkhorn(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    >>> plan.round(decimals=3)
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    """
    kernel = cost.detach() / -epsilon
    log_row, log_column = (-math.log(size) for size in kernel.shape)
    columns = kernel.new_zeros(kernel.shape[1]) if start is None else start
    rows = log_row - (kernel + columns).logsumexp(1)
    for _ in range(max_iter):
        columns = log_column - (kernel + rows[:, None]).logsumexp(0)
        moved = log_row - (kernel + columns).logsumexp(1)
        if (rows - moved).expm1().abs().mean() < tol:
            break
        rows = moved
    return (kernel + rows[:, None] + columns).exp(), columns
