"""Sealed JSON files: written in one way only, read within bounds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from hdeepinsight.models._file._errors import ModelFileError, first_sentence
from hdeepinsight.models._file._seal import Seal

__all__ = ["MAX_JSON_BYTES", "MAX_NESTING", "dump_json", "parse_json"]

MAX_JSON_BYTES: Final = 256 * 2**20
#: Of what a model file holds, in whatever format.
MAX_NESTING: Final = 64
_SEAL = Seal(b',\n"sha256": "', b'"\n}\n')
#: Text (whose brackets mean nothing), or one bracket. The closing quote is optional: text without
#: one would otherwise be searched to its end from every quote in it.
_TOKEN = re.compile(rb'"(?:[^"\\]+|\\.)*"?|[\[\]{}]', re.DOTALL)


def dump_json(record: Mapping[str, Any]) -> bytes:
    """One key a line, and a checksum of all that as the last one."""
    lines = (f"{json.dumps(key)}: {json.dumps(v, allow_nan=False)}" for key, v in record.items())
    return _SEAL.put_on(("{\n" + ",\n".join(lines)).encode())


def parse_json(content: bytes, name: object, kind: str, version: int) -> dict[str, Any]:
    """Read what :func:`dump_json` wrote.

    Parameters
    ----------
    content
        The whole file.
    name
        Its path, for the error.
    kind
        Its key ``format``.
    version
        Newest ``container_version`` that can be read.

    Raises
    ------
    ModelFileError
        If it is damaged, another kind of file, newer, or nested absurdly.
    """
    if len(content) > MAX_JSON_BYTES:
        raise _invalid(name, f"{len(content):,} bytes, more than {MAX_JSON_BYTES:,}")
    is_sealed = _SEAL.is_on(content, name)
    if _nesting(content) > MAX_NESTING + 2:
        raise _invalid(name, f"values that are nested more than {MAX_NESTING} deep")
    try:
        record = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _invalid(name, f"no JSON ({first_sentence(error)[:-1]})") from None
    found = record.get("format") if isinstance(record, dict) else type(record).__name__
    if not isinstance(record, dict) or found != kind:
        raise _invalid(name, f"{str(found)[:80]!r} instead of {kind!r}")
    written = record.get("container_version")
    if type(written) is int and written > version:
        msg = f"{name} has version {written}; this release reads up to {version}. "
        raise ModelFileError(msg + "Update hdeepinsight.")
    if written != version or not is_sealed:
        raise _invalid(name, "no version or no checksum")
    return record


def _nesting(content: bytes) -> int:
    """Deepest nesting of brackets, found without building anything."""
    depth = deepest = 0
    for token in _TOKEN.finditer(content):
        sign = token[0]
        if sign in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_NESTING + 2:
                break
        elif sign in (b"]", b"}"):
            depth -= 1
    return deepest


def _invalid(name: object, found: str) -> ModelFileError:
    return ModelFileError(
        f"{name} is damaged or of another kind: it holds {found}. Valid is a file that "
        "SCHDeepInsight.save() wrote. Copy or download the model again."
    )
