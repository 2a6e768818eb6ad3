"""Fetch the files of a model: resumed where it broke off, bounded, and checked before use."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hdeepinsight._io import sha256 as file_sha256
from hdeepinsight.hub._errors import ChecksumError, HubError
from hdeepinsight.hub._hub_source import Transient
from hdeepinsight.hub._manifest import (
    CARD_FILE,
    CHECKSUMS_FILE,
    METADATA_FILE,
    parse_checksums,
)
from hdeepinsight.hub._sources import RemoteFile, Source

__all__ = ["MAX_BYTES", "Patience", "fetch_files", "patiently"]

#: Most bytes of a model, all files together: what is larger is not a model of ours.
MAX_BYTES = 5 * 2**30
_MOST_BYTES_OF_TEXT = 4 * 2**20
_UNCHECKED = (METADATA_FILE, "model.pt", "adata.h5ad", "mdata.h5mu")

Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Patience:
    """How long to go on with a place that fails or is slow.

    Parameters
    ----------
    attempts
        Failures in a row, without a byte in between, after which to give up.
    pause
        Seconds before the second attempt; they double from then on, up to ``longest_pause``.
    longest_pause
        Most seconds to wait, also where the server asks for more.
    window, least
        A transfer is taken for stalled when ``window`` seconds bring fewer than ``least`` bytes.
    """

    attempts: int = 5
    pause: float = 0.5
    longest_pause: float = 30.0
    window: float = 30.0
    least: int = 16 * 2**10

    def before(self, attempt: int, asked: float | None) -> float | None:
        """Seconds to wait before an attempt; ``None`` when it is better to give up."""
        if attempt >= self.attempts or (asked is not None and asked > self.longest_pause):
            return None
        own = min(self.pause * 2.0 ** (attempt - 1), self.longest_pause)
        return own if asked is None else max(own, asked)


def patiently(ask: Callable[[], Answer]) -> Answer:
    """Ask again where a place says that it is busy or out of order.

    Where nobody answers at all, nobody is asked again: that is rarely over in seconds.
    """
    patience, attempt = Patience(), 0
    while True:
        try:
            return ask()
        except Transient as error:
            attempt += 1
            wait = patience.before(attempt, error.wait)
            if wait is None or error.status is None:
                raise
            time.sleep(wait)


def fetch_files(
    source: Source,
    folder: Path,
    *,
    max_bytes: int = MAX_BYTES,
    verify: bool = True,
    patience: Patience | None = None,
) -> None:
    """Bring every file of a model into a folder, and check them.

    Files that are there already are kept if their checksum is right, and continued where they are
    shorter than they should be.

    Parameters
    ----------
    source
        Place to fetch from.
    folder
        Folder for the files; what was fetched stays there when something fails.
    max_bytes
        Most bytes of all files together.
    verify
        Refuse a place without a list of checksums.
    patience
        When to give up.

    Raises
    ------
    ChecksumError
        If the files are not as published; a differing one is removed, to be fetched anew.
    HubError
        If the place gives up, or offers more than ``max_bytes``.
    """
    patience = patience or Patience()
    there = source.files()
    wanted, listed = _choose(source, folder, there, patience, verify)
    total = sum(there[name].size for name in wanted)
    if total > max_bytes:
        msg = (
            f"{source.address} holds {total / 2**20:,.0f} MB, and {max_bytes / 2**20:,.0f} MB are "
            "accepted. Nothing was fetched. Raise max_bytes if you trust it."
        )
        raise HubError(msg)
    for name in wanted:
        sha256 = listed.get(name) or there[name].sha256
        _fetch(source, there[name], folder / name, sha256, patience)


def _choose(
    source: Source, folder: Path, there: dict[str, RemoteFile], patience: Patience, verify: bool
) -> tuple[list[str], dict[str, str]]:
    """Names to fetch, and their checksums: what the list names, never what a server offers."""
    if CHECKSUMS_FILE in there:
        checksums = there[CHECKSUMS_FILE]
        _check_text(source, checksums)
        (folder / CHECKSUMS_FILE).unlink(missing_ok=True)
        _fetch(source, checksums, folder / CHECKSUMS_FILE, checksums.sha256, patience)
        text = (folder / CHECKSUMS_FILE).read_bytes()
        listed = parse_checksums(text, source=str(source.address))
    elif verify:
        msg = (
            f"{source.address} has no {CHECKSUMS_FILE}, so what it holds cannot be checked. Valid "
            "is what hdi.hub.publish wrote. Publish it again, or pass verify=False if you trust it."
        )
        raise ChecksumError(msg)
    else:
        listed = {}
    missing = [name for name in listed if name not in there]
    if missing:
        msg = (
            f"{source.address} is incomplete: {', '.join(missing[:5])} is listed but not there. "
            "It may be being published right now. Try again in a minute, or ask its publisher."
        )
        raise HubError(msg)
    if CARD_FILE in there:
        _check_text(source, there[CARD_FILE])
    names = dict.fromkeys((*listed, *(() if listed else _UNCHECKED), CARD_FILE))
    return [name for name in names if name in there], listed


def _check_text(source: Source, file: RemoteFile) -> None:
    if file.size > _MOST_BYTES_OF_TEXT:
        msg = (
            f"{file.name} of {source.address} has {file.size:,} bytes; valid are at most "
            f"{_MOST_BYTES_OF_TEXT:,}. Nothing was fetched; this is no model of ours."
        )
        raise HubError(msg)


def _fetch(
    source: Source, file: RemoteFile, path: Path, sha256: str | None, patience: Patience
) -> None:
    """Bring one file here, in as many pieces as it takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and sha256 is not None and file_sha256(path) == sha256:
        return
    path.unlink(missing_ok=True)
    part = path.with_name(f"{path.name}.part")
    attempt = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _append(source, file, part, patience)
            break
        except Transient as error:
            arrived = part.stat().st_size if part.exists() else 0
            attempt = 1 if arrived > before else attempt + 1
            wait = patience.before(attempt, error.wait)
            if wait is None:
                raise HubError(str(error)) from None
            logger.info("Trying %s of %s again in %.1f s", file.name, source.address, wait)
            time.sleep(wait)
    if sha256 is not None and file_sha256(part) != sha256:
        part.unlink()
        msg = (
            f"{file.name} of {source.address} arrived with another checksum than it was published "
            "with, so it was thrown away. Pull the model again; if it happens again, the place or "
            "something on the way changes files."
        )
        raise ChecksumError(msg)
    os.replace(part, path)


def _append(source: Source, file: RemoteFile, part: Path, patience: Patience) -> None:
    """Continue a file where it broke off; ``Transient`` when it is not complete afterwards."""
    start = part.stat().st_size if part.exists() else 0
    if start == file.size and part.exists():
        return
    if start > file.size:
        start = 0
    with source.open(file.name, start) as body, part.open("r+b" if start else "wb") as out:
        out.seek(body.start)
        out.truncate()
        room = file.size - body.start
        enough = _pace(patience)
        for chunk in body.chunks:
            room -= len(chunk)
            if room < 0:
                raise _too_long(source, file)
            out.write(chunk)
            enough(source, file, len(chunk))
    if room:
        msg = (
            f"{file.name} of {source.address} broke off {room:,} bytes before its end. Try again; "
            "what has arrived is kept."
        )
        raise Transient(msg)


def _pace(patience: Patience) -> Callable[[Source, RemoteFile, int], None]:
    """Watch that bytes keep coming: some servers send one at a time, for ever."""
    started, arrived = time.monotonic(), 0

    def check(source: Source, file: RemoteFile, n_bytes: int) -> None:
        nonlocal started, arrived
        arrived += n_bytes
        if time.monotonic() - started < patience.window:
            return
        if arrived < patience.least:
            msg = (
                f"{file.name} of {source.address} came too slowly ({arrived:,} bytes in "
                f"{patience.window:.0f} s). Try again later, or use a mirror "
                "(HDEEPINSIGHT_MIRROR); what has arrived is kept."
            )
            raise HubError(msg)
        started, arrived = time.monotonic(), 0

    return check


def _too_long(source: Source, file: RemoteFile) -> HubError:
    return HubError(
        f"{file.name} of {source.address} is longer than the {file.size:,} bytes that were "
        "announced, so it was not taken. Try again; if it happens again, use another place."
    )
