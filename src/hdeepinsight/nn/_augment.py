"""Augmentation of training cells: lower sequencing depth and fewer genes, as in queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from hdeepinsight._errors import check_number


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Base class of settings between 0 and 1."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            check_number(f"{type(self).__name__}: {name}", value, 0.0, 1.0)

    @classmethod
    def of(cls, given: Self | Mapping[str, Any] | None) -> Self:
        """Return settings from an instance, a mapping, or ``None`` (the defaults).

        Examples
        --------
        >>> from hdeepinsight.nn import CountThinning
        >>> CountThinning.of(None) == CountThinning.of({}) == CountThinning()
        True
        >>> CountThinning.of(CountThinning().to_dict()) == CountThinning()
        True
        """
        if given is None or isinstance(given, Mapping):
            return cls(**(given or {}))
        if not isinstance(given, cls):
            name = cls.__name__
            msg = f"{name} must be None or a {name}, got {given!r}. Pass {name}.none() to switch"
            raise TypeError(f"{msg} it off.")
        return given

    def to_dict(self) -> dict[str, float]:
        """Return plain types, for the model file.

        Examples
        --------
        >>> from hdeepinsight.nn import CountThinning
        >>> CountThinning().to_dict()
        {'p': 0.7, 'min_rate': 0.2}
        """
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class GeneMasking(Shares):
    """Settings of the random masking of genes in training.

    Parameters
    ----------
    p_whole
        Probability that a cell keeps all genes.
    max_rate
        Otherwise the masking rate of the cell is drawn from ``U(0, max_rate)``, and genes are
        masked independently at this rate.

    Examples
    --------
    >>> import torch
    >>> mask = GeneMasking(p_whole=0.0, max_rate=0.5).sample(1000, 200)
    >>> mask.shape, bool(0.7 < mask.mean() < 0.8)
    (torch.Size([1000, 200]), True)
    """

    p_whole: float = 0.2
    max_rate: float = 0.8

    @classmethod
    def none(cls) -> GeneMasking:
        """Return settings without masking.

        Examples
        --------
        >>> from hdeepinsight.nn import GeneMasking
        >>> bool(GeneMasking.none().sample(5, 3).all())
        True
        """
        return cls(p_whole=1.0, max_rate=0.0)

    def sample(
        self,
        n_cells: int,
        n_genes: int,
        device: torch.device | str = "cpu",
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw masks of shape ``(n_cells, n_genes)``: 1.0 for visible, 0.0 for masked genes.

        The global random state of torch is used unless a generator is given.

        Examples
        --------
        >>> from hdeepinsight.nn import GeneMasking
        >>> GeneMasking().sample(5, 3).shape
        torch.Size([5, 3])
        """
        if self.p_whole == 1.0 or self.max_rate == 0.0:
            return torch.ones(n_cells, n_genes, device=device)
        draw = partial(torch.rand, device=device, generator=generator)
        rate = self.max_rate * draw(n_cells, 1)
        whole = draw(n_cells, 1) < self.p_whole
        keep = draw(n_cells, n_genes) >= rate
        return (keep | whole).float()


@dataclass(frozen=True, kw_only=True)
class CountThinning(Shares):
    """Settings of the random thinning of counts in training, which simulates lower depth.

    Parameters
    ----------
    p
        Probability that a cell is thinned.
    min_rate
        The share of molecules that a thinned cell keeps is log-uniform on ``[min_rate, 1]``;
        molecules are kept independently (binomial).

    Notes
    -----
    Sequencing depth is a major difference between studies. Thinning counts before normalisation
    reproduces the zeros and the noise of lower depth, which scaling normalised values cannot. This
    step is not in the paper.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> counts = csr_matrix(np.full((1000, 10), 100.0))
    >>> thin = CountThinning(p=1.0, min_rate=0.25)
    >>> total = thin.sample(counts, np.random.default_rng(0)).sum(axis=1)
    >>> bool(200 < total.min() < 300), bool(970 < total.max() <= 1000)
    (True, True)
    """

    p: float = 0.7
    min_rate: float = 0.2

    @classmethod
    def none(cls) -> CountThinning:
        """Return settings without thinning.

        Examples
        --------
        >>> import numpy as np
        >>> from hdeepinsight.nn import CountThinning
        >>> from scipy.sparse import csr_matrix
        >>> counts = csr_matrix(np.full((2, 3), 100.0))
        >>> CountThinning.none().sample(counts, np.random.default_rng(0)) is counts
        True
        """
        return cls(p=0.0, min_rate=1.0)

    def sample(self, counts: sparse.csr_matrix, rng: np.random.Generator) -> sparse.csr_matrix:
        """Draw a thinned copy of raw counts, shape ``(n_cells, n_genes)``; fractions are rounded.

        Without thinning (``p=0`` or ``min_rate=1``), ``counts`` itself is returned.

        Examples
        --------
        >>> import numpy as np
        >>> from hdeepinsight.nn import CountThinning
        >>> from scipy.sparse import csr_matrix
        >>> counts = csr_matrix(np.full((2, 3), 100.0))
        >>> thinned = CountThinning(p=1.0).sample(counts, np.random.default_rng(0))
        >>> bool((thinned.toarray() <= counts.toarray()).all())
        True
        """
        if self.p == 0.0 or self.min_rate == 1.0:
            return counts
        n_cells = counts.shape[0]
        rate = np.exp(rng.uniform(np.log(max(self.min_rate, 1e-6)), 0.0, n_cells))
        rate[rng.random(n_cells) >= self.p] = 1.0
        return thin_counts(counts, rate, rng)

    def sample_dense(self, counts: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a thinned copy of a mini-batch of raw counts, on its device.

        Parameters
        ----------
        counts
            Raw counts, shape ``(n_cells, n_genes)``; fractions are rounded.
        generator
            Random generator on the same device; torch's global one by default.

        Returns
        -------
        Counts of the same shape and type, from the same distribution as :meth:`sample`. Without
        thinning (``p=0`` or ``min_rate=1``), ``counts`` itself is returned.

        Examples
        --------
        >>> import torch
        >>> from hdeepinsight.nn import CountThinning
        >>> counts = torch.full((2, 3), 100.0)
        >>> thinned = CountThinning(p=1.0).sample_dense(counts, torch.Generator().manual_seed(0))
        >>> bool((thinned <= counts).all()), thinned.shape
        (True, torch.Size([2, 3]))
        """
        if self.p == 0.0 or self.min_rate == 1.0:
            return counts
        chance, place = torch.rand(2, len(counts), 1, generator=generator, device=counts.device)
        rate = torch.exp(np.log(max(self.min_rate, 1e-6)) * place)
        rate[chance >= self.p] = 1.0
        molecules = counts.to(torch.promote_types(counts.dtype, torch.float32)).round()
        # Fast for sparse counts, because no random number is drawn for zeros.
        kept = torch.binomial(molecules, rate.to(molecules).expand_as(molecules), generator)
        return kept.to(counts.dtype)


def thin_counts(
    counts: sparse.csr_matrix, share: float | np.ndarray, rng: np.random.Generator
) -> sparse.csr_matrix:
    """Draw a copy of raw counts with a share of the molecules, which are kept independently.

    Parameters
    ----------
    counts
        Raw counts, shape ``(n_cells, n_genes)``; fractions are rounded.
    share
        Expected share of the molecules, of all cells or of each, shape ``(n_cells,)``.
    rng
        Random generator.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.nn import thin_counts
    >>> from scipy.sparse import csr_matrix
    >>> thin_counts(csr_matrix([[100.0, 0.0]]), 0.0, np.random.default_rng(0)).toarray()
    array([[0., 0.]])
    """
    # A full copy: with shared index arrays, eliminate_zeros would modify `counts`.
    thinned, lengths = counts.copy(), np.diff(counts.indptr)
    rates = np.repeat(np.broadcast_to(share, len(lengths)), lengths)
    kept = rng.binomial(np.rint(counts.data).astype(np.int64), rates)
    thinned.data = kept.astype(counts.data.dtype)
    return thinned
