"""Check inputs and outputs of a command, and write the annotated copy of a query.

Files are written atomically, and the query is never opened for writing.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hdeepinsight._errors import examples
from hdeepinsight._io import atomic_write
from hdeepinsight.cli._console import UsageProblem, note, refuse

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from hdeepinsight.annotation import Annotation
    from hdeepinsight.data import Store

FORMATS = (".h5ad", ".zarr", ".h5mu", ".csv")
#: Extensions of inputs, which are replaced in the names of outputs.
_INPUTS = (".h5ad", ".zarr", ".h5", ".h5mu", ".loom", ".mtx", ".csv", ".tsv", ".txt")


def is_store(folder: Path) -> bool:
    """Return whether the folder is a zarr store."""
    return any((folder / name).exists() for name in ("zarr.json", ".zgroup"))


def default_output(query: Path, ending: str) -> Path:
    """Return the default output: next to the query, with another extension."""
    name = Path(query.name.removesuffix(".gz"))
    return query.with_name(f"{name.stem if name.suffix.lower() in _INPUTS else name}{ending}")


def open_cells(path: Path) -> Store | MuData:
    """Open a file of one or several modalities."""
    from hdeepinsight.data import is_paired, open_paired, open_store

    return open_paired(path) if is_paired(path) else open_store(path)


def check_output(
    out: Path,
    *,
    source: Path,
    overwrite: bool,
    option: str = "--out",
    formats: Sequence[str] = FORMATS,
) -> None:
    """Raise an error for an output that would damage a file, before any work is done.

    Parameters
    ----------
    out
        File to write.
    source
        Input file, which must not be written to.
    overwrite
        Whether an existing file may be replaced.
    option
        Name of the option, for error messages.
    formats
        Valid file extensions.

    Raises
    ------
    UsageProblem
        If the output is invalid.
    """
    real, read = out.resolve(), source.resolve()
    overlaps = real.is_relative_to(read) or read.is_relative_to(real)
    refuse(
        {
            f"{option} must end in {' or '.join(formats)}, which sets the format, got {out}, which "
            f"ends in {out.suffix or 'nothing'!r}. Choose another name.": out.suffix not in formats,
            f"{option} {out} overlaps the input {source}, which is never changed. Choose another "
            "path.": overlaps,
            f"{out} already exists. Pass --overwrite to replace it, or choose another name.": (
                out.exists() and not overwrite
            ),
            f"{out} is a folder but not a zarr store, so it is not replaced. Choose another.": (
                out.is_dir() and not is_store(out)
            ),
        }
    )
    require_writable(out, option=option)


def require_writable(out: Path, *, option: str = "--out") -> None:
    """Raise `UsageProblem` if the output cannot be written, before any work is done."""
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK)):
        reason = "is not writable" if above.is_dir() else "is not a folder"
        found = f"{option} {out} cannot be written: {above} {reason}"
        raise UsageProblem(f"{found}. Choose a path in a folder that you can write to.")


def prepare_output(
    query: Store | MuData, *, source: Path, out: Path, key_added: str
) -> Callable[..., None]:
    """Check that labels can be written, before any work is done, and return the write function.

    Entries of an earlier result with the same key are replaced in the copy, and columns whose names
    cannot be stored are renamed.

    Parameters
    ----------
    query
        The open query.
    source
        File of the query.
    out
        File to write: a table (``.csv``), or a copy of the query with the labels added.
    key_added
        Prefix of the added keys, as in `Annotation.to_adata`.

    Returns
    -------
    Function that writes an annotation, with ``fill`` and ``details`` of `Annotation.to_frame`.

    Raises
    ------
    UsageProblem
        If keys exist in the query already, or the query cannot be written to a file.
    """
    from hdeepinsight.data import make_storable, open_store

    is_table, has_several = out.suffix == ".csv", not hasattr(query, "whole")
    fits = is_table or has_several == (out.suffix == ".h5mu")
    kind, ending = ("a MuData", ".h5mu") if has_several else ("an AnnData", ".h5ad or .zarr")
    held = {"obs": query.obs, "obsm": query.obsm, "uns": query.uns}
    taken = [f"{part}/{at}" for part in held for at in held[part] if at.startswith(f"{key_added}_")]
    taken += [f"uns/{key_added}"] * (key_added in query.uns)
    written = _written(query, key_added)
    taken = [at for at in taken if not any(at in entries for entries in written.values())]
    index = str(query.obs.index.name)  # a column of this name would be read as names of the cells
    taken += [f"obs/{index}"] * index.startswith(f"{key_added}_")
    refuse(
        {
            f"--key-added must be a name without a slash, such as hdi, got {key_added!r}. Choose "
            "another name.": not key_added or "/" in key_added,
            f"--out must end in {ending} or .csv for {source}, which is {kind}, got {out}. Choose "
            "another name.": not fits,
            f"The query already has {examples(taken)}. Pass another name than {key_added} as "
            "--key-added.": taken and not is_table,
        }
    )
    if is_table:
        return lambda result, **how: result.to_csv(out, **how)
    _require_space(source, out)
    can_be_copied = _is_copied(source, out)
    parts: list[Any] = [*getattr(query, "mod", {}).values()] or [query]
    for part in () if can_be_copied else parts:
        _try_to_write(open_store(part), out)

    def write(result: Annotation, **how: Any) -> None:
        import anndata

        # anndata 0.12 writes nullable strings only if allowed, though it reads them.
        allowed = anndata.settings.override(allow_write_nullable_strings=True)
        with atomic_write(out) as path, allowed:
            if can_be_copied:
                old = written.get(key_added, set())
                kept = [name for name in query.obs if f"obs/{name}" not in old]
                cells = anndata.AnnData(obs=query.obs[kept].copy())  # without counts
                result.to_adata(cells, key_added=key_added, **how)
                _copy_and_add(source, path, cells, old)
                return
            whole: Any = query if has_several else query.whole()
            for part in parts if has_several else [whole]:
                make_storable(part)
            result.to_adata(whole, key_added=key_added, **how)
            getattr(whole, f"write_{out.suffix[1:]}")(path)

    return write


def _require_space(source: Path, out: Path) -> None:
    """Raise `UsageProblem` if the drive has less space than the query takes."""
    files = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
    size = sum(path.stat().st_size for path in files)
    free = shutil.disk_usage(next(p for p in out.absolute().parents if p.exists())).free
    if free < size:
        raise UsageProblem(
            f"The copy {out} needs at least {size / 1e9:,.1f} GB, but only {free / 1e9:,.1f} GB "
            "are free there. Choose another drive, or pass --out labels.csv for a table of labels."
        )


def _written(query: Store | MuData, key_added: str) -> dict[str, set[str]]:
    """Return the entries of earlier results whose keys are or start with ``key_added``."""
    from hdeepinsight.annotation import recorded

    held = {name: query.uns[name] for name in query.uns if str(name).startswith(key_added)}
    values = {name: found() if callable(found) else found for name, found in held.items()}
    return {name: recorded(name, value) for name, value in values.items()}


def _try_to_write(query: Store, out: Path) -> None:
    """Write what a query holds besides matrices to memory, and raise if that fails."""
    import anndata
    import h5py
    import zarr

    from hdeepinsight.data import storable_columns

    is_zarr = out.suffix == ".zarr"
    parts = {"obs": query.obs, "var": query.var, "uns": query.uns, "obsm": query.obsm}
    parts |= {} if query.raw_var is None else {"raw": query.raw_var}
    allowed = anndata.settings.override(allow_write_nullable_strings=True)
    unwritten = h5py.File("unwritten", "w", driver="core", backing_store=False)
    with unwritten, allowed:
        root = zarr.open_group({}, mode="w", zarr_format=2) if is_zarr else unwritten
        for part, held in parts.items():
            try:
                if part in ("uns", "obsm"):
                    anndata.io.write_elem(root, part, {key: held[key]() for key in held})
                    continue
                table = anndata.AnnData(obs=storable_columns(held))
                if renamed := [name for name in held if name not in table.obs]:
                    names = examples(map(repr, renamed))
                    note(f"{part} columns that {out.suffix} cannot store are renamed: {names}.")
                table.strings_to_categoricals()  # as before an AnnData is written
                anndata.io.write_elem(root, part, table.obs)
                number = Counter(map(str.lower, table.obs if is_zarr else ()))
                if alike := [name for name in table.obs if number[name.lower()] > 1]:
                    raise ValueError(f"zarr mixes up the columns {examples(alike)}")
            except Exception as error:
                reason = " ".join(str(error).split())[:200]
                raise UsageProblem(
                    f"{out} cannot be written, because {part} of the query cannot be stored in a "
                    f"file ({reason}). Correct it, or pass --out labels.csv for a table of labels."
                ) from error


def _copy_and_add(source: Path, path: Path, added: AnnData, replaced: set[str]) -> None:
    """Copy the file and add to the copy, without reading the matrix into memory.

    Existing elements keep their encoding, except those in ``replaced``, which are removed.
    """
    import h5py
    from anndata.io import write_elem

    shutil.copyfile(source, path)
    with h5py.File(path, "r+", locking=False) as root:  # not every network drive has locks
        for at in replaced:
            if at in root:
                del root[at]
        table = root["obs"]
        old = [str(name) for name in table.attrs["column-order"]]
        old = [name for name in old if f"obs/{name}" not in replaced]
        new = [str(name) for name in added.obs if str(name) not in old]
        for name in new:
            write_elem(table, name, added.obs[name].values)
        table.attrs["column-order"] = [*old, *new]
        for part in ("obsm", "uns"):
            if part not in root:
                write_elem(root, part, {})
            for name, value in getattr(added, part).items():
                write_elem(root[part], name, value)


def _is_copied(source: Path, out: Path) -> bool:
    """Return whether columns can be added to a copy of the file without rewriting it."""
    import h5py

    if out.suffix != ".h5ad" or not source.is_file() or not h5py.is_hdf5(source):
        return False
    with h5py.File(source, "r") as root:
        held = {name: root.get(name) for name in ("obs", "obsm", "uns")}
        return getattr(held["obs"], "attrs", {}).get("encoding-type") == "dataframe" and all(
            value is None or isinstance(value, h5py.Group) for value in held.values()
        )
