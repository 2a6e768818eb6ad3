"""What every place that models come from can do, and the plainest one: a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hdeepinsight.hub._address import Address
from hdeepinsight.hub._errors import ChecksumError, HubError
from hdeepinsight.hub._manifest import CHECKSUMS_FILE, digest_of

__all__ = ["Body", "FolderSource", "RemoteFile", "Source", "pinned_digest"]

CHUNK = 1 << 20
_PIN = "sha256:"


@dataclass(frozen=True)
class RemoteFile:
    """A file that can be fetched, its size in bytes, and its SHA-256 where the place knows it."""

    name: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class Body:
    """Bytes of a file from ``start`` on; a place may start earlier than it was asked to."""

    start: int
    chunks: Iterator[bytes]


class Source(Protocol):
    """A place at one revision. Every method raises `HubError`, and nothing else, on failure."""

    address: Address
    revision: str

    def files(self) -> dict[str, RemoteFile]:
        """Files by name."""

    def open(self, name: str, start: int) -> AbstractContextManager[Body]:
        """Bytes of a file, from ``start`` on if the place can do that."""


class FolderSource:
    """A folder that somebody published to, or copied a model to."""

    def __init__(self, address: Address, revision: str | None) -> None:
        self.address = address
        folder = address.path
        if revision and not revision.startswith(_PIN) and (folder / revision).is_dir():
            folder = folder / revision
        self.folder = folder
        listed = folder / CHECKSUMS_FILE
        if not listed.is_file():
            there = "holds no" if folder.is_dir() else "is no folder, so there is no"
            msg = (
                f"No published model was found: {folder} {there} {CHECKSUMS_FILE}. Valid is a "
                "folder written by hdi.hub.publish. Check the path; what model.save() wrote is "
                "read by SCHDeepInsight.load()."
            )
            raise HubError(msg)
        self.revision = check_pin(digest_of(listed.read_bytes()), revision, address, folder.name)

    def files(self) -> dict[str, RemoteFile]:
        """Files by name."""
        paths = (path for path in sorted(self.folder.rglob("*")) if path.is_file())
        named = ((path.relative_to(self.folder).as_posix(), path) for path in paths)
        return {name: RemoteFile(name, path.stat().st_size) for name, path in named}

    @contextmanager
    def open(self, name: str, start: int) -> Iterator[Body]:
        """Bytes of a file from ``start`` on."""
        with Path(self.folder / name).open("rb") as file:
            file.seek(start)
            yield Body(start, iter(lambda: file.read(CHUNK), b""))


def pinned_digest(revision: str | None) -> str | None:
    """Digest that a revision such as ``"sha256:1f..."`` asks for; ``None`` for other ones."""
    return revision.removeprefix(_PIN) if revision and revision.startswith(_PIN) else None


def check_pin(digest: str, revision: str | None, address: Address, found_as: str = "") -> str:
    """Compare what is there with the revision that was asked for.

    Buckets and folders have no commits: their revision is the digest of the list of checksums, or
    the name of a folder inside them.

    Raises
    ------
    ChecksumError
        If another revision is there.
    """
    wanted = pinned_digest(revision) or revision
    if not wanted or wanted == found_as or (len(wanted) >= 12 and digest.startswith(wanted)):
        return f"{_PIN}{digest}"
    msg = (
        f"Revision {revision!r} of {address} was asked for, but {_PIN}{digest} is there. Valid is "
        "that one, or the name of a folder inside. Leave revision out to take what is there, or "
        "ask whoever keeps the place for the revision."
    )
    raise ChecksumError(msg)
