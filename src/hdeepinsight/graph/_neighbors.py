"""Nearest neighbours in the Euclidean sense, exact or approximate, in a fixed order."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import NearestNeighbors

from hdeepinsight._errors import invalid

Exact = Literal["auto", True, False]

#: Above this many searched rows ``exact="auto"`` turns to nearest-neighbour descent.
EXACT_ROWS = 20_000
_CHUNK = 4_096


class NumbaCacheError(RuntimeError):
    """The approximate search cannot be compiled, because numba finds no folder for its cache.

    Raised where neither the installed packages nor the user's home can be written to, as in some
    containers. The environment variable NUMBA_CACHE_DIR names another folder.

    Examples
    --------
    >>> issubclass(NumbaCacheError, RuntimeError)
    True
    """


def nearest_neighbors(
    x: ArrayLike, y: ArrayLike | None = None, *, k: int, exact: Exact = "auto", seed: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the nearest rows of ``y`` for every row of ``x``.

    Parameters
    ----------
    x
        Rows that look for neighbours, shape ``(n, d)``.
    y
        Rows among which they look, shape ``(m, d)``; by default ``x`` itself, where no row is its
        own neighbour.
    k
        Neighbours per row.
    exact
        Whether to search exhaustively; ``"auto"`` does so up to 20,000 searched rows and takes
        nearest-neighbour descent beyond.
    seed
        Seed of the approximate search.

    Returns
    -------
    indices, distances
        Rows of ``y``, int64, and Euclidean distances, float64, both of shape ``(n, k)``. Within a
        row they are sorted by distance, and by index where distances are equal.

    Raises
    ------
    ValueError
        If the shapes do not fit, values are not finite, or there are fewer than ``k`` rows to find.
    NumbaCacheError
        If the approximate search has no folder to be compiled in.

    Notes
    -----
    Exact search is scikit-learn's, approximate search pynndescent's (Dong, Moses and Li 2011,
    doi:10.1145/1963405.1963487). Distances are computed anew from differences, since the usual
    expansion of the square leaves two equal rows about 1e-7 apart. Source: our decision.

    Examples
    --------
    >>> from hdeepinsight.graph import nearest_neighbors
    >>> indices, distances = nearest_neighbors([[0.0], [1.0], [3.0], [3.0]], k=2)
    >>> indices.tolist()
    [[1, 2], [0, 2], [3, 1], [2, 1]]
    >>> distances.tolist()
    [[1.0, 3.0], [1.0, 2.0], [0.0, 2.0], [0.0, 2.0]]
    """
    rows, within = _points(x, "x"), y is None
    targets = rows if y is None else _points(y, "y")
    if rows.shape[1] != targets.shape[1]:
        raise ValueError(
            f"x and y must be points in one space, got x with {rows.shape[1]} columns and y with "
            f"{targets.shape[1]}. Project both with the same map."
        )
    available = len(targets) - within
    if not 1 <= k <= available:
        hint = "Lower the number of neighbours, or give more rows."
        raise invalid("k", k, f"from 1 to {available}, the rows that can be found", hint)
    n_found = k + within  # a row finds itself too
    if exact is True or (exact == "auto" and len(targets) <= EXACT_ROWS):
        found = _exact(rows, targets, n_found)
    else:
        found = _approximate(rows, targets, n_found, seed=seed, within=within)
    if within:
        found = _without_self(found)
    return _ordered(rows, targets, found)


def _points(values: ArrayLike, name: str) -> NDArray[np.floating]:
    matrix = np.asarray(values)
    if matrix.ndim != 2:
        raise ValueError(
            f"{name} must have one row per point, (n, d), got {name} of shape "
            f"{matrix.shape}. Reshape it."
        )
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float64)
    if n_broken := int((~np.isfinite(matrix).all(axis=1)).sum()):
        raise ValueError(
            f"Coordinates must be finite, got {n_broken} of {len(matrix)} rows of {name} with NaN "
            "or infinite values. Leave these rows out, or look at how they were computed."
        )
    return matrix


def _exact(
    rows: NDArray[np.floating], targets: NDArray[np.floating], n_found: int
) -> NDArray[np.int64]:
    if not len(rows):
        return np.empty((0, n_found), np.int64)
    search = NearestNeighbors(n_neighbors=n_found).fit(targets)
    return np.asarray(search.kneighbors(rows, return_distance=False), dtype=np.int64)


def _approximate(
    rows: NDArray[np.floating],
    targets: NDArray[np.floating],
    n_found: int,
    *,
    seed: int,
    within: bool,
) -> NDArray[np.int64]:
    try:
        from pynndescent import NNDescent  # compiles at import, which takes seconds
    except RuntimeError as error:  # "cannot cache function ...: no locator available for file ..."
        raise NumbaCacheError(
            f"Searching neighbours among {len(targets):,} rows needs pynndescent, for which numba "
            "finds no folder to keep compiled code in. Set the environment variable "
            "NUMBA_CACHE_DIR to a folder that can be written to, or search with exact=True."
        ) from error

    data = np.ascontiguousarray(targets, dtype=np.float32)
    index = NNDescent(data, n_neighbors=max(n_found, 15), random_state=seed)
    if within:
        found = index.neighbor_graph[0][:, :n_found]
    else:
        found = index.query(np.ascontiguousarray(rows, dtype=np.float32), k=n_found)[0]
    found = found.astype(np.int64)
    # The descent may leave places empty (-1), for example where many rows are equal.
    if len(incomplete := np.flatnonzero((found < 0).any(axis=1))):
        found[incomplete] = _exact(rows[incomplete], targets, n_found)
    return np.asarray(found)


def _without_self(found: NDArray[np.int64]) -> NDArray[np.int64]:
    """Drop each row's own index, or its last find where equal rows crowded it out."""
    own = found == np.arange(len(found))[:, None]
    own[~own.any(axis=1), -1] = True
    return np.asarray(found[~own].reshape(len(found), found.shape[1] - 1))


def _ordered(
    rows: NDArray[np.floating], targets: NDArray[np.floating], found: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    indices = np.sort(found, axis=1)
    distances = np.empty(found.shape, dtype=np.float64)
    for start in range(0, len(rows), _CHUNK):
        here = slice(start, start + _CHUNK)
        difference = targets[indices[here]] - rows[here, None, :]
        distances[here] = np.sqrt(np.einsum("nkd,nkd->nk", difference, difference))
    order = np.argsort(distances, axis=1, kind="stable")
    return np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)
