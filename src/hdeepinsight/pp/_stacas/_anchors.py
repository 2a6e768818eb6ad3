"""Pairs of cells that are mutual nearest neighbours, and how far each can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from hdeepinsight.graph import Exact, nearest_neighbors
from hdeepinsight.pp._stacas._embedding import Floats, PairSpaces

__all__ = ["MutualNeighbors", "mutual_neighbors", "score_anchors", "weigh_anchors"]

Ints = NDArray[np.int64]

_EPSILON = 1e-6
_ANCHORS_AT_ONCE = 50_000


@dataclass(frozen=True, eq=False)
class MutualNeighbors:
    """Anchors between two datasets, sorted by first and then second cell.

    Parameters
    ----------
    first, second
        Cells of each anchor, shape ``(n_anchors,)``.
    distance
        Mean of the distances in both spaces, in [0, 2], shape ``(n_anchors,)``.
    cross_first
        Nearest cells of the second dataset for every cell of the first, shape ``(n_first, k)``.
    cross_second
        Nearest cells of the first dataset for every cell of the second, shape ``(n_second, k)``.
    """

    first: Ints
    second: Ints
    distance: Floats
    cross_first: Ints
    cross_second: Ints


def mutual_neighbors(
    spaces: PairSpaces, k_anchor: int, k_score: int, *, exact: Exact = "auto", seed: int = 0
) -> MutualNeighbors:
    """Find anchors: pairs of cells that are among each other's nearest.

    Parameters
    ----------
    spaces
        Both datasets in both spaces; see `reciprocal_embeddings`. Neighbours of a cell of the
        first dataset are searched in the space of the first, and the other way round.
    k_anchor
        Neighbours that make an anchor.
    k_score
        Neighbours to return for `score_anchors`.
    exact, seed
        As in `hdeepinsight.graph.nearest_neighbors`.

    Returns
    -------
    The anchors. Numbers of neighbours are lowered to the number of cells there are.

    Notes
    -----
    Mutual nearest neighbours of Haghverdi et al. {cite:p}`haghverdi2018`.

    Examples
    --------
    >>> import numpy as np
    >>> turn = np.linspace(0, 1, 5)
    >>> circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    >>> pairs = mutual_neighbors(PairSpaces((circle, circle), (circle, circle)), 1, 3)
    >>> pairs.first.tolist(), pairs.second.tolist()
    ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    """
    (x_first, y_first), (x_second, y_second) = spaces
    n_first, n_second = len(x_first), len(y_first)
    k = max(k_anchor, k_score)
    to_second, d_first = nearest_neighbors(
        x_first, y_first, k=min(k, n_second), exact=exact, seed=seed
    )
    to_first, d_second = nearest_neighbors(
        y_second, x_second, k=min(k, n_first), exact=exact, seed=seed
    )
    forward = np.arange(n_first)[:, None] * n_second + to_second[:, :k_anchor]
    backward = to_first[:, :k_anchor] * n_second + np.arange(n_second)[:, None]
    pairs, here, there = np.intersect1d(forward, backward, assume_unique=True, return_indices=True)
    distance = (d_first[:, :k_anchor].ravel()[here] + d_second[:, :k_anchor].ravel()[there]) / 2
    return MutualNeighbors(
        first=pairs // n_second,
        second=pairs % n_second,
        distance=distance,
        cross_first=to_second[:, :k_score],
        cross_second=to_first[:, :k_score],
    )


def score_anchors(
    anchors: MutualNeighbors, own_first: Ints, own_second: Ints
) -> tuple[Ints, Floats]:
    """Count the neighbours that the two cells of each anchor share.

    Parameters
    ----------
    anchors
        Anchors with the neighbours of their cells in the other dataset.
    own_first, own_second
        Nearest cells within the dataset, the cell itself first, shape ``(n_cells, k_score)``.

    Returns
    -------
    overlap, score
        Shared neighbours, int64, and the same on a scale from the 0.01 to the 0.9 quantile of
        these anchors, clipped to [0, 1]; 1 for all where both quantiles are equal. Shapes
        ``(n_anchors,)``.

    Notes
    -----
    The score of Stuart et al. {cite:p}`stuart2019`, as a product of sparse indicator matrices; no
    matrix of all pairs of cells is formed.
    """
    n_first, n_second = len(anchors.cross_first), len(anchors.cross_second)
    own_x, cross_y = _indicator(own_first, n_first), _indicator(anchors.cross_second, n_first)
    cross_x, own_y = _indicator(anchors.cross_first, n_second), _indicator(own_second, n_second)
    overlap = np.zeros(len(anchors.first), dtype=np.int64)
    for start in range(0, len(overlap), _ANCHORS_AT_ONCE):
        some = slice(start, start + _ANCHORS_AT_ONCE)
        x, y = anchors.first[some], anchors.second[some]
        shared = own_x[x].multiply(cross_y[y]).sum(axis=1)
        shared = shared + cross_x[x].multiply(own_y[y]).sum(axis=1)
        overlap[some] = np.asarray(shared).ravel()
    return overlap, _between_quantiles(overlap)


def _indicator(neighbors: Ints, n_targets: int) -> sp.csr_matrix:
    n_rows, k = neighbors.shape
    indptr = np.arange(0, n_rows * k + 1, k)
    ones = np.ones(n_rows * k, dtype=np.int32)
    return sp.csr_matrix((ones, neighbors.ravel(), indptr), shape=(n_rows, n_targets))


def _between_quantiles(overlap: Ints) -> Floats:
    if not len(overlap):
        return np.zeros(0)
    low, high = np.quantile(overlap, [0.01, 0.9])
    if high == low:
        return np.ones(len(overlap))
    clipped: Floats = np.clip((overlap - low) / (high - low), 0.0, 1.0)
    return clipped


def weigh_anchors(
    distance: Floats,
    neighborhood_score: Floats,
    *,
    alpha: float = 0.8,
    anchor_coverage: float = 0.5,
    correction_scale: float = 2.0,
) -> Floats:
    r"""Join closeness and agreement of surroundings into one score.

    Parameters
    ----------
    distance
        Anchor distances, shape ``(n_anchors,)``.
    neighborhood_score
        Agreement of the surroundings, in [0, 1], shape ``(n_anchors,)``.
    alpha
        Share of closeness.
    anchor_coverage
        Quantile of the distances at which closeness is one half.
    correction_scale
        Steepness, in standard deviations of the distances.

    Returns
    -------
    Scores in [0, 1], shape ``(n_anchors,)``.

    Notes
    -----
    With :math:`c` the quantile and :math:`\sigma = \mathrm{sd}(\delta) / s`, closeness is
    :math:`f = 1 / (1 + e^{(\delta - c)/\sigma})` and the score
    :math:`(f + \epsilon)^\alpha (\kappa + \epsilon)^{1-\alpha} - \epsilon`
    {cite:p}`andreatta2021`. Where all distances are equal, closeness is one half.

    Examples
    --------
    >>> import numpy as np
    >>> weigh_anchors(np.array([0.1, 0.2, 0.3]), np.ones(3), alpha=1.0).round(3).tolist()
    [0.881, 0.5, 0.119]
    """
    if not len(distance):
        return np.zeros(0)
    center = np.quantile(distance, anchor_coverage)
    width = distance.std(ddof=1) / correction_scale if len(distance) > 1 else 0.0
    close = np.full(len(distance), 0.5)
    if width > 0:
        close = 0.5 * (1 - np.tanh((distance - center) / (2 * width)))  # cannot overflow
    logs = alpha * np.log(close + _EPSILON) + (1 - alpha) * np.log(neighborhood_score + _EPSILON)
    return np.clip(np.exp(logs) - _EPSILON, 0.0, 1.0)
