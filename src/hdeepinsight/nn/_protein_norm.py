"""Protein counts in, values in [0, 1] out: centred log-ratios, fitted on the reference."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

SPREAD = (1.0, 99.0)
MIN_SPREAD = 0.5


class ProteinNormalizer(nn.Module):
    r"""Centred log-ratios of each cell's surface proteins, brought to [0, 1] protein by protein.

    Parameters
    ----------
    n_proteins
        Number of proteins.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> normalizer = ProteinNormalizer(3)
    >>> normalizer.clr(torch.tensor([[0.0, 0.0, 19.0]]), torch.ones(3)).round(decimals=3)
    tensor([[-0.9990, -0.9990,  1.9970]])

    Notes
    -----
    With counts :math:`x`, mask of measured proteins :math:`m` and the reference's mean
    :math:`\mu_p` of :math:`\log(1 + x_p)`, a cell becomes

    .. math::
        z_p = \log(1 + x_p) - \frac{\sum_q m_q \bigl(\log(1 + x_q) - \mu_q\bigr)}{\sum_q m_q}
        - \bar\mu, \qquad
        s_p = m_p \min\Bigl(1, \max\Bigl(0, \frac{z_p - a_p}{b_p - a_p}\Bigr)\Bigr),

    with :math:`a_p`, :math:`b_p` the 1st and 99th percentile of :math:`z_p` over the reference.
    Where all proteins are measured, :math:`z` is the centred log-ratio of Stoeckius et al. (2017,
    doi:10.1038/nmeth.4380), per cell. Of a smaller panel the centre would shift with the proteins
    that are left; the term with :math:`\mu` keeps it where it would be expected with all of them
    (our decision). The values of one cell never depend on other cells.
    """

    mean_log: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, n_proteins: int) -> None:
        super().__init__()
        self.register_buffer("mean_log", torch.zeros(n_proteins))
        self.register_buffer("low", torch.zeros(n_proteins))
        self.register_buffer("high", torch.ones(n_proteins))

    def fit(self, counts: np.ndarray) -> ProteinNormalizer:
        """Fit all buffers on the reference.

        Parameters
        ----------
        counts
            Raw counts of the cells in which proteins were measured, shape
            ``(n_cells, n_proteins)``.

        Returns
        -------
        The module itself.

        Raises
        ------
        ValueError
            If no cell has a count.

        Examples
        --------
        >>> import numpy as np
        >>> from hdeepinsight.nn import ProteinNormalizer
        >>> counts = np.array([[99.0, 1.0], [1.0, 99.0]], dtype=np.float32)
        >>> ProteinNormalizer(2).fit(counts).mean_log.shape
        torch.Size([2])
        """
        filled = counts[counts.sum(axis=1) > 0]
        if not len(filled):
            msg = (
                f"None of the {len(counts)} cells has a count in any of the {counts.shape[1]} "
                "proteins. Valid is a reference with raw protein counts; check its layer."
            )
            raise ValueError(msg)
        self.mean_log.copy_(torch.from_numpy(np.log1p(filled).mean(axis=0)))
        ratios = self.clr(torch.from_numpy(filled), torch.ones(counts.shape[1])).numpy()
        low, high = np.percentile(ratios, SPREAD, axis=0)
        self.low.copy_(torch.from_numpy(low))
        # A protein that is flat in the reference is noise: it is not stretched to the full range.
        self.high.copy_(torch.from_numpy(np.maximum(high, low + MIN_SPREAD)))
        return self

    def clr(self, counts: Tensor, measured: Tensor) -> Tensor:
        """Centred log-ratios, before the scale of each protein.

        Parameters
        ----------
        counts
            Raw counts, shape ``(n_cells, n_proteins)``.
        measured
            1 where the protein was measured, shape ``(n_proteins,)`` or
            ``(n_cells, n_proteins)``.

        Returns
        -------
        Log-ratios, shape ``(n_cells, n_proteins)``; 0 where not measured.

        Examples
        --------
        >>> import torch
        >>> from hdeepinsight.nn import ProteinNormalizer
        >>> ratios = ProteinNormalizer(2).clr(torch.tensor([[99.0, 0.0]]), torch.ones(2))
        >>> bool(ratios.sum().abs() < 1e-5)
        True
        """
        measured = measured.to(counts.dtype)
        logged = torch.log1p(counts * measured)
        excess = (measured * (logged - self.mean_log)).sum(-1, keepdim=True)
        n_measured = measured.sum(-1, keepdim=True).clamp_min(1.0)
        return measured * (logged - excess / n_measured - self.mean_log.mean())

    def forward(self, counts: Tensor, measured: Tensor) -> Tensor:
        """Values in [0, 1], shape ``(n_cells, n_proteins)``; arguments as :meth:`clr`."""
        scaled = (self.clr(counts, measured) - self.low) / (self.high - self.low)
        return scaled.clamp(0.0, 1.0) * measured
