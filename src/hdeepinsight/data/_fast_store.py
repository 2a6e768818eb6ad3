"""Copy counts to files that are faster to read: stores, and temporary files to train on."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO, Any, Final

import anndata as ad
import h5py
import numpy as np
import scipy.sparse as sp

from hdeepinsight._errors import invalid
from hdeepinsight.data._files import ZARR, encoding_of, open_file
from hdeepinsight.data._matrix import CHUNK_CELLS, wrap

#: Values per chunk of a zarr store: larger ones are read for a sample almost completely.
CHUNK_VALUES: Final = 2**18
#: Most values that 32-bit indices can address.
MAX_INT32: Final = 2**31 - 1


def write_fast_store(source: str | Path, target: str | Path) -> None:
    """Copy a file to a store whose counts need little or no decompression.

    Parameters
    ----------
    source
        File in any format that `open_store` reads; ``.h5ad`` and ``.zarr`` are copied in blocks.
    target
        File to write: ``.zarr`` with lz4 and bit shuffling, about the size of a gzip-compressed
        h5ad; or ``.h5ad`` without compression, which is larger and faster still.

    Raises
    ------
    InputError
        If the source cannot be read.
    ValueError
        If the target is the source, or a folder but not a zarr store.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import hdeepinsight as hdi
    >>> query = hdi.datasets.demo().query
    >>> with TemporaryDirectory() as folder:
    ...     slow, fast = Path(folder) / "slow.h5ad", Path(folder) / "fast.h5ad"
    ...     query.write_h5ad(slow, compression="gzip")
    ...     hdi.data.write_fast_store(slow, fast)
    ...     (hdi.data.read_anndata(fast).X != query.X).nnz
    0
    """
    found, target = open_file(Path(source)), Path(target)
    is_folder = target.is_dir() and not any((target / name).exists() for name in ZARR)
    if is_folder or (target.exists() and target.samefile(source)):
        expected = "a path other than the source, or than a folder that is no zarr store"
        raise invalid("target", str(target), expected, "Choose another path.")
    options: dict[str, Any] = {}
    if target.suffix == ".zarr":
        import zarr
        from zarr.codecs import BloscCodec

        root: Any = nullcontext(zarr.open_group(str(target), mode="w", zarr_format=3))
        codec = BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")
        options |= {"compressors": [codec], "shards": None}
    else:
        root = h5py.File(target, "w")
    # Older releases of anndata only write some of the text that they read if told to.
    with root as written, ad.settings.override(allow_write_nullable_strings=True):
        if isinstance(found, tuple):
            ad.io.write_elem(written, "/", found[0], dataset_kwargs=options)
            return
        with found() as read:
            _copy(read, written, options)


def _copy(source: Any, target: Any, options: dict[str, Any]) -> None:
    """Copy a group: sparse matrices in blocks of rows, everything else as it is."""
    target.attrs.update(dict(source.attrs))
    for name in source:
        part, kind = source[name], encoding_of(source[name])
        if kind in ("csr_matrix", "csc_matrix"):
            how = options | ({"chunks": (CHUNK_VALUES,)} if options else {})
            for rows, block in wrap(ad.io.sparse_dataset(part)).blocks(CHUNK_CELLS):
                if rows.start:
                    ad.io.sparse_dataset(target[name]).append(block)
                else:
                    how |= {"indptr_dtype": np.int64}
                    ad.io.write_elem(target, name, block, dataset_kwargs=how)
        elif kind in ("dict", "raw"):
            _copy(part, target.create_group(name), options)
        else:
            ad.io.write_elem(target, name, ad.io.read_elem(part), dataset_kwargs=options)


def map_counts(blocks: Iterable[sp.csr_matrix], n_genes: int) -> sp.csr_matrix:
    """Write counts to temporary files, and return a matrix that reads rows from them on access.

    The operating system caches what is read as far as memory is free, so the matrix may be larger
    than memory. The files are removed when the matrix is no longer used.

    Parameters
    ----------
    blocks
        Consecutive rows: CSR float32 with sorted indices, shape ``(n_cells, n_genes)``.
    n_genes
        Number of columns.

    Returns
    -------
    Read-only CSR matrix of all rows.

    Examples
    --------
    >>> from scipy.sparse import csr_matrix
    >>> from hdeepinsight.data import map_counts
    >>> blocks = csr_matrix([[0, 1.0]]), csr_matrix([[2.0, 3.0], [0, 0]])
    >>> map_counts(blocks, 2)[[2, 1]].toarray().tolist()
    [[0.0, 0.0], [2.0, 3.0]]
    """
    with TemporaryFile() as data, TemporaryFile() as indices, TemporaryFile() as wide:
        lengths = [np.zeros(1, dtype=np.int64)]
        for block in blocks:
            lengths.append(np.diff(block.indptr))
            _append(data, block.data.astype(np.float32, copy=False))
            _append(indices, block.indices.astype(np.int32, copy=False))
        starts = np.cumsum(np.concatenate(lengths), dtype=np.int64)
        n_values, n_cells = int(starts[-1]), len(starts) - 1
        if not n_values:
            return sp.csr_matrix((n_cells, n_genes), dtype=np.float32)
        values = [np.memmap(data, np.float32, "r"), np.memmap(indices, np.int32, "r")]
        if n_values > MAX_INT32:  # scipy requires both types of indices to be equal
            for first in range(0, n_values, CHUNK_VALUES):
                _append(wide, values[1][first : first + CHUNK_VALUES].astype(np.int64))
            values[1] = np.memmap(wide, np.int64, "r")
        starts = starts.astype(values[1].dtype)
    mapped = sp.csr_matrix((*values, starts), shape=(n_cells, n_genes))
    mapped.has_canonical_format = True
    return mapped


def _append(file: IO[bytes], values: np.ndarray[Any, Any]) -> None:
    try:
        file.write(values.data)
        file.flush()
    except OSError as error:
        found = f"The counts could not be written to {gettempdir()} ({error})."
        raise OSError(f"{found} Set TMPDIR to a folder with more space.") from error
