"""Names and paths of taxonomy nodes: what is allowed, and how a path becomes text."""

import difflib
import re
from collections.abc import Iterable, Sequence

Path = tuple[str, ...]
"""The bare names from level 1 down to a node; the root is ``()``."""

SEPARATOR = " > "
"""Joins a path to text. Not a slash: ``Megakaryocytes/platelets`` is a published name."""

ROOT_NAME = "root"
"""Text form of the root's path ``()``, and therefore reserved at level 1."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_SEPARATOR_TOKEN = re.compile(r"(?:^|\s)>(?:\s|$)")
_MAX_COMPARED = 20_000
_MAX_SHOWN = 120


def join_path(path: Sequence[str]) -> str:
    """Text form of a path, e.g. ``"B > B_naive"``; the root gives ``"root"``."""
    return SEPARATOR.join(path) if path else ROOT_NAME


def split_path(text: str) -> Path:
    """Path of a text form; the inverse of `join_path`."""
    return () if text == ROOT_NAME else tuple(text.split(SEPARATOR))


def name_problem(name: object) -> str | None:
    """Say what is wrong with a node name, or None when it may be used."""
    if not isinstance(name, str):
        return f"is of type {type(name).__name__}, not a string"
    if not name.strip():
        return "is empty"
    if _CONTROL.search(name):
        return "has a control character (such as a line break)"
    if _SEPARATOR_TOKEN.search(name):
        return f"has a '>' that stands alone, which is what joins paths ({SEPARATOR!r})"
    return None


def close_matches(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """Known names that resemble `name`, best first, whatever their case."""
    folded: dict[str, str] = {}
    for candidate in known:
        folded.setdefault(candidate.casefold(), candidate)
        if len(folded) >= _MAX_COMPARED:  # difflib is slow, and an error must not take minutes
            break
    return [folded[hit] for hit in difflib.get_close_matches(name.casefold(), folded, n=n)]


def clipped(value: object) -> str:
    """Quote a value for an error message; of a long one, its start."""
    text = repr(value[: 2 * _MAX_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def quoted(names: Iterable[str], limit: int = 10) -> str:
    """Quoted names joined by commas; past `limit` the rest is counted, not listed."""
    listed = list(names)
    text = ", ".join(map(clipped, listed[:limit]))
    return text if len(listed) <= limit else f"{text} and {len(listed) - limit:,} more"
