"""One face for AnnData objects and for ``.h5ad`` and ``.zarr`` files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import anndata as ad
import pandas as pd

from hdeepinsight.data._declared import check_hdf5, check_zarr
from hdeepinsight.data._errors import InputError
from hdeepinsight.data._matrix import RowMatrix, wrap

__all__ = ["DataLike", "Store", "group_opener", "has_layer", "open_store", "slot_name"]

DataLike: TypeAlias = "ad.AnnData | str | Path"

_FORMATS = "Valid are an AnnData, and the path of an .h5ad file or a .zarr store."


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

    def matrix(self, layer: str | None, use_raw: bool) -> RowMatrix:
        """Open one matrix, the same whenever asked; `InputError` names those that there are.

        Examples
        --------
        >>> import anndata as ad
        >>> import numpy as np
        >>> from hdeepinsight.data import open_store
        >>> open_store(ad.AnnData(np.ones((3, 2)))).matrix(None, use_raw=False).shape
        (3, 2)
        """
        name = slot_name(layer, use_raw)
        if name not in self.slots:
            raise InputError(
                f"The data holds no {name}.",
                f"It holds: {', '.join(self.slots) or 'no matrix at all'}.",
                "Name one of them with `layer=` (None means X) or `use_raw=True`.",
            )
        if name in self._opened:
            return self._opened[name]
        matrix = self.slots[name]()
        shape = len(self.obs), len(self.genes(use_raw))
        if matrix.shape != shape or matrix.dtype.kind not in "biuf":
            raise InputError(
                f"{name} is {matrix.shape[0]:,} × {matrix.shape[1]:,} of {matrix.dtype}, beside "
                f"{shape[0]:,} cells and {shape[1]:,} genes.",
                "Valid are numbers, one row a cell and one column a gene.",
                "Write the file again from its source.",
            )
        self._opened[name] = matrix
        return matrix

    def genes(self, use_raw: bool) -> pd.DataFrame:
        """Annotation of the genes of the chosen matrix.

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
    """How a matrix is called in reports.

    Examples
    --------
    >>> from hdeepinsight.data._store import slot_name
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


def has_layer(data: DataLike, layer: str) -> bool:
    """Whether an AnnData, or the file at a path, has a layer of that name.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> cells = ad.AnnData(np.ones((3, 2)), layers={"counts": np.ones((3, 2))})
    >>> has_layer(cells, "counts"), has_layer(cells, "spliced")
    (True, False)
    """
    return slot_name(layer) in open_store(data).slots


def _from_anndata(adata: ad.AnnData) -> Store:
    raw = adata.raw
    slots: dict[str, Callable[[], RowMatrix]] = {}
    if adata.X is not None:
        slots["X"] = lambda: wrap(adata.X)
    for name in adata.layers:
        if name is not None:  # newer versions list X among the layers, under the name None
            slots[slot_name(name)] = partial(_layer, adata, name)
    if raw is not None:
        slots[".raw"] = lambda: wrap(raw.X)
    raw_var = None if raw is None else _frame(raw.var)
    return Store(obs=_frame(adata.obs), var=_frame(adata.var), raw_var=raw_var, slots=slots)


def _layer(adata: ad.AnnData, name: str) -> RowMatrix:
    return wrap(adata.layers[name])


def _frame(table: Any) -> pd.DataFrame:
    """Return a table that the caller may extend without touching the user's one."""
    table = table.to_memory() if hasattr(table, "to_memory") else table
    return table.copy(deep=False)


def _from_path(path: Path) -> Store:
    group = group_opener(path)
    with group() as root, _readable(path):
        missing = {"obs", "var"} - set(root)
        if missing:
            raise InputError(
                f"{path} has no {' and no '.join(sorted(missing))}: it is not an AnnData.",
                _FORMATS,
                "Write the file with AnnData.write_h5ad or AnnData.write_zarr.",
            )
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
        msg = f"{at} is a {type(table).__name__}, not a table"
        raise TypeError(msg)
    return table


Opener: TypeAlias = "Callable[[], AbstractContextManager[Any]]"


def _lazy(path: Path, group: Opener, at: str) -> RowMatrix:
    @contextmanager
    def opener() -> Iterator[Any]:
        with group() as root, _readable(path):
            found = root[at]
            yield found if hasattr(found, "shape") else ad.io.sparse_dataset(found)

    with opener() as matrix:
        return wrap(matrix, opener)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever the libraries say of a damaged file into one error."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # what they raise about odd files is open
        text = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"{path} cannot be read as an AnnData ({text}).",
            _FORMATS,
            "Write the file again with AnnData.write_h5ad or AnnData.write_zarr, from its source.",
        ) from error


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
    if not path.exists():
        raise InputError(f"{path} does not exist.", _FORMATS, "Check the path.")
    is_zarr = path.is_dir() or path.suffix == ".zarr"
    opener, check = (_open_zarr, check_zarr) if is_zarr else (_open_h5ad, check_hdf5)
    try:
        with opener(path) as root:
            check(root, path)
    except InputError:
        raise
    except Exception as error:  # what the libraries raise about odd files is open
        raise InputError(
            f"{path} cannot be opened ({error}).", _FORMATS, "Check the file, or write it again."
        ) from error
    return lambda: opener(path)


@contextmanager
def _open_h5ad(path: Path) -> Iterator[Any]:
    import h5py

    with h5py.File(path, "r") as root:
        yield root


@contextmanager
def _open_zarr(path: Path) -> Iterator[Any]:
    import zarr

    yield zarr.open_group(str(path), mode="r")
