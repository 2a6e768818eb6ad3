"""A pixel of its own for every gene, at the least total squared distance."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

#: Temperatures end here, in squared pixels: sharp enough to rank neighbours, safe from underflow.
_FINEST = 2.0
_ROUNDS = 50
#: Genes × pixels up to which the exact solver is used.
DENSE_LIMIT = 20_000_000
#: Share of filled pixels from which genes compete, so that prices shorten the search.
CROWDED = 0.5
_FIRST_WINDOW = 64


def pixel_prices(coords: np.ndarray, side: int) -> np.ndarray:
    """Approximate the prices at which every pixel is wanted by at most one gene.

    Entropic optimal transport (Sinkhorn's iteration) from coarse to fine. The Gaussian kernel of a
    squared distance is a product of a row and a column part, so that one round costs two small
    matrix products and the genes × pixels kernel is never formed.

    Parameters
    ----------
    coords
        (row, column) of each gene in pixels, ``(n_genes, 2)``.
    side
        Pixels along one side.

    Returns
    -------
    Prices ``(side * side,)`` in squared pixels; zeros where the iteration leaves the range of
    floating point numbers (prices only guide the solvers, so zeros cost time, not correctness).

    Notes
    -----
    Our decision. With 4,050 genes on 64 × 64 pixels, prices shorten the exact assignment about
    twentyfold.
    """
    prices = np.zeros((side, side))
    with np.errstate(all="ignore"):
        steps = max(1, int(np.log2(max(side**2 / 4, _FINEST) / _FINEST) // 2) + 1)
        for step in reversed(range(steps)):
            finer = _sinkhorn(coords, prices, _FINEST * 4.0**step)
            if not np.isfinite(finer).all():
                break
            prices = finer
    return prices.ravel()


def _sinkhorn(coords: np.ndarray, prices: np.ndarray, temperature: float) -> np.ndarray:
    """Run Sinkhorn's rounds at one temperature, from the given prices ``(side, side)``."""
    side = len(prices)
    centres = np.arange(side) + 0.5
    rows = np.exp(-((coords[:, :1] - centres) ** 2) / temperature)
    columns = np.exp(-((coords[:, 1:] - centres) ** 2) / temperature)
    full = len(coords) == side**2
    appeal = np.exp(-prices / temperature)
    for _ in range(_ROUNDS):
        share = 1.0 / ((rows @ appeal) * columns).sum(axis=1)
        demand = (rows.T * share) @ columns
        # A pixel may stay empty unless all are needed; an empty one is free.
        appeal = 1.0 / (demand if full else np.maximum(demand, 1.0))
    return -temperature * np.log(appeal)


def pixel_centres(side: int) -> np.ndarray:
    """Centres of all pixels as (row, column), row-major, ``(side * side, 2)``."""
    return np.stack(np.divmod(np.arange(side * side), side), axis=1) + 0.5


def assign_pixels(
    coords: np.ndarray, side: int, *, solver: Literal["auto", "dense", "sparse"] = "auto"
) -> np.ndarray:
    """Give each gene its own pixel so that the sum of squared distances is smallest.

    Parameters
    ----------
    coords
        (row, column) of each gene in pixels, ``(n_genes, 2)``, ``n_genes <= side * side``.
    side
        Pixels along one side.
    solver
        ``"dense"`` is exact over all pixels. ``"sparse"`` is exact over the nearest pixels of each
        gene, widened until every gene finds one, hence near-optimal; it becomes slow when fewer
        than a few per cent of the pixels stay empty. ``"auto"`` takes the dense one up to
        2·10⁷ gene-pixel pairs.

    Returns
    -------
    Row-major pixel of each gene, int64 ``(n_genes,)``, all different.
    """
    if solver == "auto":
        solver = "dense" if len(coords) * side**2 <= DENSE_LIMIT else "sparse"
    crowded = len(coords) > CROWDED * side**2
    prices = pixel_prices(coords, side) if crowded else np.zeros(side**2)
    match = _match_dense if solver == "dense" else _match_sparse
    return match(coords, pixel_centres(side), prices).astype(np.int64)


def _match_dense(coords: np.ndarray, centres: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Solve exactly; prices leave the optimum alone and shorten the solver's search."""
    # A price shifts a whole column, which changes no optimum as long as every column is taken:
    # genes without a wish fill the rows up to a square.
    n_rows = len(centres) if prices.any() else len(coords)
    cost = np.zeros((n_rows, len(centres)))
    cost[: len(coords)] = cdist(coords, centres, "sqeuclidean")
    cost += prices
    cost -= cost.min(axis=1, keepdims=True)
    columns: np.ndarray = linear_sum_assignment(cost)[1]
    return columns[: len(coords)]


def _match_sparse(coords: np.ndarray, centres: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Match over the pixels that are nearest once their price is added to the distance."""
    # The square root of the price is a third coordinate: |gene - pixel|² in 3-D is then
    # squared distance + price, and a k-d tree finds the best offers.
    height = np.sqrt(prices - prices.min())
    tree = cKDTree(np.column_stack([centres, height]))
    lifted = np.column_stack([coords, np.zeros(len(coords))])
    window = min(_FIRST_WINDOW, len(centres))
    while True:
        offers = tree.query(lifted, k=np.arange(1, window + 1))[1]
        rows = np.repeat(np.arange(len(coords)), window)
        cost = ((coords[rows] - centres[offers.ravel()]) ** 2).sum(axis=1)
        # A cost of zero would vanish from a sparse matrix; adding one to all changes no optimum.
        graph = sparse.csr_array(
            (cost + 1.0, (rows, offers.ravel())), shape=(len(coords), len(centres))
        )
        try:
            return np.asarray(min_weight_full_bipartite_matching(graph)[1])
        except ValueError:  # scipy's word for "no full matching exists"
            if window == len(centres):
                raise
            window = min(2 * window, len(centres))
