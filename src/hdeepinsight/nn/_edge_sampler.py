"""Graphs that are drawn anew from the similarities of cells, with gradients through the draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from hdeepinsight.nn._tagconv import CellGraph

Similarity = Literal["cosine", "rbf", "neg_sqdist"]


def candidate_similarity(latent: Tensor, candidates: Tensor, kind: Similarity = "cosine") -> Tensor:
    """Compute the similarity of every cell to its candidates.

    Parameters
    ----------
    latent
        Positions of the cells, shape ``(n_cells, n_latent)``.
    candidates
        Cells that each cell may be joined to, shape ``(n_cells, n_candidates)``; -1 for none.
    kind
        ``"cosine"``; ``"rbf"``, exp(-d²/2); or ``"neg_sqdist"``, -d²/2.

    Returns
    -------
    Shape ``(n_cells, n_candidates)``; -∞ where there is no candidate.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import candidate_similarity
    >>> points, candidates = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1], [-1]])
    >>> candidate_similarity(points, candidates).tolist()
    [[0.0], [-inf]]
    """
    others = candidates.clamp_min(0)
    if kind == "cosine":
        latent = torch.nn.functional.normalize(latent, dim=1)
    products = torch.einsum("nd,nmd->nm", latent, latent[others])
    if kind != "cosine":
        squares = latent.square().sum(dim=1)
        products = products - (squares[:, None] + squares[others]) / 2
        products = products.exp() if kind == "rbf" else products
    return products.masked_fill(candidates < 0, -torch.inf)


def gumbel_noise(like: Tensor) -> Tensor:
    """Draw standard Gumbel noise of the shape of a tensor.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import gumbel_noise
    >>> gumbel_noise(torch.zeros(3, 2)).shape
    torch.Size([3, 2])
    """
    return -torch.empty_like(like).exponential_().log()


def draw_neighbors(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Choose the highest scores of every row, and return the softmax of the row beside them.

    Parameters
    ----------
    scores
        Scores, shape ``(n_cells, n_candidates)``; -∞ is never chosen. With Gumbel noise added the
        choice is a sample without replacement from the softmax of the scores.
    k
        Candidates to choose.

    Returns
    -------
    chosen, soft
        Columns that were chosen, shape ``(n_cells, k)``, -1 where there are fewer; and the softmax,
        shape ``(n_cells, n_candidates)``.

    References
    ----------
    Kool, van Hoof and Welling, Stochastic beams and where to find them, ICML 2019.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import draw_neighbors
    >>> chosen, soft = draw_neighbors(torch.tensor([[0.0, 2.0, 1.0]]), 2)
    >>> chosen.tolist()
    [[1, 2]]
    """
    values, chosen = scores.detach().topk(min(k, scores.shape[1]), dim=1)
    is_open = torch.isfinite(scores)
    soft = scores.masked_fill(~is_open, torch.finfo(scores.dtype).min).softmax(dim=1)
    return chosen.masked_fill(~torch.isfinite(values), -1), soft * is_open


def chosen_cells(candidates: Tensor, chosen: Tensor) -> Tensor:
    """Return the cells in the chosen columns, -1 for none.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import chosen_cells
    >>> chosen_cells(torch.tensor([[4, 7, 9]]), torch.tensor([[2, -1]])).tolist()
    [[9, -1]]
    """
    return candidates.gather(1, chosen.clamp_min(0)).masked_fill(chosen < 0, -1)


def union_graph(
    candidates: Tensor, chosen: Tensor | None = None, soft: Tensor | None = None
) -> CellGraph:
    """Join every cell to its chosen candidates, in both directions.

    Parameters
    ----------
    candidates
        Cells that each cell may be joined to, shape ``(n_cells, n_candidates)``; -1 for none.
    chosen
        Columns of ``candidates``, shape ``(n_cells, k)``, -1 for none; all of them by default.
    soft
        Probabilities of the candidates, shape ``(n_cells, n_candidates)``. An edge then passes its
        gradient on to the mean of its probabilities in both directions (straight through).

    Returns
    -------
    A graph of weights that are exactly 1.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import union_graph
    >>> graph = union_graph(torch.tensor([[1, 2], [0, 2], [0, 1]]), torch.tensor([[0], [0], [0]]))
    >>> graph.to_scipy().toarray().tolist()
    [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
    """
    n_cells = len(candidates)
    ends = candidates if chosen is None else chosen_cells(candidates, chosen)
    origins = torch.arange(n_cells, device=ends.device)[:, None].expand_as(ends)
    is_edge = ends >= 0
    origins, ends = origins[is_edge], ends[is_edge]
    keys = torch.cat([origins * n_cells + ends, ends * n_cells + origins])
    keys, places = torch.unique(keys, return_inverse=True)
    firsts = torch.arange(n_cells + 1, device=keys.device) * n_cells
    # The products of sparse matrices are several times faster with int32.
    index = torch.searchsorted(keys, firsts, out_int32=True), (keys % n_cells).int()
    if soft is None or chosen is None:
        return CellGraph(*index, torch.ones(len(keys), device=keys.device))
    there = soft.gather(1, chosen.clamp_min(0))[is_edge]
    back = candidates[ends] == origins[:, None]
    found = back.any(dim=1)
    position = back.to(torch.uint8).argmax(dim=1)
    mean = (there + soft[ends, position] * found) / 2
    # A pair that both cells chose has the same mean twice: average what is equal.
    sums = mean.new_zeros(len(keys)).index_add(0, places, mean.repeat(2))
    mean = sums / places.bincount(minlength=len(keys))
    return CellGraph(*index, 1 + (mean - mean.detach()))


def are_joined(neighbors: Tensor, cells: Tensor, others: Tensor) -> Tensor:
    """Return whether either of two cells chose the other, shape of ``others``.

    Parameters
    ----------
    neighbors
        Cells that each cell chose, shape ``(n_cells, k)``.
    cells
        Cells, shape ``(n,)``.
    others
        Cells to compare each with, shape ``(n, m)``; -1 is joined to none.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import are_joined
    >>> chosen = torch.tensor([[1], [2], [1]])
    >>> are_joined(chosen, torch.tensor([1]), torch.tensor([[0, 1, 2]])).tolist()
    [[True, False, True]]
    """
    mine = (neighbors[cells][:, None, :] == others[:, :, None]).any(dim=2)
    theirs = (neighbors[others.clamp_min(0)] == cells[:, None, None]).any(dim=2)
    return (mine | theirs) & (others >= 0)


def adjacency_error(
    probability: Callable[[Tensor, Tensor], Tensor],
    rows: Tensor,
    candidates: Tensor,
    neighbors: Tensor,
    n_others: int = 20,
) -> Tensor:
    """Estimate the mean squared error of a decoded adjacency over all pairs of cells.

    Parameters
    ----------
    probability
        Decodes the probability that cells ``(n,)`` are joined to others ``(n, m)``.
    rows
        Random cells that stand for all.
    candidates
        Cells that each cell may be joined to, shape ``(n_cells, n_candidates)``; -1 for none. All
        of those of a row are compared.
    neighbors
        Cells that each cell chose, shape ``(n_cells, k)``, in both directions the true edges.
    n_others
        Random cells that stand for the rest.

    Returns
    -------
    An unbiased estimate, a scalar.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import adjacency_error
    >>> half = lambda cells, others: torch.full(others.shape, 0.5)
    >>> everyone = torch.tensor([[1, 2], [0, 2], [0, 1]])
    >>> adjacency_error(half, torch.arange(3), everyone, everyone[:, :1], n_others=200) < 0.27
    tensor(True)
    """
    n_cells, there = len(candidates), candidates[rows]
    others = torch.randint(n_cells, (len(rows), n_others), device=rows.device)
    is_known = (others[:, :, None] == there[:, None, :]).any(dim=2)
    both = torch.cat([there, others], dim=1)
    decoded = probability(rows, both.clamp_min(0))
    error = (are_joined(neighbors, rows, both).to(decoded) - decoded).square()
    counts = torch.cat([(there >= 0).to(error), ~is_known * (n_cells / n_others)], dim=1)
    return (error * counts).sum(dim=1).mean() / n_cells
