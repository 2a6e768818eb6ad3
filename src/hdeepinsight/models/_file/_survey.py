"""A look at a PyTorch file before PyTorch reads it: names, instructions and sizes."""

from __future__ import annotations

import io
import math
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from hdeepinsight.models._file._errors import ModelFileError, damaged, first_sentence

__all__ = ["survey"]

TENSOR: Final = "torch._utils _rebuild_tensor_v2"
HOOKS: Final = "collections OrderedDict"
#: Bytes of an element, by the name that PyTorch writes for it.
STORAGES: Final = {
    "torch DoubleStorage": 8,
    "torch LongStorage": 8,
    "torch FloatStorage": 4,
    "torch IntStorage": 4,
    "torch HalfStorage": 2,
    "torch BFloat16Storage": 2,
    "torch ShortStorage": 2,
    "torch CharStorage": 1,
    "torch ByteStorage": 1,
    "torch BoolStorage": 1,
}
_ENTRY = re.compile(
    r"(?P<top>[^/\\]+)/(data\.pkl|byteorder|version|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id|data/(?P<record>\d{1,9}))"
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"}
_TEXT = {"BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "SHORT_BINSTRING", "BINSTRING", "STRING"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MOST_DIMENSIONS = 16
_CONTAINER = object()


class _Name(NamedTuple):
    name: str


class _Storage(NamedTuple):
    n_elements: int


def survey(content: bytes, name: object) -> None:
    """Refuse a file that would make PyTorch run code, or take more memory than the file.

    ``weights_only=True`` keeps code out. What it does not check are sizes: a storage that declares
    more elements than its record has bytes is read past its end, and a packed archive unfolds to
    any size.

    Parameters
    ----------
    content
        The whole file.
    name
        Its path, for the error.

    Raises
    ------
    ModelFileError
        Naming what was found.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd escapes in names, which are refused
        _survey(content, name)


def _survey(content: bytes, name: object) -> None:
    if not content.startswith(b"PK\3\4"):
        raise _foreign(name, _describe(content))
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            records = _records(archive, len(content), name)
            program = archive.read(records["data.pkl"])
    except (zipfile.BadZipFile, KeyError, OSError, EOFError, ValueError, RuntimeError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise damaged(name, first_sentence(error)) from None
    try:
        for found in _names(program):
            if found not in STORAGES and found not in (TENSOR, HOOKS):
                raise _foreign(name, found.replace(" ", "."))
        _follow(program, {key: info.file_size for key, info in records.items()}, name)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise damaged(name, first_sentence(error)) from None


def _records(archive: zipfile.ZipFile, n_bytes: int, name: object) -> dict[str, zipfile.ZipInfo]:
    """Entries of the archive by their name inside its folder."""
    records: dict[str, zipfile.ZipInfo] = {}
    entries = archive.infolist()
    top = entries[0].filename.split("/")[0] if entries else ""
    for entry in entries:
        match = _ENTRY.fullmatch(entry.filename)
        inside = entry.filename[len(top) + 1 :]
        if match is None or match["top"] != top or top == ".." or inside in records:
            raise _foreign(name, f"a file named {entry.filename[:80]!r} in its archive")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise _foreign(name, f"a packed file of {entry.file_size:,} bytes in its archive")
        records[inside] = entry
    total = sum(entry.file_size for entry in entries)
    if total > n_bytes:
        raise _foreign(name, f"an archive of {total:,} bytes in a file of {n_bytes:,}")
    return records


def _names(program: bytes) -> Iterator[str]:
    """Whatever a pickle would import, as ``"module name"``; stops where it cannot be read."""
    text: list[str] = []
    try:
        for code, value, _ in pickletools.genops(program):
            if code.name in ("GLOBAL", "INST"):
                yield str(value)[:200]
            elif code.name == "STACK_GLOBAL":
                yield " ".join(text[-2:])
            elif code.name in _TEXT:
                text.append(str(value)[:100])
                del text[:-2]
    except ValueError:
        return


def _follow(program: bytes, sizes: Mapping[str, int], name: object) -> None:
    """Go through the pickle as its reader will, but build nothing; check every tensor."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    for code, value, _ in pickletools.genops(program):
        what = code.name
        if what in ("PROTO", "STOP"):
            continue
        if what == "MARK":
            marks.append(len(stack))
        elif what in _CONSTANTS:
            stack.append(_CONSTANTS[what])
        elif what in _VALUES:
            stack.append(value)
        elif what in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append(_CONTAINER)
        elif what in _TUPLES or what == "TUPLE":
            start = marks.pop() if what == "TUPLE" else len(stack) - _TUPLES[what]
            stack[start:] = [tuple(stack[start:])]
        elif what in ("APPENDS", "SETITEMS"):
            del stack[marks.pop() :]
        elif what in ("APPEND", "SETITEM"):
            del stack[-1 if what == "APPEND" else -2 :]
        elif what in ("BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif what in ("BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif what == "GLOBAL":
            stack.append(_Name(str(value)))
        elif what == "BINPERSID":
            stack[-1] = _storage(stack[-1], sizes, name)
        elif what == "REDUCE":
            arguments = stack.pop()
            stack[-1] = _called(stack[-1], arguments, name)
        else:
            raise _foreign(name, f"the pickle instruction {what}")


def _storage(reference: Any, sizes: Mapping[str, int], name: object) -> _Storage:
    kind, element, key, _, n_elements = reference
    if kind != "storage" or type(n_elements) is not int or n_elements < 0:
        raise damaged(name, "It refers to something that is no storage.")
    found, declared = sizes[f"data/{key}"], n_elements * STORAGES[element.name]
    if declared != found:
        raise damaged(name, f"It declares {declared:,} bytes where it holds {found:,}.")
    return _Storage(n_elements)


def _called(function: Any, arguments: Any, name: object) -> Any:
    if function == _Name(HOOKS) and arguments == ():
        return _CONTAINER
    if function != _Name(TENSOR):
        raise _foreign(name, f"a call of {getattr(function, 'name', 'a value')!s}")
    storage, offset, size, stride, needs_gradient, hooks = arguments
    if type(storage) is not _Storage or type(needs_gradient) is not bool or hooks is not _CONTAINER:
        raise damaged(name, "A tensor is not written as tensors are.")
    numbers = (offset, *size, *stride)
    if (
        len(size) != len(stride)
        or len(size) > _MOST_DIMENSIONS
        or not all(type(n) is int and n >= 0 for n in numbers)
    ):
        raise damaged(name, "A tensor has a shape that is none.")
    n_elements = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if n_elements and (n_elements > storage.n_elements or last >= storage.n_elements):
        found = f"A tensor declares {n_elements:,} elements where there are {storage.n_elements:,}."
        raise damaged(name, found)
    return _CONTAINER


def _describe(content: bytes) -> str:
    names = list(_names(content)) if content[:1] == b"\x80" else []
    listed = ", ".join(name.replace(" ", ".") for name in dict.fromkeys(names[:3]))
    return (listed and f"a pickle that names {listed}") or "no archive of PyTorch"


def _foreign(name: object, found: str) -> ModelFileError:
    return ModelFileError(
        f"{name} is refused: found {found[:200]}. Loading it could run code, or exhaust the "
        "memory. Valid are files with plain types and tensors only, as SCHDeepInsight.save() "
        "writes them. If you made this file yourself, and trust it, "
        "`hdeepinsight convert --trust OLD NEW` makes a valid one of it."
    )
