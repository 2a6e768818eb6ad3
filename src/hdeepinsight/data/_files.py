"""Detect the format of a file of cells by genes, check that it is safe, and read it.

A small file can refer to other files, declare arrays larger than memory, or contain groups that
contain themselves. The libraries that read these formats do not check this, so files are checked
before they are read.
"""

from __future__ import annotations

import csv
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
from typing import Any, Final, TypeAlias

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.io import mmread

from hdeepinsight._errors import InputError, counted, examples
from hdeepinsight.data._genes import common_start, count_common_genes, share_barcodes, share_genes

Opener: TypeAlias = "Callable[[], AbstractContextManager[Any]]"
InMemory: TypeAlias = tuple[ad.AnnData, tuple[str, ...], str]

#: Arrays up to this size are always allowed; larger ones must have a plausible compression ratio.
#: Arrays of zeros are compressed about a thousandfold.
FREE_BYTES = 2**28
MAX_COMPRESSION = 2000
_MAX_OBJECTS = 100_000
_MAX_NESTING = 32
FORMATS: Final = (
    "Expected an AnnData, or the path of an .h5ad file, a .zarr store, a 10x .h5 file, a .loom "
    "file, a folder with matrix.mtx, genes and barcodes, or a text table."
)
_WRITE_AGAIN = "Write the file again from its source with AnnData.write_h5ad or AnnData.write_zarr."
_UNLOCK = (
    "Close the program that writes to the file; if there is none, set the environment variable "
    "HDF5_USE_FILE_LOCKING to FALSE, because the drive has no locks."
)
#: Files of zarr stores.
ZARR: Final = (".zgroup", ".zattrs", ".zmetadata", "zarr.json")
_R = ("an R file", "In R, save the counts with zellkonverter::writeH5AD.")
#: First bytes of formats that cannot be read, and what to do.
_FOREIGN: Final[Mapping[bytes, tuple[str, str]]] = {
    b"RDX": _R,
    b"RDA": _R,
    b"X\n": _R,
    b"<": ("a web page, such as a login or error page", "Download the file itself."),
    b"version https://git-lfs": ("a pointer of Git LFS", "Fetch the file with `git lfs pull`."),
    b"PK": ("a zip archive or an Excel file", "Unpack it, or save the table as .csv."),
    b"\x80": ("a pickle, which can run code", "Save the AnnData with write_h5ad."),
    b"BZh": ("compressed with bzip2", "Unpack it with `bunzip2`."),
    b"\xfd7zXZ": ("compressed with xz", "Unpack it with `unxz`."),
    b"PAR1": ("a Parquet file", "Read it with pandas.read_parquet, and pass an AnnData of it."),
}


@contextmanager
def in_words(
    path: Path, problem: str = "cannot be read as an AnnData", valid: str = FORMATS
) -> Iterator[None]:
    """Convert the exceptions that libraries raise for damaged files to `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries raise any exception for damaged files
        text = " ".join(str(error).split())[:200] or type(error).__name__
        advice = _UNLOCK if "lock file" in text else _WRITE_AGAIN
        raise InputError(f"{path} {problem} ({text}).", valid, advice) from error


def open_file(path: Path, *, whole: bool = False) -> Opener | InMemory:
    """Return a function that opens an AnnData file as a group, or read any other file.

    Parameters
    ----------
    path
        File or folder; its format is detected by its content.
    whole
        Also read AnnData files into memory, as those with an unusual encoding always are.

    Returns
    -------
    A function; or the AnnData, sentences on how it was read, and the name of the format.

    Raises
    ------
    InputError
        If the file does not exist, cannot be opened, refers to other files, or has an unknown
        format.
    """
    with ExitStack() as unpacking, in_words(path, "cannot be opened"):
        form, at = _form_of(path, unpacking)
        if at == path and form in ("anndata", "zarr") and not whole:
            opener = partial(h5py.File if form == "anndata" else _open_zarr, path, "r")
            with opener() as root:
                if _is_usual(root):
                    return opener
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on names that are converted to text, or repeat
            if form == "table":
                return *_read_table(at, path), "text table"
            return _READERS[form](at), (), {"anndata": "h5ad", "10x": "10x h5"}.get(form, form)


def _form_of(path: Path, unpacking: ExitStack) -> tuple[str, Path]:
    """Detect the format of a file by its content; gzipped files are decompressed temporarily."""
    check_kind(path, FORMATS)
    if path.is_dir():
        if any((path / name).exists() for name in ZARR):
            with _open_zarr(path) as root:
                _check_zarr(root, path)
                if not {"obs", "var", "X", "mod"} & set(root):
                    # By path, because a store of version 3 may hold tables of version 2.
                    inside = sorted(
                        {p.parent for at in ("*/obs", "*/*/obs") for p in path.glob(at)}
                    )
                    advice = f"Pass {' or '.join(map(str, inside))}."
                    found = f"{path} has no obs and no var, but {examples(sorted(root))}."
                    raise InputError(found, FORMATS, advice if inside else _WRITE_AGAIN)
            return "zarr", path
        if next(path.glob("*.mtx*"), None):
            return "mtx", path
        inside = sorted([*path.glob("*/*.mtx*"), *path.glob("*/*/*.mtx*")])
        held = examples(sorted(p.name for p in path.iterdir())) or "nothing"
        found = f"a folder without a zarr store or a .mtx matrix (it holds {held})"
        advice = f"Pass {inside[0].parent}." if inside else "Check the path."
        raise InputError(f"{path} cannot be opened: it is {found}.", FORMATS, advice)
    with path.open("rb") as file:
        start = file.read(4096)
    if is_packed := start.startswith(b"\x1f\x8b"):
        with gzip.open(path) as file:
            start = file.read(4096)
    if start.startswith(b"%%MatrixMarket"):
        return "mtx", path
    found, advice = next((_FOREIGN[b] for b in _FOREIGN if start.startswith(b)), ("", ""))
    if start[257:262] == b"ustar":
        found, advice = "a tar archive", "Unpack it with `tar -xf`, and pass what it holds."
    at = path
    if is_packed and not found:
        at = Path(unpacking.enter_context(tempfile.TemporaryDirectory())) / "unpacked"
        with gzip.open(path) as packed, at.open("wb") as file:
            shutil.copyfileobj(packed, file)
    if not found and h5py.is_hdf5(at):
        with h5py.File(at, "r") as root:
            _check_hdf5(root, at)
            return _form_of_group(root, path), at
    if not found and (b"\0" in start or not start.strip()):
        found = f"{'not text' if start else 'empty'}, and its format is unknown"
        advice = "Check the path, or convert the file."
    if found:
        raise InputError(f"{path} cannot be opened: it is {found}.", FORMATS, advice)
    return "table", at


def _form_of_group(root: Any, path: Path) -> str:
    """Detect the format of an HDF5 file by its content."""
    names = set(root)
    groups = [found for name in names if isinstance(found := root.get(name), h5py.Group)]
    if "matrix" in names and isinstance(root.get("matrix"), h5py.Dataset) and "mod" not in names:
        return "loom"
    if any({"barcodes", "indptr"} <= set(group) for group in groups) and "mod" not in names:
        return "10x"
    if names & {"obs", "var", "X"} and "mod" not in names:
        return "anndata"
    held = examples(sorted(names)) or "nothing"
    found, advice = f"is not an AnnData: it has no obs and no var, but {held}", _WRITE_AGAIN
    if "barcode_idx" in names:
        found = "is a list of molecules of Cell Ranger"
        advice = "Pass filtered_feature_bc_matrix.h5 of the same folder."
    elif "mod" in names:
        found = "is a MuData, but data of a single modality is needed"
        advice = "Read it with mudata.read_h5mu; pass the MuData, or write its RNA to an .h5ad."
    elif {"assays", "cell.names"} & names:
        found = "is a Seurat file (h5Seurat)"
        advice = "In R, run SeuratDisk::Convert(path, dest='h5ad')."
    raise InputError(f"{path} {found}.", FORMATS, advice)


def encoding_of(found: Any) -> str:
    """Return the encoding of an element of a file, ``"array"`` for plain arrays of numbers."""
    kind = str(found.attrs.get("encoding-type", "")) if hasattr(found, "attrs") else ""
    is_array = getattr(found, "shape", None) is not None and len(found.shape) == 2
    return "array" if is_array and kind in ("", "array") and found.dtype.names is None else kind


def layer_names(group: Any) -> list[str]:
    """Return the names of layers; one with a slash, as ``a/b``, is stored in a nested group."""
    found = []
    for name in group if hasattr(group, "keys") else ():
        held = group[name]
        is_part = hasattr(held, "keys") and not len(held.attrs)
        found += [f"{name}/{rest}" for rest in layer_names(held)] if is_part else [name]
    return found


def _is_usual(root: Any) -> bool:
    """Return whether all elements have the encoding of current anndata releases."""
    layers = [f"layers/{name}" for name in layer_names(root.get("layers"))]
    matrices = [root[name] for name in ("X", *layers, "raw/X") if name in root]
    tables = [root["raw/var"]] if "raw/var" in root else []
    kinds = {encoding_of(table) for table in (root.get("obs"), root.get("var"), *tables)}
    return (
        "raw.X" not in root
        and ("raw/X" in root) == ("raw/var" in root)
        and kinds == {"dataframe"}
        and {*map(encoding_of, matrices)} <= {"array", "csr_matrix", "csc_matrix", "null"}
        and {encoding_of(root.get(name)) for name in ("layers", "obsm", "uns")} <= {"dict", ""}
    )


def _read_loom(path: Path) -> ad.AnnData:
    """Read a loom file, which stores genes by cells, without loompy."""

    def transposed(matrix: Any) -> sp.csr_matrix:
        rows = max(1, FREE_BYTES // 8 // max(1, matrix.shape[1]))
        parts = [sp.csr_matrix(matrix[i : i + rows]) for i in range(0, matrix.shape[0], rows)]
        return sp.csr_matrix(sp.vstack(parts).T) if parts else sp.csr_matrix(matrix.shape[::-1])

    def table(attributes: Any, size: int, names: str) -> pd.DataFrame:
        columns = {
            key: pd.Series(values[:]).map(lambda v: v.decode() if isinstance(v, bytes) else v)
            for key, values in attributes.items()
            if values.shape == (size,)
        }
        found = pd.DataFrame(columns, index=range(size))
        named = [name for name in names.split() if name in found]
        found = found.set_index(named[0]) if named else found
        return found.set_axis(found.index.astype(str).rename(None))

    cell_names = "CellID cell_id obs_names barcode Barcode"
    gene_names = "Gene gene gene_name var_names Symbol Accession"
    with h5py.File(path, "r") as root:
        n_genes, n_cells = root["matrix"].shape
        obs = table(root.get("col_attrs", {}), n_cells, cell_names)
        var = table(root.get("row_attrs", {}), n_genes, gene_names)
        layers = {name: transposed(matrix) for name, matrix in root.get("layers", {}).items()}
        return ad.AnnData(transposed(root["matrix"]), obs=obs, var=var, layers=layers)


def _read_10x(path: Path) -> ad.AnnData:
    """Read a .h5 file of Cell Ranger; version 2 has one matrix per genome, with its own cells."""
    import scanpy as sc

    with h5py.File(path, "r") as root:
        groups = [k for k, v in root.items() if isinstance(v, h5py.Group) and "indptr" in v]
        groups = [None] if "matrix" in groups else groups
    parts = [sc.read_10x_h5(path, genome=name, gex_only=False) for name in groups]
    if len(parts) == 1:
        return parts[0]
    for name, part in zip(groups, parts, strict=True):
        part.var["genome"] = name
    cells = dict.fromkeys(cell for part in parts for cell in part.obs_names)
    return ad.concat(parts, axis=1, join="outer", fill_value=0)[list(cells)].copy()


def _read_mtx(path: Path) -> ad.AnnData:
    """Read a matrix in Matrix Market format with the files of its gene and cell names."""
    folder = path if path.is_dir() else path.parent
    matrices = sorted(folder.glob("*.mtx*")) if path.is_dir() else [path]
    main = [m for m in matrices if re.fullmatch(r"matrix\.mtx(\.gz)?", m.name)]
    if len(matrices) > 1 and len(main) != 1:
        found = f"{path} holds {len(matrices)} matrices: {examples(m.name for m in matrices)}."
        raise InputError(found, "Expected a single one.", "Pass the path of one of them.")
    at = (main if len(matrices) > 1 else matrices)[0]
    matrix = sp.csr_matrix(mmread(at))
    tables = []
    words_for_genes, words_for_cells = "features|genes|vars?|cols", "barcodes|cells|obs|rows"
    words_for_cells += "|cell_metadata"
    for what, words in (("genes", words_for_genes), ("cells", words_for_cells)):
        name = rf"(?:^|[._-])(?:{words})(?:\.names)?(?:\.(?:tsv|txt|csv))?(?:\.gz)?$"
        beside = [p for p in folder.iterdir() if re.search(name, p.name) and ".mtx" not in p.name]
        if not beside:
            raise InputError(
                f"There is no file with the names of the {what} next to {at}.",
                "Expected matrix.mtx, features.tsv (or genes.tsv) and barcodes.tsv in one folder.",
                "Add the file, or read the matrix with scanpy and set the names.",
            )
        # With several samples in a folder, file names share a prefix with the matrix; names are
        # preferred to ids (genes.names.txt, genes.txt).
        nearest = max(
            beside, key=lambda p: (len(common_start(p.name, at.name)), ".names" in p.name)
        )
        separator = "," if ".csv" in nearest.name else "\t"
        table = pd.read_csv(nearest, sep=separator, header=None, dtype=str)
        has_heading = len(table) not in matrix.shape and len(table) - 1 in matrix.shape
        tables.append(table.iloc[int(has_heading) :].reset_index(drop=True))
    genes, cells = tables
    if matrix.shape != (len(cells), len(genes)) or len(cells) == len(genes):
        matrix = sp.csr_matrix(matrix.T)  # as Cell Ranger writes it
    if matrix.shape != (len(cells), len(genes)):
        size = f"{at} is {matrix.shape[1]:,} × {matrix.shape[0]:,}"
        found = f"{size}, but there are {len(genes):,} genes and {len(cells):,} cells."
        valid = "Expected one row per gene and one column per cell."
        raise InputError(found, valid, "Check that the three files belong together.")
    names = genes[1].fillna(genes[0]) if genes.shape[1] > 1 else genes[0]
    var = pd.DataFrame(index=pd.Index(names.astype(str), name=None))
    for column, held in ((0, "gene_ids"), (2, "feature_types")):
        if genes.shape[1] > max(1, column):
            var[held] = genes[column].to_numpy()
    obs = pd.DataFrame(index=pd.Index(cells[0].astype(str), name=None))
    return ad.AnnData(matrix.astype(np.float32), obs=obs, var=var)


def _read_table(at: Path, path: Path) -> tuple[ad.AnnData, tuple[str, ...]]:
    """Read a text table, unpacked from ``path``; with genes in rows, it is transposed."""
    try:
        with at.open(encoding="utf-8-sig") as file:
            lines, n_comments = [file.readline(), file.readline()], 0
            separator = _separator(lines)
            while lines[0].startswith("#") and not _is_heading(lines, separator):
                lines, n_comments = [lines[1], file.readline()], n_comments + 1
                separator = _separator(lines)
        if not all(separator in line for line in lines):
            raise ValueError("the text has no columns")
        table = pd.read_csv(at, sep=separator, encoding="utf-8-sig", skiprows=n_comments)
    except UnicodeDecodeError as error:
        byte = f"0x{error.object[error.start]:02x}"
        found = f"{path} is not text in UTF-8: it contains the byte {byte}."
        advice = "Convert it, for example with `iconv -f latin1 -t utf-8`."
        raise InputError(found, "Expected a text table in UTF-8.", advice) from error
    heading = next(csv.reader([lines[0]], delimiter=separator))
    if len(heading) == table.shape[1]:
        table.columns = heading  # as in the file: pandas numbers repeated names
    # A separator at the end of each line is not a gene.
    table = table.loc[:, table.notna().any().to_numpy() | (table.columns.astype(str) != "")]
    if isinstance(table.index, pd.RangeIndex):
        first = table.iloc[:, 0]
        if not pd.api.types.is_numeric_dtype(first) or not share_genes([str(table.columns[0])]):
            table = table.iloc[:, 1:].set_axis(first, axis=0)
    table.index, table.columns = table.index.astype(str).rename(None), table.columns.astype(str)
    is_text = np.array([not pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes])
    for place in np.flatnonzero(is_text):
        column = table.iloc[:, place]
        odd = column[pd.to_numeric(column, errors="coerce").isna()]
        have_commas = odd.astype(str).str.fullmatch(r"-?\d+,\d+", na=False).all()
        are_few = 2 * len(odd) < len(column) and len(odd) <= max(1, len(column) / 100)
        if len(odd) and (have_commas or are_few):
            where = f"{counted(len(odd), 'value')} of column {table.columns[place]!r} of {path}"
            found = f"{where} cannot be read as a number: {examples(map(repr, odd.unique()))}."
            valid = "Expected a number for each gene and cell, with a decimal point."
            advice = "Correct the table: use 0 for genes that were not detected. With a comma in"
            advice += " numbers, read it with pandas.read_csv and decimal=',' or thousands=','."
            raise InputError(found, valid, advice)
    if is_text.all():
        raise ValueError("no column contains numbers")
    if is_text.sum() == len(is_text) - 1 > 0 and not table.index.is_unique:
        found = f"{path} is a list of counts, with one line per gene and cell."
        advice = "Convert it with pandas.pivot_table, with fill_value=0."
        raise InputError(found, "Expected one row per cell, or one per gene.", advice)
    matrix = sp.csr_matrix(table.loc[:, ~is_text].to_numpy(dtype=np.float32))
    rows, columns = table.index.tolist(), table.columns[~is_text].tolist()
    of_rows, of_columns = (share_genes(n) - share_barcodes(n) for n in (rows, columns))
    numbers = pd.to_numeric(pd.Series(columns), errors="coerce")
    are_counted = np.array_equal(numbers, np.arange(len(numbers)) + min(1, numbers.min()))
    are_values = numbers.duplicated().any() or (numbers % 1).any()
    of_cells = of_rows > 0.5 and (not heading[0] or _NAMING.search(heading[0]))
    if numbers.notna().all() and (are_values or not (are_counted or of_cells)):
        found = f"The first line of {path} contains numbers that look like values."
        advice = "Add a header; without it, the first gene or cell would be lost."
        raise InputError(found, "Expected column names in the first line.", advice)
    # Names of cells, such as lymph_1 or P1_A01, may look like genes as well.
    are_genes = of_columns > 0.5 and count_common_genes(columns) >= count_common_genes(rows)
    if (of_rows > 0.5 or share_barcodes(columns) > 0.5) and not are_genes:
        note = "The table was transposed, because its rows are genes and its columns are cells."
        is_cell = np.array([not _ABOUT_GENES.fullmatch(name) for name in columns])
        matrix = matrix[:, is_cell]
        obs, var = pd.DataFrame(index=pd.Index(columns)[is_cell]), table.loc[:, is_text]
        return ad.AnnData(sp.csr_matrix(matrix.T), obs=obs, var=var), (note,)
    obs, var = table.loc[:, is_text], pd.DataFrame(index=pd.Index(columns))
    return ad.AnnData(matrix, obs=obs, var=var), ()


#: Numbers that describe genes, in a table of genes by cells.
_ABOUT_GENES: Final = re.compile(
    r"(?:(?:gene|transcript|exon|effective)[_. ]?)?(?:length|width|start|end|stop|pos(?:ition)?|chr"
    r"(?:om(?:osome)?)?|strand|gc(?:[_. ]?content)?|entrez[_. ]?(?:gene)?[_. ]?(?:id)?|taxid)",
    re.IGNORECASE,
)
#: Heading of the column of row names.
_NAMING: Final = re.compile(r"gene|symbol|feature|name|\bid", re.IGNORECASE)


def _separator(lines: list[str]) -> str:
    return max("\t,; ", key=lambda mark: min(line.count(mark) for line in lines))


def _is_heading(lines: list[str], separator: str) -> bool:
    """Return whether the first of two lines, which begins with ``#``, is the header."""
    before, after = (line.count(separator) for line in lines)
    return before > 0 and after - before in (0, 1) and not lines[1].startswith("#")


def _open_zarr(path: Path, mode: Any = "r") -> AbstractContextManager[Any]:
    import zarr

    # Consolidated metadata lack names that differ from others only in case.
    return nullcontext(zarr.open_group(str(path), mode=mode, use_consolidated=False))


def _read_zarr(path: Path) -> ad.AnnData:
    with _open_zarr(path) as root:
        return ad.read_zarr(root)


_READERS: Final[Mapping[str, Callable[[Path], ad.AnnData]]] = {
    "anndata": ad.read_h5ad,
    "zarr": _read_zarr,
    "10x": _read_10x,
    "loom": _read_loom,
    "mtx": _read_mtx,
}


def check_file(path: Path) -> None:
    """Check an HDF5 file or a zarr store before another library reads it.

    Raises
    ------
    InputError
        If it is neither, refers to other files, contains itself, or declares arrays
        larger than the stored data.

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
    valid = "Expected an HDF5 file or a zarr store."
    check_kind(path, valid)
    opener, check = (_open_zarr, _check_zarr) if path.is_dir() else (h5py.File, _check_hdf5)
    with in_words(path, "cannot be read", valid), opener(path, "r") as root:
        check(root, path)


def check_kind(path: Path, valid: str) -> None:
    """Raise an error for pipes and devices, from which a read may never return."""
    if not path.exists():
        is_address = re.match(r"\w{2,}:/", str(path))
        advice = "Download the file first." if is_address else "Check the path."
        raise InputError(f"{path} does not exist.", valid, advice)
    inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    members = inside if path.is_dir() else [path]
    if odd := next((member for member in members if not os.path.isfile(member)), None):
        found = f"{odd} is neither a file nor a folder."
        raise InputError(found, valid, "Write the content of a pipe or device to a file first.")


def _check_hdf5(root: Any, path: Path) -> None:
    """Raise an error for links, groups that contain themselves, and arrays of implausible size."""
    links: list[tuple[str, Any]] = []

    def collect(name: str, link: Any) -> bool | None:  # must not raise
        links.append((name, link))
        return len(links) > _MAX_OBJECTS or None

    if root.visititems_links(collect):
        raise _refused(path, f"more than {_MAX_OBJECTS:,} arrays and groups")
    groups = {_address(root): "the file"}
    for name, link in links:
        at = name[:80]
        if not isinstance(link, h5py.HardLink):
            where = "file" if isinstance(link, h5py.ExternalLink) else "place of the file"
            raise _refused(path, f"{at} is a link to another {where}")
        if name.count("/") > _MAX_NESTING:
            raise _refused(path, f"{at} is nested too deep")
        found = root.get(name)
        if isinstance(found, h5py.Group):
            if (other := groups.setdefault(_address(found), at)) != at:
                raise _refused(path, f"{at} and {other} are the same group")
        elif isinstance(found, h5py.Dataset):
            if found.external or found.is_virtual:
                raise _refused(path, f"{at} reads its values from other files")
            if found.shape is not None:
                size, chunk = found.dtype.itemsize, math.prod(found.chunks or ())
                declared = math.prod(found.shape) * size
                _check_size(path, at, chunk * size, declared, path.stat().st_size)
                if found.chunks and found.size:
                    _check_filters(found, path, at)


def _address(group: Any) -> tuple[int, int]:
    info = h5py.h5o.get_info(group.id)
    return info.fileno, info.addr


def _check_filters(found: Any, path: Path, at: str) -> None:
    """Raise an error for an array with compression filters that are not installed."""

    def missing() -> list[str]:
        created = found.id.get_create_plist()
        filters = (created.get_filter(i) for i in range(created.get_nfilters()))
        unknown = [each for each in filters if not h5py.h5z.filter_avail(each[0])]
        return [each[3].decode() or f"filter {each[0]}" for each in unknown]

    if missing():
        with suppress(ImportError):
            import hdf5plugin  # noqa: F401 - adds blosc, zstd and others to HDF5
    if names := ", ".join(missing()):
        raise InputError(
            f"{path} cannot be read: {at} is compressed with {names}, which is not installed.",
            "Expected gzip or lzf, or with the package hdf5plugin blosc, zstd, lz4 and others.",
            "Install it with `pip install hdf5plugin`; it is then used automatically.",
        )


def _check_zarr(root: Any, path: Path) -> None:
    for name, array in root.members(max_depth=None):
        if not hasattr(array, "shape"):
            continue
        described = array.metadata.to_dict()
        codecs = [described.get(key) for key in ("codecs", "filters", "compressor")]
        if "pickle" in str(codecs).lower():
            raise _refused(path, f"{name[:80]} is encoded with pickle, which can run code")
        size = array.dtype.itemsize
        declared = math.prod(array.shape) * size
        stored = array.nbytes_stored() if declared > FREE_BYTES else declared
        _check_size(path, name[:80], math.prod(array.chunks) * size, declared, stored)


def _check_size(path: Path, at: str, chunk: int, declared: int, stored: int) -> None:
    """Raise an error for chunks that are too large, and for arrays of implausible size."""
    if chunk > FREE_BYTES:
        raise _refused(path, f"{at} is stored in chunks of {chunk:,} bytes")
    if declared > max(FREE_BYTES, MAX_COMPRESSION * stored):
        raise _refused(path, f"{at} declares {declared:,} bytes, but {stored:,} are stored")


def _refused(path: Path, found: str) -> InputError:
    valid = "Expected a self-contained file with arrays of the declared sizes."
    return InputError(f"{path} is refused: {found}.", valid, _WRITE_AGAIN)
