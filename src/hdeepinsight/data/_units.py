r"""Find the unit of which all values of a cell are whole multiples. Pure numerics.

Library-size normalisation multiplies the counts of a cell by one factor :math:`u`. Each value
:math:`x_j` is known up to a tolerance :math:`t_j` (floating point, rounding to decimals), so a
count :math:`k_j` confines the unit to :math:`[(x_j - t_j) / k_j, (x_j + t_j) / k_j]`. A cell is
solved if one unit lies in all intervals and each of them admits exactly one whole number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

__all__ = ["MAX_SMALLEST", "Units", "find_units", "float_step", "linear_tolerance", "log_tolerance"]

Array: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
Ints: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Bools: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"

#: Largest count that the smallest positive value of a cell may stand for.
MAX_SMALLEST = 16
_ROUNDS = 12
_FIRST = 64  # values of a row that a guess is tried on before all of them


@dataclass(frozen=True)
class Units:
    """What `find_units` found.

    Parameters
    ----------
    counts
        Whole multiples, shape ``(n_values,)``; only meaningful in solved rows.
    units
        Unit of every row, shape ``(n_rows,)``; NaN for empty and for unsolved rows.
    solved
        Rows in which all values are whole multiples of the unit (empty rows included).
    residual
        Largest distance of ``value / unit`` from its count, shape ``(n_rows,)``; 0 for empty rows
        and NaN for unsolved ones.
    """

    counts: Ints
    units: Array
    solved: Bools
    residual: Array


def float_step(dtype: np.dtype[Any]) -> float:
    """Relative spacing of the values; at least that of float32, which most files went through.

    Examples
    --------
    >>> import numpy as np
    >>> float_step(np.dtype("float64")) == float_step(np.dtype("float32")) == 2**-23
    True
    """
    single = float(np.finfo(np.float32).eps)
    return max(single, float(np.finfo(dtype).eps)) if dtype.kind == "f" else single


def log_tolerance(values: Array, x: Array, eps: float, grid: float) -> Array:
    """Tolerance of ``x = expm1(values)``: twice what normalising and the log can round away."""
    return (1 + x) * (2 * eps * values + grid / 2) + 2 * eps * x


def linear_tolerance(x: Array, eps: float, grid: float) -> Array:
    """Tolerance of values that were normalised and not logged."""
    return 4 * eps * x + grid / 2


def find_units(x: Array, tolerance: Array, indptr: Ints) -> Units:
    """Solve every row for its largest unit.

    Parameters
    ----------
    x
        Positive values, row after row, shape ``(n_values,)``.
    tolerance
        What each value may be off by, shape ``(n_values,)``.
    indptr
        Start of every row and the end of the last, shape ``(n_rows + 1,)``.

    Notes
    -----
    The smallest value of a row is tried as count 1, 2, ... `MAX_SMALLEST`; the first that fits
    gives the largest unit. Counts that share a divisor come back divided by it: normalised values
    do not tell 2, 4, 6 from 1, 2, 3.

    Examples
    --------
    >>> import numpy as np
    >>> x = 0.3 * np.array([2.0, 3.0, 7.0])
    >>> find_units(x, 1e-6 * x, np.array([0, 3])).counts
    array([2, 3, 7])
    """
    n_rows = len(indptr) - 1
    counts = np.zeros(len(x), dtype=np.int64)
    units, residual = np.full(n_rows, np.nan), np.zeros(n_rows)
    pending = np.flatnonzero(np.diff(indptr))
    smallest = _smallest(x, tolerance, indptr, pending)
    for multiple in range(1, MAX_SMALLEST + 1):
        start = smallest[:, pending] / multiple
        hopeful = _without_contradiction(x, tolerance, indptr, pending, start)
        rows = pending[hopeful]
        if not len(rows):
            continue
        values, starts, lengths = _values_of(rows, indptr)
        solved, unit, k = _narrow(x[values], tolerance[values], starts, lengths, start[:, hopeful])
        off = np.maximum.reduceat(np.abs(x[values] / np.repeat(unit, lengths) - k), starts)
        counts[values] = k
        units[rows[solved]], residual[rows[solved]] = unit[solved], off[solved]
        pending = np.setdiff1d(pending, rows[solved], assume_unique=True)
    done = np.ones(n_rows, dtype=bool)
    done[pending], residual[pending] = False, np.nan
    return Units(counts=counts, units=units, solved=done, residual=residual)


def _smallest(x: Array, tolerance: Array, indptr: Ints, rows: Ints) -> Array:
    """Bounds of the smallest value of every row; columns of empty rows are not set."""
    bounds = np.full((2, len(indptr) - 1), np.nan)
    if len(rows):
        bounds[0, rows] = np.minimum.reduceat(x - tolerance, indptr[rows])
        bounds[1, rows] = np.minimum.reduceat(x + tolerance, indptr[rows])
    return bounds


def _values_of(rows: Ints, indptr: Ints, most: int | None = None) -> tuple[Any, Ints, Ints]:
    """Positions of (at most so many) values of some rows, their starts there, and their lengths."""
    lengths = np.diff(indptr)[rows]
    if most is not None:
        lengths = np.minimum(lengths, most)
    starts = np.cumsum(lengths) - lengths
    if lengths.sum() == indptr[-1]:
        return slice(None), starts, lengths
    return np.arange(lengths.sum()) + np.repeat(indptr[rows] - starts, lengths), starts, lengths


def _without_contradiction(
    x: Array, tolerance: Array, indptr: Ints, rows: Ints, unit: Array
) -> Bools:
    """Rows whose first values do not rule the unit out: most wrong guesses end here, cheaply."""
    if not len(rows):
        return np.zeros(0, dtype=bool)
    values, starts, lengths = _values_of(rows, indptr, _FIRST)
    low, high = np.repeat(unit, lengths, axis=1)
    first = np.ceil((x[values] - tolerance[values]) / high)
    last = np.floor((x[values] + tolerance[values]) / low)
    possible: Bools = np.logical_and.reduceat(first <= last, starts)
    return possible


def _narrow(
    x: Array, t: Array, starts: Ints, lengths: Ints, unit: Array
) -> tuple[Bools, Array, Ints]:
    """Narrow the bounds ``unit`` of each row until every value admits one whole number only."""
    low_x, high_x = x - t, x + t
    low, high = unit
    undecided = np.inf
    for _ in range(_ROUNDS):
        first = np.ceil(low_x / np.repeat(high, lengths))
        last = np.floor(high_x / np.repeat(low, lengths))
        one = (first == last) & (first > 0)
        k = np.where(one, first, 1.0)
        low = np.maximum(low, np.maximum.reduceat(np.where(one, low_x / k, 0.0), starts))
        high = np.minimum(high, np.minimum.reduceat(np.where(one, high_x / k, np.inf), starts))
        left = int(np.count_nonzero(~one))
        if left == 0 or left == undecided:
            break
        undecided = left
    solved = np.logical_and.reduceat(one, starts) & (low <= high)
    return solved, (low + high) / 2, k.astype(np.int64)
