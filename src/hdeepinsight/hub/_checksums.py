"""The list of checksums that is published with a model, and the names that it may hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hdeepinsight._io import read_bounded, sha256
from hdeepinsight.hub._address import CARD_FILE, CHECKSUMS_FILE
from hdeepinsight.hub._errors import ChecksumError, HubError

#: Most bytes of a card, a list of checksums or another description: more is not one of ours.
MOST_BYTES_OF_TEXT: Final = 4 * 2**20

_PIN = "sha256:"
_LINE = re.compile(r"(?P<sha256>[0-9a-f]{64}) [ *](?P<name>\S[^\r\n]*)")
_SAFE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")
#: Names that mean something else on some system, and those of unfinished downloads here.
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)|.*(\.|\.part)$", re.IGNORECASE)
_HEADER = re.compile(r"# (?P<n>\d{1,3}) files of a model of hdeepinsight")
_WHAT_TO_DO = "Nothing was loaded. Pull the model again; if it stays so, tell whoever published it."


def read_text_file(path: Path) -> bytes:
    """Read a card, a list of checksums or another description of a model.

    Raises
    ------
    HubError
        If it is not a regular file, or larger than 4 MB; no more than that is ever read.
    """
    try:
        return read_bounded(path, MOST_BYTES_OF_TEXT)
    except OSError as error:
        most = f"a regular file of at most {MOST_BYTES_OF_TEXT:,} bytes"
        found = f"{path} cannot be read ({error.strerror}). A published model has it as {most}"
        raise HubError(f"{found}; load_model() reads other ones. {_WHAT_TO_DO}") from None


def is_safe_name(name: str) -> bool:
    r"""Return whether a file name from elsewhere stays inside the folder that it is put into.

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

    The card may be corrected on the hub's web page. The first line, a comment to ``sha256sum``, has
    the number of files: a list that was cut off between two lines would otherwise look like a
    shorter one.

    Returns
    -------
    Checksum of every file name.
    """
    paths = (path for path in sorted(folder.iterdir()) if path.name != CARD_FILE)
    listed = {path.name: sha256(path) for path in paths}
    lines = [f"{digest}  {name}\n" for name, digest in listed.items()]
    text = "".join([f"# {len(listed)} files of a model of hdeepinsight\n", *lines])
    (folder / CHECKSUMS_FILE).write_bytes(text.encode())
    return listed


def parse_checksums(checksums: bytes, *, source: object) -> dict[str, str]:
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
        If it was cut off, a line is not one of a list, or a file name would leave the folder.
    """
    head, *lines = checksums.decode("utf-8", errors="replace").split("\n")
    header = _HEADER.fullmatch(head)
    if header is None or int(header["n"]) != len(lines) - 1 or lines[-1]:
        raise ChecksumError(f"{CHECKSUMS_FILE} of {source} is not complete. {_WHAT_TO_DO}")
    listed: dict[str, str] = {}
    taken: set[str] = set()
    for line in lines[:-1]:
        match = _LINE.fullmatch(line)
        name = match["name"].lower() if match else ""
        folders = {name[:at] for at, sign in enumerate(name) if sign == "/"}
        inside = any(other.startswith(f"{name}/") for other in taken)
        if not match or not is_safe_name(name) or {name, *folders} & taken or inside:
            found = f"{CHECKSUMS_FILE} of {source} holds the line {line[:80]!r}"
            valid = "a SHA-256 and a plain file name that no other line has as a file or folder"
            raise ChecksumError(f"{found}: not {valid}. {_WHAT_TO_DO}")
        listed[match["name"]] = match["sha256"]
        taken.add(name)
    return listed


def verify_folder(folder: Path, listed: Mapping[str, str], *, source: object) -> None:
    """Compare the files of a folder with their checksums.

    Raises
    ------
    ChecksumError
        Naming the files that are missing or differ.
    """
    wrong = [
        f"{name} {'not as published' if (folder / name).is_file() else 'missing'}"
        for name, digest in listed.items()
        if not (folder / name).is_file() or sha256(folder / name) != digest
    ]
    if wrong:
        found = f"The files of {source} in {folder} do not have the checksums that were published"
        raise ChecksumError(f"{found} with them: {', '.join(wrong[:5])}. {_WHAT_TO_DO}")


def pinned_digest(revision: str | None) -> str | None:
    """Return the digest that a revision such as ``"sha256:1f..."`` asks for, if it is one."""
    return revision.removeprefix(_PIN) if revision and revision.startswith(_PIN) else None


def check_revision(checksums: bytes, revision: str | None, source: object, inside: str = "") -> str:
    """Compare what is there with the revision that was asked for.

    Buckets and folders have no commits: their revision is the digest of the list of checksums,
    which stands for all that it lists, or the name of a folder inside them.

    Parameters
    ----------
    checksums
        Content of the list of checksums.
    revision
        What was asked for.
    source
        Where it was found.
    inside
        Name of the folder inside that holds it.

    Returns
    -------
    The digest, ``"sha256:..."``.

    Raises
    ------
    ChecksumError
        If another revision is there.
    """
    digest = sha256(checksums)
    wanted = pinned_digest(revision) or revision
    if not wanted or wanted == inside or (len(wanted) >= 12 and digest.startswith(wanted)):
        return f"{_PIN}{digest}"
    found = f"Revision {revision!r} of {source} was asked for, but {_PIN}{digest} is there"
    how = "Pass that one or the name of a folder inside, or omit revision to take what is there."
    raise ChecksumError(f"{found}. {how}")
