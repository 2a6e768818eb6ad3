"""Graph convolution on sparse graphs of cells with differentiable edge weights."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import scipy.sparse as sp
import torch
from torch import Tensor, nn


class CellGraph(NamedTuple):
    """Symmetric graph of cells in CSR format.

    Parameters
    ----------
    starts
        Row pointers, int32, shape ``(n_cells + 1,)``.
    ends
        Column indices, int32, shape ``(n_edges,)``; each edge is stored in both directions.
    weights
        Weight of each edge, shape ``(n_edges,)``, equal in both directions.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import CellGraph
    >>> graph = CellGraph(torch.tensor([0, 1, 2]), torch.tensor([1, 0]), torch.ones(2))
    >>> graph.normalized().weights.tolist(), graph.to_scipy().nnz
    ([1.0, 1.0], 2)
    """

    starts: Tensor
    ends: Tensor
    weights: Tensor

    def to_scipy(self) -> sp.csr_matrix:
        """Return the adjacency matrix, shape ``(n_cells, n_cells)``."""
        starts, ends, weights = (part.detach().cpu().numpy() for part in self)
        return sp.csr_matrix((weights, ends, starts), shape=(len(starts) - 1, len(starts) - 1))

    @property
    def origins(self) -> Tensor:
        """Cell at which each edge starts, shape ``(n_edges,)``."""
        cells = torch.arange(len(self.starts) - 1, device=self.ends.device)
        return torch.repeat_interleave(cells, self.starts.diff(), output_size=len(self.ends))

    def normalized(self) -> CellGraph:
        """Return D^-½ A D^-½, with degree 1 for cells without edges."""
        origins, none = self.origins, self.weights.new_zeros(len(self.starts) - 1)
        degrees = none.index_add(0, origins, self.weights)
        root = torch.where(degrees > 0, degrees, 1.0).rsqrt()
        return self._replace(weights=self.weights * root[origins] * root[self.ends])

    def __matmul__(self, values: Tensor) -> Tensor:
        """Sum the neighbours' values, shape ``(n_cells, n_columns)``."""
        product: Tensor = _Propagation.apply(*self, values)
        return product


def sparse_rows(starts: Tensor, columns: Tensor, values: Tensor, n_columns: int) -> Tensor:
    """Create a torch sparse CSR matrix.

    Parameters
    ----------
    starts, columns, values
        As in :class:`CellGraph`; the matrix need not be symmetric.
    n_columns
        Number of columns.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import sparse_rows
    >>> matrix = sparse_rows(torch.tensor([0, 1, 1]), torch.tensor([2]), torch.tensor([5.0]), 3)
    >>> (matrix @ torch.ones(3, 1)).tolist()
    [[5.0], [0.0]]
    """
    with warnings.catch_warnings():  # torch warns that sparse CSR support is in beta
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
    """Product of a constant sparse matrix, given with its transpose, and dense weights."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, columns: Tensor, weight: Tensor) -> Tensor:
        ctx.columns = columns
        return rows @ weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, ctx.columns @ gradients[0]


class SparseFeatures(NamedTuple):
    """Constant sparse features of cells, with their transpose.

    Parameters
    ----------
    rows
        Sparse CSR tensor, shape ``(n_cells, n_features)``.
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
        """Create features from a matrix, shape ``(n_cells, n_features)``, in its precision."""
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
    """Graph convolution by a polynomial of the adjacency: Σₕ Aʰ X Wₕ + b.

    Parameters
    ----------
    n_in, n_out
        Number of input and output features.
    n_hops
        Degree of the polynomial.

    References
    ----------
    Du, Zhang, Wu, Moura and Kar, Topology adaptive graph convolutional networks, 2017,
    arXiv:1710.10370.

    Notes
    -----
    The sum is evaluated by Horner's rule, so that ``n_out`` instead of ``n_in`` columns are
    propagated.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import TAGConv, union_graph
    >>> graph = union_graph(torch.tensor([[1], [0]])).normalized()
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
        """Convolve features over a normalised graph, ``(n_cells, n_out)``."""
        return self.propagate(self.project(features), graph)

    def project(
        self,
        features: Tensor | SparseFeatures,
        shift: Tensor | None = None,
        factor: Tensor | None = None,
    ) -> Tensor:
        """Multiply features by the weights of each hop, ``(n_cells, n_hops + 1, n_out)``.

        With ``shift`` and ``factor``, ``(features - shift) * factor`` is projected, without
        computing this dense matrix.
        """
        weight = self.weight if factor is None else self.weight * factor[:, None]
        n_hops, n_in, n_out = weight.shape
        flat = weight.permute(1, 0, 2).reshape(n_in, n_hops * n_out)
        product = features @ flat
        if shift is not None:
            product = product - shift @ flat
        return product.view(-1, n_hops, n_out)

    def propagate(self, projected: Tensor, graph: CellGraph) -> Tensor:
        """Propagate projected features and sum over hops, ``(n_cells, n_out)``."""
        *nearer, out = projected.unbind(dim=1)
        for part in reversed(nearer):
            out = part + graph @ out
        return out + self.bias
