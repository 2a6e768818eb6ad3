"""Any matrix that an AnnData can hold, read in blocks of rows and never changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from anndata.abc import CSCDataset, CSRDataset

from hdeepinsight.data._errors import InputError

Block: TypeAlias = "np.ndarray[Any, Any] | sp.csr_matrix"
Ints: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

#: Rows of a block, where nobody asks for another number.
ROWS = 2048
#: Numbers of decimals that values may have been rounded to.
DECIMALS = (2, 3, 4, 5)
#: Stored values that one pass over a column-wise matrix may keep (8 to 12 bytes each).
CSC_BUDGET = 2**25


@dataclass
class PassCounter:
    """Number of times that a matrix was read.

    Parameters
    ----------
    n_passes
        Passes over its rows, those that looked at all values included.
    n_scans
        Passes that looked at all values to find out what they are.
    """

    n_passes: int = 0
    n_scans: int = 0


@dataclass(frozen=True)
class RowMatrix:
    """A matrix of shape ``(n_obs, n_vars)`` that is read in blocks of consecutive rows.

    Parameters
    ----------
    opener
        Gives the matrix for the time of one pass; closes what it opened.
    shape
        ``(n_obs, n_vars)``.
    dtype
        Type of the stored values.
    storage
        How it is stored, for reports: ``"dense"``, ``"csr_matrix"``, ``"h5ad csr"``, ``"dask"`` ...
    chosen
        Rows of the stored matrix that are the rows of this one, in any order; all if ``None``.
    columns
        Columns of the stored matrix that are those of this one, ascending; all if ``None``.
    counter
        Counts the passes.
    """

    opener: Callable[[], AbstractContextManager[Any]]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    storage: str
    chosen: Ints | None = None
    columns: Ints | None = None
    counter: PassCounter = field(default_factory=PassCounter)

    def keep(self, columns: Ints) -> RowMatrix:
        """Return some of the columns as a matrix of its own."""
        return replace(self, columns=columns, shape=(self.shape[0], len(columns)))

    def take(self, rows: Ints) -> RowMatrix:
        """Return the given rows as a matrix of its own, which counts its passes together with this.

        Rows that ascend are read block by block; any others are held in memory during a pass.
        """
        chosen = rows if self.chosen is None else self.chosen[rows]
        return replace(self, chosen=chosen, shape=(len(rows), self.shape[1]))

    def blocks(self, size: int) -> Iterator[tuple[slice, Block]]:
        """Read blocks of at most ``size`` rows, in order; memory does not grow with ``n_obs``.

        A dense block is an array, any other a CSR matrix that may share memory with its source and
        is therefore only to be read.
        """
        self.counter.n_passes += 1
        yield from self._read(size)

    def _read(self, size: int) -> Iterator[tuple[slice, Block]]:
        with self.opener() as matrix:
            chosen = self.chosen
            read = (
                _all_blocks(matrix, size)
                if chosen is None
                else _chosen_blocks(matrix, chosen, size)
            )
            for rows, block in read:
                yield rows, block if self.columns is None else block[:, self.columns]

    def peek(self, n_rows: int) -> Scan:
        """Tally the first rows: enough for a guess, and not counted as a pass."""
        result = Scan()
        if 0 not in self.shape:
            result.sample.append(canonical(next(self._read(n_rows))[1]))
            result.add(result.sample[0])
        return result

    def whole(self) -> Any:
        """Return the matrix itself, or a copy of the columns that are kept of it."""
        with self.opener() as matrix:
            return matrix if self.columns is None else matrix[:, self.columns]


def _all_blocks(matrix: Any, size: int) -> Iterator[tuple[slice, Block]]:
    if isinstance(matrix, CSCDataset) or (sp.issparse(matrix) and matrix.format == "csc"):
        yield from _columnwise_blocks(matrix, size)
    elif hasattr(matrix, "dask"):
        yield from _dask_blocks(matrix, size)
    elif sp.issparse(matrix):
        yield from ((rows, _checked(block)) for rows, block in _parts(matrix, size))
    else:
        for start in range(0, matrix.shape[0], size):
            rows = slice(start, min(start + size, matrix.shape[0]))
            yield rows, _checked(to_csr(matrix[rows]))


def _parts(whole: Any, size: int, offset: int = 0) -> Iterator[tuple[slice, Block]]:
    """Hand out a matrix in memory in parts of at most ``size`` rows, without copying values."""
    for start in range(0, whole.shape[0], size):
        stop = min(start + size, whole.shape[0])
        part = row_view(whole, start, stop) if sp.issparse(whole) else whole[start:stop]
        yield slice(offset + start, offset + stop), part


def _chosen_blocks(matrix: Any, chosen: Ints, size: int) -> Iterator[tuple[slice, Block]]:
    """Pick rows out of a pass; what is picked is handed out in full blocks."""
    ordered, place = np.unique(chosen, return_inverse=True)
    ascending = len(ordered) == len(chosen) and bool((np.diff(chosen) > 0).all())
    waiting: list[Block] = []
    n_waiting, start = 0, 0
    for rows, block in _all_blocks(matrix, size):
        first, last = np.searchsorted(ordered, [rows.start, rows.stop])
        if first < last:
            waiting.append(block[ordered[first:last] - rows.start])
            n_waiting += last - first
        if ascending and n_waiting >= size:
            whole, full = _stack(waiting), n_waiting // size * size
            yield from _parts(whole[:full], size, start)
            waiting, n_waiting, start = [whole[full:]], n_waiting - full, start + full
        if last == len(ordered):
            break
    if n_waiting:
        whole = _stack(waiting)
        yield from _parts(whole if ascending else whole[place], size, start)


def _stack(blocks: list[Block]) -> Block:
    return sp.vstack(blocks, format="csr") if sp.issparse(blocks[0]) else np.vstack(blocks)


def wrap(matrix: Any, opener: Callable[[], AbstractContextManager[Any]] | None = None) -> RowMatrix:
    """Describe a matrix in memory, or one that ``opener`` reopens for every pass."""
    if sp.issparse(matrix) and matrix.format not in ("csr", "csc"):
        matrix = matrix.tocsr()
    if isinstance(matrix, np.ma.MaskedArray) and (n_masked := matrix.size - matrix.count()):
        raise InputError(
            f"The matrix is a masked array with {n_masked:,} masked values.",
            "Valid is a value for every cell and gene.",
            "Pass matrix.filled(0) if they mean zero, or leave these cells or genes out.",
        )
    return RowMatrix(
        opener=opener or partial(nullcontext, matrix),
        shape=(int(matrix.shape[0]), int(matrix.shape[1])),
        dtype=np.dtype(matrix.dtype),
        storage=_storage(matrix),
    )


def _storage(matrix: Any) -> str:
    if isinstance(matrix, CSRDataset | CSCDataset):
        place, form = matrix.backend, matrix.format
    elif sp.issparse(matrix):
        return f"{matrix.format}_{'array' if isinstance(matrix, sp.sparray) else 'matrix'}"
    elif hasattr(matrix, "dask"):
        return "dask"
    else:
        place, form = type(matrix).__module__.partition(".")[0], "dense"
    library = {"zarr": "zarr", "h5py": "h5ad", "hdf5": "h5ad"}.get(place)
    return f"{library} {form}" if library else form


def _checked(matrix: Any) -> Any:
    """Refuse indices that lead out of a compressed matrix: compiled code would follow them."""
    if not sp.issparse(matrix):
        return matrix
    starts, indices = matrix.indptr, matrix.indices
    major, minor = matrix.shape if matrix.format == "csr" else matrix.shape[::-1]
    if (
        len(starts) != major + 1
        or starts[0] != 0
        or not starts[-1] == len(indices) == len(matrix.data)
        or (np.diff(starts) < 0).any()
        or (len(indices) and (indices.min() < 0 or indices.max() >= minor))
    ):
        raise InputError(
            f"A sparse matrix of shape {matrix.shape} has indices that lie outside of it.",
            f"Valid are indices from 0 to {minor - 1:,}, and starts that never fall.",
            "Write the file again from its source.",
        )
    return matrix


def row_view(matrix: Any, start: int, stop: int) -> sp.csr_matrix:
    """Return rows of a CSR matrix without copying their values."""
    first, last = int(matrix.indptr[start]), int(matrix.indptr[stop])
    view = sp.csr_matrix((stop - start, matrix.shape[1]), dtype=matrix.dtype)
    # Set one by one: the constructor copies what is a small part of a larger array.
    view.data, view.indices = matrix.data[first:last], matrix.indices[first:last]
    view.indptr = matrix.indptr[start : stop + 1] - first
    return view


def to_csr(block: Any) -> Block:
    """Bring a block to the two forms that the rest of the room knows: an array or a CSR matrix."""
    if not sp.issparse(block):
        dense = np.asarray(block)
        if dense.dtype == np.float16:  # there are no sparse half-precision matrices
            return dense.astype(np.float32)
        return dense.astype(dense.dtype.newbyteorder("="), copy=False)  # nor of foreign byte order
    return block if sp.isspmatrix_csr(block) else sp.csr_matrix(block)


def _columnwise_blocks(matrix: Any, size: int) -> Iterator[tuple[slice, Block]]:
    """Turn a column-wise matrix in large row blocks, so that a pass over it serves many chunks."""
    n_obs = matrix.shape[0]
    per_row = max(1, _n_stored(matrix) // max(1, n_obs))
    large = size * max(1, CSC_BUDGET // (per_row * size))
    for start in range(0, n_obs, large):
        yield from _parts(_turn(matrix, slice(start, min(start + large, n_obs))), size, start)


def _n_stored(matrix: Any) -> int:
    return int(matrix.nnz if sp.issparse(matrix) else matrix.group["data"].shape[0])


def _turn(matrix: Any, rows: slice) -> sp.csr_matrix:
    """Rows of a column-wise matrix as CSR; a file is read in blocks of columns."""
    if sp.issparse(matrix):
        _checked(matrix)
        whole = rows.stop - rows.start == matrix.shape[0]
        return sp.csr_matrix((matrix if whole else matrix[rows]).tocsr())
    n_vars = matrix.shape[1]
    per_column = max(1, _n_stored(matrix) // max(1, n_vars))
    width = max(1, CSC_BUDGET // (4 * per_column))
    starts = np.asarray(matrix.group["indptr"][:])
    parts = [
        _columns(matrix, starts[first : min(first + width, n_vars) + 1])[rows]
        for first in range(0, n_vars, width)
    ]
    return sp.csr_matrix(sp.hstack(parts, format="csc").tocsr())


def _columns(matrix: Any, starts: np.ndarray[Any, Any]) -> sp.csc_matrix:
    """Read consecutive columns of a file, in one piece."""
    stored = slice(int(starts[0]), int(starts[-1]))
    values, indices = matrix.group["data"][stored], matrix.group["indices"][stored]
    shape = (matrix.shape[0], len(starts) - 1)
    return _checked(sp.csc_matrix((values, indices, starts - starts[0]), shape=shape))


def _dask_blocks(matrix: Any, size: int) -> Iterator[tuple[slice, Block]]:
    """Compute every row of dask chunks once, then hand it out in blocks of at most ``size``."""
    start = 0
    for n_rows in matrix.chunks[0]:
        piece = matrix[start : start + n_rows].compute(scheduler="synchronous")
        yield from _parts(_checked(to_csr(piece)), size, start)
        start += n_rows


@dataclass
class Scan:
    """Exact tallies over all values, and a sample of whole cells.

    ``n_cells`` counts the rows seen; ``low`` and ``high`` are the range of the finite stored
    values; ``decimals`` are the numbers of decimals that all values seen so far are rounded to;
    ``sample`` holds evenly spaced rows as CSR matrices.
    """

    n_cells: int = 0
    n_nan: int = 0
    n_inf: int = 0
    n_negative: int = 0
    n_empty: int = 0
    n_nonzero: int = 0
    n_whole: int = 0
    low: float = np.inf
    high: float = -np.inf
    decimals: tuple[int, ...] = DECIMALS
    sample: list[sp.csr_matrix] = field(default_factory=list)

    @property
    def all_whole(self) -> bool:
        """Whether every finite value is a whole number."""
        return self.n_whole == self.n_nonzero - self.n_nan - self.n_inf

    @property
    def grid(self) -> float:
        """Distance of the decimals that the values are rounded to; 0.0 if they are not."""
        return 10.0 ** -min(self.decimals) if self.decimals else 0.0

    def add(self, rows: sp.csr_matrix) -> None:
        """Tally a canonical CSR block."""
        stored = rows.data
        self.n_cells += rows.shape[0]
        self.n_nonzero += len(stored)
        self.n_empty += int(np.count_nonzero(np.diff(rows.indptr) == 0))
        if stored.dtype.kind == "f" and not (finite := np.isfinite(stored)).all():
            self.n_nan += int(np.count_nonzero(np.isnan(stored)))
            self.n_inf += int(np.count_nonzero(np.isinf(stored)))
            stored = stored[finite]
        if not len(stored):
            return
        self.low = min(self.low, float(stored.min()))
        self.high = max(self.high, float(stored.max()))
        if self.low < 0:
            self.n_negative += int(np.count_nonzero(stored < 0))
        whole = len(stored)
        if stored.dtype.kind == "f":
            whole = int(np.count_nonzero(stored == np.rint(stored)))
        self.n_whole += whole
        if whole < len(stored):
            self.decimals = tuple(d for d in self.decimals if _is_rounded(stored, d))


def _is_rounded(values: np.ndarray[Any, Any], decimals: int) -> bool:
    """Whether all values are the nearest single-precision number to one with so many decimals."""
    exact = np.round(values.astype(np.float64), decimals)
    with np.errstate(over="ignore"):
        return bool((exact.astype(np.float32) == values.astype(np.float32)).all())


def canonical(block: Block) -> sp.csr_matrix:
    """Return a CSR form without explicit zeros and double entries; never change ``block``."""
    rows: sp.csr_matrix = block if sp.issparse(block) else sp.csr_matrix(block)
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    if np.count_nonzero(rows.data) < len(rows.data):
        rows = rows.copy()
        rows.eliminate_zeros()
    return rows


def scan(matrix: RowMatrix, max_cells: int) -> Scan:
    """Read the whole matrix once, keeping about ``max_cells`` evenly spaced cells."""
    result = Scan()
    matrix.counter.n_scans += 1
    step = max(1, -(-matrix.shape[0] // max(1, max_cells)))
    for rows, block in matrix.blocks(ROWS):
        part = canonical(block)
        result.add(part)
        if len(picked := np.arange(-rows.start % step, part.shape[0], step)):
            result.sample.append(part[picked])
    return result
