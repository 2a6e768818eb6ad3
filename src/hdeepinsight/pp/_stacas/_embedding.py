"""Principal components with or without centring, and two datasets in each other's space."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.sparse.linalg import LinearOperator, svds

Floats = NDArray[np.float64]
#: Values of a dataset, shape ``(n_cells, n_features)``: an array or a CSR matrix.
Values: TypeAlias = "NDArray[np.floating] | sp.csr_matrix"

_ROWS = 2048
#: Up to this many genes the covariance matrix is formed, which is exact and needs memory for one
#: block of cells only; beyond, its decomposition would take longer than iterating on the data.
_GRAM_GENES = 1500
_RANK = 1e-10


@dataclass(frozen=True, eq=False)
class Components:
    """A linear map from genes to a few dimensions.

    Parameters
    ----------
    loadings
        Orthonormal columns, shape ``(n_features, n_dims)``.
    shift
        Subtracted from every cell, shape ``(n_features,)``.
    factor
        Multiplied to every gene after that, shape ``(n_features,)``.
    """

    loadings: Floats
    shift: Floats
    factor: Floats

    def project(self, values: Values, shift: Floats | None = None) -> Floats:
        """Return coordinates of cells, shape ``(n_cells, n_dims)``.

        Parameters
        ----------
        values
            Shape ``(n_cells, n_features)``.
        shift
            Subtracted instead of the map's own, for cells of a dataset with a mean of its own.
        """
        map_ = self.loadings * self.factor[:, None]
        origin = (self.shift if shift is None else shift) @ map_
        return np.asarray(values @ map_, dtype=np.float64) - origin


class PairSpaces(NamedTuple):
    """Unit-length coordinates of two datasets in the space of the first and of the second."""

    first: tuple[Floats, Floats]
    second: tuple[Floats, Floats]


def stack_rows(values: list[Values]) -> Values:
    """Join the rows of several datasets to one matrix, sparse where all of them are."""
    if len(values) == 1:
        return values[0]
    if all(sp.issparse(one) for one in values):
        return sp.vstack(values, format="csr")
    dense = [np.asarray(one.toarray() if sp.issparse(one) else one) for one in values]  # type: ignore[union-attr]
    return np.concatenate(dense)


def fit_components(
    values: Values, n_dims: int, *, center: bool = False, scale: bool = False, seed: int = 0
) -> Components:
    """Fit principal components; without centring they are right singular vectors.

    Parameters
    ----------
    values
        Log-normalised expression, shape ``(n_cells, n_features)``.
    n_dims
        Most dimensions; dimensions without any variation are left out.
    center, scale
        Subtract the mean of every gene; divide by its standard deviation.
    seed
        Start of the iteration that large numbers of genes need.

    Returns
    -------
    The map. Signs are set so that the largest loading of each dimension is positive.

    Examples
    --------
    >>> import numpy as np
    >>> line = np.outer([1.0, 2.0, 3.0], [3.0, 4.0])
    >>> fit_components(line, 2).project(line).round(6).ravel().tolist()
    [5.0, 10.0, 15.0]
    """
    mean, deviation = _moments(values)
    shift = mean if center else np.zeros_like(mean)
    factor = 1.0 / np.where(deviation > 0, deviation, 1.0) if scale else np.ones_like(mean)
    if values.shape[1] <= _GRAM_GENES:
        squares, loadings = _from_gram(values, shift, factor, n_dims)
    else:
        squares, loadings = _from_iteration(values, shift, factor, n_dims, seed)
    kept = squares > _RANK * max(float(squares.max(initial=0.0)), np.finfo(float).tiny)
    kept[0] = True  # equal cells have no direction, but still a place
    loadings = loadings[:, kept]
    largest = np.abs(loadings).argmax(axis=0)
    signs = np.sign(loadings[largest, np.arange(loadings.shape[1])])
    return Components(loadings * signs, shift, factor)


def _moments(values: Values) -> tuple[Floats, Floats]:
    """Return mean and standard deviation of every gene; the latter in two passes, for precision."""
    mean = np.asarray(values.mean(axis=0, dtype=np.float64)).ravel()
    total = np.zeros(values.shape[1])
    for block in _dense_blocks(values):
        total += ((block - mean) ** 2).sum(axis=0)
    return mean, np.sqrt(total / max(values.shape[0] - 1, 1))


def _dense_blocks(values: Values) -> Iterator[Floats]:
    """Yield the cells in dense blocks that are small enough to hold."""
    for start in range(0, values.shape[0], _ROWS):
        block = values[start : start + _ROWS]
        dense = block.toarray() if sp.issparse(block) else block  # type: ignore[union-attr]
        yield np.asarray(dense, dtype=np.float64)


def _from_gram(values: Values, shift: Floats, factor: Floats, n_dims: int) -> tuple[Floats, Floats]:
    n_features = values.shape[1]
    gram = np.zeros((n_features, n_features))
    for block in _dense_blocks(values):
        scaled = (block - shift) * factor
        gram += scaled.T @ scaled
    squares, vectors = eigh(gram, subset_by_index=[max(n_features - n_dims, 0), n_features - 1])
    return squares[::-1], vectors[:, ::-1]


def _from_iteration(
    values: Values, shift: Floats, factor: Floats, n_dims: int, seed: int
) -> tuple[Floats, Floats]:
    def forward(v: Floats) -> Floats:
        scaled = factor * v.ravel()
        return np.asarray(values @ scaled) - shift @ scaled

    def backward(u: Floats) -> Floats:
        u = u.ravel()
        back: Floats = factor * (np.asarray(values.T @ u) - shift * u.sum())
        return back

    operator = LinearOperator(values.shape, matvec=forward, rmatvec=backward, dtype=np.float64)
    n_found = min(n_dims, min(values.shape) - 1)
    start = np.random.default_rng(seed).standard_normal(min(values.shape))
    _, singular, right = svds(operator, k=n_found, v0=start)
    order = np.argsort(-singular)
    return singular[order] ** 2, right[order].T


def reciprocal_embeddings(
    first: Values, second: Values, components: tuple[Components, Components], *, center: bool
) -> PairSpaces:
    """Put two datasets into the space of each, ready for cosine distances.

    Parameters
    ----------
    first, second
        Log-normalised expression, shapes ``(n_first, n_features)`` and ``(n_second, n_features)``.
    components
        Principal components of each.
    center
        Whether each dataset's own mean is subtracted in both spaces.

    Returns
    -------
    For each space the coordinates of both datasets. Every dimension is divided by its standard
    deviation over all cells and every cell has length 1, so that distances lie in [0, 2]; a cell
    without any coordinate stays at 0.

    Notes
    -----
    Reciprocal principal components of Stuart et al. {cite:p}`stuart2019`.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).random((50, 6))
    >>> both = (fit_components(x, 3), fit_components(x, 3))
    >>> spaces = reciprocal_embeddings(x, x, both, center=False)
    >>> bool(np.allclose(np.linalg.norm(spaces.first[1], axis=1), 1))
    True
    """
    shifts = [one.shift if center else None for one in components]
    spaces = [
        _unit_rows(one.project(first, shifts[0]), one.project(second, shifts[1]))
        for one in components
    ]
    return PairSpaces(*spaces)


def _unit_rows(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    deviation = np.concatenate([first, second]).std(axis=0, ddof=1)
    deviation[deviation == 0] = 1.0
    scaled = (first / deviation, second / deviation)
    lengths = [np.linalg.norm(part, axis=1, keepdims=True) for part in scaled]
    one, two = (p / np.where(n > 0, n, 1.0) for p, n in zip(scaled, lengths, strict=True))
    return one, two
