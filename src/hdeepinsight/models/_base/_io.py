"""A saved model as data: plain types in one archive, read within bounds and written in one step.

``model.pt`` has the layout of scvi-tools, whose hub fetches it alone, and ends with a checksum of
its own; ``manifest.json`` lists sizes and checksums of all files of the model.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from platform import node
from sys import intern
from typing import Any, NoReturn, TypeAlias

import numpy as np
import pandas as pd
import torch

from hdeepinsight._errors import invalid
from hdeepinsight._io import read_bounded, remove, sha256

MODEL_FILE, MANIFEST_FILE = "model.pt", "manifest.json"
#: Beside the model, and in its place in the format of earlier releases.
REFERENCE_FILES, OLD_FILES = ("adata.h5ad", "mdata.h5mu"), ("model.json", "model.safetensors")
_MAX_MODEL_BYTES, _MAX_MANIFEST_BYTES, _MAX_NESTING, _MAX_DIMENSIONS = 2**32, 2**22, 64, 16
#: What writes each reference to the path that it is given.
Writers: TypeAlias = Mapping[str, Callable[[Path], object]]


class ModelFileError(ValueError):
    """A file that is not a model of ours, or is damaged."""


def damaged(name: object, found: object) -> ModelFileError:
    """Return the error of a file that was a model once."""
    said = (str(found).strip() or type(found).__name__).splitlines()[0].split(". ")[0][:300]
    return ModelFileError(
        f"{name} is damaged: {said.rstrip('.')}. Copy or download the model again."
    )


def refused(name: object, found: object) -> ModelFileError:
    """Return the error of a file that no model of ours looks like."""
    return ModelFileError(
        f"{name} is refused: found {str(found)[:200]}. A model file has plain types and tensors "
        "only; anything else could run code or fill the memory. If you made this file yourself, "
        "and trust it, `hdeepinsight convert --trust OLD NEW` makes a valid one."
    )


def to_plain(value: Any) -> Any:
    """Return plain types and tensors that hold the same information.

    Arrays of numbers become tensors, arrays of text lists; DataFrames become mappings that
    :func:`frame_from_plain` turns back. Tensors come to the CPU.

    Raises
    ------
    TypeError
        If there is something else in it.
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
        # A copy: of a view, all that it is a view of would be written.
        return value.detach().cpu().contiguous().clone()
    if isinstance(value, str):
        return intern(str(value))  # equal text is one object, so equal models are equal bytes
    if value is None or isinstance(value, int | float | bool):
        return value
    raise TypeError(f"A {type(value).__name__} cannot be saved with a model; use plain types.")


def frame_from_plain(value: Mapping[str, Any]) -> pd.DataFrame:
    """Return the DataFrame that :func:`to_plain` took apart."""
    index = pd.Index(value["index"], name=value["name"])
    return pd.DataFrame(value["values"], index=index, columns=value["__dataframe__"])


def check_plain(payload: Any, name: object) -> dict[str, Any]:
    """Refuse what :func:`to_plain` does not make, and what is larger than it looks.

    One container in two places is refused too: a few bytes could stand for more than any memory.
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


#: What is before the digest in the comment of the archive, which every reader of archives skips.
_MARK, _DIGITS = b"hdeepinsight sha256 ", 64


def append_digest(content: bytes) -> bytes:
    """Append the SHA-256 of all bytes before it, as the comment of an archive."""
    content = content[:-2] + (len(_MARK) + _DIGITS).to_bytes(2, "little") + _MARK
    return content + sha256(content).encode()


def dump(payload: Mapping[str, Any]) -> bytes:
    """Return the bytes of a file that ``torch.load(..., weights_only=True)`` reads.

    Parameters
    ----------
    payload
        Nested mappings and sequences of plain types, tensors, arrays and DataFrames.
    """
    buffer = io.BytesIO()  # torch turns the error of a full disk into one of its own
    torch.save({**to_plain(payload), "sealed": True}, buffer)
    content = buffer.getvalue()
    if content[-22:-18] != b"PK\5\6":
        raise RuntimeError("PyTorch wrote an archive that ends as none did before. Report this.")
    return append_digest(content)


def parse(content: bytes, name: object) -> dict[str, Any]:
    """Read what :func:`dump` wrote; nothing in it is ever executed.

    Parameters
    ----------
    content
        The whole file.
    name
        Its path, for the error.

    Returns
    -------
    The payload, in plain types and with tensors on the CPU.

    Raises
    ------
    ModelFileError
        If it is damaged, or holds more than plain types and tensors.
    """
    has_digest = content[-_DIGITS - len(_MARK) : -_DIGITS] == _MARK
    if has_digest and sha256(memoryview(content)[:-_DIGITS]).encode() != content[-_DIGITS:]:
        raise damaged(name, "Its bytes do not have the checksum that was written with them")
    check_pickle(content, name)
    try:
        with warnings.catch_warnings(action="ignore"):  # the error says enough
            payload = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - what torch raises about odd files is open
        raise damaged(name, error) from None
    payload = check_plain(payload, name)
    if payload.pop("sealed", False) and not has_digest:
        raise damaged(name, "Its checksum is missing")
    return payload


_INSIDE = r"data\.pkl|data/\d{1,9}|byteorder|version|\.(format_version|storage_alignment|data/\w+)"
_ENTRY = re.compile(rf"([^/\\]+)/({_INSIDE})")
#: What torch.save writes, and at the end three with which others name what they would run.
_INSTRUCTIONS = b"\x80.(N\x88\x89JKM\x8aGX\x8c}])t\x85\x86\x87aesuqrhjcQR\x93\x94\x95"
_BYTES = {"Double": 8, "Long": 8, "Float": 4, "Int": 4, "Half": 2, "BFloat16": 2, "Short": 2}
_BYTES |= {"Char": 1, "Byte": 1, "Bool": 1}


def _check_tensor(*arguments: Any) -> None:
    """Refuse a tensor that is larger than its storage."""
    storage, offset, size, stride, _, hooks = arguments
    numbers = (storage, offset, *size, *stride)
    if hooks or len(size) > _MAX_DIMENSIONS or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError("A tensor has an impossible shape")
    n_elements = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if n_elements and max(n_elements, last + 1) > storage:
        raise ValueError(f"A tensor declares {n_elements:,} elements where it has {storage:,}")


#: All that may be named: storages, by the bytes of an element, and what is called.
_NAMES: dict[tuple[str, str], Any] = {("torch", f"{k}Storage"): n for k, n in _BYTES.items()}
_NAMES["torch._utils", "_rebuild_tensor_v2"] = _check_tensor
_NAMES["collections", "OrderedDict"] = lambda: {}


class _ForeignError(Exception):
    """Something that no file of ours has."""


class _Instructions(dict[int, Any]):
    def __missing__(self, code: int) -> NoReturn:
        raise _ForeignError(f"objects of other types (pickle instruction {bytes([code])!r})")


class _Follower(pickle._Unpickler):
    """Follow a pickle as PyTorch will, but build no tensor: compare what each one declares."""

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
                raise ValueError(f"It declares {declared:,} bytes where it holds {found}")
        raise ValueError("It refers to something that is not a storage")


def check_pickle(content: bytes, name: object) -> None:
    """Refuse a file that would make PyTorch run code, or take more memory than the file.

    ``weights_only=True`` keeps code out. What it does not check are sizes: a storage that declares
    more elements than its record has bytes is read past its end, and a packed archive unfolds to
    any size.

    Raises
    ------
    ModelFileError
        Naming what was found.
    """
    try:
        if not content.startswith(b"PK\3\4"):
            raise _ForeignError("no archive of PyTorch")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            top = archive.namelist()[0].partition("/")[0]
            sizes = _entry_sizes(archive.infolist(), top, len(content))
            follower = _Follower(io.BytesIO(archive.read(f"{top}/data.pkl")))
        follower.sizes = sizes
        follower.load()
    except _ForeignError as error:
        raise refused(name, error) from None
    except Exception as error:  # noqa: BLE001 - what odd archives raise is open
        raise damaged(name, error) from None


def _entry_sizes(entries: list[zipfile.ZipInfo], top: str, n_bytes: int) -> dict[str, int]:
    """Return the size of every entry by its name inside the folder of the archive."""
    sizes: dict[str, int] = {}
    for entry in entries:
        match = _ENTRY.fullmatch(entry.filename)
        if not match or match[1] != top or top == ".." or match[2] in sizes:
            raise _ForeignError(f"a file named {entry.filename[:80]!r} in its archive")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise _ForeignError(f"a packed file of {entry.file_size:,} bytes in its archive")
        sizes[match[2]] = entry.file_size
    if sum(sizes.values()) > n_bytes:
        raise _ForeignError(f"an archive of {sum(sizes.values()):,} bytes in one of {n_bytes:,}")
    return sizes


def _manifest(parts: Mapping[str, Any]) -> bytes:
    """Return the bytes of the only manifest that lists these sizes and checksums."""
    start = '{\n"format": "hdeepinsight.manifest",\n"container_version": 1,\n"parts": '
    body = f'{start}{json.dumps(parts)},\n"sha256": "'
    return f'{body}{sha256(body.encode())}"\n}}\n'.encode()


@dataclass(frozen=True)
class ModelFolder:
    """A folder with at most one model under each prefix.

    A new model is first written to a hidden folder inside. One rename makes it *the* model,
    whatever happens afterwards: readers look there first. Its files then move to their places one
    by one, and whoever comes next moves what a killed process left.

    Parameters
    ----------
    path
        The folder.
    prefix
        Put before the name of every file.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as name:
    ...     folder = ModelFolder(Path(name))
    ...     folder.write({"model_state_dict": {"bias": torch.zeros(2)}})
    ...     folder.holds_model, folder.read()
    (True, {'model_state_dict': {'bias': tensor([0., 0.])}})
    """

    path: Path
    prefix: str = ""

    def __post_init__(self) -> None:
        if self.prefix and not re.fullmatch(r"[\w.+-]*[\w+-][\w.+-]*", self.prefix):
            hint = "To keep models apart by a path, give another folder."
            raise invalid("prefix", self.prefix, "made of letters, digits and ._+-", hint)

    @property
    def holds_model(self) -> bool:
        """Whether there is a model, whole or not."""
        return any(map(self._find, (MANIFEST_FILE, MODEL_FILE, *OLD_FILES)))

    def file(self, name: str) -> Path:
        """Return where a file of the model belongs."""
        return self.path / f"{self.prefix}{name}"

    def write(self, payload: Mapping[str, Any], references: Writers | None = None) -> None:
        """Replace the model, in one step.

        Parameters
        ----------
        payload
            Nested mappings and sequences of plain types, tensors, arrays and DataFrames.
        references
            What writes ``adata.h5ad`` or ``mdata.h5mu`` to the path that it is given.

        Raises
        ------
        OSError
            If the disk is full or cannot be written. The old model is then untouched.
        TypeError
            If the payload holds something else.
        """
        content, references = dump(payload), references or {}
        if len(content) > _MAX_MODEL_BYTES:
            raise ValueError(f"A model may have {_MAX_MODEL_BYTES:,} bytes; this one has more.")
        start = f".{self.prefix}model-saving-{node()}-"
        self.path.mkdir(parents=True, exist_ok=True)
        for path in self.path.glob(f"{start}*"):
            with suppress(OSError, OverflowError, ValueError):
                try:
                    os.kill(int(path.name.removeprefix(start).partition("-")[0]), 0)
                except ProcessLookupError:  # killed on this machine while it saved
                    remove(path)
        place = self.path / f"{start}{os.getpid()}-{os.urandom(4).hex()}"
        unfinished = ModelFolder(place, self.prefix)
        place.mkdir()
        try:
            unfinished.file(MODEL_FILE).write_bytes(content)
            for name, write in references.items():
                write(unfinished.file(name))
            parts = {n: _part(unfinished.file(n)) for n in sorted([*references, MODEL_FILE])}
            unfinished.file(MANIFEST_FILE).write_bytes(_manifest(parts))
            for path in place.iterdir():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
            _sync_folder(place)
            while place.exists():
                self._settle()  # the files of an earlier model, maybe of another process
                try:
                    place.rename(self._committed)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
            _sync_folder(self.path)
        finally:
            remove(place)
        self._settle()

    def read(self) -> dict[str, Any]:
        """Read the model, with size and checksum verified first; nothing in it is executed.

        Returns
        -------
        The payload, in plain types and with tensors on the CPU.

        Raises
        ------
        ModelFileError
            If there is no model, its files are not as they were written, one of them is a pipe, a
            device or larger than any model, or they hold more than plain types and tensors.
        """
        while True:
            parts = self._parts()
            try:
                part = parts and parts.get(MODEL_FILE)
                limit = min(part["bytes"], _MAX_MODEL_BYTES) if part else _MAX_MODEL_BYTES
                content = self.content(MODEL_FILE, limit) if part or parts is None else None
                found = content and {"bytes": len(content), "sha256": sha256(content)}
                if part and part != found:
                    raise self._not_as_written(MODEL_FILE)
                if content is not None:
                    return parse(content, self.file(MODEL_FILE))
                msg = f"There is no model at {self.path}: that is not a folder with {self.prefix}"
                hint = "Give one that save() wrote; `hdeepinsight convert` reads older formats."
                raise ModelFileError(f"{msg}{MODEL_FILE}. {hint}")
            except ModelFileError:
                if self._parts() == parts:
                    raise  # otherwise another process has saved a new model in the meantime

    def reference(self) -> Path | None:
        """Return the path of the reference that was saved with the model, verified.

        Raises
        ------
        ModelFileError
            If it is not as it was written, or is a pipe or a device.
        """
        parts = self._parts()
        for name in REFERENCE_FILES:
            path, part = self._find(name), parts and parts.get(name)
            if parts is not None and part is None:
                continue
            if path is not None and not path.is_file():
                raise damaged(path, "It is not a regular file")
            if part and not (path and path.stat().st_size == part["bytes"] and _part(path) == part):
                raise self._not_as_written(name)
            if path is not None:
                return path
        return None

    def _parts(self) -> dict[str, Any] | None:
        """Return size and checksum of each file that the manifest lists, where there is one."""
        listed = self.content(MANIFEST_FILE, _MAX_MANIFEST_BYTES)
        if listed is None:
            return None
        with suppress(ValueError, LookupError, TypeError, RecursionError):
            parts = dict(json.loads(listed)["parts"])
            names, types = set(parts), {type(part["bytes"]) for part in parts.values()}
            known = {MODEL_FILE, *OLD_FILES, *REFERENCE_FILES}
            if names <= known and types == {int} and _manifest(parts) == listed:
                return parts
        raise damaged(self.file(MANIFEST_FILE), "It is not the list of a model's files")

    def _not_as_written(self, name: str) -> ModelFileError:
        manifest = f"{self.prefix}{MANIFEST_FILE}"
        found = f"It is missing or not what {manifest} lists (if you replaced it, remove the list)"
        return damaged(self.file(name), found)

    @property
    def _committed(self) -> Path:
        return self.path / f".{self.prefix}model-saved"

    def _places(self, name: str) -> tuple[Path, Path]:
        """Return where a file may be: where it was committed, and where it belongs."""
        return self._committed / f"{self.prefix}{name}", self.file(name)

    def _find(self, name: str) -> Path | None:
        return next(filter(Path.exists, self._places(name)), None)

    def content(self, name: str, limit: int) -> bytes | None:
        """Return the content of a regular file of at most so many bytes."""
        found = f"It is not a regular file of at most {limit:,} bytes"
        for path in self._places(name):
            try:
                return read_bounded(path, limit)
            except OSError as error:
                if error.errno in (errno.EINVAL, errno.EFBIG, errno.ENXIO, errno.ELOOP):
                    raise damaged(path, found) from None
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
                    raise
        return None

    def _settle(self) -> None:
        """Move the files of the model to their places; several processes may do so at once."""
        with suppress(FileNotFoundError):
            for path in sorted(self._committed.iterdir()):
                path.replace(self.path / path.name)
        with suppress(OSError):  # not there, or filled again by another process
            self._committed.rmdir()


def _part(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _sync_folder(path: Path) -> None:
    """Make renames in a folder last, where the system can do so."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
