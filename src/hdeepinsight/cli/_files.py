"""Files at the door: what may be read, what may be written, and how it appears in one piece."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hdeepinsight.cli._boundary import UsageProblem

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

__all__ = [
    "check_output",
    "is_store",
    "is_zarr",
    "read_anndata",
    "require_columns",
    "require_writable",
    "written_at_once",
]

FORMATS = (".h5ad", ".zarr", ".csv")


def is_zarr(path: Path) -> bool:
    """Whether the path is, or is going to be, a zarr store."""
    return path.suffix == ".zarr" or path.is_dir()


def is_store(folder: Path) -> bool:
    """Whether the folder is a zarr store."""
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
    """Raise ``ValueError`` unless all columns are there."""
    missing = [name for name in columns if name not in obs]
    if missing:
        there = ", ".join(map(str, obs.columns)) or "none"
        msg = (
            f"{source} has no column {', '.join(map(repr, missing))} in obs. "
            f"Valid are its columns: {there}. Name one of them."
        )
        raise ValueError(msg)


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
        msg = (
            f"{option} {out} ends in {out.suffix or 'nothing'!r}. Valid endings are "
            f"{', '.join(formats)}. Choose one; it sets the format."
        )
        raise UsageProblem(msg)
    if _inside(out, source) or _inside(source, out):
        msg = (
            f"{option} {out} is, holds, or lies in the input {source}, which is never changed. "
            "Valid is any other place. Choose another name."
        )
        raise UsageProblem(msg)
    if out.exists() and not overwrite:
        msg = f"{out} exists already. Pass --overwrite to replace it, or choose another name."
        raise UsageProblem(msg)
    if out.is_dir() and not is_store(out):
        msg = f"{out} is a folder, and not a zarr store, so it is not replaced. Choose another."
        raise UsageProblem(msg)
    require_writable(out, option=option)


def require_writable(out: Path, *, option: str = "--out") -> None:
    """Raise `UsageProblem` where nothing can be written, before hours of work are lost there."""
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if above.is_dir() and os.access(above, os.W_OK):
        return
    reason = "may not be written to" if above.is_dir() else "is not a folder"
    msg = (
        f"{option} {out} cannot be written: {above} {reason}. Valid is a place in a folder that "
        "you may write to. Choose another."
    )
    raise UsageProblem(msg)


@contextmanager
def written_at_once(out: Path) -> Iterator[Path]:
    """Give a temporary path beside ``out`` that takes its place once everything is written.

    Whatever goes wrong, ``out`` holds either what it held before or the complete result.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".unfinished-{out.name}")
    _remove(unfinished)
    try:
        yield unfinished
        if out.is_dir() or unfinished.is_dir():  # only a file can take the place of a file
            _remove(out)
        unfinished.replace(out)
    finally:
        _remove(unfinished)


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
