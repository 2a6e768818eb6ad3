"""Any matrix that an AnnData can hold, read in blocks of rows and never changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from anndata.abc import CSCDataset, CSRDataset

from hdeepinsight._errors import InputError

Block: TypeAlias = "np.ndarray[Any, Any] | sp.csr_matrix"
Ints: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

#: Rows of a block, where nobody asks for another number.
ROWS = 2048
#: Numbers of decimals that values may have been rounded to.
DECIMALS = (2, 3, 4, 5)


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
    rows
        Rows of the stored matrix that are the rows of this one, in any order; all if ``None``.
    columns
        Columns of the stored matrix that are those of this one, ascending; all if ``None``.
    counter
        Number of passes over the rows, and of scans among them, shared by all parts of a matrix.
    """

    opener: Callable[[], AbstractContextManager[Any]]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    storage: str
    rows: Ints | None = None
    columns: Ints | None = None
    counter: Counter[str] = field(default_factory=Counter)

    def keep(self, columns: Ints) -> RowMatrix:
        """Return some of the columns as a matrix of its own."""
        return replace(self, columns=columns, shape=(self.shape[0], len(columns)))

    def take(self, rows: Ints) -> RowMatrix:
        """Return the given rows as a matrix of its own, which counts its passes together with this.

        Rows that ascend are read block by block; any others are held in memory during a pass.
        """
        chosen = rows if self.rows is None else self.rows[rows]
        return replace(self, rows=chosen, shape=(len(rows), self.shape[1]))

    def blocks(self, size: int) -> Iterator[tuple[slice, Block]]:
        """Read blocks of at most ``size`` rows, in order; memory does not grow with ``n_obs``.

        A dense block is an array, any other a CSR matrix that may share memory with its source and
        is therefore only to be read. A column-wise matrix is held in memory during a pass.
        """
        self.counter["passes"] += 1
        yield from self._read(size)

    def _read(self, size: int) -> Iterator[tuple[slice, Block]]:
        with self.opener() as matrix:
            blocks = _blocks(matrix, size)
            if self.columns is not None:
                blocks = ((rows, block[:, self.columns]) for rows, block in blocks)
            if self.rows is None:
                yield from blocks
                return
            ordered, place = np.unique(self.rows, return_inverse=True)
            ascending = np.array_equal(ordered, self.rows)
            picked: list[Block] = []
            for rows, block in blocks:
                first, last = np.searchsorted(ordered, [rows.start, rows.stop])
                if first == last:
                    continue
                part = block[ordered[first:last] - rows.start]
                if ascending:
                    yield slice(int(first), int(last)), part
                else:
                    picked.append(part)
                if last == len(ordered):
                    break
            if picked:
                whole = sp.vstack(picked, "csr") if sp.issparse(picked[0]) else np.vstack(picked)
                yield from _blocks(whole[place], size)

    def scan(self, max_cells: int) -> Scan:
        """Look at all values once, keeping about ``max_cells`` evenly spaced cells."""
        result = Scan()
        self.counter["scans"] += 1
        step = max(1, -(-self.shape[0] // max(1, max_cells)))
        for rows, block in self.blocks(ROWS):
            part = canonical(block)
            result.add(part)
            if len(chosen := np.arange(-rows.start % step, part.shape[0], step)):
                result.sample.append(part[chosen])
        return result

    def peek(self, n_rows: int) -> Scan:
        """Look at the first rows: enough for a guess, and not counted as a pass."""
        result = Scan()
        if 0 not in self.shape:
            result.sample.append(canonical(next(self._read(n_rows))[1]))
            result.add(result.sample[0])
        return result

    def whole(self) -> Any:
        """Return the matrix itself, or a copy of the columns that are kept of it."""
        with self.opener() as matrix:
            return matrix if self.columns is None else matrix[:, self.columns]


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
    place, storage = type(matrix).__module__.partition(".")[0], "dense"
    if isinstance(matrix, CSRDataset | CSCDataset):
        place, storage = matrix.backend, matrix.format
    elif sp.issparse(matrix):
        storage = f"{matrix.format}_{'array' if isinstance(matrix, sp.sparray) else 'matrix'}"
    elif hasattr(matrix, "dask"):
        storage = "dask"
    library = {"zarr": "zarr ", "h5py": "h5ad ", "hdf5": "h5ad "}.get(place, "")
    return RowMatrix(
        opener=opener or partial(nullcontext, matrix),
        shape=(int(matrix.shape[0]), int(matrix.shape[1])),
        dtype=np.dtype(matrix.dtype),
        storage=library + storage,
    )


def _blocks(matrix: Any, size: int) -> Iterator[tuple[slice, Block]]:
    """Read any matrix in blocks of rows."""
    if hasattr(matrix, "dask"):
        start = 0
        for n_rows in matrix.chunks[0]:  # each of which is computed once
            piece = matrix[start : start + n_rows].compute(scheduler="synchronous")
            for rows, block in _blocks(piece, size):
                yield slice(start + rows.start, start + rows.stop), block
            start += n_rows
        return
    if isinstance(matrix, CSCDataset):
        matrix = matrix.to_memory()
    if sp.issparse(matrix) and matrix.format == "csc":
        parts = matrix.data, matrix.indices, matrix.indptr
        matrix = _checked(sp.csc_matrix, parts, matrix.shape).tocsr()
    for start in range(0, matrix.shape[0], size):
        stop = min(start + size, matrix.shape[0])
        if sp.issparse(matrix):
            first, last = matrix.indptr[start], matrix.indptr[stop]
            stored = matrix.data[first:last], matrix.indices[first:last]
            parts = (*stored, matrix.indptr[start : stop + 1] - first)
            block = _checked(sp.csr_matrix, parts, (stop - start, matrix.shape[1]))
        elif sp.issparse(block := matrix[start:stop]):
            parts = block.data, block.indices, block.indptr
            block = _checked(sp.csr_matrix, parts, block.shape)
        else:
            block = np.asarray(block)
            # There are no sparse matrices of half precision, nor of foreign byte order.
            kind = np.float32 if block.dtype == np.float16 else block.dtype.newbyteorder("=")
            block = block.astype(kind, copy=False)
        yield slice(start, stop), block


def _checked(kind: Any, parts: tuple[Any, ...], shape: tuple[int, ...]) -> Any:
    """Build a matrix whose indices do not lead out of it: compiled code would follow them."""
    try:
        made = kind(parts, shape=shape)
        made.check_format(full_check=True)
        if (np.diff(made.indptr) < 0).any():
            raise ValueError("starts that fall")
    except ValueError as error:
        raise InputError(
            f"A sparse matrix of shape {shape} has indices that lie outside of it ({error}).",
            "Valid are indices within the matrix, and starts that never fall.",
            "Write the file again from its source.",
        ) from error
    return made


@dataclass
class Scan:
    """Exact tallies over all values, and a sample of whole cells.

    ``low`` and ``high`` are the range of the finite stored values; ``decimals`` are the numbers of
    decimals that all values seen so far are rounded to; ``sample`` holds evenly spaced rows as CSR
    matrices.
    """

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
            # Rounded: all are the nearest single-precision number to one with so many decimals.
            exact, single = stored.astype(np.float64), stored.astype(np.float32)
            with np.errstate(over="ignore"):
                self.decimals = tuple(
                    d
                    for d in self.decimals
                    if (np.round(exact, d).astype(np.float32) == single).all()
                )


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
