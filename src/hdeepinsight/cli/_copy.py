"""A copy of the query with the annotation added; the query itself is never opened for writing."""

from __future__ import annotations

import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdeepinsight.cli._boundary import UsageProblem
from hdeepinsight.cli._files import is_zarr, read_anndata, written_at_once

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from hdeepinsight.annotation import Annotation

__all__ = ["write_annotation"]


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
        with written_at_once(out) as path:
            annotation.to_csv(path)
        return
    added = _additions(annotation, obs, key_added)
    _refuse_clashes(source, added, key_added)
    with written_at_once(out) as path, _any_text():
        if not is_zarr(source) and not is_zarr(out) and _is_modern(source):
            _copy_and_add(source, path, added)
        else:
            adata = read_anndata(source)
            annotation.to_adata(adata, key_added=key_added)
            adata.write_zarr(path) if is_zarr(out) else adata.write_h5ad(path)


def _any_text() -> AbstractContextManager[Any]:
    """Let anndata write every kind of text column that it reads; older releases have to be told."""
    import anndata

    allowed: AbstractContextManager[Any] = anndata.settings.override(
        allow_write_nullable_strings=True
    )
    return allowed


def _additions(annotation: Annotation, obs: pd.DataFrame, key_added: str) -> AnnData:
    """AnnData of the query's cells without their matrix, with what the annotation adds."""
    from anndata import AnnData

    clash = [name for name in obs if str(name).startswith(f"{key_added}_")]
    if clash:
        msg = (
            f"obs of the query has columns that start with {key_added}_ already: "
            f"{', '.join(map(str, clash))}. Valid is a prefix that is free. Pass another "
            "--key-added."
        )
        raise UsageProblem(msg)
    shell = AnnData(obs=obs.copy())
    annotation.to_adata(shell, key_added=key_added)
    return shell


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
        msg = (
            f"The query holds {', '.join(clash)} already, which the result would replace. Valid "
            f"is another prefix than {key_added}. Pass another --key-added."
        )
        raise UsageProblem(msg)


def _copy_and_add(source: Path, path: Path, added: AnnData) -> None:
    """Copy the file and write into the copy, so that the matrix never has to fit into memory."""
    import h5py
    from anndata.io import write_elem

    shutil.copyfile(source, path)
    with h5py.File(path, "r+") as root:
        write_elem(root, "obs", added.obs)
        for name, value in added.obsm.items():
            write_elem(root["obsm"], name, value)
        for name, value in added.uns.items():
            write_elem(root["uns"], name, value)


def _is_modern(source: Path) -> bool:
    """Whether the file says how it is encoded; older ones are read whole and written anew."""
    import h5py

    with h5py.File(source, "r") as root:
        encoded = root.attrs.get("encoding-type") == "anndata"
        return bool(encoded and "obsm" in root and "uns" in root)
