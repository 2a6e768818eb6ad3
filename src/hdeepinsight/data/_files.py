"""Files that hold cells by genes: what they are, whether they are safe, and how they are read.

A few bytes of a file can name another file of the machine, an array larger than any memory, or a
group that contains itself. The libraries that read these formats follow all of that, so that a file
is checked before anything of it is read.
"""

from __future__ import annotations

import gzip
import math
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.io import mmread

from hdeepinsight.data._errors import InputError
from hdeepinsight.data._names import common_start, examples, share_barcodes, share_genes

Opener: TypeAlias = "Callable[[], AbstractContextManager[Any]]"

#: An array may always be as large as this; a larger one has to have stored bytes behind it. Packing
#: makes an array of zeros about a thousand times smaller.
FREE_BYTES = 2**28
MOST_PACKED = 2000
_MOST_OBJECTS = 100_000
_MOST_NESTING = 32
FORMATS: Final = (
    "Valid are an AnnData, and the path of an .h5ad file, a .zarr store, a 10x .h5 file, a .loom "
    "file, a folder with matrix.mtx, genes and barcodes, or a table of text."
)
_WRITE_AGAIN = (
    "Write the file again with AnnData.write_h5ad or AnnData.write_zarr, from its source."
)
#: Parts of an AnnData that hold other things by name.
_MAPPINGS = ("uns", "obsm", "varm", "obsp", "varp", "layers")
_ZARR = (".zgroup", ".zattrs", ".zmetadata", "zarr.json")
#: First bytes of what is not read, and what to do with it.
_FOREIGN: Final[Mapping[bytes, tuple[str, str]]] = {
    b"RDX": ("an R file", "In R, save the counts with zellkonverter::writeH5AD."),
    b"RDA": ("an R file", "In R, save the counts with zellkonverter::writeH5AD."),
    b"X\n": ("an R file", "In R, save the counts with zellkonverter::writeH5AD."),
    b"PK": ("a zip archive or an Excel file", "Unpack it, or save the table as .csv."),
    b"\x80": ("a pickle, which can run code", "Save the AnnData with write_h5ad."),
}


@contextmanager
def in_words(
    path: Path, problem: str = "cannot be read as an AnnData", valid: str = FORMATS
) -> Iterator[None]:
    """Turn whatever the libraries say of a damaged file into one error."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # what they raise about odd files is open
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} {problem} ({text}).", valid, _WRITE_AGAIN) from error


class _Form(NamedTuple):
    """Format of a file, and where the file itself is: unpacked, where it was gzipped."""

    name: Literal["anndata", "zarr", "10x", "loom", "mudata", "mtx", "table"]
    path: Path


def group_opener(path: Path) -> Opener | None:
    """Return what opens the file of an AnnData as a group; ``None`` for files of other formats.

    Raises
    ------
    InputError
        If there is none, it cannot be opened, or it names other files.
    """
    check_kind(path, FORMATS)
    if path.is_dir() or (path.suffix == ".zarr" and not path.is_file()):
        if not any((path / name).exists() for name in _ZARR):
            return None
        with in_words(path, "cannot be opened"), _open_zarr(path, "r") as root:
            _check_zarr(root, path)
        return partial(_open_zarr, path, "r")
    if not h5py.is_hdf5(path):
        return None
    with in_words(path, "cannot be opened"), h5py.File(path, "r") as root:
        _check_hdf5(root, path)
        if _form_of_group(root, path) != "anndata":
            return None
    return partial(h5py.File, path, "r")


def _form_of_group(root: Any, path: Path) -> Any:
    """Tell the format of an HDF5 file by what it holds."""
    names = set(root)
    if "mod" in names:
        return "mudata"
    if "matrix" in names and isinstance(root.get("matrix"), h5py.Dataset):
        return "loom"
    groups = [found for name in names if isinstance(found := root.get(name), h5py.Group)]
    if any({"barcodes", "indptr"} <= set(group) for group in groups):
        return "10x"
    if names & {"obs", "var", "X"}:
        return "anndata"
    if {"assays", "cell.names"} & names:
        found, how = "is a Seurat file (h5Seurat)", "In R: SeuratDisk::Convert(path, dest='h5ad')."
        raise InputError(f"{path} {found}.", FORMATS, how)
    held = examples(sorted(names)) or "nothing"
    found = f"{path} has no obs and no var: it is not an AnnData, and holds {held}."
    raise InputError(found, FORMATS, _WRITE_AGAIN)


def read_whole(path: Path) -> tuple[ad.AnnData, tuple[str, ...]]:
    """Read a file of any format into memory; say what was done with it beside reading.

    Raises
    ------
    InputError
        If it is none of those that are read.
    """
    check_kind(path, FORMATS)
    with ExitStack() as unpacked, in_words(path, "cannot be opened"):
        form, at = _form_of(path, unpacked)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are turned into text, or repeat
            if form == "anndata":
                return ad.read_h5ad(at), ()
            if form == "zarr":
                return ad.read_zarr(at), ()
            if form == "10x":
                return _read_10x(at), ()
            if form == "loom":
                return _read_loom(at), ()
            if form == "mtx":
                return _read_mtx(path), ()
            if form == "table":
                return _read_table(at)
    raise InputError(
        f"{path} is a MuData.",
        "Valid here is data of one modality, such as an .h5ad file.",
        "Read it with mudata.read_h5mu and pass the MuData, or its RNA.",
    )


def _form_of(path: Path, unpacking: ExitStack) -> _Form:
    """Tell the format of a file by its content; a gzipped one is unpacked for as long as asked."""
    if path.is_dir():
        if any((path / name).exists() for name in _ZARR):
            return _Form("zarr", path)
        if next(path.glob("*.mtx*"), None):
            return _Form("mtx", path)
        inside = [p.name for p in path.iterdir() if p.is_dir() and next(p.glob("*.mtx*"), None)]
        held = examples(sorted(p.name for p in path.iterdir())) or "nothing"
        raise InputError(
            f"{path} cannot be opened: it is a folder, and neither a zarr store nor one with a "
            f".mtx matrix (it holds {held}).",
            FORMATS,
            f"Pass {path / inside[0]}." if inside else "Check the path.",
        )
    with path.open("rb") as file:
        start = file.read(4096)
    if start.startswith(b"\x1f\x8b"):
        folder = unpacking.enter_context(tempfile.TemporaryDirectory())
        unpacked = Path(folder) / "unpacked"
        with gzip.open(path) as packed, unpacked.open("wb") as file:
            start = packed.read(4096)
            if not _foreign(start) and not start.startswith(b"%%MatrixMarket"):
                file.write(start)
                shutil.copyfileobj(packed, file)
    else:
        unpacked = path
    if start.startswith(b"%%MatrixMarket"):
        return _Form("mtx", path)
    if foreign := _foreign(start):
        raise InputError(f"{path} cannot be opened: it is {foreign[0]}.", FORMATS, foreign[1])
    if h5py.is_hdf5(unpacked):
        with h5py.File(unpacked, "r") as root:
            if unpacked != path:
                _check_hdf5(root, unpacked)
                check_parts(root, unpacked)
            return _Form(_form_of_group(root, path), unpacked)
    if b"\0" in start or not start.strip():
        raise InputError(
            f"{path} cannot be opened: it is {'not text' if start else 'empty'}, and of no format "
            "that is known here.",
            FORMATS,
            "Check the path, or convert it.",
        )
    return _Form("table", unpacked)


def _foreign(start: bytes) -> tuple[str, str] | None:
    return next((said for begins, said in _FOREIGN.items() if start.startswith(begins)), None)


def _read_10x(path: Path) -> ad.AnnData:
    """Read a feature-barcode matrix of Cell Ranger 2 (a group per genome) or later."""
    import scanpy as sc

    with h5py.File(path, "r") as root:
        genomes = [] if "matrix" in root else [name for name in root if "barcodes" in root[name]]
    if not genomes:
        return sc.read_10x_h5(path, gex_only=False)
    parts = [sc.read_10x_h5(path, genome=genome) for genome in genomes]
    return parts[0] if len(parts) == 1 else ad.concat(parts, axis="var", join="outer")


def _read_loom(path: Path) -> ad.AnnData:
    """Read a loom file, which stores genes by cells; loompy is not needed."""
    with h5py.File(path, "r") as root:
        tables = []
        for part, size in (("col_attrs", root["matrix"].shape[1]), ("row_attrs", None)):
            size = root["matrix"].shape[0] if size is None else size
            values = {k: v[:] for k, v in root.get(part, {}).items() if v.shape == (size,)}
            tables.append(pd.DataFrame({k: _decoded(v) for k, v in values.items()}, range(size)))
        obs, var = tables
        layers = root.get("layers", {})
        adata = ad.AnnData(
            _turned(root["matrix"]),
            obs=_named(obs, ("CellID", "cell_id", "obs_names", "barcode", "Barcode")),
            var=_named(var, ("Gene", "gene", "gene_name", "var_names", "Symbol", "Accession")),
        )
        for name, matrix in layers.items():
            adata.layers[name] = _turned(matrix)
    return adata


def _turned(matrix: Any) -> sp.csr_matrix:
    """Read genes by cells, block by block, as cells by genes."""
    rows = max(1, FREE_BYTES // 8 // max(1, matrix.shape[1]))
    parts = [sp.csr_matrix(matrix[i : i + rows]) for i in range(0, matrix.shape[0], rows)]
    return sp.csr_matrix(sp.vstack(parts).T) if parts else sp.csr_matrix(matrix.shape[::-1])


def _decoded(values: Any) -> Any:
    kind = values.dtype.kind
    return [v.decode() if isinstance(v, bytes) else v for v in values] if kind in "OS" else values


def _named(table: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """Return a table under the names of the first of some columns that it has."""
    name = next((name for name in columns if name in table), None)
    table = table if name is None else table.set_index(name)
    return table.set_axis(table.index.astype(str).rename(None))


def _read_mtx(path: Path) -> ad.AnnData:
    """Read a matrix in Market format with the names of its genes and cells, which lie beside it."""
    folder = path if path.is_dir() else path.parent
    matrices = sorted(folder.glob("*.mtx*")) if path.is_dir() else [path]
    if len(matrices) > 1:
        main = [m for m in matrices if re.fullmatch(r"matrix\.mtx(\.gz)?", m.name)]
        if len(main) != 1:
            found = f"{path} holds {len(matrices)} matrices: {examples(m.name for m in matrices)}."
            raise InputError(found, "Valid is a folder with one.", "Pass the path of one of them.")
        matrices = main
    matrix = sp.csr_matrix(mmread(matrices[0]))
    tables = {}
    for what, words in (("genes", "features|genes|vars?"), ("cells", "barcodes|cells|obs")):
        name = rf"(?:^|[._-])(?:{words})(?:\.names)?(?:\.(?:tsv|txt|csv))?(?:\.gz)?$"
        beside = [p for p in folder.iterdir() if re.search(name, p.name) and ".mtx" not in p.name]
        if not beside:
            raise InputError(
                f"There are no names of the {what} beside {matrices[0]}.",
                "Valid is a folder with matrix.mtx, features.tsv (or genes.tsv) and barcodes.tsv, "
                "each gzipped or not.",
                "Add the file, or read the matrix with scanpy and set the names.",
            )
        # Of the files of several samples those whose names begin as that of the matrix does.
        nearest = max(beside, key=lambda p: len(common_start(p.name, matrices[0].name)))
        separator = "," if ".csv" in nearest.name else "\t"
        tables[what] = pd.read_csv(nearest, sep=separator, header=None, dtype=str)
    genes, cells = tables["genes"], tables["cells"]
    if matrix.shape != (len(cells), len(genes)) or len(cells) == len(genes):
        matrix = sp.csr_matrix(matrix.T)  # as Cell Ranger writes it
    if matrix.shape != (len(cells), len(genes)):
        raise InputError(
            f"{matrices[0]} is {matrix.shape[1]:,} × {matrix.shape[0]:,}, beside {len(genes):,} "
            f"genes and {len(cells):,} cells.",
            "Valid is a row per gene and a column per cell.",
            "Check that the three files belong together.",
        )
    symbol = 1 if genes.shape[1] > 1 else 0
    var = pd.DataFrame(index=pd.Index(genes[symbol].fillna(genes[0]).astype(str), name=None))
    if symbol:
        var["gene_ids"] = genes[0].to_numpy()
    if genes.shape[1] > 2:
        var["feature_types"] = genes[2].to_numpy()
    obs = pd.DataFrame(index=pd.Index(cells[0].astype(str), name=None))
    return ad.AnnData(matrix.astype(np.float32), obs=obs, var=var)


def _read_table(path: Path) -> tuple[ad.AnnData, tuple[str, ...]]:
    """Read a table of text; genes in rows are recognised by their names, and turned."""
    with path.open(encoding="utf-8-sig") as file:
        lines = [file.readline(), file.readline()]
    separator = max("\t,; ", key=lambda mark: min(line.count(mark) for line in lines))
    if separator not in lines[0] or separator not in lines[1]:
        raise ValueError("it is text without columns")
    table = pd.read_csv(path, sep=separator, encoding="utf-8-sig")
    if isinstance(table.index, pd.RangeIndex):
        first = table.iloc[:, 0]
        if not pd.api.types.is_numeric_dtype(first) or not share_genes([str(table.columns[0])]):
            table = table.set_index(str(table.columns[0]))
    numeric = [pd.api.types.is_numeric_dtype(dtype) for dtype in table.dtypes]
    if not any(numeric):
        raise ValueError("none of its columns holds numbers")
    values, others = table.loc[:, numeric], table.loc[:, [not is_one for is_one in numeric]]
    rows, columns = table.index.astype(str), values.columns.astype(str)
    matrix = sp.csr_matrix(values.to_numpy(dtype=np.float32))
    as_genes = [share_genes(n) - share_barcodes(n) for n in (rows.tolist(), columns.tolist())]
    others.index, others.columns = rows.rename(None), others.columns.astype(str)
    obs, var = others, pd.DataFrame(index=columns.rename(None))
    if as_genes[0] > 0.5 > as_genes[1] or (share_barcodes(columns.tolist()) > 0.5 > as_genes[1]):
        said = "Rows of the table are genes and its columns are cells, so it was turned."
        return ad.AnnData(sp.csr_matrix(matrix.T), obs=var, var=obs), (said,)
    return ad.AnnData(matrix, obs=obs, var=var), ()


def _open_zarr(path: Path, mode: Literal["r"]) -> AbstractContextManager[Any]:
    import zarr

    return nullcontext(zarr.open_group(str(path), mode=mode))


def check_file(path: Path) -> None:
    """Check an HDF5 file that another library is going to read.

    Raises
    ------
    InputError
        If it is none, or names other files, contains itself, or declares what it does not hold.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import anndata as ad
    >>> import numpy as np
    >>> from hdeepinsight.data import check_file
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "cells.h5ad"
    ...     ad.AnnData(np.ones((3, 2))).write_h5ad(path)
    ...     check_file(path)
    """
    valid = "Valid is an HDF5 file."
    check_kind(path, valid)
    with in_words(path, "cannot be read", valid), h5py.File(path, "r") as root:
        _check_hdf5(root, path)


def check_kind(path: Path, valid: str) -> None:
    """Refuse a pipe or a device, from which a read may never return."""
    if not path.exists():
        raise InputError(f"{path} does not exist.", valid, "Check the path.")
    inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    members = inside if path.is_dir() else [path]
    if odd := next((member for member in members if not os.path.isfile(member)), None):
        found = f"{odd} is neither a file nor a folder."
        raise InputError(found, valid, "Write what comes from a pipe or a device to a file first.")


def check_parts(root: Any, path: Path) -> None:
    """Refuse parts of an AnnData that are one another, or not what their names say."""
    if not isinstance(root, h5py.Group):
        return
    places: dict[tuple[int, int], str] = {}
    for name in ("obs", "var", "raw", *_MAPPINGS):
        if isinstance(root.get(name, getlink=True, default=None), h5py.SoftLink):
            where = "nothing" if root.get(name) is None else "another part of the file"
            raise _refused(path, f"{name} is a link to {where}")
        found = root.get(name)
        if not isinstance(found, h5py.Group):
            continue
        other = places.setdefault(_address(found), name)
        if other != name:
            raise _refused(path, f"{name} and {other} are one and the same group")
        kind = found.attrs.get("encoding-type", "dict")
        if name in _MAPPINGS and kind != "dict":
            raise _refused(path, f"{name} is a {kind}, where other things are held by name")


def _check_zarr(root: Any, path: Path) -> None:
    for name, array in root.members(max_depth=None):
        if not hasattr(array, "shape"):
            continue
        at = name[:80]
        if "pickle" in _codecs(array.metadata.to_dict()):
            raise _refused(path, f"{at} is packed with pickle, which can run code")
        size = array.dtype.itemsize
        _check_size(path, at, math.prod(array.chunks) * size)
        declared = math.prod(array.shape) * size
        if declared > FREE_BYTES:
            _check_size(path, at, declared, array.nbytes_stored())


def _check_hdf5(root: Any, path: Path) -> None:
    """Walk the file; groups are followed wherever links lead within it."""
    n_bytes = path.stat().st_size
    waiting = [(root, name, frozenset({_address(root)}), name) for name in root]
    n_seen = 0
    while waiting:
        group, name, above, at = waiting.pop()
        n_seen += 1
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            raise _refused(path, f"{at[:80]} is a link to another file")
        found = group.get(name)  # None for a link that leads nowhere
        if isinstance(found, h5py.Dataset):
            if found.external or found.is_virtual:
                raise _refused(path, f"{at[:80]} takes its values from other files")
            size = found.dtype.itemsize
            _check_size(path, at[:80], math.prod(found.chunks or ()) * size)
            if found.shape is not None:
                _check_size(path, at[:80], math.prod(found.shape) * size, n_bytes)
                if found.chunks and found.size:
                    _check_filters(found, path, at[:80])
        if not isinstance(found, h5py.Group):
            continue
        if _address(found) in above or len(above) > _MOST_NESTING:
            raise _refused(path, f"the group {at[:80]} contains itself")
        if n_seen + len(waiting) + len(found) > _MOST_OBJECTS:
            raise _refused(path, f"more than {_MOST_OBJECTS:,} arrays and groups")
        inside = above | {_address(found)}
        waiting.extend((found, child, inside, f"{at}/{child}") for child in found)


def _check_filters(found: Any, path: Path, at: str) -> None:
    """Refuse an array that was packed in a way that cannot be unpacked here."""
    made = found.id.get_create_plist()
    packed = [made.get_filter(i) for i in range(made.get_nfilters())]
    if all(h5py.h5z.filter_avail(number) for number, *_ in packed):
        return
    with suppress(ImportError):
        import hdf5plugin  # noqa: F401 - which adds blosc, zstd and others to HDF5
    try:
        found[(0,) * found.ndim]
    except OSError:
        missing = [made for made in packed if not h5py.h5z.filter_avail(made[0])]
        names = [text.decode() or f"filter {number}" for number, _, _, text in missing]
        raise InputError(
            f"{path} cannot be read: {at} is packed with {', '.join(names)}, which this "
            "installation cannot unpack.",
            "Valid are gzip and lzf, and with the package hdf5plugin blosc, zstd, lz4 and others.",
            "Install it with `pip install hdf5plugin`; it is then used by itself.",
        ) from None


def _address(group: Any) -> tuple[int, int]:
    info = h5py.h5o.get_info(group.id)
    return info.fileno, info.addr


def _codecs(value: Any) -> set[str]:
    """Ids and names of all packers that the description of a zarr array names."""
    if isinstance(value, dict):
        own = {str(value.get(key)).rpartition(".")[2] for key in ("id", "name") if key in value}
        return own.union(*map(_codecs, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(_codecs, value))
    if hasattr(value, "to_dict"):
        return _codecs(value.to_dict())
    return _codecs(value.get_config()) if hasattr(value, "get_config") else set()


def _check_size(path: Path, at: str, n_bytes: int, stored: int | None = None) -> None:
    """Refuse a piece that is too large, or an array that declares more than is stored."""
    if stored is None and n_bytes > FREE_BYTES:
        raise _refused(path, f"{at} is stored in pieces of {n_bytes:,} bytes")
    if stored is not None and n_bytes > max(FREE_BYTES, MOST_PACKED * stored):
        raise _refused(path, f"{at} declares {n_bytes:,} bytes, with {stored:,} behind them")


def _refused(path: Path, found: str) -> InputError:
    return InputError(
        f"{path} is refused: {found}.",
        "Valid is a file that holds each of its parts once, in the size that it declares.",
        _WRITE_AGAIN,
    )
