"""Open an AnnData, or the file of one, without changing it or trusting what it says of itself.

A few bytes of a file can name another file of the machine, an array larger than any memory, or a
group that contains itself. The libraries that read these formats follow all of that, so that a file
is checked before anything of it is read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import anndata as ad
import h5py
import pandas as pd

from hdeepinsight.data._errors import InputError
from hdeepinsight.data._matrix import RowMatrix, wrap

DataLike: TypeAlias = "ad.AnnData | str | Path"
Opener: TypeAlias = "Callable[[], AbstractContextManager[Any]]"

#: Arguments that an error may advise, under the names that they have where it is raised. A caller
#: that takes fewer of them, or by other names, passes its own.
ARGUMENTS: Final[Mapping[str, str]] = {
    name: name for name in ("layer", "use_raw", "scale", "fold_case")
}

#: An array may always be as large as this; a larger one has to have stored bytes behind it. Packing
#: makes an array of zeros about a thousand times smaller.
FREE_BYTES = 2**28
MOST_PACKED = 2000
_MOST_OBJECTS = 100_000
_MOST_NESTING = 32
_FORMATS = "Valid are an AnnData, and the path of an .h5ad file or a .zarr store."
_WRITE_AGAIN = (
    "Write the file again with AnnData.write_h5ad or AnnData.write_zarr, from its source."
)
#: Parts of an AnnData that hold other things by name.
_MAPPINGS = ("uns", "obsm", "varm", "obsp", "varp", "layers")


@dataclass(frozen=True)
class Store:
    """Names and matrices of an AnnData, read when asked for.

    Parameters
    ----------
    obs
        Annotation of the cells.
    var
        Annotation of the genes of ``X`` and the layers.
    raw_var
        Annotation of the genes of ``.raw``; ``None`` without it.
    slots
        Ways to the matrices, by `slot_name`.

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
    _opened: dict[str, RowMatrix] = field(default_factory=dict, init=False, repr=False)

    def matrix(
        self, layer: str | None, use_raw: bool, *, arguments: Mapping[str, str] = ARGUMENTS
    ) -> RowMatrix:
        """Open one matrix, the same whenever asked.

        Raises
        ------
        InputError
            With the matrices that there are, and how to name one by the caller's ``arguments``.

        Examples
        --------
        >>> import anndata as ad
        >>> import numpy as np
        >>> from hdeepinsight.data import open_store
        >>> open_store(ad.AnnData(np.ones((3, 2)))).matrix(None, use_raw=False).shape
        (3, 2)
        """
        name = slot_name(layer, use_raw)
        if name in self._opened:
            return self._opened[name]
        if name not in self.slots:
            ways = [f"`{arguments['layer']}=` (None means X)"] if "layer" in arguments else []
            ways += [f"`{arguments['use_raw']}=True`"] if "use_raw" in arguments else []
            raise InputError(
                f"The data holds no {name}.",
                f"It holds: {', '.join(self.slots) or 'no matrix at all'}.",
                f"Name one of them with {' or '.join(ways)}." if ways else "Pass it as X.",
            )
        matrix = self.slots[name]()
        shape = len(self.obs), len(self.genes(use_raw))
        if matrix.shape != shape or matrix.dtype.kind not in "biuf":
            raise InputError(
                f"{name} is {matrix.shape[0]:,} × {matrix.shape[1]:,} of {matrix.dtype}, beside "
                f"{shape[0]:,} cells and {shape[1]:,} genes.",
                "Valid are numbers, one row per cell and one column per gene.",
                "Write the file again from its source.",
            )
        self._opened[name] = matrix
        return matrix

    def genes(self, use_raw: bool) -> pd.DataFrame:
        """Return the annotation of the genes of the chosen matrix.

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
        return self.raw_var if use_raw and self.raw_var is not None else self.var


def slot_name(layer: str | None, use_raw: bool = False) -> str:
    """Return the name of a matrix in reports.

    Examples
    --------
    >>> slot_name(None), slot_name("counts"), slot_name(None, use_raw=True)
    ('X', "layers['counts']", '.raw')
    """
    if use_raw and layer is not None:
        raise InputError(
            f"Both use_raw=True and layer={layer!r} were given.",
            "A call reads one matrix.",
            "Give only one of them.",
        )
    return ".raw" if use_raw else "X" if layer is None else f"layers[{layer!r}]"


def open_store(data: DataLike) -> Store:
    """Open an AnnData or a path; a path is read lazily and closed after every pass.

    Parameters
    ----------
    data
        AnnData, or path of an ``.h5ad`` file or a ``.zarr`` store.

    Raises
    ------
    InputError
        If it is none of these, or cannot be read.

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
    if isinstance(data, ad.AnnData):
        return _from_anndata(data)
    if isinstance(data, str | Path):
        return _from_path(Path(data))
    raise InputError(f"The data is a {type(data).__name__}.", _FORMATS, "Wrap or save it as one.")


def _from_anndata(adata: ad.AnnData) -> Store:
    raw = adata.raw
    slots: dict[str, Callable[[], RowMatrix]] = {}
    if adata.X is not None:
        slots["X"] = lambda: wrap(adata.X)
    for name in adata.layers:
        if name is not None:  # newer versions list X among the layers, under the name None
            slots[slot_name(name)] = partial(lambda layer: wrap(adata.layers[layer]), name)
    if raw is not None:
        slots[".raw"] = lambda: wrap(raw.X)
    raw_var = None if raw is None else _frame(raw.var)
    return Store(obs=_frame(adata.obs), var=_frame(adata.var), raw_var=raw_var, slots=slots)


def _frame(table: Any) -> pd.DataFrame:
    """Return a table that the caller may extend without touching the user's one."""
    table = table.to_memory() if hasattr(table, "to_memory") else table
    return table.copy(deep=False)


def _from_path(path: Path) -> Store:
    group = group_opener(path)
    with group() as root, _in_words(path):
        if missing := {"obs", "var"} - set(root):
            raise InputError(
                f"{path} has no {' and no '.join(sorted(missing))}: it is not an AnnData.",
                _FORMATS,
                _WRITE_AGAIN,
            )
        _check_parts(root, path)
        names = {"X": "X"} if "X" in root else {}
        layers = root.get("layers")
        if hasattr(layers, "keys"):
            names |= {slot_name(name): f"layers/{name}" for name in layers}
        raw = root.get("raw")
        if raw is not None and "X" in raw:
            names[".raw"] = "raw/X"
        return Store(
            obs=_table(root, "obs"),
            var=_table(root, "var"),
            raw_var=_table(root, "raw/var") if ".raw" in names else None,
            slots={slot: partial(_lazy, path, group, at) for slot, at in names.items()},
        )


def _table(root: Any, at: str) -> pd.DataFrame:
    table = ad.io.read_elem(root[at])
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"{at} is a {type(table).__name__}, not a table")
    return table


def _lazy(path: Path, group: Opener, at: str) -> RowMatrix:
    opener = partial(_matrix_at, path, group, at)
    with opener() as matrix:
        return wrap(matrix, opener)


@contextmanager
def _matrix_at(path: Path, group: Opener, at: str) -> Iterator[Any]:
    with group() as root, _in_words(path):
        found = root[at]
        yield found if hasattr(found, "shape") else ad.io.sparse_dataset(found)


@contextmanager
def _in_words(
    path: Path, problem: str = "cannot be read as an AnnData", valid: str = _FORMATS
) -> Iterator[None]:
    """Turn whatever the libraries say of a damaged file into one error."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # what they raise about odd files is open
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path} {problem} ({text}).", valid, _WRITE_AGAIN) from error


def group_opener(path: Path) -> Opener:
    """Return what opens a file, or a zarr store, as a group of arrays for a ``with`` block.

    Raises
    ------
    InputError
        If there is none, it cannot be opened, or it names other files.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import anndata as ad
    >>> import numpy as np
    >>> from hdeepinsight.data import group_opener
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "cells.h5ad"
    ...     ad.AnnData(np.ones((3, 2))).write_h5ad(path)
    ...     with group_opener(path)() as root:
    ...         root["X"].shape
    (3, 2)
    """
    _check_kind(path, _FORMATS)
    is_zarr = path.is_dir() or path.suffix == ".zarr"
    opener: Opener = partial(_open_zarr if is_zarr else h5py.File, path, "r")
    with _in_words(path, "cannot be opened"), opener() as root:
        (_check_zarr if is_zarr else _check_hdf5)(root, path)
    return opener


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
    _check_kind(path, valid)
    with _in_words(path, "cannot be read", valid), h5py.File(path, "r") as root:
        _check_hdf5(root, path)


def _check_kind(path: Path, valid: str) -> None:
    """Refuse a pipe or a device, from which a read may never return."""
    if not path.exists():
        raise InputError(f"{path} does not exist.", valid, "Check the path.")
    inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    members = inside if path.is_dir() else [path]
    if odd := next((member for member in members if not os.path.isfile(member)), None):
        found = f"{odd} is neither a file nor a folder."
        raise InputError(found, valid, "Write what comes from a pipe or a device to a file first.")


def _check_parts(root: Any, path: Path) -> None:
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
        if not isinstance(found, h5py.Group):
            continue
        if _address(found) in above or len(above) > _MOST_NESTING:
            raise _refused(path, f"the group {at[:80]} contains itself")
        if n_seen + len(waiting) + len(found) > _MOST_OBJECTS:
            raise _refused(path, f"more than {_MOST_OBJECTS:,} arrays and groups")
        inside = above | {_address(found)}
        waiting.extend((found, child, inside, f"{at}/{child}") for child in found)


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
