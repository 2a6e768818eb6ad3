"""The list of checksums that is published with a model, and the names that it may hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from hdeepinsight._io import sha256
from hdeepinsight.hub._errors import ChecksumError

__all__ = [
    "CARD_FILE",
    "CHECKSUMS_FILE",
    "METADATA_FILE",
    "UNLISTED",
    "digest_of",
    "is_safe_name",
    "parse_checksums",
    "verify_folder",
    "write_checksums",
]

CARD_FILE: Final = "README.md"
CHECKSUMS_FILE: Final = "checksums.sha256"
METADATA_FILE: Final = "_scvi_required_metadata.json"
#: The card may be corrected on the hub's web page, so its checksum is not listed.
UNLISTED: Final = (CARD_FILE, CHECKSUMS_FILE)

_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64}) [ *](?P<name>\S[^\r\n]*)")
_SAFE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
#: Names that mean something else on some system, and those of unfinished downloads here.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)|.*(\.|\.part)$", re.IGNORECASE)
_HEADER = re.compile(r"# (?P<n>\d{1,4}) files of a model of hdeepinsight")
_MOST_FILES = 1000


def is_safe_name(name: str) -> bool:
    r"""Whether a file name from elsewhere stays inside the folder that it is put into.

    Examples
    --------
    >>> names = ("model.pt", "a/b.json", "../up", "/etc/x", r"a\b", ".x")
    >>> [is_safe_name(name) for name in names]
    [True, True, False, False, False, False]
    """
    parts = name.split("/")
    return len(parts) <= 4 and all(
        _SAFE_PART.fullmatch(part) and not _RESERVED.match(part) for part in parts
    )


def write_checksums(folder: Path) -> dict[str, str]:
    """List the checksum of every file but the card, in the format of ``sha256sum``.

    The first line, a comment to ``sha256sum``, has the number of files: a list that was cut off
    between two lines would otherwise look like a shorter one.

    Returns
    -------
    Checksum of every file name.
    """
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).as_posix() not in UNLISTED
    )
    listed = {name: sha256(folder / name) for name in names}
    lines = [f"{digest}  {name}\n" for name, digest in listed.items()]
    text = "".join([f"# {len(names)} files of a model of hdeepinsight\n", *lines]).encode()
    (folder / CHECKSUMS_FILE).write_bytes(text)
    return listed


def digest_of(checksums: bytes) -> str:
    """SHA-256 of a list of checksums, which stands for all that it lists."""
    return sha256(checksums)


def parse_checksums(checksums: bytes, *, source: str) -> dict[str, str]:
    """Read a list of checksums.

    Parameters
    ----------
    checksums
        Content of the file.
    source
        Where it came from, for the error.

    Returns
    -------
    Checksum of every file name.

    Raises
    ------
    ChecksumError
        If a line is none, or a file name would leave the folder.
    """
    head, *lines = checksums.decode("utf-8", errors="replace").split("\n")
    header = _HEADER.fullmatch(head)
    if header is None or int(header["n"]) != len(lines) - 1 or lines[-1]:
        msg = (
            f"{CHECKSUMS_FILE} of {source} is not complete. Nothing was loaded. Pull the model "
            "again; if it happens again, ask whoever published it."
        )
        raise ChecksumError(msg)
    listed: dict[str, str] = {}
    taken: set[str] = set()
    for line in lines[:-1]:
        match = _LINE.fullmatch(line)
        if (
            match is None
            or not is_safe_name(match["name"])
            or match["name"].lower() in taken
            or len(listed) >= _MOST_FILES
        ):
            msg = (
                f"{CHECKSUMS_FILE} of {source} holds the line {line[:80]!r}. Valid are a SHA-256 "
                f"and a plain file name, each once, at most {_MOST_FILES} times. Nothing was "
                "loaded; ask whoever published it."
            )
            raise ChecksumError(msg)
        listed[match["name"]] = match["sha256"]
        taken.add(match["name"].lower())
    _check_folders(taken, source)
    return listed


def _check_folders(names: set[str], source: str) -> None:
    """Refuse a file that is a folder as well: no system can hold both."""
    folders = {name[:at] for name in names for at, sign in enumerate(name) if sign == "/"}
    both = sorted(folders & names)
    if both:
        msg = (
            f"{CHECKSUMS_FILE} of {source} lists {both[0][:80]!r} as a file and as a folder. Valid "
            "is one of them. Nothing was loaded; ask whoever published it."
        )
        raise ChecksumError(msg)


def verify_folder(
    folder: Path, listed: Mapping[str, str], *, source: str, names: Iterable[str] | None = None
) -> None:
    """Compare the files of a folder with their checksums.

    Raises
    ------
    ChecksumError
        Naming the files that are missing or differ.
    """
    wanted = listed if names is None else {name: listed[name] for name in names}
    missing = [name for name in wanted if not (folder / name).is_file()]
    differing = [
        name
        for name, digest in wanted.items()
        if name not in missing and sha256(folder / name) != digest
    ]
    if not missing and not differing:
        return
    found = "; ".join(
        f"{', '.join(names[:5])} {what}"
        for names, what in ((missing, "missing"), (differing, "not as published"))
        if names
    )
    msg = (
        f"The files of {source} in {folder} do not have the checksums that were published with "
        f"them: {found}. Nothing was loaded. Pull the model again; if it happens again, tell "
        "whoever published it."
    )
    raise ChecksumError(msg)
