r"""Recover counts from normalised values, by the unit of which all values of a cell are multiples.

Library-size normalisation multiplies the counts of a cell by one factor :math:`u`. Each value
:math:`x_j` is known up to a tolerance :math:`t_j` (floating point, rounding to decimals), so a
count :math:`k_j` confines the unit to :math:`[(x_j - t_j) / k_j, (x_j + t_j) / k_j]`. A cell is
solved if one unit lies in all intervals and each of them admits exactly one whole number.
"""

from __future__ import annotations

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

#: Largest count that the smallest positive value of a cell may stand for.
MAX_SMALLEST = 16
_ROUNDS = 12
_FIRST = 64  # values of a row that a guess is tried on before all of them


def find_units(x: Array, tolerance: Array, indptr: Ints) -> tuple[Ints, Bools]:
    """Find the largest unit of every row.

    Parameters
    ----------
    x
        Positive values, row after row, shape ``(n_values,)``.
    tolerance
        What each value may be off by, shape ``(n_values,)``.
    indptr
        Start of every row and the end of the last, shape ``(n_rows + 1,)``.

    Returns
    -------
    Whole multiples of the unit, shape ``(n_values,)``, which are only meaningful in solved rows;
    and rows in which all values are such (empty rows included), bool, shape ``(n_rows,)``.

    Notes
    -----
    The smallest value of a row is tried as count 1, 2, ... `MAX_SMALLEST`; the first that fits
    gives the largest unit. Counts that share a divisor come back divided by it: normalised values
    do not tell 2, 4, 6 from 1, 2, 3.

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
        hopeful = _without_contradiction(x, tolerance, indptr, pending, start)
        rows = pending[hopeful]
        if not len(rows):
            continue
        values, starts, lengths = _values_of(rows, indptr)
        solved, counts[values] = _narrow(
            x[values], tolerance[values], starts, lengths, start[:, hopeful]
        )
        pending = np.setdiff1d(pending, rows[solved], assume_unique=True)
    done = np.ones(n_rows, dtype=bool)
    done[pending] = False
    return counts, done


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


def _narrow(x: Array, t: Array, starts: Ints, lengths: Ints, unit: Array) -> tuple[Bools, Ints]:
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
    return solved, k.astype(np.int64)


Normalisation: TypeAlias = Literal["log1p", "normalized"]

#: A value above this is not a log1p value: e^30 is 10^13.
MAX_LOG = 30.0


@dataclass(frozen=True)
class Denormalizer:
    """Turn normalised values back into counts, cell by cell.

    Parameters
    ----------
    scale
        ``"log1p"``: library-size normalised, then log1p; ``"normalized"``: without the log.
    dtype
        Type of the stored values; sets the floating-point tolerance.
    grid
        Distance of the decimals that the values are rounded to, 0.0 if they are not.
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
    base: float = float(np.e)

    def denormalize(self, block: Block) -> tuple[sp.csr_matrix, Bools]:
        """Return the counts of a block (CSR float32), and whether every cell was solved.

        A cell is solved on its own: the result depends on no other cell.
        """
        rows = canonical(block)
        values = rows.data.astype(np.float64)
        # Spacing of the values: at least that of float32, through which most files went. Twice what
        # normalising, the log and rounding can change is tolerated.
        own = np.finfo(self.dtype).eps if self.dtype.kind == "f" else 0.0
        eps = max(float(own), float(np.finfo(np.float32).eps))
        if self.scale == "log1p":
            log = 1.0 if self.base == np.e else float(np.log(self.base))
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

        It is 0 where no cell has two different values: equal ones are multiples of anything.
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
        """Turn the values of so many cells into counts, block by block.

        Raises
        ------
        InputError
            At the first block in which a cell cannot be solved.
        """
        how = " after expm1" if self.base == np.e else f" after {self.base:g}^x - 1"
        logged = " and logged by log1p, natural or to base 2 or 10"
        after, logged = (how, logged) if self.scale == "log1p" else ("", "")
        for rows, block in values:
            counts, solved = self.denormalize(block)
            n_failed, n_cells = int(np.count_nonzero(~solved)), len(solved)
            if n_failed:
                some = f" {rows.start:,} to {rows.stop - 1:,}" if n_cells < n_obs else ""
                cells = counted(n_cells, "cell")
                raise InputError(
                    f"In {n_failed:,} of {cells}{some} ({n_failed / n_cells:.1%}) the "
                    f"values{after} are not whole multiples of one unit (tried with a smallest "
                    f"count of 1 to {MAX_SMALLEST}).",
                    "Counts can be recovered from values that were only divided by the library "
                    f"size{logged}.",
                    "Pass the raw counts: imputed, smoothed, batch-corrected, gene-length "
                    "normalised or coarsely rounded values do not hold them any more.",
                )
            yield rows, counts


def find_log_base(
    dtype: np.dtype[Any], grid: float, sample: sp.csr_matrix, told: float | None = None
) -> float | None:
    """Find the base of logarithms from which counts can be recovered; ``None`` where there is none.

    Parameters
    ----------
    dtype, grid
        As of `Denormalizer`.
    sample
        Values of some cells, CSR.
    told
        Base that the file tells, tried first; then e, 2 and 10.

    Examples
    --------
    >>> values = sp.csr_matrix(np.log2(1 + np.array([[1.5, 0.0, 4.5], [0.5, 2.5, 1.0]])))
    >>> find_log_base(values.dtype, 0.0, values)
    2.0
    """
    for base in dict.fromkeys([*([told] if told else []), float(np.e), 2.0, 10.0]):
        if Denormalizer("log1p", dtype, grid, base).share_solved(sample) == 1:
            return base
    return None
