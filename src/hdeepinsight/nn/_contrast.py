"""Contrast between two views of the same cells."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize


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
    cosines = normalize(view, dim=1) @ normalize(other, dim=1).T
    return cross_entropy(cosines / temperature, torch.arange(len(view), device=view.device))
