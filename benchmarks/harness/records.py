"""Result files: lists of flat records that grow row by row and can be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

#: Keys of every accuracy row, in this order; a row may have further ones after them.
ROW_KEYS = (
    "pair",
    "method",
    "kind",
    "seed",
    "level",
    "accuracy",
    "macro_f1",
    "h_f1",
    "ece",
    "train_s",
    "annotate_s",
    "peak_rss_mb",
)


class Records:
    """A JSON list of records on disk, one a line.

    Parameters
    ----------
    path
        The file; it may not exist yet.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.rows = json.loads(self.path.read_text()) if self.path.exists() else []

    def matching(self, **values) -> list[dict]:
        """Rows that have all of the given values."""
        return [row for row in self.rows if _matches(row, values)]

    def replace(self, rows: Iterable[dict], **values) -> None:
        """Put `rows` in the place of those that have the given values, and save."""
        self.rows = [row for row in self.rows if not _matches(row, values)] + list(rows)
        self.save()

    def save(self) -> None:
        """Write to a neighbouring file first, so that a full disk leaves the old one whole."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(row) for row in self.rows)
        draft = self.path.with_suffix(".tmp")
        draft.write_text(f"[\n{lines}\n]\n")
        os.replace(draft, self.path)


def _matches(row: dict, values: dict) -> bool:
    return all(row.get(key) == value for key, value in values.items())


def accuracy_row(scores: dict, *, run: dict, extra: dict | None = None) -> dict:
    """One row in the agreed order of keys, extras last."""
    merged = {**run, **scores, **(extra or {})}
    ordered = {key: merged.pop(key) for key in ROW_KEYS}
    return {**ordered, **{key: value for key, value in merged.items() if value is not None}}
