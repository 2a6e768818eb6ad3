"""Open an AnnData, or a file of cells by genes, and copy counts to files read faster."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO, Any, Final, TypeAlias

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from hdeepinsight._errors import ARGUMENTS, InputError, invalid
from hdeepinsight.data import _files
from hdeepinsight.data._genes import Bools, find_genes, named_by_column, without_number
from hdeepinsight.data._matrix import CHUNK_CELLS, RowMatrix, wrap

DataLike: TypeAlias = "ad.AnnData | str | Path | Store"

#: Values per chunk of a zarr store: larger ones are read for a sample almost completely.
CHUNK_VALUES: Final = 2**18
#: Most values that 32-bit indices can address.
MAX_INT32: Final = 2**31 - 1


@dataclass(frozen=True)
class Store:
    """Open AnnData or file, whose matrices are read lazily.

    Created by `open_store`. It is accepted in place of an AnnData or a path (`hdi.annotate`, the
    methods of models, `hdi.tl.refine`, `hdi.report.write`), so that files without lazy access
    (10x, mtx, loom, text, gzip) are read only once.

    Parameters
    ----------
    obs
        Annotation of the cells.
    var
        Annotation of the columns of ``X`` and the layers.
    raw_var
        Annotation of the columns of ``.raw``; ``None`` without it.
    slots
        Functions that open the matrices, by `slot_name`.
    obsm
        Functions that return the entries of ``obsm``.
    whole
        Function that returns the complete AnnData in memory, like `read_anndata`.
    uns
        Functions that return the entries of ``uns``.
    log_base
        Base of the logarithm in ``uns["log1p"]``, or ``None``.
    notes
        Sentences on how the file was read.
    genes_only
        Whether columns that are not genes according to ``var`` are dropped.
    arguments
        Names of ``layer``, ``use_raw`` and ``scale`` in the function that reads the store. Errors
        recommend only these.
    known
        Cache of opened matrices, tables and reports.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> from hdeepinsight.data import open_store
    >>> store = open_store(ad.AnnData(np.ones((3, 2)), layers={"counts": np.ones((3, 2))}))
    >>> sorted(store.slots), store.obs.shape[0]
    (['X', "layers['counts']"], 3)
    """

    obs: pd.DataFrame
    var: pd.DataFrame
    raw_var: pd.DataFrame | None
    slots: Mapping[str, Callable[[], RowMatrix]]
    obsm: Mapping[str, Callable[[], Any]]
    whole: Callable[[], ad.AnnData]
    uns: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    log_base: float | None = None
    notes: tuple[str, ...] = ()
    genes_only: bool = True
    arguments: Mapping[str, str] = field(default_factory=lambda: ARGUMENTS)
    known: dict[Any, Any] = field(default_factory=dict, repr=False)

    def matrix(self, layer: str | None, use_raw: bool) -> RowMatrix:
        """Open the genes of one matrix; repeated calls return the same object.

        Raises
        ------
        InputError
            If there is no such matrix; the message lists the matrices and the arguments to select
            one.

        Examples
        --------
        >>> import anndata as ad
        >>> import numpy as np
        >>> from hdeepinsight.data import open_store
        >>> open_store(ad.AnnData(np.ones((3, 2)))).matrix(None, use_raw=False).shape
        (3, 2)
        """
        name = slot_name(layer, use_raw)
        if layer == "X" and name not in self.slots:
            name = "X"
        if name not in self.slots:
            arguments = self.arguments
            layers = [at.removeprefix("layers[")[:-1] for at in self.slots if at[0] == "l"]
            ways = [f"{arguments['layer']}={at}" for at in layers if "layer" in arguments]
            if ".raw" in self.slots and "use_raw" in arguments:
                ways.append(f"{arguments['use_raw']}=True")
            advice = [f"pass {' or '.join(ways)}"] if ways else []
            if "X" in self.slots and (given := "use_raw" if use_raw else "layer") in arguments:
                advice.append(f"omit `{arguments[given]}=` to read X")
            advice = advice or ["pass an AnnData that has it as X"]
            raise InputError(
                f"The data holds no {name}.",
                f"It holds: {', '.join(self.slots) or 'no matrix at all'}.",
                f"To go on, {', or '.join(advice)}.",
            )
        return self.at(name)

    def at(self, slot: str) -> RowMatrix:
        """Open the genes of a matrix in ``slots``; repeated calls return the same object."""
        if slot not in self.known:
            matrix = self.slots[slot]()
            var = self.var if slot != ".raw" or self.raw_var is None else self.raw_var
            shape = len(self.obs), len(var)
            if matrix.shape != shape or matrix.dtype.kind not in "biuf":
                raise InputError(
                    f"{slot} is {matrix.shape[0]:,} × {matrix.shape[1]:,} of {matrix.dtype}, "
                    f"but there are {shape[0]:,} cells and {shape[1]:,} genes.",
                    "Expected numbers, one row per cell and one column per gene.",
                    "Write the file again from its source.",
                )
            is_gene = self._described(slot == ".raw")[2]
            self.known[slot] = matrix if is_gene.all() else matrix.keep(np.flatnonzero(is_gene))
        found: RowMatrix = self.known[slot]
        return found

    def all_columns(self) -> Store:
        """Return the store with all columns, such as proteins, besides genes."""
        return replace(self, genes_only=False, known={})

    def genes(self, use_raw: bool) -> pd.DataFrame:
        """Return the annotation of the genes of ``X`` and layers, or of ``.raw``.

        Examples
        --------
        >>> import anndata as ad
        >>> import numpy as np
        >>> import pandas as pd
        >>> from hdeepinsight.data import open_store
        >>> var = pd.DataFrame(index=["NKG7", "CD3D"])
        >>> open_store(ad.AnnData(np.ones((3, 2)), var=var)).genes(use_raw=False).index.tolist()
        ['NKG7', 'CD3D']
        """
        return self._described(use_raw)[0]

    def columns_note(self, use_raw: bool) -> tuple[str, ...]:
        """Return sentences on the columns of ``X`` and layers, or of ``.raw``."""
        return self._described(use_raw)[1]

    def _described(self, use_raw: bool) -> tuple[pd.DataFrame, tuple[str, ...], Bools]:
        var = self.raw_var if use_raw else None
        use_raw, var = var is not None, self.var if var is None else var
        if use_raw not in self.known:
            if use_raw:  # the column refers to genes removed from X
                var = var.drop(columns="feature_is_filtered", errors="ignore")
            var, named = named_by_column(var)
            is_gene, notes = find_genes(var if self.genes_only else var[[]])
            if len(var) and not is_gene.any():
                raise InputError(
                    f"None of the {len(var):,} columns is a gene. {' '.join(notes)}",
                    "Expected a matrix with genes.",
                    "Pass the RNA, or correct the feature types in var.",
                )
            names = without_number(var.index[is_gene], var.index[~is_gene])
            self.known[use_raw] = var[is_gene].set_axis(names), (*named, *notes), is_gene
        found: tuple[pd.DataFrame, tuple[str, ...], Bools] = self.known[use_raw]
        return found


def slot_name(layer: str | None, use_raw: bool = False) -> str:
    """Return the name of a matrix in reports.

    Examples
    --------
    >>> slot_name(None), slot_name("counts"), slot_name(None, use_raw=True)
    ('X', "layers['counts']", '.raw')
    """
    if use_raw and layer is not None:
        raise InputError(
            f"Both use_raw=True and layer={layer!r} were passed.",
            "Only one matrix can be read.",
            "Pass one of them.",
        )
    return ".raw" if use_raw else "X" if layer is None else f"layers[{layer!r}]"


def open_store(data: DataLike) -> Store:
    """Open an AnnData or a path.

    Parameters
    ----------
    data
        AnnData; path of an ``.h5ad`` file or ``.zarr`` store, which are read lazily and closed
        after each pass; or path of any other format of `read_anndata`, which is read into memory.
        An open store is returned unchanged, so that a file is opened once for several uses.

    Raises
    ------
    InputError
        If the data has another type, or cannot be read.

    Notes
    -----
    The result is the same as that of ``anndata.read_h5ad``, which is used for files with old or
    unusual encodings.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import anndata as ad
    >>> import numpy as np
    >>> from hdeepinsight.data import open_store
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "cells.h5ad"
    ...     ad.AnnData(np.ones((3, 2))).write_h5ad(path)
    ...     open_store(path).matrix(None, use_raw=False).shape
    (3, 2)
    """
    if isinstance(data, Store):
        return data
    if isinstance(data, ad.AnnData):
        return _from_anndata(data)
    if isinstance(data, str | os.PathLike):
        path, found = Path(data), _files.open_file(Path(data))
        if isinstance(found, tuple):
            return _from_anndata(*found)
        with found() as root, _files.in_words(path):
            return _from_group(root, path, found)
    advice = "Save it in one of these formats."
    if getattr(data, "ndim", 0) == 2:
        advice = "Pass anndata.AnnData(X) with var_names set to its genes."
    if hasattr(data, "adatas"):  # an AnnCollection
        advice = "Pass anndata.concat(collection.adatas)."
    raise InputError(f"The data is a {type(data).__name__}.", _files.FORMATS, advice)


def read_anndata(path: str | Path) -> ad.AnnData:
    r"""Read a file of any supported format into memory.

    Parameters
    ----------
    path
        ``.h5ad`` (also gzipped), ``.zarr``, 10x ``.h5``, ``.loom``, a folder with a ``.mtx``
        matrix and its names, or a text table; the format is detected by the content.

    Raises
    ------
    InputError
        If the file does not exist or cannot be read.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from hdeepinsight.data import read_anndata
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "cells.csv"
    ...     _ = path.write_text(",CD3D,NKG7\ncell_1,3,0\ncell_2,0,1\n")
    ...     read_anndata(path).X.toarray().tolist()
    [[3.0, 0.0], [0.0, 1.0]]
    """
    found: Any = _files.open_file(Path(path), whole=True)
    adata: ad.AnnData = found[0]
    return adata


def _from_anndata(adata: ad.AnnData, notes: tuple[str, ...] = (), storage: str = "") -> Store:
    def frame(table: Any) -> pd.DataFrame:  # a copy that can be extended
        table = table.to_memory() if hasattr(table, "to_memory") else table
        return table.copy(deep=False)

    raw, logged = adata.raw, adata.uns.get("log1p")
    layers = [name for name in adata.layers if name is not None]  # X may be listed as None
    # The property X of a backed AnnData raises an error if the file has none.
    has_x = "X" in adata.file if adata.isbacked else adata.X is not None
    slots = {"X": partial(_wrapped, adata, storage)} if has_x else {}
    slots |= {slot_name(name): partial(_wrapped, adata, storage, name) for name in layers}
    slots |= {} if raw is None else {".raw": partial(_wrapped, raw, storage)}
    return Store(
        obs=frame(adata.obs),
        var=frame(adata.var),
        raw_var=None if raw is None else frame(raw.var),
        slots=slots,
        obsm={name: partial(adata.obsm.__getitem__, name) for name in adata.obsm},
        whole=partial(_whole, adata),
        uns={name: partial(adata.uns.__getitem__, name) for name in adata.uns},
        log_base=_as_base(logged.get("base") if isinstance(logged, Mapping) else None),
        notes=notes,
    )


def _whole(adata: ad.AnnData) -> ad.AnnData:
    return adata.to_memory() if adata.isbacked else adata


def _wrapped(held: Any, storage: str, layer: str | None = None) -> RowMatrix:
    found = wrap(held.X if layer is None else held.layers[layer])
    return replace(found, storage=storage or found.storage)


def _as_base(value: Any) -> float | None:
    """Return the base of a logarithm, or ``None`` for other values."""
    try:
        base = float(np.asarray(value).item())
    except (TypeError, ValueError):
        return None
    return base if np.isfinite(base) and base > 1 else None


@contextmanager
def _matrix_at(path: Path, opener: _files.Opener, at: str) -> Iterator[Any]:
    with _files.in_words(path), opener() as root:
        is_array = isinstance(root[at], h5py.Dataset) or hasattr(root[at], "shape")
        yield root[at] if is_array else ad.io.sparse_dataset(root[at])


def _lazy(path: Path, opener: _files.Opener, at: str) -> RowMatrix:
    again = partial(_matrix_at, path, opener, at)
    with again() as matrix:
        return wrap(matrix, again)


def _read(path: Path, opener: _files.Opener, at: str) -> Any:
    with _files.in_words(path), opener() as root:
        return ad.io.read_elem(root[at])


def _from_group(root: Any, path: Path, opener: _files.Opener) -> Store:
    at = {"X": "X"} | {slot_name(n): f"layers/{n}" for n in _files.layer_names(root.get("layers"))}
    at |= {".raw": "raw/X"} if hasattr(root.get("raw"), "keys") else {}
    at = {
        s: name
        for s, name in at.items()
        if name in root and _files.encoding_of(root[name]) != "null"
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on names that are converted to text, or repeat
        table = ad.AnnData(obs=ad.io.read_elem(root["obs"]), var=ad.io.read_elem(root["var"]))
        has_raw = ".raw" in at
        raw_var = ad.AnnData(var=ad.io.read_elem(root["raw/var"])).var if has_raw else None
    base = root.get("uns/log1p/base")
    return Store(
        obs=table.obs,
        var=table.var,
        raw_var=raw_var,
        slots={slot: partial(_lazy, path, opener, name) for slot, name in at.items()},
        obsm={name: partial(_read, path, opener, f"obsm/{name}") for name in root.get("obsm", ())},
        whole=partial(read_anndata, path),
        uns={name: partial(_read, path, opener, f"uns/{name}") for name in root.get("uns", ())},
        log_base=None if base is None else _as_base(ad.io.read_elem(base)),
    )


def storable_columns(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with other names for the columns that files cannot store.

    Examples
    --------
    >>> storable_columns(pd.DataFrame({"_index": [1], "a/b": [2], "c": [3]})).columns.tolist()
    ['index', 'a|b', 'c']
    """
    rename = {"_index": "index"}
    return table.rename(columns=lambda name: rename.get(name, str(name).replace("/", "|")))


def make_storable(adata: ad.AnnData) -> None:
    """Rename the columns of ``obs``, ``var`` and ``raw.var`` that files cannot store, in place.

    Examples
    --------
    >>> import numpy as np
    >>> adata = ad.AnnData(np.ones((1, 1)), obs=pd.DataFrame({"a/b": [2]}, index=["cell"]))
    >>> make_storable(adata)
    >>> adata.obs.columns.tolist()
    ['a|b']
    """
    adata.obs, adata.var = storable_columns(adata.obs), storable_columns(adata.var)
    if adata.raw is not None:
        adata.raw.var.columns = storable_columns(adata.raw.var).columns


def write_fast_store(source: str | Path, target: str | Path) -> None:
    """Copy a file to a store whose counts need little or no decompression.

    Parameters
    ----------
    source
        File in any format that `open_store` reads; ``.h5ad`` and ``.zarr`` are copied in blocks.
    target
        File to write: ``.zarr`` with lz4 and bit shuffling, about the size of a gzip-compressed
        h5ad; or ``.h5ad`` without compression, which is larger and faster still. Columns named
        ``_index`` or with a slash are renamed, because anndata does not write them.

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
    found, target = _files.open_file(Path(source)), Path(target)
    is_folder = target.is_dir() and not any((target / name).exists() for name in _files.ZARR)
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
            make_storable(found[0])
            ad.io.write_elem(written, "/", found[0], dataset_kwargs=options)
            return
        with found() as read:
            _copy(read, written, options)


def _copy(source: Any, target: Any, options: dict[str, Any]) -> None:
    """Copy a group: sparse matrices in blocks of rows, everything else as it is."""
    target.attrs.update(dict(source.attrs))
    for name in source:
        part, kind = source[name], _files.encoding_of(source[name])
        if kind in ("csr_matrix", "csc_matrix"):
            how = options | ({"chunks": (CHUNK_VALUES,)} if options else {})
            for rows, block in wrap(ad.io.sparse_dataset(part)).blocks(CHUNK_CELLS):
                if rows.start:
                    ad.io.sparse_dataset(target[name]).append(block)
                else:
                    how |= {"indptr_dtype": np.int64}
                    ad.io.write_elem(target, name, block, dataset_kwargs=how)
        elif kind in ("dict", "raw") or (not kind and hasattr(part, "keys")):
            _copy(part, target.create_group(name), options)
        else:
            held = ad.io.read_elem(part)
            held = storable_columns(held) if isinstance(held, pd.DataFrame) else held
            ad.io.write_elem(target, name, held, dataset_kwargs=options)


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
