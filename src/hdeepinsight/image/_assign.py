"""Assign genes to distinct pixels with minimum total squared distance."""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

#: Final temperature in squared pixels: low enough to rank neighbours, without underflow.
_FINEST = 2.0
_ROUNDS = 50
#: Maximum number of gene-pixel pairs for the exact solver.
DENSE_LIMIT = 20_000_000
#: Fraction of filled pixels above which genes compete for pixels, and prices shorten the search.
CROWDED = 0.5
_FIRST_WINDOW = 64


def pixel_prices(coords: np.ndarray, side: int) -> np.ndarray:
    """Approximate the dual prices of pixels in the assignment problem.

    The prices are computed by entropic optimal transport (Sinkhorn iterations) with decreasing
    temperature. The Gaussian kernel of a squared distance is a product of a row and a column
    factor, so that an iteration consists of two small matrix products, without the genes × pixels
    kernel.

    Parameters
    ----------
    coords
        Row and column of each gene in pixels, ``(n_genes, 2)``.
    side
        Number of pixels along one side.

    Returns
    -------
    numpy.ndarray
        Prices in squared pixels, ``(side * side,)``; zeros if the iteration overflows. Prices only
        guide the solvers, so that zeros affect the time, not the result.

    Notes
    -----
    Our design. With 4,050 genes on 64 × 64 pixels, prices make the exact assignment about 20 times
    faster.
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
    """Run Sinkhorn iterations at a temperature, starting from prices ``(side, side)``."""
    side = len(prices)
    centres = np.arange(side) + 0.5
    rows = np.exp(-((coords[:, :1] - centres) ** 2) / temperature)
    columns = np.exp(-((coords[:, 1:] - centres) ** 2) / temperature)
    full = len(coords) == side**2
    appeal = np.exp(-prices / temperature)
    for _ in range(_ROUNDS):
        share = 1.0 / ((rows @ appeal) * columns).sum(axis=1)
        demand = (rows.T * share) @ columns
        # Unless all pixels are required, a pixel may remain empty, with price 0.
        appeal = 1.0 / (demand if full else np.maximum(demand, 1.0))
    return -temperature * np.log(appeal)


def pixel_centres(side: int) -> np.ndarray:
    """Return the centres of all pixels as (row, column), row-major, ``(side * side, 2)``."""
    return np.stack(np.divmod(np.arange(side * side), side), axis=1) + 0.5


def assign_pixels(
    coords: np.ndarray, side: int, *, solver: Literal["auto", "dense", "sparse"] = "auto"
) -> np.ndarray:
    """Assign genes to distinct pixels, minimising the sum of squared distances.

    Parameters
    ----------
    coords
        Row and column of each gene in pixels, ``(n_genes, 2)``, ``n_genes <= side * side``.
    side
        Number of pixels along one side.
    solver
        ``"dense"`` is exact over all pixels. ``"sparse"`` is exact over the nearest pixels of each
        gene, whose number is increased until there is an assignment; it is nearly optimal, and slow
        if fewer than a few per cent of the pixels remain empty. ``"auto"`` uses the dense solver
        for up to 2·10⁷ gene-pixel pairs.

    Returns
    -------
    numpy.ndarray
        Row-major pixel of each gene, int64, ``(n_genes,)``.
    """
    if solver == "auto":
        solver = "dense" if len(coords) * side**2 <= DENSE_LIMIT else "sparse"
    crowded = len(coords) > CROWDED * side**2
    prices = pixel_prices(coords, side) if crowded else np.zeros(side**2)
    match = _match_dense if solver == "dense" else _match_sparse
    return match(coords, pixel_centres(side), prices).astype(np.int64)


def _match_dense(coords: np.ndarray, centres: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Solve the assignment exactly; prices shorten the search without changing the optimum."""
    # A price is added to a complete column, which does not change the optimum if all columns are
    # assigned. Therefore, rows of zero cost make the matrix square.
    n_rows = len(centres) if prices.any() else len(coords)
    cost = np.zeros((n_rows, len(centres)))
    cost[: len(coords)] = cdist(coords, centres, "sqeuclidean")
    cost += prices
    cost -= cost.min(axis=1, keepdims=True)
    columns: np.ndarray = linear_sum_assignment(cost)[1]
    return columns[: len(coords)]


def _match_sparse(coords: np.ndarray, centres: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """Solve the assignment over the pixels with the lowest sum of squared distance and price."""
    # With the square root of the price as a third coordinate, squared distances in three dimensions
    # are this sum, so that a k-d tree finds the best pixels.
    height = np.sqrt(prices - prices.min())
    tree = cKDTree(np.column_stack([centres, height]))
    lifted = np.column_stack([coords, np.zeros(len(coords))])
    window = min(_FIRST_WINDOW, len(centres))
    while True:
        offers = tree.query(lifted, k=np.arange(1, window + 1))[1]
        rows = np.repeat(np.arange(len(coords)), window)
        cost = ((coords[rows] - centres[offers.ravel()]) ** 2).sum(axis=1)
        # Zeros are not stored in a sparse matrix; adding one to all costs keeps the optimum.
        shape = len(coords), len(centres)
        graph = sparse.csr_array((cost + 1.0, (rows, offers.ravel())), shape=shape)
        try:
            return np.asarray(min_weight_full_bipartite_matching(graph)[1])
        except ValueError:  # raised by scipy if there is no full matching
            if window == len(centres):
                raise
            window = min(2 * window, len(centres))
