"""Read any matrix of an AnnData in blocks of rows, without modifying it."""

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
except ImportError:  # no wheel for this platform: HDF5 decompresses instead
    deflate = None  # type: ignore[assignment]

#: Maximum bytes of decompressed chunks that are cached between two passes.
MAX_CACHE = 2**24
_DEFLATE, _SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE


class ChunkedArray:
    """One-dimensional array on disk that is read by slices, decompressing each chunk once.

    The last chunk is kept, because the next slice usually begins in it. HDF5 chunks compressed
    with deflate, with or without shuffle, are decompressed by libdeflate in less than half the
    time. All other and damaged chunks are read by h5py or zarr, which also raise the errors.

    Parameters
    ----------
    stored
        HDF5 or zarr array.
    counter
        Counter of the compressed ``"bytes"`` that were read.
    cache
        Decompressed chunks, which are removed when they are read.
    keep
        Cache the decompressed chunks, up to `MAX_CACHE` bytes in total.
    """

    def __init__(
        self, stored: Any, *, counter: Counter[str], cache: dict[Any, Any], keep: bool = False
    ) -> None:
        self.stored, self.counter, self.cache, self.keep = stored, counter, cache, keep
        self.filters: list[int] = []
        self.last: tuple[int, Any] = (-1, None)
        # Looked up once, because h5py asks the file each time.
        self.name, self.dtype, self.length = stored.name, stored.dtype, stored.shape[0]
        self.size = stored.chunks[0] if stored.chunks else self.length
        if isinstance(stored, h5py.Dataset):
            created = stored.id.get_create_plist()
            self.filters = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
        self.is_deflated = (
            deflate is not None
            and self.filters in ([_DEFLATE], [_SHUFFLE, _DEFLATE])
            and self.dtype.kind in "iuf"
            and self.dtype.isnative
        )

    def __getitem__(self, span: slice) -> np.ndarray[Any, Any]:
        if isinstance(self.stored, h5py.Dataset) and not self.is_deflated:
            values: np.ndarray[Any, Any] = self.stored[span]  # HDF5 has a chunk cache
            return values
        size = self.size
        start, stop, _ = span.indices(self.length)
        result = np.empty(max(0, stop - start), self.dtype)
        for first in range(start // size * size, stop, size):
            if self.last[0] != first:
                key = self.name, first
                chunk = self.cache.pop(key, None)
                if chunk is None:
                    chunk = self._read_chunk(first, min(first + size, self.length))
                if self.keep and sum(kept.nbytes for kept in self.cache.values()) < MAX_CACHE:
                    with np.errstate(invalid="ignore"):  # such values compare unequal
                        small = map(chunk.astype, (np.uint8, np.uint16, chunk.dtype))
                        self.cache[key] = next(s for s in small if np.array_equal(s, chunk, True))
                self.last = first, chunk
            low, high = max(start, first), min(stop, first + size)
            result[low - start : high - start] = self.last[1][low - first : high - first]
        return result

    def _read_chunk(self, first: int, last: int) -> Any:
        if not self.is_deflated:
            return self.stored[first:last]
        n_bytes = self.size * self.dtype.itemsize
        try:
            skipped, compressed = self.stored.id.read_direct_chunk((first,))
            self.counter["bytes"] += len(compressed)
            content = deflate.zlib_decompress(compressed, n_bytes)
            raw = np.frombuffer(content, np.uint8)
            if skipped or len(raw) != n_bytes:
                raise ValueError("a chunk of another size or without the filters")
        except (deflate.DeflateError, OSError, RuntimeError, ValueError):
            return self.stored[first:last]
        if _SHUFFLE in self.filters:  # the first bytes of all values, then the second bytes ...
            raw = np.ascontiguousarray(raw.reshape(-1, self.size).T)
        return raw.ravel().view(self.dtype)


Block: TypeAlias = "np.ndarray[Any, Any] | sp.csr_matrix"
Ints: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Item = TypeVar("Item")

#: Cells per chunk read by a network, and cells sampled to inspect a large query.
CHUNK_CELLS, SAMPLE_CELLS = 4096, 2000
#: Default number of rows per block.
ROWS = 2048
#: Neighbouring rows that are sampled together, because files are read in chunks anyway.
RUN = 16
#: Largest value of all integer types.
LARGEST_COUNT = 2.0**64
#: Numbers of decimals to which values may have been rounded.
DECIMALS = (2, 3, 4, 5)


@dataclass(frozen=True)
class RowMatrix:
    """Matrix of shape ``(n_obs, n_vars)`` that is read in blocks of consecutive rows.

    Parameters
    ----------
    opener
        Returns a context manager that opens the matrix for one pass.
    shape
        ``(n_obs, n_vars)``.
    dtype
        Type of the stored values.
    storage
        Type of storage, for reports: ``"dense"``, ``"csr_matrix"``, ``"h5ad csr"``, ``"dask"`` ...
    rows
        Selected rows of the stored matrix, in any order; all if ``None``.
    columns
        Selected columns of the stored matrix, ascending; all if ``None``.
    counter
        Numbers of passes, of preceding scans, and of compressed bytes that this package
        decompressed itself; shared by all selections of a matrix.
    cache
        Chunks decompressed by a scan for the next pass; shared as well.

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
    cache: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_in_memory(self) -> bool:
        """Whether the values are in memory, or in a file that this process holds open."""
        return getattr(self.opener, "func", None) is nullcontext and self.storage != "dask"

    @property
    def is_on_disk(self) -> bool:
        """Whether the values are read from a file when they are needed."""
        return self.storage.partition(" ")[0] in ("h5ad", "zarr", "dask")

    def keep(self, columns: Ints) -> RowMatrix:
        """Return a matrix of the given columns."""
        return replace(self, columns=columns, shape=(self.shape[0], len(columns)))

    def take(self, rows: Ints) -> RowMatrix:
        """Return a matrix of the given rows, with the same counter.

        Ascending rows are read in blocks; other rows are kept in memory during a pass.
        """
        selected = rows if self.rows is None else self.rows[rows]
        return replace(self, rows=selected, shape=(len(rows), self.shape[1]))

    def blocks(self, size: int) -> Iterator[tuple[slice, Block]]:
        """Read blocks of at most ``size`` rows, in order, in memory independent of ``n_obs``.

        Dense blocks are arrays. Sparse blocks are CSR matrices that may share memory with their
        source, and must not be modified. Matrices in CSC format are kept in memory during a pass.
        """
        self.counter["passes"] += 1
        yield from self._read(size)

    def _read(self, size: int, keep: bool = False) -> Iterator[tuple[slice, Block]]:
        with self.opener() as matrix:
            ordered, place = self.rows, None
            if self.rows is not None and (np.diff(self.rows) <= 0).any():
                ordered, place = np.unique(self.rows, return_inverse=True)
            chunked = partial(ChunkedArray, counter=self.counter, cache=self.cache, keep=keep)
            blocks = _blocks(matrix, size, chunked, ordered)
            if self.columns is not None:
                blocks = ((rows, block[:, self.columns]) for rows, block in blocks)
            if place is not None:
                whole = stacked([block for _, block in blocks])[place]
                blocks = _blocks(whole, size, chunked)
            yield from blocks

    def scan(self) -> Scan:
        """Scan all values, and keep a sample of evenly spaced cells."""
        result = Scan()
        self.counter["scans"] += 1
        step = max(1, -(-self.shape[0] // SAMPLE_CELLS))
        for rows, block in self.blocks(ROWS):
            part = canonical(block)
            result.add(part)
            if len(sampled := np.arange(-rows.start % step, part.shape[0], step)):
                result.keep(part[sampled])
        return result

    def scan_some(self) -> Scan | None:
        """Scan `spread_rows` only; return ``None`` if most of the matrix would have to be read."""
        rows = spread_rows(self.shape[0], SAMPLE_CELLS)
        with self.opener() as matrix:
            starts = _chunk_starts(matrix)
        n_touched = len(np.unique(np.searchsorted(starts, rows, side="right")))
        if self.rows is not None or self.shape[0] <= ROWS or 2 * n_touched > len(starts):
            return None
        result = Scan()
        self.counter["scans"] += 1
        for _, block in self.take(rows)._read(ROWS // 8, keep=True):
            result.keep(canonical(block))
            result.add(result.sample[-1])
        return result

    def peek(self, n_rows: int) -> Scan:
        """Scan the first rows for a guess, without counting a pass."""
        result = Scan()
        if 0 not in self.shape:
            result.keep(canonical(next(self._read(n_rows))[1]))
            result.add(result.sample[0])
        return result

    def whole(self) -> Any:
        """Return the stored matrix, or a copy of its selected columns."""
        with self.opener() as matrix:
            return matrix if self.columns is None else matrix[:, self.columns]


def wrap(matrix: Any, opener: Callable[[], AbstractContextManager[Any]] | None = None) -> RowMatrix:
    """Wrap a matrix in memory, or one that ``opener`` opens for each pass."""
    if sp.issparse(matrix) and matrix.format not in ("csr", "csc"):
        matrix = matrix.tocsr()
    if isinstance(matrix, np.ma.MaskedArray) and (n_masked := matrix.size - matrix.count()):
        raise InputError(
            f"The matrix is a masked array with {n_masked:,} masked values.",
            "Expected a value for each cell and gene.",
            "Pass matrix.filled(0) if they mean zero, or remove these cells or genes.",
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


def spread_rows(n_rows: int, n_sampled: int) -> Ints:
    """Return about ``n_sampled`` rows spread over a matrix, in runs of neighbours, ascending.

    Examples
    --------
    >>> spread_rows(1000, 32).tolist() == [*range(16), *range(984, 1000)]
    True
    """
    run = RUN if n_rows > 2 * n_sampled else 1
    starts = np.linspace(0, max(0, n_rows - run), -(-n_sampled // run)).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(run))


def prefetch(items: Iterator[Item]) -> Iterator[Item]:
    """Yield items while a thread computes the next one."""
    with closing(items), ThreadPoolExecutor(1) as thread:  # type: ignore[type-var]
        upcoming = thread.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = thread.submit(next, items, None)
            yield item


def _chunk_starts(matrix: Any) -> Ints:
    """Return the first rows of the chunks in which a matrix is stored, ascending."""
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
    matrix: Any, size: int, chunked: Callable[[Any], Any], selected: Ints | None = None
) -> Iterator[tuple[slice, Block]]:
    """Read all rows of a matrix in blocks, or selected ascending rows with few others."""
    read = _reader(matrix, chunked)
    n_rows = matrix.shape[0] if selected is None else len(selected)
    low = int(selected[0]) if selected is not None and n_rows else 0
    if selected is None or (n_rows and selected[-1] - low == n_rows - 1):  # consecutive rows
        for start in range(0, n_rows, size):
            stop = min(start + size, n_rows)
            yield slice(start, stop), read(low + start, low + stop)
        return
    starts = _chunk_starts(matrix)
    for first in range(0, len(selected), size):
        rows = selected[first : first + size]
        chunk = np.searchsorted(starts, rows, side="right")
        breaks = np.flatnonzero((np.diff(chunk) > 1) | (np.diff(rows // size) > 0)) + 1
        runs = np.split(rows, breaks)
        parts = [read(run[0], run[-1] + 1)[run - run[0]] for run in runs]
        yield slice(first, first + len(rows)), stacked(parts)


def stacked(blocks: list[Block]) -> Block:
    """Stack blocks of rows; a single one is not copied."""
    if len(blocks) == 1:
        return blocks[0]
    return sp.vstack(blocks, "csr") if sp.issparse(blocks[0]) else np.vstack(blocks)


def _reader(matrix: Any, chunked: Callable[[Any], Any]) -> Callable[[int, int], Block]:
    """Return a function that reads consecutive rows of a matrix."""
    if hasattr(matrix, "dask"):
        edges = np.cumsum([0, *matrix.chunks[0]])

        @lru_cache(1)  # each chunk is computed once in a pass
        def computed(k: int) -> Callable[[int, int], Block]:
            chunk = matrix[edges[k] : edges[k + 1]].compute(scheduler="synchronous")
            return _reader(chunk, chunked)

        def read_chunks(start: int, stop: int) -> Block:
            first, last = np.searchsorted(edges, [start, stop - 1], side="right") - 1
            parts = [
                computed(k)(max(start, edges[k]) - edges[k], min(stop, edges[k + 1]) - edges[k])
                for k in range(first, last + 1)
                if edges[k] < edges[k + 1]
            ]
            return stacked(parts)

        return read_chunks

    if isinstance(matrix, CSCDataset):
        matrix = matrix.to_memory()
    if sp.issparse(matrix) and matrix.format == "csc":
        stored = matrix.data, matrix.indices, matrix.indptr
        matrix = _checked(sp.csc_matrix, stored, matrix.shape).tocsr()
    shape = matrix.shape
    if isinstance(matrix, CSRDataset):
        group = matrix.group
        data, indices, indptr = (chunked(group[name]) for name in ("data", "indices", "indptr"))
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
    # Sparse matrices support neither half precision nor foreign byte order.
    kind = np.float32 if values.dtype == np.float16 else values.dtype.newbyteorder("=")
    return values.astype(kind, copy=False)


def _checked(kind: Any, parts: tuple[Any, ...], shape: tuple[int, ...]) -> Any:
    """Build a sparse matrix and check its indices, which compiled code would not."""
    try:
        matrix = kind(parts, shape=shape)
        matrix.check_format(full_check=True)
        if (np.diff(matrix.indptr) < 0).any():
            raise ValueError("indptr decreases")
    except ValueError as error:
        raise InputError(
            f"A sparse matrix of shape {shape} has invalid indices ({error}).",
            "Expected indices within the matrix and an indptr that never decreases.",
            "Write the file again from its source.",
        ) from error
    return matrix


@dataclass
class Scan:
    """Exact statistics of the scanned values, and a sample of cells.

    ``n_rows`` is the number of scanned cells; ``low`` and ``high`` are the range of the finite
    stored values; ``decimals`` are the numbers of decimals to which all scanned values are rounded;
    ``sample`` contains rows as CSR matrices. In these, ``n_ones`` and ``n_twos`` count the values 1
    and 2, and ``low_sum`` and ``high_sum`` are the range of the sums of non-empty cells.
    """

    n_rows: int = 0
    n_nan: int = 0
    n_inf: int = 0
    n_negative: int = 0
    n_empty: int = 0
    n_nonzero: int = 0
    n_whole: int = 0
    n_ones: int = 0
    n_twos: int = 0
    low_sum: float = np.inf
    high_sum: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    decimals: tuple[int, ...] = DECIMALS
    sample: list[sp.csr_matrix] = field(default_factory=list)

    @property
    def all_whole(self) -> bool:
        """Whether all finite values are whole numbers."""
        return self.n_whole == self.n_nonzero - self.n_nan - self.n_inf

    @property
    def grid(self) -> float:
        """Unit to which the values are rounded, such as 0.01; 0.0 if they are not rounded."""
        return 10.0 ** -min(self.decimals) if self.decimals else 0.0

    def contradicts(self, sample: Scan) -> bool:
        """Return whether the scanned values do not have the scale of a sample."""
        if self.n_nan or self.n_inf or self.low < 0 or self.high > LARGEST_COUNT:
            return True
        if sample.all_whole:
            return not self.all_whole
        return not set(sample.decimals[:1]) <= set(self.decimals)

    def add(self, rows: sp.csr_matrix) -> None:
        """Add a canonical CSR block."""
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
            # Rounded values are the single-precision numbers nearest to d decimals.
            exact, single = stored.astype(np.float64), stored.astype(np.float32)
            with np.errstate(over="ignore"):
                self.decimals = tuple(
                    d
                    for d in self.decimals
                    if (np.round(exact, d).astype(np.float32) == single).all()
                )

    def keep(self, rows: sp.csr_matrix) -> None:
        """Add canonical rows to the sample."""
        self.sample.append(rows)
        self.n_ones += int(np.count_nonzero(rows.data == 1))
        self.n_twos += int(np.count_nonzero(rows.data == 2))
        sums = np.asarray(rows.sum(axis=1, dtype=np.float64)).ravel()
        sums = sums[sums > 0]
        self.low_sum = min(self.low_sum, sums.min(initial=np.inf))
        self.high_sum = max(self.high_sum, sums.max(initial=0.0))

    def with_sample_of(self, other: Scan) -> Scan:
        """Return the statistics with the sample of another scan."""
        names = ("sample", "n_ones", "n_twos", "low_sum", "high_sum")
        return replace(self, **{name: getattr(other, name) for name in names})


def canonical(block: Block) -> sp.csr_matrix:
    """Return CSR without explicit zeros and duplicate entries; ``block`` is not modified."""
    rows: sp.csr_matrix = block if sp.issparse(block) else sp.csr_matrix(block)
    if not rows.has_canonical_format:
        rows = rows.copy()
        rows.sum_duplicates()
    if np.count_nonzero(rows.data) < len(rows.data):
        rows = rows.copy()
        rows.eliminate_zeros()
    return rows
