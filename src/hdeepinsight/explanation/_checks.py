"""The explainers of shap, slow and independent: to check expected gradients on a few cells."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Method = Literal["expected_gradients", "shap_gradient", "kernel", "permutation"]


def shap_values(
    method: Method,
    output: Callable[[Tensor], Tensor],
    cells: Tensor,
    background: Tensor,
    *,
    n_samples: int | None = None,
    seed: int = 0,
    batch_size: int = 1024,
) -> Tensor:
    """Attributions by an explainer of shap.

    Parameters
    ----------
    method
        ``"shap_gradient"``: :class:`shap.GradientExplainer`, an estimate of the same expectation.
        ``"kernel"`` and ``"permutation"``: Shapley values, by :class:`shap.KernelExplainer` and
        :class:`shap.PermutationExplainer`, which take no gradient.
    output
        Function from expression ``(n, n_genes)`` to ``(n,)``.
    cells, background
        Expression, shapes ``(n_cells, n_genes)`` and ``(n_background, n_genes)``.
    n_samples
        Gradients a cell (50), coalitions a cell (2 × genes + 2,048), or permutations a cell (1).
    seed
        Seed of the draws.
    batch_size
        Most cells in one pass.

    Returns
    -------
    Attributions, shape ``(n_cells, n_genes)``.
    """
    import shap

    def numbers(values: np.ndarray) -> np.ndarray:
        points = torch.from_numpy(np.asarray(values, dtype=np.float32))
        starts = range(0, len(points), batch_size)
        with torch.inference_mode():
            found = [output(points[i : i + batch_size].to(cells.device)).cpu() for i in starts]
        return torch.cat(found).numpy()

    rows, reference = cells.cpu().numpy(), background.cpu().numpy()
    with _seeded(seed):
        if method == "shap_gradient":
            explainer: Any = shap.GradientExplainer(_Output(output), background, batch_size)
            found = explainer.shap_values(cells, nsamples=n_samples or 50, rseed=seed)
        elif method == "kernel":
            explainer = shap.KernelExplainer(numbers, reference)
            nsamples = n_samples or "auto"
            found = explainer.shap_values(rows, nsamples=nsamples, l1_reg=False, silent=True)
        else:
            masker = shap.maskers.Independent(reference, max_samples=len(reference))
            explainer = shap.PermutationExplainer(numbers, masker, seed=seed)
            evaluations = (n_samples or 1) * (2 * rows.shape[1] + 1)
            found = explainer(rows, max_evals=evaluations, silent=True).values
    return torch.from_numpy(np.asarray(found, dtype=np.float32).reshape(rows.shape)).to(cells)


class _Output(nn.Module):
    """A function as the module that shap asks for."""

    def __init__(self, output: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.output = output

    def forward(self, values: Tensor) -> Tensor:
        return self.output(values).unsqueeze(1)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global state of NumPy, from which shap draws, and put it back afterwards."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
