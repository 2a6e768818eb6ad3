"""Output layers with the parameters of a zero-inflated negative binomial."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

MEAN_BOUNDS = (1e-5, 1e6)
DISPERSION_BOUNDS = (1e-4, 1e4)


class CountParameters(NamedTuple):
    """Parameters of a zero-inflated negative binomial per cell and gene.

    Parameters
    ----------
    mean
        Mean at the depth of the cell, shape ``(n_cells, n_genes)``.
    dispersion
        Inverse dispersion, shape ``(n_cells, n_genes)`` or ``(n_genes,)``.
    zero_logits
        Logits of zero inflation, of the same shapes.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import CountParameters
    >>> found = CountParameters(torch.ones(2, 5), torch.ones(5), torch.zeros(5))
    >>> found.mean.shape
    torch.Size([2, 5])
    """

    mean: Tensor
    dispersion: Tensor
    zero_logits: Tensor


class CountHeads(nn.Module):
    """Output layers from hidden features to a zero-inflated negative binomial.

    Parameters
    ----------
    n_hidden, n_genes
        Number of hidden features and of genes.
    per_cell
        Whether dispersion and zero inflation depend on the cell; otherwise each gene has one
        parameter of each.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import CountHeads
    >>> heads = CountHeads(8, 5, per_cell=False)
    >>> [tuple(part.shape) for part in heads(torch.zeros(2, 8), torch.ones(2, 1))]
    [(2, 5), (5,), (5,)]
    """

    def __init__(self, n_hidden: int, n_genes: int, *, per_cell: bool = True) -> None:
        super().__init__()
        self.mean = nn.Linear(n_hidden, n_genes)
        self.dispersion: nn.Linear | nn.Parameter
        self.zeros: nn.Linear | nn.Parameter
        for name in ("dispersion", "zeros"):
            one_each = nn.Parameter(torch.zeros(n_genes))
            setattr(self, name, nn.Linear(n_hidden, n_genes) if per_cell else one_each)

    def forward(self, hidden: Tensor, size_factor: Tensor) -> CountParameters:
        """Compute parameters from features ``(n_cells, n_hidden)`` and depths ``(n_cells, 1)``."""
        mean = self.mean(hidden).exp().clamp(*MEAN_BOUNDS) * size_factor
        dispersion, zeros = (
            part(hidden) if isinstance(part, nn.Linear) else part
            for part in (self.dispersion, self.zeros)
        )
        dispersion = nn.functional.softplus(dispersion).clamp(*DISPERSION_BOUNDS)
        return CountParameters(mean, dispersion, zeros)
