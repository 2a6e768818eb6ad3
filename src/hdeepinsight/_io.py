"""Write files atomically, read files of bounded size, and escape control characters."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BLOCK = 2**20
_SHOWN_CONTROLS = "\t\n"


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` if the block succeeds.

    After an error, ``path`` has its old content. The result may be a file or a folder. If ``path``
    is a link, its target is replaced.

    Raises
    ------
    IsADirectoryError
        If the result is a file, but ``path`` is a folder.

    Parameters
    ----------
    path
        File or folder to write; missing parent folders are created.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     with atomic_write(Path(folder) / "table.csv") as unfinished:
    ...         _ = unfinished.write_text("a,b")
    ...     (Path(folder) / "table.csv").read_text()
    'a,b'
    """
    path = Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=".unfinished-"))
    unfinished = folder / path.name
    try:
        yield unfinished
        if unfinished.is_file():
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
        if path.is_dir() and not unfinished.is_dir():
            found = f"The output must be a file, got {path}, which is a folder."
            raise IsADirectoryError(f"{found} Pass the path of a file in it.")
        if unfinished.is_dir():  # a rename replaces files only by files
            remove(path)
        unfinished.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a file or a folder if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_bounded(path: str | os.PathLike[str], limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes.

    Raises
    ------
    OSError
        If it is larger, or not a regular file, such as a pipe or a device. Reading never blocks,
        and never takes more than ``limit + 1`` bytes of memory.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(handle, "rb") as file:
        kind = os.fstat(file.fileno())
        if stat.S_ISDIR(kind.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(kind.st_mode):
            raise OSError(errno.EINVAL, "It is not a regular file", str(path))
        content = b""
        if kind.st_size <= limit:
            content = file.read(kind.st_size + 1)  # allocated at once
            while len(content) <= limit and (more := file.read(min(_BLOCK, limit + 1))):
                content += more
        if kind.st_size > limit or len(content) > limit:
            raise OSError(errno.EFBIG, f"It is larger than {limit:,} bytes", str(path))
    return content


def sha256(content: bytes | memoryview | Path) -> str:
    """Return the hexadecimal SHA-256 of bytes, or of the file at a path."""
    if not isinstance(content, Path):
        return hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256()
    with content.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


_CONTROLS = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)


def escape_controls(text: object) -> str:
    r"""Escape control and direction characters in a text, except newlines and tabs.

    Examples
    --------
    >>> escape_controls("CD4\x1b[2J T")
    'CD4\\x1b[2J T'
    """
    return _CONTROLS.sub(
        lambda found: found[0] if found[0] in _SHOWN_CONTROLS else ascii(found[0])[1:-1], str(text)
    )


def plain_form(text: str) -> str:
    """Normalise a text so that texts that look alike are equal: NFKC, whitespace and case.

    Examples
    --------
    >>> plain_form("B ") == plain_form("b") == plain_form("B\u200b")
    True
    """
    visible = _CONTROLS.sub("", unicodedata.normalize("NFKC", text))
    return " ".join(visible.split()).casefold()
