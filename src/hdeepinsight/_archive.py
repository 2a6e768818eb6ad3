"""Read and write plain types and tensors as a PyTorch archive, without executing code.

Archives are read within bounds of size and depth, and end with a checksum of their content.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from sys import intern
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import torch

from hdeepinsight._io import sha256

UNFIT = "Its settings or weights do not match the model class"
_MAX_NESTING, _MAX_DIMENSIONS = 64, 16


class ModelFileError(ValueError):
    """File that is not a model of this package, or is damaged."""


def damaged(name: object, found: object) -> ModelFileError:
    """Return the error for a damaged model file."""
    reason = (str(found).strip() or type(found).__name__).splitlines()[0].split(". ")[0][:300]
    return ModelFileError(
        f"{name} is damaged: {reason.rstrip('.')}. Copy or download the model again."
    )


@contextmanager
def damaged_if_unfit(name: object) -> Iterator[None]:
    """Raise `ModelFileError` if a model class cannot be built from the settings and weights."""
    try:
        yield
    except (TypeError, LookupError, ValueError, AttributeError, RuntimeError) as error:
        raise damaged(name, f"{UNFIT} ({' '.join(str(error).split())})") from None


def refused(name: object, found: object) -> ModelFileError:
    """Return the error for a file that is not in the format of model files."""
    return ModelFileError(
        f"{name} is refused: found {str(found)[:200]}. Model files contain only plain types and "
        "tensors; anything else could run code or exhaust memory. Train and save the model again."
    )


def to_plain(value: Any) -> Any:
    """Convert a value to plain types and tensors.

    Arrays of numbers become tensors, arrays of text become lists, and DataFrames become mappings
    that :func:`frame_from_plain` converts back. Tensors are moved to the CPU.

    Raises
    ------
    TypeError
        If the value contains other types.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {intern(str(key)): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        is_text = value.dtype.kind in "OUS"
        return to_plain(value.tolist()) if is_text else torch.from_numpy(value.copy())
    if isinstance(value, pd.DataFrame):
        index = {"index": value.index.tolist(), "name": value.index.name}
        values = value.to_numpy(dtype=float).tolist()
        return to_plain({"__dataframe__": value.columns.tolist(), **index, "values": values})
    if isinstance(value, torch.Tensor):
        # A copy, because torch.save writes the whole storage of a view.
        return value.detach().cpu().contiguous().clone()
    if isinstance(value, str):
        return intern(str(value))  # equal strings are one object, so equal models have equal bytes
    if value is None or isinstance(value, int | float | bool):
        return value
    raise TypeError(f"A {type(value).__name__} cannot be saved with a model; use plain types.")


def frame_from_plain(value: Mapping[str, Any]) -> pd.DataFrame:
    """Convert a mapping from :func:`to_plain` back to a DataFrame."""
    index = pd.Index(value["index"], name=value["name"])
    return pd.DataFrame(value["values"], index=index, columns=value["__dataframe__"])


def check_plain(payload: Any, name: object) -> dict[str, Any]:
    """Raise an error unless the payload has the types that :func:`to_plain` returns.

    A container that occurs twice raises an error too, because nested repetitions could expand a
    few bytes beyond any memory.
    """
    if type(payload) is not dict:
        raise damaged(name, f"It holds a {type(payload).__name__}, not a model")
    seen: set[int] = set()
    waiting: list[tuple[Any, int]] = [(payload, 0)]
    while waiting:
        value, depth = waiting.pop()
        if value is None or type(value) in (bool, int, float, str, torch.Tensor):
            continue
        if type(value) not in (dict, list):
            raise refused(name, f"a {type(value).__name__}")
        if depth > _MAX_NESTING or id(value) in seen:
            found = f"values nested more than {_MAX_NESTING} deep, or one container in two places"
            raise refused(name, found)
        if type(value) is dict and not all(type(key) is str for key in value):
            raise refused(name, "a mapping whose keys are not text")
        seen.add(id(value))
        waiting.extend((v, depth + 1) for v in (value if type(value) is list else value.values()))
    return payload


#: Prefix and length of the digest in the archive comment, which zip readers ignore.
_MARK, _DIGITS = b"hdeepinsight sha256 ", 64


def append_digest(content: bytes) -> bytes:
    """Append the SHA-256 of the preceding bytes as the archive comment."""
    content = content[:-2] + (len(_MARK) + _DIGITS).to_bytes(2, "little") + _MARK
    return content + sha256(content).encode()


def dump(payload: Mapping[str, Any]) -> bytes:
    """Return the bytes of a file that ``torch.load(..., weights_only=True)`` can read.

    Parameters
    ----------
    payload
        Nested mappings and sequences of plain types, tensors, arrays and DataFrames.
    """
    buffer = io.BytesIO()  # torch would replace the OSError of a full disk
    torch.save({**to_plain(payload), "sealed": True}, buffer)
    content = buffer.getvalue()
    if content[-22:-18] != b"PK\5\6":
        raise RuntimeError("PyTorch wrote an archive with an unknown ending. Report this error.")
    return append_digest(content)


def parse(content: bytes, name: object) -> dict[str, Any]:
    """Parse the content of a file written by :func:`dump`, without executing code.

    Parameters
    ----------
    content
        Content of the file.
    name
        Path of the file, for error messages.

    Returns
    -------
    The payload, in plain types and with tensors on the CPU.

    Raises
    ------
    ModelFileError
        If it is damaged, or contains other than plain types and tensors.
    """
    has_digest = content[-_DIGITS - len(_MARK) : -_DIGITS] == _MARK
    if has_digest and sha256(memoryview(content)[:-_DIGITS]).encode() != content[-_DIGITS:]:
        raise damaged(name, "Its content does not match its checksum")
    check_pickle(content, name)
    try:
        with warnings.catch_warnings(action="ignore"):  # the error is sufficient
            payload = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - torch raises any exception for damaged files
        raise damaged(name, error) from None
    payload = check_plain(payload, name)
    if payload.pop("sealed", False) and not has_digest:
        raise damaged(name, "Its checksum is missing")
    return payload


_INSIDE = r"data\.pkl|data/\d{1,9}|byteorder|version|\.(format_version|storage_alignment|data/\w+)"
_ENTRY = re.compile(rf"([^/\\]+)/({_INSIDE})")
#: Instructions that torch.save writes, followed by three with which other pickles name callables.
_INSTRUCTIONS = b"\x80.(N\x88\x89JKM\x8aGX\x8c}])t\x85\x86\x87aesuqrhjcQR\x93\x94\x95"
_BYTES = {"Double": 8, "Long": 8, "Float": 4, "Int": 4, "Half": 2, "BFloat16": 2, "Short": 2}
_BYTES |= {"Char": 1, "Byte": 1, "Bool": 1}


def _check_tensor(*arguments: Any) -> None:
    """Raise an error if a tensor is larger than its storage."""
    storage, offset, size, stride, _, hooks = arguments
    numbers = (storage, offset, *size, *stride)
    if hooks or len(size) > _MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("A tensor has an impossible shape")
    n_elements = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if n_elements and max(n_elements, last + 1) > storage:
        raise ValueError(f"A tensor declares {n_elements:,} elements but stores {storage:,}")


#: Allowed global names: storages with the bytes per element, and callables.
_NAMES: dict[tuple[str, str], Any] = {("torch", f"{k}Storage"): n for k, n in _BYTES.items()}
_NAMES["torch._utils", "_rebuild_tensor_v2"] = _check_tensor
_NAMES["collections", "OrderedDict"] = lambda: {}


class _ForeignError(Exception):
    """Content that model files never have."""


class _Instructions(dict[int, Any]):
    def __missing__(self, code: int) -> NoReturn:
        raise _ForeignError(f"objects of other types (pickle instruction {bytes([code])!r})")


class _SizeChecker(pickle._Unpickler):
    """Interpret a pickle as PyTorch does, but check declared sizes instead of building tensors."""

    dispatch = _Instructions((code, pickle._Unpickler.dispatch[code]) for code in _INSTRUCTIONS)
    sizes: Mapping[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise _ForeignError(f"{module}.{name}")
        return _NAMES[module, name]

    def persistent_load(self, pid: Any) -> int:
        match pid:
            case ("storage", int(n_bytes), str(key), str(), int(n_elements)):
                found, declared = self.sizes.get(f"data/{key}"), n_elements * n_bytes
                if declared == found:
                    return n_elements
                raise ValueError(f"A storage declares {declared:,} bytes but has {found}")
        raise ValueError("It refers to an object that is not a storage")


def check_pickle(content: bytes, name: object) -> None:
    """Raise an error for a file that would run code in PyTorch or exceed its own size in memory.

    ``weights_only=True`` prevents code execution, but does not check sizes: a storage that declares
    more elements than its record has bytes is read past its end, and a compressed archive can
    expand to any size.

    Raises
    ------
    ModelFileError
        If the file has unexpected content or sizes.
    """
    try:
        if not content.startswith(b"PK\3\4"):
            raise _ForeignError("no archive of PyTorch")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            top = archive.namelist()[0].partition("/")[0]
            sizes = _entry_sizes(archive.infolist(), top, len(content))
            checker = _SizeChecker(io.BytesIO(archive.read(f"{top}/data.pkl")))
        checker.sizes = sizes
        checker.load()
    except _ForeignError as error:
        raise refused(name, error) from None
    except Exception as error:  # noqa: BLE001 - damaged archives raise any exception
        raise damaged(name, error) from None


def _entry_sizes(entries: list[zipfile.ZipInfo], top: str, n_bytes: int) -> dict[str, int]:
    """Return the size of each entry by its name in the archive."""
    sizes: dict[str, int] = {}
    for entry in entries:
        match = _ENTRY.fullmatch(entry.filename)
        if not match or match[1] != top or top == ".." or match[2] in sizes:
            raise _ForeignError(f"a file named {entry.filename[:80]!r} in its archive")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise _ForeignError(f"a compressed file of {entry.file_size:,} bytes in its archive")
        sizes[match[2]] = entry.file_size
    if sum(sizes.values()) > n_bytes:
        raise _ForeignError(
            f"entries of {sum(sizes.values()):,} bytes in an archive of {n_bytes:,} bytes"
        )
    return sizes
