"""``manifest.json``: which files make a model, their sizes and their checksums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hdeepinsight.models._file._errors import ModelFileError
from hdeepinsight.models._file._json import dump_json, parse_json
from hdeepinsight.models._file._seal import SHA256_SIGNS

__all__ = ["MANIFEST_FILE", "MODEL_FILES", "REFERENCE_FILES", "Manifest", "Part"]

MANIFEST_FILE: Final = "manifest.json"
#: Files of each format; the first one says which format a folder has.
MODEL_FILES: Final = {"torch": ("model.pt",), "safetensors": ("model.json", "model.safetensors")}
REFERENCE_FILES: Final = ("adata.h5ad", "mdata.h5mu")
_KIND, _VERSION = "hdeepinsight.manifest", 1
_MOST_BYTES = 16 * 2**10


@dataclass(frozen=True)
class Part:
    """Size and SHA-256 of a file."""

    n_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Parts of a model, by the names of their files without any prefix."""

    parts: Mapping[str, Part]

    @property
    def format(self) -> str:
        """Which format the model has."""
        return next(kind for kind, files in MODEL_FILES.items() if files[0] in self.parts)

    def dump(self) -> bytes:
        """Content of the file."""
        parts = {
            name: {"bytes": part.n_bytes, "sha256": part.sha256}
            for name, part in sorted(self.parts.items())
        }
        return dump_json({"format": _KIND, "container_version": _VERSION, "parts": parts})

    @classmethod
    def parse(cls, content: bytes, name: object) -> Manifest:
        """Read what :meth:`dump` wrote.

        Raises
        ------
        ModelFileError
            If it is damaged, or lists anything but the files of one model.
        """
        if len(content) > _MOST_BYTES:
            raise _invalid(name, f"{len(content):,} bytes")
        listed = parse_json(content, name, _KIND, _VERSION).get("parts")
        if not isinstance(listed, dict):
            raise _invalid(name, "no list of parts")
        parts = {key: _part(key, value, name) for key, value in listed.items()}
        model = set(parts) - set(REFERENCE_FILES)
        if not any(model == set(files) for files in MODEL_FILES.values()):
            raise _invalid(name, f"the parts {', '.join(map(repr, sorted(parts)))[:200]}")
        return cls(parts)


def _part(key: str, value: object, name: object) -> Part:
    if isinstance(value, dict) and value.keys() == {"bytes", "sha256"}:
        n_bytes, digest = value["bytes"], value["sha256"]
        if type(n_bytes) is int and isinstance(digest, str) and len(digest) == SHA256_SIGNS:
            return Part(n_bytes, digest)
    raise _invalid(name, f"no size and checksum for {key[:80]!r}")


def _invalid(name: object, found: str) -> ModelFileError:
    formats = " or ".join(" and ".join(files) for files in MODEL_FILES.values())
    return ModelFileError(
        f"{name} is no list of the files of a model: it holds {found}. Valid is {formats}, and at "
        f"most one of {' and '.join(REFERENCE_FILES)}. Copy or download the model again."
    )
