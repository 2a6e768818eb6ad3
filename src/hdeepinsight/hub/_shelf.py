"""Fetched models on disk, by place and revision; a folder appears only when it is complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from hdeepinsight.hub import _settings
from hdeepinsight.hub._address import Address
from hdeepinsight.hub._errors import HubError

__all__ = ["Shelf", "shelves"]

_LOCK_WAIT = 600.0


@dataclass(frozen=True)
class Shelf:
    """Revisions of one model that are here.

    Parameters
    ----------
    address
        Where the model comes from.
    root
        Folder of all models; see `hdeepinsight.hub._settings.cache_folder`.
    """

    address: Address
    root: Path

    @classmethod
    def of(cls, address: Address) -> Shelf:
        """Shelf in the cache of this user."""
        return cls(address, _settings.cache_folder())

    @property
    def folder(self) -> Path:
        """Folder of this model."""
        return self.root / quote(str(self.address), safe="")

    def revision(self, revision: str) -> Path:
        """Folder of a complete revision, whether it is there or not."""
        return self.folder / "revisions" / quote(revision, safe="")

    def has(self, revision: str) -> bool:
        """Whether a revision is here, complete."""
        return self.revision(revision).is_dir()

    def remember(self, name: str | None, revision: str) -> None:
        """Note which revision a branch or tag was; ``None`` is the newest one."""
        path = self._name(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        unfinished.write_text(revision, encoding="utf-8")
        unfinished.replace(path)

    def remembered(self, name: str | None) -> str | None:
        """Revision that a branch, tag, commit or digest was when it was last asked for."""
        if name is not None and self.has(name):
            return name
        path = self._name(name)
        revision = path.read_text(encoding="utf-8") if path.is_file() else None
        return revision if revision is not None and self.has(revision) else None

    def revisions(self) -> list[str]:
        """Complete revisions, first the one that was the newest when it was last asked for.

        No time of a file is looked at: clocks go wrong, and copies have times of their own.
        """
        folders = (self.folder / "revisions").glob("*")
        complete = [path for path in folders if path.is_dir() and path.suffix != ".part"]
        names = sorted(unquote(path.name) for path in complete)
        return sorted(names, key=lambda name: name != self.remembered(None))

    def unfinished(self, revision: str) -> Path:
        """Folder of a revision while it is fetched; what broke off goes on from there."""
        target = self.revision(revision)
        return target.with_name(f"{target.name}.part")

    def complete(self, revision: str) -> None:
        """Make what was fetched the revision."""
        self.unfinished(revision).replace(self.revision(revision))

    @contextmanager
    def alone(self, revision: str) -> Iterator[None]:
        """Keep other processes from fetching the same revision.

        Raises
        ------
        HubError
            If another process does not come to an end.
        """
        from filelock import FileLock, Timeout

        unfinished = self.unfinished(revision)
        unfinished.mkdir(parents=True, exist_ok=True)
        lock = unfinished.with_suffix(".lock")
        try:
            with FileLock(lock, timeout=_LOCK_WAIT):
                yield
        except Timeout:
            msg = (
                f"Another process has been fetching {self.address} for {_LOCK_WAIT:.0f} s. Wait "
                f"for it, or remove {lock} if there is none."
            )
            raise HubError(msg) from None
        finally:
            if self.has(revision):
                shutil.rmtree(unfinished, ignore_errors=True)

    def discard(self, revision: str) -> None:
        """Remove a revision whose files are not as published."""
        shutil.rmtree(self.revision(revision), ignore_errors=True)

    def _name(self, name: str | None) -> Path:
        return self.folder / "names" / quote(name or "newest", safe="")


def shelves() -> list[Shelf]:
    """Every model that has been fetched."""
    root = _settings.cache_folder()
    folders = (folder.parent for folder in sorted(root.glob("*/revisions")))
    every = (Shelf(Address.parse(unquote(folder.name)), root) for folder in folders)
    return [shelf for shelf in every if shelf.revisions()]
