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
    from hdeepinsight.data import Store

FORMATS = (".h5ad", ".zarr", ".csv")
#: Endings of inputs, which outputs do not keep.
_INPUTS = (".h5ad", ".zarr", ".h5", ".h5mu", ".loom", ".mtx", ".csv", ".tsv", ".txt")


def is_zarr(path: Path) -> bool:
    """Tell whether the path is, or is going to be, a zarr store."""
    return path.suffix == ".zarr" or path.is_dir()


def is_store(folder: Path) -> bool:
    """Tell whether the folder is a zarr store."""
    return any((folder / name).exists() for name in ("zarr.json", ".zgroup"))


def default_output(query: Path, ending: str) -> Path:
    """Return where a result goes by default: beside the query, under its name."""
    name = Path(query.name.removesuffix(".gz"))
    return query.with_name(f"{name.stem if name.suffix in _INPUTS else name}{ending}")


def read_anndata(path: Path) -> AnnData:
    """Read a whole file into memory; raises ``InputError`` if there is none at the path."""
    from hdeepinsight import data

    return data.read_anndata(path)


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


def check_additions(query: Store, *, source: Path, out: Path, key_added: str) -> None:
    """Raise `UsageProblem` if labels could not be written, before any work is done.

    Parameters
    ----------
    query
        The open query.
    source, out, key_added
        As in `write_annotation`.
    """
    if not key_added or "/" in key_added:
        raise UsageProblem(
            f"--key-added must be a name that a file can hold, without a slash, such as hdi, "
            f"got {key_added!r}. Choose another."
        )
    if out.suffix != ".csv":
        _refuse_clashes(query, key_added)
        if not _is_copied(source, out):
            _try_to_write(source, out)


def _refuse_clashes(query: Store, key_added: str) -> None:
    """Raise `UsageProblem` if something of the query would be replaced."""
    clash = [str(name) for name in query.obs if str(name).startswith(f"{key_added}_")]
    if clash:
        raise UsageProblem(
            f"obs of the query has columns that start with {key_added}_ already: "
            f"{', '.join(clash)}. Pass another --key-added, whose prefix is free."
        )
    taken = [f"obsm/{name}" for name in query.obsm if name.startswith(f"{key_added}_")]
    taken += [f"uns/{name}" for name in query.uns if name == key_added]
    taken += [f"uns/{name}" for name in query.uns if name.startswith(f"{key_added}_")]
    if taken:
        raise UsageProblem(
            f"The query holds {', '.join(taken)} already, which the result would replace. Pass "
            f"another --key-added than {key_added}."
        )


def _try_to_write(source: Path, out: Path) -> None:
    """Write all but the matrices of a query to memory, to see whether they can be written."""
    import anndata
    import h5py

    adata = read_anndata(source)
    tables = {"obs": adata.obs, "var": adata.var, "uns": dict(adata.uns)}
    tables |= {"raw": adata.raw.var} if adata.raw is not None else {}
    with (
        h5py.File("unwritten", "w", driver="core", backing_store=False) as root,
        anndata.settings.override(allow_write_nullable_strings=True),
    ):
        for part, value in tables.items():
            try:
                anndata.io.write_elem(root, part, value)
            except Exception as error:
                reason = " ".join(str(error).split())[:200]
                raise UsageProblem(
                    f"The copy {out} could not be written: {part} of the query holds what a file "
                    f"cannot ({reason}). Correct it, or pass --out labels.csv for the labels alone."
                ) from error


def write_annotation(
    annotation: Annotation,
    *,
    source: Path,
    out: Path,
    key_added: str,
    obs: pd.DataFrame,
    fill: bool = True,
    details: bool = False,
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
    key_added, fill, details
        What is added, as in `Annotation.to_adata`.
    obs
        Annotation of the query's cells.

    Raises
    ------
    UsageProblem
        If the query holds something of these names already.
    """
    if out.suffix == ".csv":
        annotation.to_csv(out, fill=fill, details=details)
        return
    import anndata

    from hdeepinsight.data import open_store

    _refuse_clashes(open_store(source), key_added)
    added = anndata.AnnData(obs=obs.copy())  # the query's cells, without their matrix
    annotation.to_adata(added, key_added=key_added, fill=fill, details=details)
    # Older releases of anndata have to be told to write every kind of text column that they read.
    with atomic_write(out) as path, anndata.settings.override(allow_write_nullable_strings=True):
        if _is_copied(source, out):
            _copy_and_add(source, path, added)
        else:
            adata = read_anndata(source)
            annotation.to_adata(adata, key_added=key_added, fill=fill, details=details)
            adata.write_zarr(path) if is_zarr(out) else adata.write_h5ad(path)


def _copy_and_add(source: Path, path: Path, added: AnnData) -> None:
    """Copy the file and write into the copy, so that the matrix never has to fit into memory.

    What is there already is left as it is, however it is encoded.
    """
    import h5py
    from anndata.io import write_elem

    shutil.copyfile(source, path)
    with h5py.File(path, "r+") as root:
        table = root["obs"]
        there = [str(name) for name in table.attrs["column-order"]]
        new = [str(name) for name in added.obs if str(name) not in there]
        for name in new:
            write_elem(table, name, added.obs[name].values)
        table.attrs["column-order"] = [*there, *new]
        for part in ("obsm", "uns"):
            if part not in root:
                write_elem(root, part, {})
            for name, value in getattr(added, part).items():
                write_elem(root[part], name, value)


def _is_copied(source: Path, out: Path) -> bool:
    """Tell whether columns can be added to a copy of the file; else it is read and written anew."""
    import h5py

    if out.suffix != ".h5ad" or not source.is_file() or not h5py.is_hdf5(source):
        return False
    with h5py.File(source, "r") as root:
        held = {name: root.get(name) for name in ("obs", "obsm", "uns")}
        return getattr(held["obs"], "attrs", {}).get("encoding-type") == "dataframe" and all(
            value is None or isinstance(value, h5py.Group) for value in held.values()
        )
