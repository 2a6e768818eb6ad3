"""The door for data: ``.h5ad`` files and ``.zarr`` stores."""

import json
import shutil
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from hdeepinsight.data import InputError, open_counts
from surfaces.dice import Dice
from surfaces.guard import Violation, scratch, watched

#: Never to be seen in any count: what a link to another file would lead to.
_SECRET = 7919.0
_OPTIONS = ({}, {"layer": "dense"}, {"layer": "csc"}, {"use_raw": True})
_SHAPES = ((5, 4), (4, 5), (5,), (), (0, 4), (5, 0), (10**6, 4), (5, 10**12), (10**12, 10**12))
_TYPES = ("f4", "f8", "i4", "i8", "u1", "u8", "?", "f2", "c8", ">f4", "S3", "i2")
_TEXTS = (
    "csr_matrix", "csc_matrix", "array", "dataframe", "dict", "categorical", "string-array",
    "nullable-integer", "awkward-array", "rec-array", "numeric-scalar", "0.1.0", "0.2.0", "9", "",
    "_index", "kind", "../X", "/", "\ud7ff", "null", "raw",
)  # fmt: skip
_NUMBERS = (-1, 0, 1, 2, 3, 4, 5, 6, 20, 2**31 - 1, 2**31, 2**40, -(2**63), 2**63 - 1)


def _sound() -> ad.AnnData:
    counts = np.array([[0, 3, 0, 1], [2, 0, 0, 0], [0, 0, 0, 0], [1, 1, 4, 9], [0, 0, 2, 0]])
    obs = pd.DataFrame({"kind": pd.Categorical(list("ababa"))}, index=[f"c{i}" for i in range(5)])
    var = pd.DataFrame(index=["CD3D", "NKG7", "MS4A1", "LYZ"])
    adata = ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)
    adata.layers["dense"] = counts.astype(np.float32)
    adata.layers["csc"] = sparse.csc_matrix(counts)
    adata.raw = adata
    return adata


@cache
def _file() -> bytes:
    path = scratch() / "sound.h5ad"
    _sound().write_h5ad(path)
    with h5py.File(scratch() / "secret.h5", "w") as file:
        file["X"] = np.full((5, 4), _SECRET)
    return path.read_bytes()


@cache
def _store(version: int) -> Path:
    path = scratch() / f"sound{version}.zarr"
    with ad.settings.override(zarr_write_format=version):
        _sound().write_zarr(path)
    return path


def h5ad_bytes(data: bytes) -> None:
    """Any bytes as a file, or a sound file with a few bytes changed."""
    warm_up()
    dice = Dice(data)
    options = dice.pick(_OPTIONS)
    path = scratch() / "query.h5ad"
    path.write_bytes(dice.edited(_file()) if dice.number(4) else dice.rest())
    _read(path, options)


def h5ad_structure(data: bytes) -> None:
    """A file that HDF5 reads, in which shapes, types, indices, links or attributes are strange."""
    warm_up()
    dice = Dice(data)
    options = dice.pick(_OPTIONS)
    path = scratch() / "query.h5ad"
    path.write_bytes(_file())
    with h5py.File(path, "r+") as file:
        for _ in range(1 + dice.number(3)):
            with suppress(Exception):  # what HDF5 refuses to write
                _edit(file, dice)
    _read(path, options)


def zarr_structure(data: bytes) -> None:
    """A store whose metadata, or pieces, are strange."""
    warm_up()
    dice = Dice(data)
    options = dice.pick(_OPTIONS)
    sound, path = _store(2 + dice.number(2)), scratch() / "query.zarr"
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(sound, path)
    (path / ".zmetadata").unlink(missing_ok=True)
    for _ in range(1 + dice.number(3)):
        file = dice.pick(sorted(p for p in path.rglob("*") if p.is_file()))
        if dice.number(3) and file.name.startswith((".z", "zarr.json")):
            with suppress(ValueError):  # no JSON any more, after an earlier change
                file.write_text(json.dumps(_surgery(json.loads(file.read_bytes()), dice)))
        elif dice.number(2):
            file.write_bytes(dice.edited(file.read_bytes()))
        else:
            file.unlink()
    _read(path, options)


def _read(path: Path, options: dict) -> None:
    watched(lambda: _counts(path, **options), (InputError,))


def _counts(path: Path, **options: object) -> None:
    source = open_counts(path, scale="as_is", **options)
    genes = list(dict.fromkeys(source.var_names))
    if not genes:
        return
    for _, counts in source.chunks(source.align(genes, min_coverage=0.0), 3):
        if (counts.toarray() == _SECRET).any():
            raise Violation("another file was read")


def _edit(file: h5py.File, dice: Dice) -> None:
    places: list[str] = []
    file.visit(places.append)
    at = dice.pick(places)
    found = file.get(at)
    how = dice.number(8)
    if found is None or how == 0:
        _link(file, at, dice)
    elif how in (1, 2):
        _attribute(found, dice)
    elif isinstance(found, h5py.Dataset) and how in (3, 4, 5) and found.shape and found.size:
        place = tuple(dice.number(n) for n in found.shape)
        if found.dtype.kind in "iuf":
            value = dice.pick(_NUMBERS)
            found[place] = np.array(value).astype(found.dtype)
        else:
            found[place] = dice.pick(_TEXTS)
    elif isinstance(found, h5py.Dataset):
        _replace(file, at, dice)
    else:
        del file[at]


def _link(file: h5py.File, at: str, dice: Dice) -> None:
    if at in file:
        del file[at]
    how = dice.number(5)
    if how == 0:
        file[at] = h5py.ExternalLink(dice.pick(("secret.h5", "/etc/passwd", "")), "X")
    elif how == 1:
        file[at] = h5py.SoftLink(dice.pick(("/", "/obs", "/X", "/nowhere", f"/{at}")))
    elif how == 2:
        file[at] = file[dice.pick(("/", "/obs", "/var"))]
    elif how == 3:
        outside = str(scratch() / "secret.h5")
        file.create_dataset(at, shape=(5, 4), dtype="f8", external=[(outside, 2048, 160)])
    else:
        layout = h5py.VirtualLayout(shape=(5, 4), dtype="f8")
        layout[:] = h5py.VirtualSource(str(scratch() / "secret.h5"), "X", shape=(5, 4))
        file.create_virtual_dataset(at, layout)
        file[at].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def _attribute(found: h5py.Group | h5py.Dataset, dice: Dice) -> None:
    names = [*found.attrs, "shape", "encoding-type"]
    name = dice.pick(names)
    how = dice.number(5)
    if how == 0:
        found.attrs.pop(name, None)
    elif how == 1:
        found.attrs[name] = dice.pick(_TEXTS)
    elif how == 2:
        found.attrs[name] = [dice.pick(_TEXTS), dice.pick(_TEXTS)]
    elif how == 3:
        found.attrs[name] = np.array([dice.pick(_NUMBERS), dice.pick(_NUMBERS)])
    else:
        found.attrs[name] = dice.pick(_NUMBERS)


def _replace(file: h5py.File, at: str, dice: Dice) -> None:
    """Put a dataset of another shape or type in the place of one; nothing is written to it."""
    attributes = dict(file[at].attrs)
    del file[at]
    shape, kind = dice.pick(_SHAPES), dice.pick(_TYPES)
    how = dice.number(3)
    chunks = tuple(min(n, 10**3) or 1 for n in shape) if how and shape else None
    size = int(np.prod([float(n) for n in shape]))
    if chunks is None and size > 10**7:
        shape = (5, 4)
    packed = {"compression": "gzip"} if how == 2 and chunks else {}
    maxshape = {"maxshape": tuple(None for _ in shape)} if chunks else {}
    file.create_dataset(at, shape=shape, dtype=kind, chunks=chunks, **packed, **maxshape)
    file[at].attrs.update(attributes)


def _surgery(value: object, dice: Dice) -> object:
    strange = (
        *_NUMBERS, *_TEXTS, None, True, [], {}, [5, 4], [10**12, 10**12], [1, 1], "NaN", "<f8",
        "|O", {"id": "pickle"}, [{"id": "vlen-utf8"}, {"id": "pickle"}], [{"id": "zlib"}],
        {"name": "numcodecs.pickle"}, [{"name": "bytes"}], {"id": "blosc"}, "float64", "string",
    )  # fmt: skip
    if not isinstance(value, dict | list) or not value or dice.number(4) == 0:
        return dice.pick(strange)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = dice.pick(keys)
    if dice.number(6) == 0:
        del value[key]
    else:
        value[key] = _surgery(value[key], dice)
    return value


@cache
def warm_up() -> None:
    """Read every kind of file once: what the libraries import at first use is no fault here."""
    _file()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of formats that zarr or anndata are about to change
        for path in (scratch() / "sound.h5ad", _store(2), _store(3)):
            for options in _OPTIONS:
                _counts(path, **options)
