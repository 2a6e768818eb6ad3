"""Smoothing on a graph as a layer, so that strength and edge weights can be learned."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Laplacian = Literal["rw", "comb", "sym"]


class GraphRefinement(nn.Module):
    """Solve ``(I + λL) P = P₀`` for scores P₀ on a fixed set of edges.

    Parameters
    ----------
    edges
        Pairs of cells, int64, shape ``(2, n_edges)``; every undirected edge once, no loops.
    n_cells
        Number of cells.
    laplacian
        ``"rw"`` (I − D⁻¹A), ``"comb"`` (D − A) or ``"sym"`` (I − D^-½ A D^-½).
    tol
        Largest relative residual of every class.
    max_iter
        Most iterations of conjugate gradients, forward and backward.

    Raises
    ------
    ValueError
        If edges are not pairs of different cells.

    Notes
    -----
    The map is that of `hdeepinsight.graph.smooth` (GRIT, Hu et al. 2025, arXiv:2508.04747).
    Gradients are implicit: the backward pass solves the same system once more for the incoming
    gradient, instead of walking back through the iterations. Source: our decision.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import GraphRefinement
    >>> layer = GraphRefinement(torch.tensor([[0], [1]]), n_cells=2)
    >>> layer(torch.tensor([[1.0], [0.0]]), torch.ones(1), torch.tensor(1.0))
    tensor([[0.6667],
            [0.3333]])
    """

    edges: Tensor

    def __init__(
        self,
        edges: Tensor,
        n_cells: int,
        *,
        laplacian: Laplacian = "rw",
        tol: float = 1e-5,
        max_iter: int = 200,
    ) -> None:
        super().__init__()
        _check_edges(edges, n_cells)
        self.register_buffer("edges", edges)
        self.n_cells = n_cells
        self.laplacian = laplacian
        self.tol = tol
        self.max_iter = max_iter

    def forward(self, scores: Tensor, weights: Tensor, lam: Tensor) -> Tensor:
        """Smooth scores.

        Parameters
        ----------
        scores
            P₀, shape ``(n_cells, n_classes)``.
        weights
            Weight of every edge, not negative, shape ``(n_edges,)``.
        lam
            Strength λ, not negative, a scalar.

        Returns
        -------
        torch.Tensor
            Shape ``(n_cells, n_classes)``; cells without edges keep their scores.

        Raises
        ------
        RuntimeError
            If ``max_iter`` iterations do not reach ``tol``.
        """
        return _Smooth.apply(scores, weights, lam, self)  # type: ignore[no-any-return]

    def _apply_system(
        self, values: Tensor, weights: Tensor, lam: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Give the system's product with values, its diagonal, and the weight of own scores."""
        one, other = self.edges
        degree = weights.new_zeros(self.n_cells).index_add(0, one, weights)
        degree = degree.index_add(0, other, weights)
        connected = torch.where(degree > 0, degree, torch.ones_like(degree))
        if self.laplacian == "sym":
            weights = weights * (connected[one] * connected[other]).rsqrt()
            loops = (degree > 0).to(degree.dtype)
        else:
            loops = degree
        own = connected if self.laplacian == "rw" else torch.ones_like(degree)
        product = loops[:, None] * values
        product = product.index_add(0, one, -weights[:, None] * values[other])
        product = product.index_add(0, other, -weights[:, None] * values[one])
        return own[:, None] * values + lam * product, own + lam * loops, own

    def _solve(self, right: Tensor, start: Tensor, weights: Tensor, lam: Tensor) -> Tensor:
        """Conjugate gradients with a Jacobi preconditioner, all classes at once."""
        image, diagonal, _ = self._apply_system(start, weights, lam)
        solution, residual = start.clone(), right - image
        target = self.tol * right.norm(dim=0)
        direction = residual / diagonal[:, None]
        product = (residual * direction).sum(dim=0)
        for _ in range(self.max_iter + 1):
            if bool((residual.norm(dim=0) <= target).all()):
                return solution
            image = self._apply_system(direction, weights, lam)[0]
            step = _ratio(product, (direction * image).sum(dim=0))
            solution = solution + step * direction
            residual = residual - step * image
            conditioned = residual / diagonal[:, None]
            previous, product = product, (residual * conditioned).sum(dim=0)
            direction = conditioned + _ratio(product, previous) * direction
        raise RuntimeError(
            f"Found no solution within tol={self.tol} after {self.max_iter} iterations. Valid is "
            "a residual below it. Raise max_iter or tol, or lower lam."
        )


class _Smooth(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, weights: Tensor, lam: Tensor, layer: GraphRefinement
    ) -> Tensor:
        own = layer._apply_system(scores, weights, lam)[2]
        smooth = layer._solve(own[:, None] * scores, scores, weights, lam)
        ctx.layer = layer
        ctx.save_for_backward(scores, weights, lam, smooth)
        return smooth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        scores, weights, lam, smooth = ctx.saved_tensors
        adjoint = ctx.layer._solve(gradient, torch.zeros_like(gradient), weights, lam)
        # The residual is zero at the solution; how it would move is the implicit gradient.
        inputs = [each.detach().requires_grad_() for each in (scores, weights, lam)]
        with torch.enable_grad():
            image, _, own = ctx.layer._apply_system(smooth, inputs[1], inputs[2])
            residual = own[:, None] * inputs[0] - image
            gradients = torch.autograd.grad(residual, inputs, adjoint)
        return (*gradients, None)


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    """Quotient, 0 where a class has converged exactly."""
    return torch.where(below > 0, above / below.clamp_min(torch.finfo(below.dtype).tiny), 0.0)


def _check_edges(edges: Tensor, n_cells: int) -> None:
    proper = edges.ndim == 2 and edges.shape[0] == 2 and edges.dtype == torch.int64
    if not proper or (edges.numel() and (edges.min() < 0 or edges.max() >= n_cells)):
        raise ValueError(
            f"Found edges of shape {tuple(edges.shape)} and type {edges.dtype} for {n_cells} "
            f"cells. Valid are int64 pairs, (2, n_edges), from 0 to {n_cells - 1}. Check them."
        )
    n_loops = int((edges[0] == edges[1]).sum())
    if n_loops:
        raise ValueError(
            f"Found {n_loops} edges from a cell to itself. Valid are pairs of different cells. "
            "Leave them out."
        )
