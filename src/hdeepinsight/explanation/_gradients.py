"""Expected gradients, for any function of expression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hdeepinsight.explanation._draws import Draws


def expected_gradients(
    scores: Callable[[Tensor], Tensor],
    cells: Tensor,
    background: Tensor,
    draws: Draws,
    weights: Tensor,
    *,
    batch_size: int = 1024,
) -> Tensor:
    r"""Share of every gene in the difference between a cell and the background.

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
        Weights of the scores in every question, shape ``(n_questions, n_cells, n_scores)``.
    batch_size
        Most points in one pass.

    Returns
    -------
    Attributions, shape ``(n_questions, n_cells, n_genes)``.

    Notes
    -----
    With :math:`F = \sum_j w_j \, \mathrm{score}_j`,

    .. math::
        \varphi_g = \mathrm{E}_{s', t}\Bigl[(s_g - s'_g)\,
        \frac{\partial F}{\partial s_g}\bigl(s' + t (s - s')\bigr)\Bigr]

    (Erion et al. 2021, doi:10.1038/s42256-021-00343-w), the mean of integrated gradients over the
    background. It is what :class:`shap.GradientExplainer` estimates, for all cells of a pass at
    once; all questions share points and forward pass, so that they add up exactly.

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
    n_cells, n_samples = draws.rows.shape
    for some, part in _blocks(n_cells, n_samples, batch_size):
        start = background[draws.rows[some, part]]
        change = cells[some].unsqueeze(1) - start
        points = torch.addcmul(start, change, draws.times[some, part].unsqueeze(2))
        slopes = _slopes(scores, points, weights[:, some])
        for question, slope in enumerate(slopes):
            total[question, some] += torch.einsum("csg,csg->cg", slope, change)
    return total / n_samples


def _slopes(
    scores: Callable[[Tensor], Tensor], points: Tensor, weights: Tensor
) -> Iterator[Tensor]:
    """Gradients ``(n_cells, n_samples, n_genes)`` at such points, one question after the other."""
    n_samples = points.shape[1]
    flat = points.flatten(0, 1).requires_grad_()
    with torch.enable_grad():
        found = scores(flat)
    for question, weight in enumerate(weights, start=1):
        (slope,) = torch.autograd.grad(
            found,
            flat,
            weight.repeat_interleave(n_samples, dim=0),
            retain_graph=question < len(weights),
        )
        yield slope.view_as(points)


def _blocks(n_cells: int, n_samples: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Cells and samples that fit into one pass together."""
    several = max(1, size // n_samples)
    for start in range(0, n_cells, several):
        for first in range(0, n_samples, size):
            yield slice(start, start + several), slice(first, first + size)
