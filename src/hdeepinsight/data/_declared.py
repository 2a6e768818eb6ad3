"""What an HDF5 file or a zarr store says of itself, checked before anything of it is read.

A few bytes can name another file of the machine, an array larger than any memory, or a group that
contains itself. The libraries that read these formats follow all of that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hdeepinsight.data._errors import InputError

__all__ = ["check_file", "check_hdf5", "check_zarr"]

#: An array may always be as large as this; a larger one has to have stored bytes behind it. Packing
#: makes an array of zeros about a thousand times smaller.
FREE_BYTES = 2**28
MOST_PACKED = 2000
_MOST_OBJECTS = 100_000
_MOST_NESTING = 32
_DO_NEXT = "Write the file again with AnnData.write_h5ad or AnnData.write_zarr, from its source."


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
    import h5py

    try:
        with h5py.File(path, "r") as root:
            check_hdf5(root, path)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        found = f"{path} cannot be read ({str(error)[:200]})."
        raise InputError(found, "Valid is an HDF5 file.", _DO_NEXT) from error


def check_hdf5(root: Any, path: Path) -> None:
    """Check an open HDF5 file; see `check_file`."""
    n_bytes = path.stat().st_size
    for at, dataset in _datasets(root, path):
        if dataset.external or dataset.is_virtual:
            raise _invalid(path, f"{at} takes its values from other files")
        size = dataset.dtype.itemsize
        _check_chunk(path, at, math.prod(dataset.chunks or ()) * size)
        if dataset.shape is not None:
            _check_size(path, at, math.prod(dataset.shape) * size, n_bytes)


def check_zarr(root: Any, path: Path) -> None:
    """Check an open zarr store; see `check_file`."""
    for name, array in root.members(max_depth=None):
        if not hasattr(array, "shape"):
            continue
        at = name[:80]
        if "pickle" in _codecs(array.metadata.to_dict()):
            raise _invalid(path, f"{at} is packed with pickle, which can run code")
        size = array.dtype.itemsize
        _check_chunk(path, at, math.prod(array.chunks) * size)
        declared = math.prod(array.shape) * size
        if declared > FREE_BYTES:
            _check_size(path, at, declared, array.nbytes_stored())


def _datasets(root: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Datasets with where they are; groups are followed wherever links lead within the file."""
    import h5py

    waiting = [(root, name, frozenset({_address(root)}), name) for name in root]
    n_seen = 0
    while waiting:
        group, name, above, at = waiting.pop()
        n_seen += 1
        if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
            raise _invalid(path, f"{at[:80]} is a link to another file")
        found = group.get(name)  # None for a link that leads nowhere
        if isinstance(found, h5py.Dataset):
            yield at[:80], found
        if not isinstance(found, h5py.Group):
            continue
        if _address(found) in above or len(above) > _MOST_NESTING:
            raise _invalid(path, f"the group {at[:80]} contains itself")
        if n_seen + len(waiting) + len(found) > _MOST_OBJECTS:
            raise _invalid(path, f"more than {_MOST_OBJECTS:,} arrays and groups")
        inside = above | {_address(found)}
        waiting.extend((found, child, inside, f"{at}/{child}") for child in found)


def _address(group: Any) -> tuple[int, int]:
    import h5py

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


def _check_chunk(path: Path, at: str, n_bytes: int) -> None:
    if n_bytes > FREE_BYTES:
        raise _invalid(path, f"{at} is stored in pieces of {n_bytes:,} bytes")


def _check_size(path: Path, at: str, declared: int, stored: int) -> None:
    if declared > max(FREE_BYTES, MOST_PACKED * stored):
        raise _invalid(path, f"{at} declares {declared:,} bytes, with {stored:,} behind them")


def _invalid(path: Path, found: str) -> InputError:
    return InputError(
        f"{path} is refused: {found}.",
        "Valid is a file whose arrays all lie in it, in the size that they declare.",
        _DO_NEXT,
    )
