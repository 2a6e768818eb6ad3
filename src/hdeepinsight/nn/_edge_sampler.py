"""Differentiable sampling of graphs from similarities of cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from hdeepinsight.nn._tagconv import CellGraph

Similarity = Literal["cosine", "rbf", "neg_sqdist"]


def candidate_similarity(latent: Tensor, candidates: Tensor, kind: Similarity = "cosine") -> Tensor:
    """Compute the similarity of each cell to its candidate neighbours.

    Parameters
    ----------
    latent
        Embedding of the cells, shape ``(n_cells, n_latent)``.
    candidates
        Candidate neighbours of each cell, shape ``(n_cells, n_candidates)``; -1 for none.
    kind
        ``"cosine"``; ``"rbf"``, exp(-d²/2); or ``"neg_sqdist"``, -d²/2.

    Returns
    -------
    Similarities, shape ``(n_cells, n_candidates)``; -∞ for no candidate.

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
    """Select the candidates with the highest scores in each row, and compute their softmax.

    Parameters
    ----------
    scores
        Scores, shape ``(n_cells, n_candidates)``; -∞ is never selected. With Gumbel noise, the
        result is a sample without replacement from the softmax of the scores.
    k
        Number of candidates to select.

    Returns
    -------
    chosen, soft
        Selected columns, shape ``(n_cells, k)``, -1 if there are fewer; and the softmax, shape
        ``(n_cells, n_candidates)``.

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
    """Return the candidates in the selected columns, -1 for none.

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
    """Create the undirected graph of cells and their selected neighbours.

    Parameters
    ----------
    candidates
        Candidate neighbours of each cell, shape ``(n_cells, n_candidates)``; -1 for none.
    chosen
        Selected columns of ``candidates``, shape ``(n_cells, k)``, -1 for none; all by default.
    soft
        Probabilities of the candidates, shape ``(n_cells, n_candidates)``. The gradient of an edge
        is passed to the mean of its probabilities in both directions (straight-through estimator).

    Returns
    -------
    Graph whose weights are exactly 1.

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
    # Sparse matrix products are several times faster with int32.
    index = torch.searchsorted(keys, firsts, out_int32=True), (keys % n_cells).int()
    if soft is None or chosen is None:
        return CellGraph(*index, torch.ones(len(keys), device=keys.device))
    there = soft.gather(1, chosen.clamp_min(0))[is_edge]
    back = candidates[ends] == origins[:, None]
    found = back.any(dim=1)
    position = back.to(torch.uint8).argmax(dim=1)
    mean = (there + soft[ends, position] * found) / 2
    # An edge that both cells selected occurs twice with the same mean.
    sums = mean.new_zeros(len(keys)).index_add(0, places, mean.repeat(2))
    mean = sums / places.bincount(minlength=len(keys))
    return CellGraph(*index, 1 + (mean - mean.detach()))


def are_joined(neighbors: Tensor, cells: Tensor, others: Tensor) -> Tensor:
    """Return whether cells are connected by an edge, with the shape of ``others``.

    Parameters
    ----------
    neighbors
        Selected neighbours of each cell, shape ``(n_cells, k)``.
    cells
        Cells, shape ``(n,)``.
    others
        Other cells for each cell, shape ``(n, m)``; -1 for none.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import are_joined
    >>> chosen = torch.tensor([[1], [2], [1]])
    >>> are_joined(chosen, torch.tensor([1]), torch.tensor([[0, 1, 2]])).tolist()
    [[True, False, True]]
    """
    forward = (neighbors[cells][:, None, :] == others[:, :, None]).any(dim=2)
    backward = (neighbors[others.clamp_min(0)] == cells[:, None, None]).any(dim=2)
    return (forward | backward) & (others >= 0)


def adjacency_error(
    probability: Callable[[Tensor, Tensor], Tensor],
    rows: Tensor,
    candidates: Tensor,
    neighbors: Tensor,
    n_others: int = 20,
) -> Tensor:
    """Estimate the mean squared error of a decoded adjacency matrix over all pairs of cells.

    Parameters
    ----------
    probability
        Function that decodes the probability of edges between cells ``(n,)`` and others ``(n, m)``.
    rows
        Random sample of cells.
    candidates
        Candidate neighbours of each cell, shape ``(n_cells, n_candidates)``; -1 for none. All
        candidates of the sampled cells are used.
    neighbors
        Selected neighbours of each cell, shape ``(n_cells, k)``, which define the true edges.
    n_others
        Number of random cells per sampled cell, which represent all other pairs.

    Returns
    -------
    Unbiased estimate, a scalar.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import adjacency_error
    >>> half = lambda cells, others: torch.full(others.shape, 0.5)
    >>> everyone = torch.tensor([[1, 2], [0, 2], [0, 1]])
    >>> adjacency_error(half, torch.arange(3), everyone, everyone[:, :1], n_others=200) < 0.27
    tensor(True)
    """
    n_cells, near = len(candidates), candidates[rows]
    others = torch.randint(n_cells, (len(rows), n_others), device=rows.device)
    is_candidate = (others[:, :, None] == near[:, None, :]).any(dim=2)
    both = torch.cat([near, others], dim=1)
    decoded = probability(rows, both.clamp_min(0))
    error = (are_joined(neighbors, rows, both).to(decoded) - decoded).square()
    weights = torch.cat([(near >= 0).to(error), ~is_candidate * (n_cells / n_others)], dim=1)
    return (error * weights).sum(dim=1).mean() / n_cells
