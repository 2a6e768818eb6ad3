"""Where a model is: a hub, a bucket or a folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

__all__ = ["Address"]

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True)
class Address:
    """Place of one model.

    Parameters
    ----------
    kind
        ``"hub"``, ``"s3"`` or ``"folder"``.
    place
        ``owner/name``, ``bucket/path`` or an absolute path.

    Examples
    --------
    >>> Address.parse("atlas/pbmc")
    Address(kind='hub', place='atlas/pbmc')
    >>> str(Address.parse("s3://lab/models/pbmc/"))
    's3://lab/models/pbmc'
    """

    kind: Literal["hub", "s3", "folder"]
    place: str

    @classmethod
    def parse(cls, text: str | os.PathLike[str]) -> Address:
        """Read an address.

        Parameters
        ----------
        text
            ``"owner/name"`` or ``"hf://owner/name"`` (a hub), ``"s3://bucket/path"``, or a folder:
            a `Path`, ``"file:///..."``, or text that starts with ``/``, ``.`` or ``~``. What is
            in the working directory never changes what an address means.

        Raises
        ------
        ValueError
            If it is none of these.
        """
        if isinstance(text, os.PathLike):
            return cls._folder(os.fspath(text))
        stripped = text.strip()
        if stripped.startswith("file://"):
            return cls._file(stripped)
        if stripped.startswith(("/", ".", "~")) or Path(stripped).is_absolute():
            return cls._folder(stripped)
        if stripped.startswith("s3://"):
            return cls._bucket(stripped)
        repository = stripped.removeprefix("hf://")
        if _REPOSITORY.fullmatch(repository) and ".." not in repository and "--" not in repository:
            return cls("hub", repository)
        raise _not_an_address(text)

    @classmethod
    def _file(cls, text: str) -> Address:
        """Read ``file://``: what stands before the first slash is a machine, never a folder."""
        machine, slash, path = text.removeprefix("file://").partition("/")
        if machine not in ("", "localhost") or not slash:
            raise _not_an_address(text)
        # Not urlsplit, which would drop what follows a "#" or "?" in the name of a folder.
        return cls._folder(unquote(f"/{path}"))

    @classmethod
    def _folder(cls, path: str) -> Address:
        try:
            return cls("folder", str(Path(path).expanduser().absolute()))
        except (RuntimeError, ValueError):  # the home folder of nobody, or a zero byte
            raise _not_an_address(path) from None

    @classmethod
    def _bucket(cls, text: str) -> Address:
        bucket, _, key = text.removeprefix("s3://").partition("/")
        key = key.strip("/")
        if not _BUCKET.fullmatch(bucket) or not key or ".." in key.split("/"):
            raise _not_an_address(text)
        return cls("s3", f"{bucket}/{key}")

    def within(self, *parts: str) -> Address:
        """Address of something inside a bucket or folder."""
        return Address(self.kind, "/".join((self.place.rstrip("/"), *parts)))

    @property
    def path(self) -> Path:
        """The folder, if it is one."""
        return Path(self.place)

    def __str__(self) -> str:
        if self.kind == "folder":
            return self.path.as_uri()
        return f"s3://{self.place}" if self.kind == "s3" else self.place


def _not_an_address(text: object) -> ValueError:
    return ValueError(
        f"{str(text)!r} is no address of a model. Valid are 'owner/name' on the hub, "
        "'s3://bucket/path', 'file:///folder', and folders that start with '/', './' or '~'. "
        "Write a folder here as './folder', or pass a pathlib.Path."
    )
