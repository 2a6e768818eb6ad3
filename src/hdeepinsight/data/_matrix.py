"""Any matrix that an AnnData can hold, read in blocks of rows and never changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.sparse as sp
from anndata.abc import CSCDataset, CSRDataset

from hdeepinsight.data._errors import InputError

__all__ = ["Block", "RowMatrix", "row_view", "to_csr", "wrap"]

Block: TypeAlias = "np.ndarray[Any, Any] | sp.csr_matrix"

#: Stored values that one pass over a column-wise matrix may keep (8 to 12 bytes each).
CSC_BUDGET = 2**25


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
    """

    opener: Callable[[], AbstractContextManager[Any]]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    storage: str

    def blocks(self, size: int) -> Iterator[tuple[slice, Block]]:
        """Read blocks of at most ``size`` rows, in order; memory does not grow with ``n_obs``.

        A dense block is an array, any other a CSR matrix that may share memory with its source and
        is therefore only to be read.
        """
        with self.opener() as matrix:
            if _is_columnwise(matrix):
                yield from _columnwise_blocks(matrix, size)
            elif hasattr(matrix, "dask"):
                yield from _dask_blocks(matrix, size)
            else:
                for start in range(0, self.shape[0], size):
                    rows = slice(start, min(start + size, self.shape[0]))
                    yield rows, _read(matrix, rows)


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
