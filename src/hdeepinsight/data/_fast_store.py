"""Write a query as a store whose counts take less time to decompress."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import anndata as ad
import h5py
import numpy as np

from hdeepinsight.data._files import encoding_of, open_file
from hdeepinsight.data._matrix import CHUNK_CELLS, wrap

#: Values per chunk of a zarr store: larger ones are read for a sample almost completely.
CHUNK_VALUES: Final = 2**18


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
