"""Files: what may be read and written, and the copy of a query with its annotation added.

What is written appears in one piece, and the query itself is never opened for writing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hdeepinsight._errors import missing_column
from hdeepinsight._io import atomic_write
from hdeepinsight.cli._boundary import UsageProblem

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from hdeepinsight.annotation import Annotation

FORMATS = (".h5ad", ".zarr", ".csv")


def is_zarr(path: Path) -> bool:
    """Tell whether the path is, or is going to be, a zarr store."""
    return path.suffix == ".zarr" or path.is_dir()


def is_store(folder: Path) -> bool:
    """Tell whether the folder is a zarr store."""
    return any((folder / name).exists() for name in ("zarr.json", ".zgroup"))


def read_anndata(path: Path) -> AnnData:
    """Read a whole ``.h5ad`` file or ``.zarr`` store into memory.

    Raises
    ------
    InputError
        If there is none at the path.
    """
    import anndata

    from hdeepinsight.data import open_store

    open_store(path)  # says what is wrong better than the readers do
    return anndata.read_zarr(path) if is_zarr(path) else anndata.read_h5ad(path)


def require_columns(obs: pd.DataFrame, columns: Sequence[str], *, source: Path) -> None:
    """Raise ``KeyError`` unless all columns are there."""
    for name in columns:
        if name not in obs:
            raise missing_column(name, obs.columns, where=f"obs of {source}")


def check_output(
    out: Path,
    *,
    source: Path,
    overwrite: bool,
    option: str = "--out",
    formats: Sequence[str] = FORMATS,
) -> None:
    """Refuse an output that would harm a file, before any work is done.

    Parameters
    ----------
    out
        File to write.
    source
        File that is read; it is never an output.
    overwrite
        Whether an existing file may be replaced.
    option
        Option that names the file.
    formats
        Valid endings.

    Raises
    ------
    UsageProblem
        With what to do instead.
    """
    if out.suffix not in formats:
        raise UsageProblem(
            f"{option} must end in {' or '.join(formats)}, which sets the format, got {out}, which "
            f"ends in {out.suffix or 'nothing'!r}. Choose another name."
        )
    real, read = out.resolve(), source.resolve()
    if real.is_relative_to(read) or read.is_relative_to(real):
        raise UsageProblem(
            f"{option} {out} is, holds, or lies in the input {source}, which is never changed. "
            "Choose another place."
        )
    if out.exists() and not overwrite:
        raise UsageProblem(
            f"{out} exists already. Pass --overwrite to replace it, or choose another name."
        )
    if out.is_dir() and not is_store(out):
        raise UsageProblem(
            f"{out} is a folder, and not a zarr store, so it is not replaced. Choose another."
        )
    require_writable(out, option=option)


def require_writable(out: Path, *, option: str = "--out") -> None:
    """Raise `UsageProblem` where nothing can be written, before hours of work are lost there."""
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if above.is_dir() and os.access(above, os.W_OK):
        return
    reason = "may not be written to" if above.is_dir() else "is not a folder"
    raise UsageProblem(
        f"{option} {out} cannot be written: {above} {reason}. Choose a place in a folder that you "
        "may write to."
    )


def write_annotation(
    annotation: Annotation, *, source: Path, out: Path, key_added: str, obs: pd.DataFrame
) -> None:
    """Write the labels as a table (``.csv``), or a copy of the query that has them too.

    Parameters
    ----------
    annotation
        What to write.
    source
        The query's file.
    out
        File to write; its ending sets the format.
    key_added
        Prefix of what is added, as in `Annotation.to_adata`.
    obs
        Annotation of the query's cells.

    Raises
    ------
    UsageProblem
        If the query holds something of these names already.
    """
    if out.suffix == ".csv":
        annotation.to_csv(out)
        return
    import anndata

    if clash := [name for name in obs if str(name).startswith(f"{key_added}_")]:
        raise UsageProblem(
            f"obs of the query has columns that start with {key_added}_ already: "
            f"{', '.join(map(str, clash))}. Pass another --key-added, whose prefix is free."
        )
    added = anndata.AnnData(obs=obs.copy())  # the query's cells, without their matrix
    annotation.to_adata(added, key_added=key_added)
    _refuse_clashes(source, added, key_added)
    # Older releases of anndata have to be told to write every kind of text column that they read.
    with atomic_write(out) as path, anndata.settings.override(allow_write_nullable_strings=True):
        if not is_zarr(source) and not is_zarr(out) and _is_modern(source):
            _copy_and_add(source, path, added)
        else:
            adata = read_anndata(source)
            annotation.to_adata(adata, key_added=key_added)
            adata.write_zarr(path) if is_zarr(out) else adata.write_h5ad(path)


def _refuse_clashes(source: Path, added: AnnData, key_added: str) -> None:
    """Raise `UsageProblem` if something in obsm or uns of the query would be replaced."""
    from hdeepinsight.data import group_opener

    with group_opener(source)() as root:
        clash = [
            f"{part}/{name}"
            for part in ("obsm", "uns")
            for name in getattr(added, part)
            if f"{part}/{name}" in root
        ]
    if clash:
        raise UsageProblem(
            f"The query holds {', '.join(clash)} already, which the result would replace. Pass "
            f"another --key-added than {key_added}."
        )


def _copy_and_add(source: Path, path: Path, added: AnnData) -> None:
    """Copy the file and write into the copy, so that the matrix never has to fit into memory."""
    import h5py
    from anndata.io import write_elem

    shutil.copyfile(source, path)
    with h5py.File(path, "r+") as root:
        write_elem(root, "obs", added.obs)
        for part in ("obsm", "uns"):
            for name, value in getattr(added, part).items():
                write_elem(root[part], name, value)


def _is_modern(source: Path) -> bool:
    """Tell whether the file says how it is encoded; older ones are read whole, and written anew."""
    import h5py

    with h5py.File(source, "r") as root:
        encoded = root.attrs.get("encoding-type") == "anndata"
        return bool(encoded and "obsm" in root and "uns" in root)
