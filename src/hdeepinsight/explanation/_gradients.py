"""Expected gradients of any function of expression."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from hdeepinsight._errors import check_integer

#: Steps of this length around a circle leave gaps as even as steps of one length can.
GOLDEN = (5**0.5 - 1) / 2


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


def balanced_draws(
    content: np.ndarray, per_stratum: int, n_strata: int, *, n_samples: int, seed: int = 0
) -> Draws:
    """Draw points so that types and positions are covered evenly.

    Parameters
    ----------
    content
        What is in the cells, shape ``(n_cells, n_genes)``.
    per_stratum, n_strata
        Shape of the background: row ``i * n_strata + j`` is cell ``i`` of type ``j``.
    n_samples
        Points per cell.
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
    >>> from hdeepinsight.explanation import balanced_draws
    >>> draws = balanced_draws(np.ones((1, 4)), 2, 3, n_samples=6, seed=0)
    >>> draws.rows[0].tolist(), draws.times.shape
    ([0, 1, 2, 3, 4, 5], torch.Size([1, 6]))
    """
    check_integer("n_samples", n_samples, hint="Use 50.")
    table = np.arange(per_stratum * n_strata).reshape(per_stratum, n_strata)
    rows, times = np.empty((2, len(content), n_samples))
    for i, cell in enumerate(np.ascontiguousarray(content)):
        rng = np.random.default_rng([seed, zlib.crc32(cell.data)])
        shuffled = [
            # First which cell of a type comes in which round, then the order of types in it.
            rng.permuted(rng.permuted(table, axis=0), axis=1).ravel()
            for _ in range(-(-n_samples // table.size))
        ]
        rows[i] = np.sort(np.concatenate(shuffled)[:n_samples])
        times[i] = (rng.random() + GOLDEN * np.arange(n_samples)) % 1.0
    return Draws(torch.from_numpy(rows).long(), torch.from_numpy(times).float())


def expected_gradients(
    scores: Callable[[Tensor], Tensor],
    cells: Tensor,
    background: Tensor,
    draws: Draws,
    weights: Tensor,
    *,
    batch_size: int = 1024,
) -> Tensor:
    r"""Compute the share of every gene in the difference between a cell and the background.

    Parameters
    ----------
    scores
        Differentiable function from expression ``(n, n_genes)`` to scores ``(n, n_scores)``, each
        row on its own.
    cells
        Expression of the cells to explain, shape ``(n_cells, n_genes)``.
    background
        Expression of the cells that they are compared with, shape ``(n_background, n_genes)``.
    draws
        Points at which to take gradients, shape ``(n_cells, n_samples)``.
    weights
        Weights of the scores in every target, shape ``(n_targets, n_cells, n_scores)``.
    batch_size
        Most points in one pass.

    Returns
    -------
    Attributions, shape ``(n_targets, n_cells, n_genes)``.

    Notes
    -----
    With :math:`F = \sum_j w_j \, \mathrm{score}_j`,

    .. math::
        \varphi_g = \mathrm{E}_{s', t}\Bigl[(s_g - s'_g)\,
        \frac{\partial F}{\partial s_g}\bigl(s' + t (s - s')\bigr)\Bigr]

    (Erion et al. 2021, doi:10.1038/s42256-021-00343-w), the mean of integrated gradients over the
    background. It is what :class:`shap.GradientExplainer` estimates, for all cells of a pass at
    once; all targets share points and forward pass, so that they add up exactly.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.explanation import Draws, expected_gradients
    >>> slope = torch.tensor([[2.0], [-1.0]])
    >>> draws = Draws(torch.tensor([[0]]), torch.tensor([[0.3]]))
    >>> cell, background = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 3.0]])
    >>> expected_gradients(lambda s: s @ slope, cell, background, draws, torch.ones(1, 1, 1))
    tensor([[[2., 2.]]])
    """
    total = cells.new_zeros(len(weights), *cells.shape)
    rows, times = (part.to(cells.device) for part in draws)
    n_cells, n_samples = rows.shape
    several = max(1, batch_size // n_samples)  # cells whose points fit into one pass
    blocks = [
        (slice(start, start + several), slice(first, first + batch_size))
        for start in range(0, n_cells, several)
        for first in range(0, n_samples, batch_size)
    ]
    for some, part in blocks:
        start = background[rows[some, part]]
        change = cells[some].unsqueeze(1) - start
        points = torch.addcmul(start, change, times[some, part].unsqueeze(2))
        flat = points.flatten(0, 1).requires_grad_()
        with torch.enable_grad():
            found = scores(flat)
        for target, weight in enumerate(weights[:, some]):
            repeated = weight.repeat_interleave(points.shape[1], dim=0)
            last = target == len(weights) - 1
            (slope,) = torch.autograd.grad(found, flat, repeated, retain_graph=not last)
            total[target, some] += torch.einsum("csg,csg->cg", slope.view_as(points), change)
    return total / n_samples
