"""Entropic optimal transport between uniformly weighted points."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
