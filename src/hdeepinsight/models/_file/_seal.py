"""A checksum that a file carries itself, for when it travels without its manifest."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hdeepinsight.models._file._errors import ModelFileError

__all__ = ["SHA256_SIGNS", "Seal", "file_sha256", "sha256"]

SHA256_SIGNS: Final = 64


def sha256(content: bytes | memoryview) -> str:
    """SHA-256 as hexadecimal text."""
    return hashlib.sha256(content).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, which is not read into memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Seal:
    r"""The end of a file: fixed bytes around the SHA-256 of all bytes before it.

    Parameters
    ----------
    before, after
        Bytes on either side of the checksum. They are part of the format of the file: a comment
        for an archive, a last key for JSON.

    Examples
    --------
    >>> seal = Seal(b" #")
    >>> seal.is_on(seal.put_on(b"weights"), "a file"), seal.is_on(b"weights", "a file")
    (True, False)
    """

    before: bytes
    after: bytes = b""

    @property
    def n_bytes(self) -> int:
        """Length of the seal."""
        return len(self.before) + SHA256_SIGNS + len(self.after)

    def put_on(self, content: bytes) -> bytes:
        """Content with its seal."""
        content += self.before
        return content + sha256(content).encode() + self.after

    def is_on(self, content: bytes, name: object) -> bool:
        """Whether there is a seal.

        Raises
        ------
        ModelFileError
            If there is one, and the content is not what was sealed.
        """
        start = len(content) - self.n_bytes + len(self.before)
        if not content.startswith(self.before, max(0, start - len(self.before))) or (
            not content.endswith(self.after)
        ):
            return False
        sealed, rest = memoryview(content)[:start], content[start : start + SHA256_SIGNS]
        if sha256(sealed).encode() != rest:
            msg = (
                f"{name} is damaged: its bytes do not have the checksum that was written with "
                "them. Nothing was loaded. Copy or download the model again."
            )
            raise ModelFileError(msg)
        return True
