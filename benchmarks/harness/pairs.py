"""The file that lists reference → query pairs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Cells:
    """Which cells of which file: ``where`` maps an obs column to the values that are kept."""

    file: str
    where: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Pair:
    """A labelled reference, a query from elsewhere, and how the query is scored."""

    name: str
    reference: Cells
    query: Cells
    levels: tuple[str, ...]
    batch_key: str | None = None
    ignore_labels: tuple[str, ...] = ()
    min_reference_cells: int = 5
    job: str = ""

    @classmethod
    def from_dict(cls, entry: dict) -> Pair:
        """Build a pair from one entry of the file; unknown and missing keys are errors."""
        required = {"name", "reference", "query", "levels"}
        missing, unknown = required - set(entry), set(entry) - set(cls.__dataclass_fields__)
        if missing or unknown:
            raise ValueError(
                f"pair {entry.get('name', '?')!r} lacks {sorted(missing)} and has the unknown keys "
                f"{sorted(unknown)}. A pair has {sorted(required)} and may have "
                f"{sorted(set(cls.__dataclass_fields__) - required)}. Correct the pairs file."
            )
        return cls(
            **{
                **entry,
                "reference": Cells(**entry["reference"]),
                "query": Cells(**entry["query"]),
                "levels": tuple(entry["levels"]),
                "ignore_labels": tuple(entry.get("ignore_labels", ())),
            }
        )

    def to_dict(self) -> dict:
        """Plain JSON types."""
        return asdict(self)


def read_pairs(path: Path, only: Iterable[str] | None = None) -> list[Pair]:
    """Read the pairs of a JSON file, all of them or those named in `only`."""
    pairs = [Pair.from_dict(entry) for entry in json.loads(Path(path).read_text())]
    names = [pair.name for pair in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} repeats a pair name among {names}. Give every pair its own name.")
    unknown = sorted(set(only or ()) - set(names))
    if unknown:
        raise ValueError(f"{path} has no pair {unknown}. It has {names}. Name some of those.")
    return [pair for pair in pairs if only is None or pair.name in set(only)]
