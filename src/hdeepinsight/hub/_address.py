"""Parse addresses of models, and find the bundled models, the cache and the hub."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote

CARD_FILE: Final = "README.md"
CHECKSUMS_FILE: Final = "checksums.sha256"

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"(?:hf://)?({_PART}/{_PART})")
_BUCKET = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/.*[^/])/*")
#: The part before the first slash is a host name.
_FILE = re.compile(r"file://(?:localhost)?(/.*)", re.DOTALL)


@dataclass(frozen=True)
class Address:
    """Address of a model.

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
        """Parse an address.

        Parameters
        ----------
        text
            ``"owner/name"`` or ``"hf://owner/name"`` (a hub), ``"s3://bucket/path"``, or a folder:
            a `Path`, ``"file:///..."``, or text that starts with ``/``, ``.`` or ``~``. The
            interpretation never depends on the content of the working directory.

        Raises
        ------
        ValueError
            If the address is invalid.
        """
        path = text.strip() if isinstance(text, str) else os.fspath(text)
        is_path = not isinstance(text, str) or path.startswith(("/", ".", "~"))
        if file := _FILE.fullmatch(path):
            path, is_path = unquote(file[1]), True
        if is_path or Path(path).is_absolute():
            with suppress(RuntimeError, ValueError):  # an unknown home folder, or a null byte
                return cls("folder", str(Path(path).expanduser().absolute()))
        elif (bucket := _BUCKET.fullmatch(path)) and ".." not in path.split("/"):
            return cls("s3", bucket[1])
        elif (found := _REPOSITORY.fullmatch(path)) and not re.search(r"\.\.|--", path):
            return cls("hub", found[1])
        hint = "Write local folders as './folder', or pass a pathlib.Path."
        name, _, revision = path.partition("@")
        if revision and (found := _REPOSITORY.fullmatch(name)):
            hint = f"Pass {found[1]!r}, and revision={revision!r}."
        elif path.startswith(("http://", "https://")):
            hint = "Pass 'owner/name', and set HF_ENDPOINT for hubs other than huggingface.co."
        raise ValueError(
            f"{str(text)!r} is not the address of a model. It must be 'owner/name' on the hub, "
            "'s3://bucket/path', 'file:///folder', or a folder that starts with '/', './' or '~'. "
            f"{hint}"
        )

    def __str__(self) -> str:
        if self.kind == "folder":
            return Path(self.place).as_uri()
        return f"s3://{self.place}" if self.kind == "s3" else self.place


def cache_folder() -> Path:
    """Return the folder of downloaded models: ``HDEEPINSIGHT_CACHE``, or one in the user's cache.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> hdi.hub.cache_folder()  # doctest: +SKIP
    PosixPath('/home/me/.cache/hdeepinsight')
    """
    if named := os.environ.get("HDEEPINSIGHT_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hdeepinsight"


def is_offline() -> bool:
    """Return whether ``HF_HUB_OFFLINE`` is set."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in {"1", "on", "yes", "true"}


def hub_endpoint() -> str:
    """Return the address of the hub: ``HF_ENDPOINT``, or huggingface.co."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
