"""Expected gradients of any function of expression, and the explainers of shap to check them."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from hdeepinsight._errors import check_integer

Method = Literal["expected_gradients", "shap_gradient", "kernel", "permutation"]

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
    >>> draws = BalancedDraws(2, 3, n_samples=6, seed=0).of(np.ones((1, 4)))
    >>> draws.rows[0].tolist(), draws.times.shape
    ([0, 1, 2, 3, 4, 5], torch.Size([1, 6]))
    """

    def __init__(self, per_stratum: int, n_strata: int, *, n_samples: int, seed: int = 0) -> None:
        check_integer("n_samples", n_samples, hint="Use 50.")
        self.table = np.arange(per_stratum * n_strata).reshape(per_stratum, n_strata)
        self.n_samples, self.seed = n_samples, seed

    def of(self, content: np.ndarray) -> Draws:
        """Draw for cells of this content, shape ``(n_cells, n_genes)``."""
        rows, times = np.empty((2, len(content), self.n_samples))
        rounds = -(-self.n_samples // self.table.size)
        for i, cell in enumerate(np.ascontiguousarray(content)):
            rng = np.random.default_rng([self.seed, zlib.crc32(cell.data)])
            shuffled = [
                # First which cell of a type comes in which round, then the order of types in it.
                rng.permuted(rng.permuted(self.table, axis=0), axis=1).ravel()
                for _ in range(rounds)
            ]
            rows[i] = np.sort(np.concatenate(shuffled)[: self.n_samples])
            times[i] = (rng.random() + GOLDEN * np.arange(self.n_samples)) % 1.0
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
    n_cells, n_samples = draws.rows.shape
    several = max(1, batch_size // n_samples)  # cells whose points fit into one pass
    blocks = [
        (slice(start, start + several), slice(first, first + batch_size))
        for start in range(0, n_cells, several)
        for first in range(0, n_samples, batch_size)
    ]
    for some, part in blocks:
        start = background[draws.rows[some, part]]
        change = cells[some].unsqueeze(1) - start
        points = torch.addcmul(start, change, draws.times[some, part].unsqueeze(2))
        flat = points.flatten(0, 1).requires_grad_()
        with torch.enable_grad():
            found = scores(flat)
        for target, weight in enumerate(weights[:, some]):
            repeated = weight.repeat_interleave(points.shape[1], dim=0)
            last = target == len(weights) - 1
            (slope,) = torch.autograd.grad(found, flat, repeated, retain_graph=not last)
            total[target, some] += torch.einsum("csg,csg->cg", slope.view_as(points), change)
    return total / n_samples


def shap_values(
    scores: Callable[[Tensor], Tensor],
    cells: Tensor,
    background: Tensor,
    weights: Tensor,
    *,
    method: Method = "permutation",
    n_samples: int | None = None,
    seed: int = 0,
    batch_size: int = 1024,
) -> Tensor:
    """Compute attributions by an explainer of shap: slow, and independent of ours.

    Parameters
    ----------
    scores, cells, background, weights
        As in :func:`expected_gradients`.
    method
        ``"shap_gradient"``: :class:`shap.GradientExplainer`, an estimate of the same expectation.
        ``"kernel"`` and ``"permutation"``: Shapley values, by :class:`shap.KernelExplainer` and
        :class:`shap.PermutationExplainer`, which take no gradient.
    n_samples
        Gradients (50), coalitions (2 × genes + 2,048) or permutations (1) per cell.
    seed
        Seed of the draws.
    batch_size
        Most cells in one pass.

    Returns
    -------
    Attributions, shape ``(n_targets, n_cells, n_genes)``.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.explanation import shap_values
    >>> slope = torch.tensor([[2.0], [-1.0]])
    >>> cell, background = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 3.0]])
    >>> shap_values(lambda s: s @ slope, cell, background, torch.ones(1, 1, 1))
    tensor([[[2., 2.]]])
    """
    import shap

    class Output(nn.Module):
        """One weighted sum of the scores, as the module or the function that shap asks for."""

        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, values: Tensor) -> Tensor:
            return (scores(values) @ self.weight).unsqueeze(1)

        @torch.no_grad()
        def of_arrays(self, values: np.ndarray) -> np.ndarray:
            points = torch.from_numpy(np.asarray(values, dtype=np.float32)).to(cells.device)
            starts = range(0, len(points), batch_size)
            found = torch.cat([self(points[i : i + batch_size])[:, 0] for i in starts])
            return np.asarray(found.cpu().numpy())

    reference, total = background.cpu().numpy(), cells.new_zeros(len(weights), *cells.shape)
    before = np.random.get_state()  # the global state, from which shap draws
    try:
        for target, weight in (
            (i, w) for i, some in enumerate(weights) for w in some.unique(dim=0)
        ):
            rows, output = (weights[target] == weight).all(dim=1), Output(weight)
            arrays = cells[rows].cpu().numpy()
            np.random.seed(seed)
            if method == "shap_gradient":
                explainer: Any = shap.GradientExplainer(output, background, batch_size)
                found = explainer.shap_values(cells[rows], nsamples=n_samples or 50, rseed=seed)
            elif method == "kernel":
                explainer = shap.KernelExplainer(output.of_arrays, reference)
                options = {"nsamples": n_samples or "auto", "l1_reg": False, "silent": True}
                found = explainer.shap_values(arrays, **options)
            else:
                masker = shap.maskers.Independent(reference, max_samples=len(reference))
                explainer = shap.PermutationExplainer(output.of_arrays, masker, seed=seed)
                n_outputs = (n_samples or 1) * (2 * arrays.shape[1] + 1)
                found = explainer(arrays, max_evals=n_outputs, silent=True).values
            values = np.asarray(found, dtype=np.float32).reshape(arrays.shape)
            total[target, rows] = torch.from_numpy(values).to(cells)
    finally:
        np.random.set_state(before)
    return total
