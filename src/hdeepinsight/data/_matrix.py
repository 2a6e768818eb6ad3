"""Any matrix that an AnnData can hold, read in blocks of rows and never changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from anndata.abc import CSCDataset, CSRDataset

from hdeepinsight.data._errors import InputError

__all__ = ["Block", "RowMatrix", "row_view", "to_csr", "wrap"]

Block: TypeAlias = "np.ndarray[Any, Any] | sp.csr_matrix"

Ints: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

#: Stored values that one pass over a column-wise matrix may keep (8 to 12 bytes each).
CSC_BUDGET = 2**25


@dataclass
class Tally:
    """How often a matrix was read.

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
    tally
        How often it was read.
    """

    opener: Callable[[], AbstractContextManager[Any]]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    storage: str
    chosen: Ints | None = None
    tally: Tally = field(default_factory=Tally)

    @property
    def n_passes(self) -> int:
        """How often the matrix was read, for whatever purpose."""
        return self.tally.n_passes

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
        self.tally.n_passes += 1
        with self.opener() as matrix:
            if self.chosen is None:
                yield from _all_blocks(matrix, size)
            else:
                yield from _chosen_blocks(matrix, self.chosen, size)


def _all_blocks(matrix: Any, size: int) -> Iterator[tuple[slice, Block]]:
    if _is_columnwise(matrix):
        yield from _columnwise_blocks(matrix, size)
    elif hasattr(matrix, "dask"):
        yield from _dask_blocks(matrix, size)
    else:
        for start in range(0, matrix.shape[0], size):
            rows = slice(start, min(start + size, matrix.shape[0]))
            yield rows, _read(matrix, rows)


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
            whole = _stack(waiting)
            for _ in range(n_waiting // size):
                yield slice(start, start + size), whole[:size]
                whole, start = whole[size:], start + size
            waiting, n_waiting = [whole], whole.shape[0]
        if last == len(ordered):
            break
    if not n_waiting:
        return
    whole = _stack(waiting)
    whole = whole if ascending else whole[place]
    for first in range(0, whole.shape[0], size):
        part = whole[first : first + size]
        yield slice(start + first, start + first + part.shape[0]), part


def _stack(blocks: list[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    return sp.vstack(blocks, format="csr") if sp.issparse(blocks[0]) else np.vstack(blocks)


def wrap(matrix: Any, opener: Callable[[], AbstractContextManager[Any]] | None = None) -> RowMatrix:
    """Describe a matrix in memory, or one that ``opener`` reopens for every pass."""
    if sp.issparse(matrix) and matrix.format not in ("csr", "csc"):
        matrix = matrix.tocsr()
    return RowMatrix(
        opener=opener or (lambda: nullcontext(matrix)),
        shape=(int(matrix.shape[0]), int(matrix.shape[1])),
        dtype=np.dtype(matrix.dtype),
        storage=_storage(matrix),
    )


def _storage(matrix: Any) -> str:
    if isinstance(matrix, CSRDataset | CSCDataset):
        return f"{_file_kind(matrix.backend)} {matrix.format}"
    if sp.issparse(matrix):
        return f"{matrix.format}_{'array' if isinstance(matrix, sp.sparray) else 'matrix'}"
    if hasattr(matrix, "dask"):
        return "dask"
    root = type(matrix).__module__.partition(".")[0]
    return f"{_file_kind(root)} dense" if root in ("h5py", "zarr") else "dense"


def _file_kind(library: str) -> str:
    return "zarr" if library == "zarr" else "h5ad"


def _is_columnwise(matrix: Any) -> bool:
    return isinstance(matrix, CSCDataset) or (sp.issparse(matrix) and matrix.format == "csc")


def _read(matrix: Any, rows: slice) -> Block:
    block = row_view(matrix, rows) if sp.issparse(matrix) else to_csr(matrix[rows])
    return _sound(block) if sp.issparse(block) else block


def _sound(matrix: Any) -> Any:
    """Refuse indices that lead out of a compressed matrix: compiled code would follow them."""
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


def row_view(matrix: Any, rows: slice) -> sp.csr_matrix:
    """Rows of a CSR matrix without copying their values."""
    start, stop = int(matrix.indptr[rows.start]), int(matrix.indptr[rows.stop])
    view = sp.csr_matrix((rows.stop - rows.start, matrix.shape[1]), dtype=matrix.dtype)
    # Set one by one: the constructor copies what is a small part of a larger array.
    view.data, view.indices = matrix.data[start:stop], matrix.indices[start:stop]
    view.indptr = matrix.indptr[rows.start : rows.stop + 1] - start
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
        turned = _turn(matrix, slice(start, min(start + large, n_obs)))
        for first in range(0, turned.shape[0], size):
            rows = slice(first, min(first + size, turned.shape[0]))
            yield slice(start + rows.start, start + rows.stop), row_view(turned, rows)


def _n_stored(matrix: Any) -> int:
    return int(matrix.nnz if sp.issparse(matrix) else matrix.group["data"].shape[0])


def _turn(matrix: Any, rows: slice) -> sp.csr_matrix:
    """Rows of a column-wise matrix as CSR; a file is read in blocks of columns."""
    if sp.issparse(matrix):
        _sound(matrix)
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
    return _sound(sp.csc_matrix((values, indices, starts - starts[0]), shape=shape))


def _dask_blocks(matrix: Any, size: int) -> Iterator[tuple[slice, Block]]:
    """Compute every row of dask chunks once, then hand it out in blocks of at most ``size``."""
    start = 0
    for n_rows in matrix.chunks[0]:
        computed = to_csr(matrix[start : start + n_rows].compute(scheduler="synchronous"))
        computed = _sound(computed) if sp.issparse(computed) else computed
        for first in range(0, n_rows, size):
            stop = min(first + size, n_rows)
            part = computed[first:stop]
            yield slice(start + first, start + stop), part
        start += n_rows
