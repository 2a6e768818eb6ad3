"""Any matrix that an AnnData can hold, read in blocks of rows and never changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, TypeAlias, TypeVar

import h5py
import numpy as np
import scipy.sparse as sp
from anndata.abc import CSCDataset, CSRDataset

from hdeepinsight._errors import InputError

try:
    import deflate
except ImportError:  # there is no wheel for this machine: HDF5 unpacks by itself
    deflate = None  # type: ignore[assignment]

#: Bytes that pieces which were looked at beforehand may take until the pass that needs them.
MOST_HELD = 2**26
_DEFLATE, _SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE


class PackedArray:
    """A one-dimensional array on disk that is read by slices, each piece of it once.

    The last piece is kept, as the next slice mostly begins in it. Pieces that HDF5 packed by
    deflate, shuffled or not, are read as they are and unpacked by libdeflate, in less than half of
    the time; whatever is unusual or damaged is left to the library that wrote it, which also says
    what is wrong.

    Parameters
    ----------
    stored
        Array of HDF5 or zarr.
    counter
        Where the ``"bytes"`` that were read packed are counted.
    held
        Pieces that were unpacked before, which are given away as they are read.
    keep
        Hold the pieces that are unpacked, up to `MOST_HELD` bytes in all.
    """

    def __init__(
        self, stored: Any, *, counter: Counter[str], held: dict[Any, Any], keep: bool = False
    ) -> None:
        self.stored, self.counter, self.held, self.keep = stored, counter, held, keep
        self.filters: list[int] = []
        self.last: tuple[int, Any] = (-1, None)
        if isinstance(stored, h5py.Dataset):
            made = stored.id.get_create_plist()
            self.filters = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
        self.is_deflated = (
            deflate is not None
            and self.filters in ([_DEFLATE], [_SHUFFLE, _DEFLATE])
            and stored.dtype.kind in "iuf"
            and stored.dtype.isnative
        )

    def __getitem__(self, span: slice) -> np.ndarray[Any, Any]:
        if isinstance(self.stored, h5py.Dataset) and not self.is_deflated:
            values: np.ndarray[Any, Any] = self.stored[span]  # HDF5 keeps pieces by itself
            return values
        size = self.stored.chunks[0]
        start, stop, _ = span.indices(self.stored.shape[0])
        result = np.empty(max(0, stop - start), self.stored.dtype)
        for first in range(start // size * size, stop, size):
            if self.last[0] != first:
                at = self.stored.name, first
                piece = self.held.pop(at, None)
                if piece is None:
                    piece = self._unpacked(first, min(first + size, self.stored.shape[0]))
                if self.keep and piece.nbytes * (len(self.held) + 1) <= MOST_HELD:
                    with np.errstate(invalid="ignore"):  # which are not equal afterwards
                        small = piece.astype(np.uint16)
                    self.held[at] = small if np.array_equal(small, piece) else piece
                self.last = first, piece
            low, high = max(start, first), min(stop, first + size)
            result[low - start : high - start] = self.last[1][low - first : high - first]
        return result

    def _unpacked(self, first: int, last: int) -> Any:
        if not self.is_deflated:
            return self.stored[first:last]
        dtype, size = self.stored.dtype, self.stored.chunks[0]
        try:
            skipped, packed = self.stored.id.read_direct_chunk((first,))
            self.counter["bytes"] += len(packed)
            raw = np.frombuffer(deflate.zlib_decompress(packed, size * dtype.itemsize), np.uint8)
            if skipped or len(raw) != size * dtype.itemsize:
                raise ValueError("not packed as the others are")
        except (deflate.DeflateError, OSError, RuntimeError, ValueError):
            return self.stored[first:last]
        if _SHUFFLE in self.filters:  # first bytes of all values, then their second bytes ...
            raw = np.ascontiguousarray(raw.reshape(dtype.itemsize, size).T)
        return raw.ravel().view(dtype)


Block: TypeAlias = "np.ndarray[Any, Any] | sp.csr_matrix"
Ints: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Item = TypeVar("Item")

#: Cells of a chunk that a network reads, and cells by which a large query is judged.
CHUNK_CELLS, SAMPLE_CELLS = 4096, 2000
#: Rows of a block, where nobody asks for another number.
ROWS = 2048
#: Neighbouring rows that are looked at together: reading a row of a file costs as much as some.
RUN = 16
#: No type of whole numbers holds more.
LARGEST_COUNT = 2.0**64
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
        Number of passes over the rows, of scans beforehand, and of packed bytes read where this
        package unpacks them itself; shared by all parts of a matrix.
    held
        Pieces that were unpacked beforehand, for the next pass; shared alike.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> from hdeepinsight.data import open_store
    >>> matrix = open_store(ad.AnnData(np.eye(3))).matrix(None, use_raw=False)
    >>> [(rows, block.shape) for rows, block in matrix.blocks(2)]
    [(slice(0, 2, None), (2, 3)), (slice(2, 3, None), (1, 3))]
    """

    opener: Callable[[], AbstractContextManager[Any]]
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    storage: str
    rows: Ints | None = None
    columns: Ints | None = None
    counter: Counter[str] = field(default_factory=Counter)
    held: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_in_memory(self) -> bool:
        """Whether the values are in memory, or in a file that this process holds open."""
        return getattr(self.opener, "func", None) is nullcontext and self.storage != "dask"

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

    def _read(self, size: int, keep: bool = False) -> Iterator[tuple[slice, Block]]:
        with self.opener() as matrix:
            ordered, place = self.rows, None
            if self.rows is not None and (np.diff(self.rows) <= 0).any():
                ordered, place = np.unique(self.rows, return_inverse=True)
            unpack = partial(PackedArray, counter=self.counter, held=self.held, keep=keep)
            blocks = _blocks(matrix, size, unpack, ordered)
            if self.columns is not None:
                blocks = ((rows, block[:, self.columns]) for rows, block in blocks)
            if place is not None:
                whole = stacked([block for _, block in blocks])[place]
                blocks = _blocks(whole, size, unpack)
            yield from blocks

    def scan(self) -> Scan:
        """Look at all values once, keeping some evenly spaced cells."""
        result = Scan()
        self.counter["scans"] += 1
        step = max(1, -(-self.shape[0] // SAMPLE_CELLS))
        for rows, block in self.blocks(ROWS):
            part = canonical(block)
            result.add(part)
            if len(chosen := np.arange(-rows.start % step, part.shape[0], step)):
                result.sample.append(part[chosen])
        return result

    def scan_some(self) -> Scan | None:
        """Look at `spread_rows` only; ``None`` where that means reading most of the matrix."""
        rows = spread_rows(self.shape[0], SAMPLE_CELLS)
        with self.opener() as matrix:
            starts = _pieces(matrix)
        n_touched = len(np.unique(np.searchsorted(starts, rows, side="right")))
        if self.rows is not None or self.shape[0] <= ROWS or 2 * n_touched > len(starts):
            return None
        result = Scan()
        self.counter["scans"] += 1
        for _, block in self.take(rows)._read(ROWS, keep=True):
            result.sample.append(canonical(block))
            result.add(result.sample[-1])
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


def spread_rows(n_rows: int, n_chosen: int) -> Ints:
    """Return about so many rows from all over a matrix, in runs of neighbours, ascending.

    Examples
    --------
    >>> spread_rows(1000, 32).tolist() == [*range(16), *range(984, 1000)]
    True
    """
    run = RUN if n_rows > 2 * n_chosen else 1
    starts = np.linspace(0, max(0, n_rows - run), -(-n_chosen // run)).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(run))


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Give items while a thread makes the next one."""
    with closing(items), ThreadPoolExecutor(1) as thread:  # type: ignore[type-var]
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def _pieces(matrix: Any) -> Ints:
    """Return the first rows of the pieces in which a matrix is stored and read, ascending."""
    n_obs = matrix.shape[0]
    if hasattr(matrix, "dask"):
        return np.cumsum([0, *matrix.chunks[0][:-1]])
    if isinstance(matrix, CSCDataset) or (sp.issparse(matrix) and matrix.format == "csc"):
        return np.zeros(1, dtype=np.int64)
    if isinstance(matrix, CSRDataset) and (chunks := matrix.group["data"].chunks):
        indptr = matrix.group["indptr"][:]
        n_stored = matrix.group["data"].shape[0]
        starts = np.searchsorted(indptr, np.arange(0, n_stored, chunks[0]))
        return np.unique(starts[starts < n_obs])
    chunks = getattr(matrix, "chunks", None)
    return np.arange(0, n_obs, chunks[0] if chunks else RUN // 4)


def _blocks(
    matrix: Any, size: int, unpack: Callable[[Any], Any], chosen: Ints | None = None
) -> Iterator[tuple[slice, Block]]:
    """Read any matrix in blocks of rows, or some rows of it, ascending, and little more."""
    read = _reader(matrix, unpack)
    n_rows = matrix.shape[0] if chosen is None else len(chosen)
    low = int(chosen[0]) if chosen is not None and n_rows else 0
    if chosen is None or (n_rows and chosen[-1] - low == n_rows - 1):  # one after the other
        for start in range(0, n_rows, size):
            stop = min(start + size, n_rows)
            yield slice(start, stop), read(low + start, low + stop)
        return
    starts = _pieces(matrix)
    for first in range(0, len(chosen), size):
        rows = chosen[first : first + size]
        piece = np.searchsorted(starts, rows, side="right")
        apart = np.flatnonzero((np.diff(piece) > 1) | (np.diff(rows // size) > 0)) + 1
        runs = np.split(rows, apart)
        parts = [read(run[0], run[-1] + 1)[run - run[0]] for run in runs]
        yield slice(first, first + len(rows)), stacked(parts)


def stacked(blocks: list[Block]) -> Block:
    """Stack blocks of rows; a single one is not copied."""
    if len(blocks) == 1:
        return blocks[0]
    return sp.vstack(blocks, "csr") if sp.issparse(blocks[0]) else np.vstack(blocks)


def _reader(matrix: Any, unpack: Callable[[Any], Any]) -> Callable[[int, int], Block]:
    """Return what reads consecutive rows of any matrix."""
    if hasattr(matrix, "dask"):
        edges = np.cumsum([0, *matrix.chunks[0]])

        @lru_cache(1)  # each piece is computed once by who reads on
        def computed(k: int) -> Callable[[int, int], Block]:
            piece = matrix[edges[k] : edges[k + 1]].compute(scheduler="synchronous")
            return _reader(piece, unpack)

        def read_pieces(start: int, stop: int) -> Block:
            first, last = np.searchsorted(edges, [start, stop - 1], side="right") - 1
            pieces = [
                computed(k)(max(start, edges[k]) - edges[k], min(stop, edges[k + 1]) - edges[k])
                for k in range(first, last + 1)
                if edges[k] < edges[k + 1]
            ]
            return stacked(pieces)

        return read_pieces

    if isinstance(matrix, CSCDataset):
        matrix = matrix.to_memory()
    if sp.issparse(matrix) and matrix.format == "csc":
        stored = matrix.data, matrix.indices, matrix.indptr
        matrix = _checked(sp.csc_matrix, stored, matrix.shape).tocsr()
    shape = matrix.shape
    if isinstance(matrix, CSRDataset):
        group = matrix.group
        data, indices, indptr = (unpack(group[name]) for name in ("data", "indices", "indptr"))
    elif sp.issparse(matrix):
        data, indices, indptr = matrix.data, matrix.indices, matrix.indptr
    else:
        return lambda start, stop: _native(np.asarray(matrix[start:stop]))

    def read(start: int, stop: int) -> Block:
        starts = indptr[start : stop + 1]
        first, last = starts[0], starts[-1]
        parts = _native(data[first:last]), indices[first:last], starts - first
        block: sp.csr_matrix = _checked(sp.csr_matrix, parts, (stop - start, shape[1]))
        return block

    return read


def _native(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    # There are no sparse matrices of half precision, nor of foreign byte order.
    kind = np.float32 if values.dtype == np.float16 else values.dtype.newbyteorder("=")
    return values.astype(kind, copy=False)


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

    ``n_rows`` is the number of cells seen; ``low`` and ``high`` are the range of the finite stored
    values; ``decimals`` are the numbers of decimals that all values seen so far are rounded to;
    ``sample`` holds some rows as CSR matrices.
    """

    n_rows: int = 0
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

    def contradicts(self, sample: Scan) -> bool:
        """Return whether what was seen is not what a sample told, and has to be judged anew."""
        if self.n_nan or self.n_inf or self.low < 0 or self.high > LARGEST_COUNT:
            return True
        if sample.all_whole:
            return not self.all_whole
        return not set(sample.decimals[:1]) <= set(self.decimals)

    def add(self, rows: sp.csr_matrix) -> None:
        """Tally a canonical CSR block."""
        stored = rows.data
        self.n_rows += rows.shape[0]
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
        if whole < len(stored) and self.decimals:
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
