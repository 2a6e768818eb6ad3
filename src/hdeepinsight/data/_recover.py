r"""Recover counts from normalised values.

Library-size normalisation multiplies the counts of a cell by one factor :math:`u`, so all its
values are integer multiples of this unit. Each value :math:`x_j` is known up to a tolerance
:math:`t_j` (floating point, rounding to decimals), so a count :math:`k_j` restricts the unit to
:math:`[(x_j - t_j) / k_j, (x_j + t_j) / k_j]`. A cell is solved if one unit lies in all intervals
and allows exactly one integer for each value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import scipy.sparse as sp

from hdeepinsight._errors import InputError, counted
from hdeepinsight.data._matrix import Block, canonical

Array: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
Ints: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Bools: TypeAlias = "np.ndarray[Any, np.dtype[np.bool_]]"

#: Largest count of the smallest positive value of a cell.
MAX_SMALLEST = 16
_MAX_ITERATIONS = 12
_FIRST = 64  # values of a row on which a unit is tested first


def find_units(x: Array, tolerance: Array, indptr: Ints) -> tuple[Ints, Bools]:
    """Find the largest unit of each row.

    Parameters
    ----------
    x
        Positive values, row after row, shape ``(n_values,)``.
    tolerance
        Maximum error of each value, shape ``(n_values,)``.
    indptr
        Start of each row and the end of the last, shape ``(n_rows + 1,)``.

    Returns
    -------
    Integer multiples of the unit, shape ``(n_values,)``, valid in solved rows only; and whether
    each row is solved (empty rows are), bool, shape ``(n_rows,)``.

    Notes
    -----
    The smallest value of a row is tested as count 1, 2, ... `MAX_SMALLEST`; the first one that
    fits gives the largest unit. Counts with a common divisor are returned divided by it, because
    the normalised values of 2, 4, 6 and 1, 2, 3 are the same.

    Examples
    --------
    >>> import numpy as np
    >>> x = 0.3 * np.array([2.0, 3.0, 7.0])
    >>> find_units(x, 1e-6 * x, np.array([0, 3]))
    (array([2, 3, 7]), array([ True]))
    """
    n_rows = len(indptr) - 1
    counts = np.zeros(len(x), dtype=np.int64)
    pending = np.flatnonzero(np.diff(indptr))
    smallest = np.full((2, n_rows), np.nan)
    if len(pending):
        low_and_high = np.stack([x - tolerance, x + tolerance])
        smallest[:, pending] = np.minimum.reduceat(low_and_high, indptr[pending], axis=1)
    for multiple in range(1, MAX_SMALLEST + 1):
        start = smallest[:, pending] / multiple
        is_possible = _is_possible(x, tolerance, indptr, pending, start)
        rows = pending[is_possible]
        if not len(rows):
            continue
        values, starts, lengths = _values_of(rows, indptr)
        solved, counts[values] = _narrow(
            x[values], tolerance[values], starts, lengths, start[:, is_possible]
        )
        pending = np.setdiff1d(pending, rows[solved], assume_unique=True)
    done = np.ones(n_rows, dtype=bool)
    done[pending] = False
    return counts, done


def _values_of(rows: Ints, indptr: Ints, maximum: int | None = None) -> tuple[Any, Ints, Ints]:
    """Return the positions of values (at most ``maximum`` per row), and row starts and lengths."""
    lengths = np.diff(indptr)[rows]
    if maximum is not None:
        lengths = np.minimum(lengths, maximum)
    starts = np.cumsum(lengths) - lengths
    if lengths.sum() == indptr[-1]:
        return slice(None), starts, lengths
    return np.arange(lengths.sum()) + np.repeat(indptr[rows] - starts, lengths), starts, lengths


def _is_possible(x: Array, tolerance: Array, indptr: Ints, rows: Ints, unit: Array) -> Bools:
    """Return whether the first values of each row allow the unit, which rules out most units."""
    if not len(rows):
        return np.zeros(0, dtype=bool)
    values, starts, lengths = _values_of(rows, indptr, _FIRST)
    low, high = np.repeat(unit, lengths, axis=1)
    first = np.ceil((x[values] - tolerance[values]) / high)
    last = np.floor((x[values] + tolerance[values]) / low)
    possible: Bools = np.logical_and.reduceat(first <= last, starts)
    return possible


def _narrow(x: Array, t: Array, starts: Ints, lengths: Ints, unit: Array) -> tuple[Bools, Ints]:
    """Narrow the bounds ``unit`` of each row until each value allows a single integer."""
    low_x, high_x = x - t, x + t
    low, high = unit
    undecided = np.inf
    for _ in range(_MAX_ITERATIONS):
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
    return solved, k.astype(np.int64)


Normalisation: TypeAlias = Literal["log1p", "normalized"]

#: Largest plausible log1p value: e^30 is 10^13.
MAX_LOG = 30.0


@dataclass(frozen=True)
class Denormalizer:
    """Convert normalised values to counts, independently for each cell.

    Parameters
    ----------
    scale
        ``"log1p"``: library-size normalised and log1p-transformed; ``"normalized"``: without log1p.
    dtype
        Type of the stored values, which determines the floating-point tolerance.
    grid
        Unit to which the values are rounded, such as 0.01; 0.0 if they are not rounded.
    base
        Base of the logarithm.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.data import Denormalizer
    >>> values = np.log1p(np.array([[1.5, 0.0, 4.5]]))
    >>> Denormalizer("log1p", values.dtype).denormalize(values)[0].toarray()
    array([[1., 0., 3.]], dtype=float32)
    """

    scale: Normalisation
    dtype: np.dtype[Any]
    grid: float = 0.0
    base: float = math.e

    def denormalize(self, block: Block) -> tuple[sp.csr_matrix, Bools]:
        """Return the counts of a block (CSR float32), and whether each cell was solved."""
        rows = canonical(block)
        values = rows.data.astype(np.float64)
        # At least the precision of float32, because most files were float32 at some point. The
        # tolerance is twice the error of normalisation, logarithm and rounding.
        eps = float(np.finfo(np.float32).eps)
        if self.dtype.kind == "f":
            eps = max(eps, float(np.finfo(self.dtype).eps))
        if self.scale == "log1p":
            log = 1.0 if self.base == math.e else float(np.log(self.base))
            values, grid = values * log, self.grid * log
            x = np.expm1(values)
            tolerance = (1 + x) * (2 * eps * values + grid / 2) + 2 * eps * x
        else:
            x, tolerance = values, 4 * eps * values + self.grid / 2
        counts, solved = find_units(x, tolerance, rows.indptr.astype(np.int64))
        stored = (counts.astype(np.float32), rows.indices, rows.indptr)
        return sp.csr_matrix(stored, shape=rows.shape), solved

    def share_solved(self, rows: sp.csr_matrix) -> float:
        """Return the share of the non-empty cells whose counts can be recovered.

        It is 0 if no cell has two different values, because equal values are always multiples.
        """
        filled = np.diff(rows.indptr) > 0
        starts = rows.indptr[:-1][filled]
        if not len(starts) or (self.scale == "log1p" and rows.data.max() > MAX_LOG):
            return 0.0
        largest = np.maximum.reduceat(rows.data, starts)
        if not (largest > 1.001 * np.minimum.reduceat(rows.data, starts)).any():
            return 0.0
        return float(self.denormalize(rows)[1][filled].mean())

    def blocks(
        self, values: Iterable[tuple[slice, Block]], n_obs: int
    ) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Convert the values of ``n_obs`` cells to counts, block by block.

        Raises
        ------
        InputError
            At the first block with a cell that cannot be solved.
        """
        after, logged = "", ""
        if self.scale == "log1p":
            after = " after expm1" if self.base == math.e else f" after {self.base:g}^x - 1"
            logged = ", with log1p to base e, 2 or 10"
        for rows, block in values:
            counts, solved = self.denormalize(block)
            n_failed, n_cells = int(np.count_nonzero(~solved)), len(solved)
            if n_failed:
                some = f" {rows.start:,} to {rows.stop - 1:,}" if n_cells < n_obs else ""
                cells = counted(n_cells, "cell")
                raise InputError(
                    f"In {n_failed:,} of {cells}{some} ({n_failed / n_cells:.1%}), the "
                    f"values{after} are not integer multiples of one unit (tested with a smallest "
                    f"count of 1 to {MAX_SMALLEST}).",
                    f"Counts can be recovered from library-size normalised values only{logged}.",
                    "Pass the raw counts: they cannot be recovered from imputed, smoothed, "
                    "batch-corrected, gene-length normalised or coarsely rounded values.",
                )
            yield rows, counts


@dataclass(frozen=True)
class Rescaler:
    """Multiply values, such as fractions of a cell, by a constant.

    Parameters
    ----------
    factor
        The constant.
    """

    factor: float

    def blocks(
        self, values: Iterable[tuple[slice, Block]], n_obs: int
    ) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Multiply the values of ``n_obs`` cells, block by block, as CSR float32."""
        for rows, block in values:
            yield rows, (canonical(block) * self.factor).astype(np.float32)


def find_log_base(
    dtype: np.dtype[Any], grid: float, sample: sp.csr_matrix, stored: float | None = None
) -> float | None:
    """Find the base of the logarithm with which counts can be recovered, or ``None``.

    Parameters
    ----------
    dtype, grid
        As in `Denormalizer`.
    sample
        Values of some cells, CSR.
    stored
        Base stored in the file, tested first; then e, 2 and 10.

    Examples
    --------
    >>> values = sp.csr_matrix(np.log2(1 + np.array([[1.5, 0.0, 4.5], [0.5, 2.5, 1.0]])))
    >>> find_log_base(values.dtype, 0.0, values)
    2.0
    """
    for base in dict.fromkeys([*([stored] if stored else []), math.e, 2.0, 10.0]):
        if Denormalizer("log1p", dtype, grid, base).share_solved(sample) == 1:
            return base
    return None
