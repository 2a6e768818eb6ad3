"""Write, parse and verify the list of checksums that is published with a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hdeepinsight._io import read_bounded, sha256
from hdeepinsight.hub._address import CARD_FILE, CHECKSUMS_FILE
from hdeepinsight.hub._errors import ChecksumError, HubError

#: Maximum size of a card, a list of checksums or another text file.
MAX_TEXT_BYTES: Final = 4 * 2**20

_PIN = "sha256:"
_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64}) [ *](?P<name>\S[^\r\n]*)")
_SAFE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
#: Names that are reserved on some systems, or used for unfinished downloads.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)|.*(\.|\.part)$", re.IGNORECASE)
_HEADER = re.compile(r"# (?P<n>\d{1,3}) files of a model of hdeepinsight")
_ADVICE = "Nothing was loaded. Pull the model again; if the error persists, tell its publisher."


def read_text_file(path: Path) -> bytes:
    """Read a card, a list of checksums or another text file of a model.

    Raises
    ------
    HubError
        If it is not a regular file, or larger than 4 MB.
    """
    try:
        return read_bounded(path, MAX_TEXT_BYTES)
    except OSError as error:
        found = f"{path} cannot be read ({error.strerror})"
        expected = f"a regular file of at most {MAX_TEXT_BYTES:,} bytes in published models"
        raise HubError(
            f"{found}. It must be {expected}; load_model() reads others. {_ADVICE}"
        ) from None


def is_safe_name(name: str) -> bool:
    r"""Return whether a relative file name cannot leave its folder.

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
    """Write the checksums of all files except the card, in the format of ``sha256sum``.

    The card may be edited on the website of the hub. The first line, a comment for ``sha256sum``,
    has the number of files, so that truncated lists are detected.

    Returns
    -------
    Checksums by file name.
    """
    paths = (path for path in sorted(folder.iterdir()) if path.name != CARD_FILE)
    listed = {path.name: sha256(path) for path in paths}
    lines = [f"{digest}  {name}\n" for name, digest in listed.items()]
    text = "".join([f"# {len(listed)} files of a model of hdeepinsight\n", *lines])
    (folder / CHECKSUMS_FILE).write_bytes(text.encode())
    return listed


def parse_checksums(checksums: bytes, *, source: object) -> dict[str, str]:
    """Parse a list of checksums.

    Parameters
    ----------
    checksums
        Content of the file.
    source
        Address of the model, for error messages.

    Returns
    -------
    Checksums by file name.

    Raises
    ------
    ChecksumError
        If the list is truncated, a line is invalid, or a file name would leave the folder.
    """
    head, *lines = checksums.decode("utf-8", errors="replace").split("\n")
    header = _HEADER.fullmatch(head)
    if header is None or int(header["n"]) != len(lines) - 1 or lines[-1]:
        raise ChecksumError(f"{CHECKSUMS_FILE} of {source} is not complete. {_ADVICE}")
    listed: dict[str, str] = {}
    taken: set[str] = set()
    for line in lines[:-1]:
        match = _LINE.fullmatch(line)
        name = match["name"].lower() if match else ""
        folders = {name[:at] for at, letter in enumerate(name) if letter == "/"}
        inside = any(other.startswith(f"{name}/") for other in taken)
        if not match or not is_safe_name(name) or {name, *folders} & taken or inside:
            found = f"{CHECKSUMS_FILE} of {source} holds the line {line[:80]!r}"
            expected = "a SHA-256 and a plain file name that no other line has as a file or folder"
            raise ChecksumError(f"{found}, expected {expected}. {_ADVICE}")
        listed[match["name"]] = match["sha256"]
        taken.add(name)
    return listed


def verify_folder(folder: Path, listed: Mapping[str, str], *, source: object) -> None:
    """Compare the files of a folder with their checksums.

    Raises
    ------
    ChecksumError
        If files are missing or differ.
    """
    wrong = [
        f"{name} {'not as published' if (folder / name).is_file() else 'missing'}"
        for name, digest in listed.items()
        if not (folder / name).is_file() or sha256(folder / name) != digest
    ]
    if wrong:
        found = f"The files of {source} in {folder} do not have the published checksums"
        raise ChecksumError(f"{found}: {', '.join(wrong[:5])}. {_ADVICE}")


def pinned_digest(revision: str | None) -> str | None:
    """Return the digest in a revision such as ``"sha256:1f..."``, or ``None``."""
    return revision.removeprefix(_PIN) if revision and revision.startswith(_PIN) else None


def check_revision(
    checksums: bytes, revision: str | None, source: object, subfolder: str = ""
) -> str:
    """Compare a model with the requested revision.

    Buckets and folders have no commits. Their revision is the digest of the list of checksums, or
    the name of a subfolder.

    Parameters
    ----------
    checksums
        Content of the list of checksums.
    revision
        Requested revision.
    source
        Address of the model.
    subfolder
        Name of the subfolder that contains it.

    Returns
    -------
    The digest, ``"sha256:..."``.

    Raises
    ------
    ChecksumError
        If the model has another revision.
    """
    digest = sha256(checksums)
    requested = pinned_digest(revision) or revision
    is_prefix = requested and len(requested) >= 12 and digest.startswith(requested)
    if not requested or requested == subfolder or is_prefix:
        return f"{_PIN}{digest}"
    raise ChecksumError(
        f"Revision {revision!r} of {source} was requested, but its revision is {_PIN}{digest}. "
        "Pass this or the name of a subfolder, or omit revision to use it."
    )
