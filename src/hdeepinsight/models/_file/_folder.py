"""The folder of a model: written in one step, read as one whole.

A new model is first written to a folder of its own inside. One rename then makes it *the* model,
whatever happens afterwards: readers look there first. Its files move to their places one by one,
and whoever comes next moves what a killed process left.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hdeepinsight.models._file._errors import ModelFileError
from hdeepinsight.models._file._manifest import (
    MANIFEST_FILE,
    MODEL_FILES,
    REFERENCE_FILES,
    Manifest,
    Part,
)
from hdeepinsight.models._file._seal import file_sha256, sha256

__all__ = ["ModelFolder"]

_ATTEMPTS = 100


@dataclass(frozen=True)
class ModelFolder:
    """A folder with at most one model under each prefix.

    Parameters
    ----------
    path
        The folder.
    prefix
        Put before the name of every file.
    """

    path: Path
    prefix: str = ""

    def __post_init__(self) -> None:
        if self.prefix and not re.fullmatch(r"[\w.+-]*[\w+-][\w.+-]*", self.prefix):
            msg = (
                f"prefix={self.prefix!r} cannot start the name of a file. Valid are letters, "
                "digits and ._+-; name another folder instead of a path."
            )
            raise ValueError(msg)

    @property
    def holds_model(self) -> bool:
        """Whether there is a model, of whatever format, whole or not."""
        names = (MANIFEST_FILE, *(files[0] for files in MODEL_FILES.values()))
        return any(self._find(name) is not None for name in names)

    def file(self, name: str) -> Path:
        """Where a file of the model belongs."""
        return self.path / f"{self.prefix}{name}"

    def write(
        self,
        parts: Mapping[str, bytes],
        references: Mapping[str, Callable[[Path], None]] | None = None,
    ) -> None:
        """Replace the model, in one step.

        Parameters
        ----------
        parts
            Content of the files of one format.
        references
            What writes ``adata.h5ad`` or ``mdata.h5mu`` to the path that it is given.

        Raises
        ------
        OSError
            If the disk is full or cannot be written. The old model is then untouched.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._sweep()
        unfinished = self._unfinished()
        unfinished.mkdir()
        try:
            listed = {}
            for name, write in (references or {}).items():
                target = unfinished / f"{self.prefix}{name}"
                write(target)
                listed[name] = _synced(target)
            for name, content in parts.items():
                _write(unfinished / f"{self.prefix}{name}", content)
                listed[name] = Part(len(content), sha256(content))
            manifest = Manifest(listed)
            _write(unfinished / f"{self.prefix}{MANIFEST_FILE}", manifest.dump())
            _sync_folder(unfinished)
            replaced = self._files_of_other_formats(manifest)
            self._commit(unfinished)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        self._settle()
        for path, file in replaced.items():
            with contextlib.suppress(OSError):
                if path.stat().st_ino == file:  # not what another process has just saved
                    path.unlink()

    def read(self) -> tuple[str, dict[str, bytes]]:
        """Read the files of the model, with sizes and checksums verified first.

        Returns
        -------
        The format, and the content of each of its files.

        Raises
        ------
        ModelFileError
            If there is no model, or its files are not as they were written.
        """
        for _ in range(_ATTEMPTS):
            before = self._content(MANIFEST_FILE)
            try:
                return self._read(before)
            except ModelFileError:
                if self._content(MANIFEST_FILE) == before:
                    raise  # otherwise another process has saved a new model in the meantime
        raise OSError(errno.EBUSY, self._busy)

    def reference(self) -> Path | None:
        """Return the path of the reference that was saved with the model, verified.

        Raises
        ------
        ModelFileError
            If it is not as it was written.
        """
        content = self._content(MANIFEST_FILE)
        if content is None:
            return next(filter(None, map(self._find, REFERENCE_FILES)), None)
        parts = self._manifest(content).parts
        for name in REFERENCE_FILES:
            if name in parts:
                path = self._find(name)
                if path is None or _file_part(path) != parts[name]:
                    raise self._not_as_written(name, "missing" if path is None else "different")
                return path
        return None

    def _read(self, listed: bytes | None) -> tuple[str, dict[str, bytes]]:
        if listed is None:
            kinds = [kind for kind, files in MODEL_FILES.items() if self._find(files[0])]
            kind, parts = (kinds or ["torch"])[0], {}
        else:
            manifest = self._manifest(listed)
            kind, parts = manifest.format, dict(manifest.parts)
        return kind, {name: self._part(name, parts.get(name)) for name in MODEL_FILES[kind]}

    def _part(self, name: str, part: Part | None) -> bytes:
        """Content of a file; compared with the manifest before anything is parsed."""
        content = self._content(name, None if part is None else part.n_bytes)
        if content is None and part is not None:
            raise self._not_as_written(name, "missing")
        if content is None:
            found = (
                f"{self.path} is a file"
                if self.path.is_file()
                else f"There is no model at {self.path}: it has no file {self.prefix}{name}"
            )
            msg = f"{found}. Valid is a folder written by save(). Check the path."
            raise ModelFileError(msg)
        if part is not None and part != Part(len(content), sha256(content)):
            raise self._not_as_written(name, "different")
        return content

    def _manifest(self, content: bytes) -> Manifest:
        return Manifest.parse(content, self.file(MANIFEST_FILE))

    def _not_as_written(self, name: str, how: str) -> ModelFileError:
        return ModelFileError(
            f"{self.file(name)} is {how}, and not what {self.prefix}{MANIFEST_FILE} lists, so the "
            "model is damaged or incomplete. Copy or download the whole folder again. If you "
            f"replaced the file yourself, remove {self.prefix}{MANIFEST_FILE}."
        )

    @property
    def _busy(self) -> str:
        return f"{self.path} is being written by other processes all the time. Try again."

    @property
    def _committed(self) -> Path:
        return self.path / f".{self.prefix}model-saved"

    def _find(self, name: str) -> Path | None:
        places = (self._committed / f"{self.prefix}{name}", self.file(name))
        return next((path for path in places if path.is_file()), None)

    def _content(self, name: str, n_bytes: int | None = None) -> bytes | None:
        """Content of a file; nothing is read of one that is longer than it should be."""
        for path in (self._committed / f"{self.prefix}{name}", self.file(name)):
            try:
                with path.open("rb") as file:
                    is_longer = n_bytes is not None and os.fstat(file.fileno()).st_size > n_bytes
                    return b"" if is_longer else file.read()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
        return None

    def _unfinished(self) -> Path:
        host, token = _host(), secrets.token_hex(4)
        return self.path / f".{self.prefix}model-saving-{host}-{os.getpid()}-{token}"

    def _sweep(self) -> None:
        """Remove what processes of this machine left that were killed while saving."""
        start = f".{self.prefix}model-saving-{_host()}-"
        for path in self.path.glob(f"{start}*"):
            process = path.name.removeprefix(start).split("-")[0]
            if process.isdecimal() and not _is_running(int(process)):
                shutil.rmtree(path, ignore_errors=True)

    def _commit(self, unfinished: Path) -> None:
        """Make what was written the model. The files of an earlier one are moved first."""
        for _ in range(_ATTEMPTS):
            self._settle()
            try:
                unfinished.rename(self._committed)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                return _sync_folder(self.path)
        raise OSError(errno.EBUSY, self._busy)

    def _settle(self) -> None:
        """Move the files of the model to their places; several processes may do so at once."""
        for path in _listed(self._committed):
            with contextlib.suppress(FileNotFoundError):
                path.replace(self.path / path.name)
        with contextlib.suppress(OSError):  # not there, or filled again by another process
            self._committed.rmdir()

    def _files_of_other_formats(self, manifest: Manifest) -> dict[Path, int]:
        """Files of the model that is replaced which the new one will not overwrite."""
        names = {name for files in MODEL_FILES.values() for name in files} - set(manifest.parts)
        found = {name: self._find(name) for name in names}
        return {self.file(name): path.stat().st_ino for name, path in found.items() if path}


def _listed(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from sorted(folder.iterdir())


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _synced(path: Path) -> Part:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return _file_part(path)


def _file_part(path: Path) -> Part:
    return Part(path.stat().st_size, file_sha256(path))


def _sync_folder(path: Path) -> None:
    """Make renames in a folder last, where the system can do so."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
