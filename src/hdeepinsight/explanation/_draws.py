"""Where on the lines from the background to a cell the gradient is taken."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

GOLDEN = (5**0.5 - 1) / 2
"""Steps of this length around a circle leave gaps as even as steps of one length can."""


class Draws(NamedTuple):
    """Points on lines from background cells to explained cells.

    Parameters
    ----------
    rows
        Background cell where each line starts, int64, shape ``(n_cells, n_samples)``.
    times
        How far along it the point lies, from 0 (background) to 1 (the cell), the same shape.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.explanation import Draws
    >>> draws = Draws(rows=torch.tensor([[0, 1]]), times=torch.tensor([[0.25, 0.75]]))
    >>> draws.rows.shape == draws.times.shape
    True
    """

    rows: Tensor
    times: Tensor

    def to(self, device: torch.device) -> Draws:
        """Move both to a device.

        Examples
        --------
        >>> import torch
        >>> from hdeepinsight.explanation import Draws
        >>> draws = Draws(torch.tensor([[0, 1]]), torch.tensor([[0.25, 0.75]]))
        >>> draws.to(torch.device("cpu")).times
        tensor([[0.2500, 0.7500]])
        """
        return Draws(self.rows.to(device), self.times.to(device))


class BalancedDraws:
    """Draw points so that types and positions are covered evenly.

    Parameters
    ----------
    per_stratum, n_strata
        Shape of the background: row ``i * n_strata + j`` is cell ``i`` of type ``j``.
    n_samples
        Points a cell.
    seed
        Seed of the draws.

    Notes
    -----
    Of the ``n_samples`` points of a cell, every type of the background gets as many as any other,
    or one more, and so does every background cell of a type. Positions start at random and go on
    in steps of the golden ratio, around and around, from one background cell to the next: they
    cover [0, 1] evenly, also for each background cell alone. Every point is uniform by itself, so
    that the mean over draws is that of independent ones, at a smaller variance. Draws follow from
    the seed and from what is in the cell, and so depend neither on other cells nor on the order or
    the size of mini-batches.

    Examples
    --------
    >>> import numpy as np
    >>> draws = BalancedDraws(2, 3, n_samples=6, seed=0).of(np.ones((1, 4)))
    >>> draws.rows[0].tolist(), draws.times.shape
    ([0, 1, 2, 3, 4, 5], torch.Size([1, 6]))
    """

    def __init__(self, per_stratum: int, n_strata: int, *, n_samples: int, seed: int = 0) -> None:
        if n_samples < 1:
            msg = f"n_samples={n_samples}; valid is one point a cell or more. Use 50."
            raise ValueError(msg)
        self.table = np.arange(per_stratum * n_strata).reshape(per_stratum, n_strata)
        self.n_samples, self.seed = n_samples, seed

    def of(self, content: np.ndarray) -> Draws:
        """Draw for cells of this content, shape ``(n_cells, n_genes)``."""
        pairs = [self._one(np.ascontiguousarray(cell)) for cell in content]
        rows, times = (np.stack(part) for part in zip(*pairs, strict=True))
        return Draws(torch.from_numpy(rows), torch.from_numpy(times.astype(np.float32)))

    def _one(self, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng([self.seed, zlib.crc32(cell.data)])
        rounds = -(-self.n_samples // self.table.size)
        shuffled = [
            # First which cell of a type comes in which round, then the order of types in a round.
            rng.permuted(rng.permuted(self.table, axis=0), axis=1).ravel()
            for _ in range(rounds)
        ]
        rows = np.sort(np.concatenate(shuffled)[: self.n_samples])
        times = (rng.random() + GOLDEN * np.arange(self.n_samples)) % 1.0
        return rows, times
