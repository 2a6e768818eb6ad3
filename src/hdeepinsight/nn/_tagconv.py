"""Graph convolution on sparse graphs of cells whose edges may carry a gradient."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn


class CellGraph(NamedTuple):
    """A symmetric graph of cells as compressed rows.

    Parameters
    ----------
    starts
        Where the edges of each cell start, int32, shape ``(n_cells + 1,)``.
    ends
        Cell at the other end of each edge, int32, shape ``(n_edges,)``; every edge is stored in
        both directions.
    weights
        Weight of each edge, shape ``(n_edges,)``; both directions carry the same.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from hdeepinsight.nn import CellGraph
    >>> graph = CellGraph.from_scipy(sp.csr_matrix([[0.0, 1.0], [1.0, 0.0]]))
    >>> graph.normalized().weights.tolist(), graph.to_scipy().nnz
    ([1.0, 1.0], 2)
    """

    starts: Tensor
    ends: Tensor
    weights: Tensor

    @classmethod
    def from_scipy(cls, matrix: sp.csr_matrix) -> CellGraph:
        """Return the graph of a symmetric matrix, in single precision."""
        starts, ends = (torch.as_tensor(x).int() for x in (matrix.indptr, matrix.indices))
        return cls(starts, ends, torch.as_tensor(matrix.data.astype(np.float32)))

    def to_scipy(self) -> sp.csr_matrix:
        """Return the weights as a matrix, shape ``(n_cells, n_cells)``."""
        starts, ends, weights = (part.detach().cpu().numpy() for part in self)
        return sp.csr_matrix((weights, ends, starts), shape=(len(starts) - 1, len(starts) - 1))

    @property
    def degrees(self) -> Tensor:
        """Sum of the weights of each cell's edges, shape ``(n_cells,)``."""
        return self.weights.new_zeros(len(self.starts) - 1).index_add(0, self.origins, self.weights)

    @property
    def origins(self) -> Tensor:
        """Cell at which each edge starts, shape ``(n_edges,)``."""
        cells = torch.arange(len(self.starts) - 1, device=self.ends.device)
        return torch.repeat_interleave(cells, self.starts.diff(), output_size=len(self.ends))

    def normalized(self) -> CellGraph:
        """Return D^-½ A D^-½; a cell without edges counts as one of degree 1."""
        degrees = self.degrees
        root = torch.where(degrees > 0, degrees, 1.0).rsqrt()
        return self._replace(weights=self.weights * root[self.origins] * root[self.ends])

    def __matmul__(self, values: Tensor) -> Tensor:
        """Sum the neighbours' values, shape ``(n_cells, n_columns)``."""
        product: Tensor = _Propagation.apply(*self, values)
        return product


def sparse_rows(starts: Tensor, columns: Tensor, values: Tensor, n_columns: int) -> Tensor:
    """Return a matrix of compressed rows as torch has it.

    Parameters
    ----------
    starts, columns, values
        As in :class:`CellGraph`; the matrix need not be symmetric.
    n_columns
        Width of the matrix.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import sparse_rows
    >>> matrix = sparse_rows(torch.tensor([0, 1, 1]), torch.tensor([2]), torch.tensor([5.0]), 3)
    >>> (matrix @ torch.ones(3, 1)).tolist()
    [[5.0], [0.0]]
    """
    with warnings.catch_warnings():  # torch says once that its sparse matrices may change
        warnings.filterwarnings("ignore", "Sparse (CSR|invariant)", UserWarning)
        size = (len(starts) - 1, n_columns)
        return torch.sparse_csr_tensor(starts, columns, values, size, check_invariants=False)


class _Propagation(torch.autograd.Function):
    """Product of a symmetric sparse matrix and a dense one, with gradients to both."""

    @staticmethod
    def forward(ctx: Any, starts: Tensor, ends: Tensor, weights: Tensor, values: Tensor) -> Tensor:
        ctx.save_for_backward(starts, ends, weights, values)
        return sparse_rows(starts, ends, weights, len(starts) - 1) @ values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        starts, ends, weights, values = ctx.saved_tensors
        graph = sparse_rows(starts, ends, weights, len(starts) - 1)
        of_values = graph @ gradient if ctx.needs_input_grad[3] else None
        of_weights = None
        if ctx.needs_input_grad[2]:
            pairs = torch.sparse.sampled_addmm(graph, gradient, values.mT, beta=0.0)
            of_weights = pairs.values()
        return None, None, of_weights, of_values


class _SparseLinear(torch.autograd.Function):
    """Product of constant sparse rows and weights; the transposed rows are given for speed."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, weight: Tensor) -> Tensor:
        ctx.columns = columns
        return rows @ weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, ctx.columns @ gradients[0]


class SparseFeatures(NamedTuple):
    """Constant sparse features of cells, by rows and by columns.

    Parameters
    ----------
    rows
        Sparse matrix of torch, shape ``(n_cells, n_features)``.
    columns
        Its transpose.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> import torch
    >>> from hdeepinsight.nn import SparseFeatures
    >>> features = SparseFeatures.from_scipy(sp.csr_matrix([[0.0, 2.0]], dtype="float32"))
    >>> (features @ torch.ones(2, 1)).tolist()
    [[2.0]]
    """

    rows: Tensor
    columns: Tensor

    @classmethod
    def from_scipy(
        cls, matrix: sp.csr_matrix, device: torch.device | None = None
    ) -> SparseFeatures:
        """Return the features in a matrix, shape ``(n_cells, n_features)``, in its precision."""
        both = []
        for part in (matrix, matrix.T.tocsr()):
            starts, columns = (torch.as_tensor(x).int() for x in (part.indptr, part.indices))
            rows = sparse_rows(starts, columns, torch.as_tensor(part.data), part.shape[1])
            both.append(rows.to(device))
        return cls(*both)

    def __matmul__(self, weight: Tensor) -> Tensor:
        """Multiply by weights, shape ``(n_features, n_out)``."""
        product: Tensor = _SparseLinear.apply(*self, weight)
        return product


class TAGConv(nn.Module):
    """Convolve features over a graph by a polynomial of its adjacency: Σₕ Aʰ X Wₕ + b.

    Parameters
    ----------
    n_in, n_out
        Widths of input and output.
    n_hops
        Highest power of the adjacency.

    References
    ----------
    Du, Zhang, Wu, Moura and Kar, Topology adaptive graph convolutional networks, 2017,
    arXiv:1710.10370.

    Notes
    -----
    The sum is evaluated as in Horner's rule, so that ``n_out`` columns travel over the edges and
    not ``n_in``.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> import torch
    >>> from hdeepinsight.nn import CellGraph, TAGConv
    >>> graph = CellGraph.from_scipy(sp.csr_matrix([[0.0, 1.0], [1.0, 0.0]])).normalized()
    >>> TAGConv(5, 3, n_hops=2)(torch.ones(2, 5), graph).shape
    torch.Size([2, 3])
    """

    def __init__(self, n_in: int, n_out: int, n_hops: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_hops + 1, n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_out))
        bound = (6 / (n_in * (n_hops + 1) + n_out)) ** 0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, features: Tensor, graph: CellGraph) -> Tensor:
        """Return convolved features ``(n_cells, n_out)`` over a normalised graph."""
        return self.propagate(self.project(features), graph)

    def project(
        self,
        features: Tensor | SparseFeatures,
        shift: Tensor | None = None,
        factor: Tensor | None = None,
    ) -> Tensor:
        """Return features times the weights of every hop, ``(n_cells, n_hops + 1, n_out)``.

        ``(features - shift) * factor`` is projected without being formed where these are given.
        """
        weight = self.weight if factor is None else self.weight * factor[:, None]
        n_hops, n_in, n_out = weight.shape
        flat = weight.permute(1, 0, 2).reshape(n_in, n_hops * n_out)
        product = features @ flat
        if shift is not None:
            product = product - shift @ flat
        return product.view(-1, n_hops, n_out)

    def propagate(self, projected: Tensor, graph: CellGraph) -> Tensor:
        """Return the sum over hops of projected features, ``(n_cells, n_out)``."""
        *nearer, out = projected.unbind(dim=1)
        for part in reversed(nearer):
            out = part + graph @ out
        return out + self.bias
