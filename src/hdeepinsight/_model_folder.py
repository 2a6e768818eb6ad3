"""Save models to folders atomically, and read them back with size limits and checksums.

``model.pt`` has the layout of scvi-tools, whose hub downloads only this file; ``manifest.json``
lists the sizes and checksums of all files of the model.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from platform import node
from typing import Any, TypeAlias

from hdeepinsight._archive import ModelFileError, damaged, dump, parse
from hdeepinsight._errors import invalid
from hdeepinsight._io import read_bounded, remove, sha256

MODEL_FILE, MANIFEST_FILE = "model.pt", "manifest.json"
#: Reference data saved with a model.
REFERENCE_FILES = ("adata.h5ad", "mdata.h5mu")
_MAX_MODEL_BYTES, _MAX_MANIFEST_BYTES = 2**32, 2**22
#: Functions that write the reference files, by name; each takes the path to write to.
Writers: TypeAlias = Mapping[str, Callable[[Path], object]]


def bundled_folders() -> dict[str, Path]:
    """Return the folders of the bundled models, by name.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> sorted(hdi.hub.bundled_folders())
    ['immune', 'pbmc']
    """
    bundled = Path(__file__).parent / "models" / "bundled"
    return {path.parent.name: path.parent for path in sorted(bundled.glob(f"*/{MODEL_FILE}"))}


def _manifest(parts: Mapping[str, Any]) -> bytes:
    """Return the bytes of the manifest with these sizes and checksums."""
    start = '{\n"format": "hdeepinsight.manifest",\n"container_version": 1,\n"parts": '
    body = f'{start}{json.dumps(parts)},\n"sha256": "'
    return f'{body}{sha256(body.encode())}"\n}}\n'.encode()


@dataclass(frozen=True)
class ModelFolder:
    """Folder with at most one saved model per prefix.

    A model is saved in three steps. Its files are written to a hidden subfolder; renaming this
    subfolder commits the model, because readers search there first; the files are then moved to
    their places. If a process is killed, the next one moves the remaining files.

    Parameters
    ----------
    path
        The folder.
    prefix
        Prefix of the file names.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import torch
    >>> from hdeepinsight.models import ModelFolder
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
            hint = "To save models separately, use another folder."
            raise invalid("prefix", self.prefix, "made of letters, digits and ._+-", hint)

    @property
    def holds_model(self) -> bool:
        """Whether the folder contains any file of a model."""
        return any(map(self._find, (MANIFEST_FILE, MODEL_FILE)))

    def file(self, name: str) -> Path:
        """Return the path of a file of the model."""
        return self.path / f"{self.prefix}{name}"

    def write(self, payload: Mapping[str, Any], references: Writers | None = None) -> None:
        """Replace the model atomically, and remove files that only the old model had.

        Parameters
        ----------
        payload
            Nested mappings and sequences of plain types, tensors, arrays and DataFrames.
        references
            Functions that write ``adata.h5ad`` or ``mdata.h5mu`` to a given path.

        Raises
        ------
        OSError
            If the disk is full or cannot be written. The old model is then unchanged.
        TypeError
            If the payload contains other types.
        """
        content, references = dump(payload), references or {}
        if len(content) > _MAX_MODEL_BYTES:
            limit = f"A model must have at most {_MAX_MODEL_BYTES:,} bytes, got {len(content):,}."
            raise ValueError(f"{limit} Save fewer or smaller networks.")
        start = f".{self.prefix}model-saving-{node()}-"
        self.path.mkdir(parents=True, exist_ok=True)
        for path in self.path.glob(f"{start}*"):
            with suppress(OSError, OverflowError, ValueError):
                try:
                    os.kill(int(path.name.removeprefix(start).partition("-")[0]), 0)
                except ProcessLookupError:  # killed on this machine while saving
                    remove(path)
        replaced: set[str] = set()
        with suppress(ModelFileError):  # a damaged manifest does not tell which files to replace
            replaced = set(self._parts() or ())
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
                self._settle()  # files of an earlier model, possibly of another process
                try:
                    place.rename(self._committed)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
            _sync_folder(self.path)
        finally:
            remove(place)
        self._settle()
        with suppress(ModelFileError):
            for name in replaced.difference(self._parts() or parts):  # such as the reference
                remove(self.file(name))

    def read(self) -> dict[str, Any]:
        """Verify size and checksum of the model and read it, without executing code.

        Returns
        -------
        The payload, in plain types and with tensors on the CPU.

        Raises
        ------
        ModelFileError
            If there is no model, a file does not match the manifest, is not a regular file or is
            too large, or contains other than plain types and tensors.
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
                hint = "Pass a folder that save() wrote; hdi.hub.pull downloads published models."
                if named := next(self.path.glob(f"*{MODEL_FILE}"), None):
                    prefix = named.name.removesuffix(MODEL_FILE)
                    hint = f"It holds {named.name}: pass {prefix=} to load(), and use the result."
                raise ModelFileError(
                    f"There is no model at {self.path}: that is not a folder with "
                    f"{self.prefix}{MODEL_FILE}. {hint}"
                )
            except ModelFileError:
                if self._parts() == parts:
                    raise  # unless another process has saved a new model in the meantime

    def reference(self) -> Path | None:
        """Verify the reference that was saved with the model, and return its path.

        Raises
        ------
        ModelFileError
            If it does not match the manifest, or is not a regular file.
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
        """Return the sizes and checksums in the manifest, or ``None`` without a manifest."""
        listed = self.content(MANIFEST_FILE, _MAX_MANIFEST_BYTES)
        if listed is None:
            return None
        with suppress(ValueError, LookupError, TypeError, RecursionError):
            parts = dict(json.loads(listed)["parts"])
            names, types = set(parts), {type(part["bytes"]) for part in parts.values()}
            known = {MODEL_FILE, *REFERENCE_FILES}
            if names <= known and types == {int} and _manifest(parts) == listed:
                return parts
        raise damaged(self.file(MANIFEST_FILE), "It is not the list of files that save() writes")

    def _not_as_written(self, name: str) -> ModelFileError:
        manifest = f"{self.prefix}{MANIFEST_FILE}"
        found = f"It is missing or not what {manifest} lists (if you replaced it, remove the list)"
        return damaged(self.file(name), found)

    @property
    def _committed(self) -> Path:
        return self.path / f".{self.prefix}model-saved"

    def _places(self, name: str) -> tuple[Path, Path]:
        """Return the paths where a file may be: committed, and in its place."""
        return self._committed / f"{self.prefix}{name}", self.file(name)

    def _find(self, name: str) -> Path | None:
        return next(filter(Path.exists, self._places(name)), None)

    def content(self, name: str, limit: int) -> bytes | None:
        """Return the content of a regular file of at most ``limit`` bytes, or ``None``."""
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
        """Move committed files to their places; several processes may do so at once."""
        with suppress(FileNotFoundError):
            for path in sorted(self._committed.iterdir()):
                path.replace(self.path / path.name)
        with suppress(OSError):  # missing, or filled again by another process
            self._committed.rmdir()


def _part(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _sync_folder(path: Path) -> None:
    """Flush renames in a folder to disk, if the system supports it."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
