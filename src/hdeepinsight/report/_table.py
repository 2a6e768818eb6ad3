"""A table of the report: what the page shows and what its machine-readable part holds are one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

__all__ = ["MAX_ROWS", "Column", "Table", "plain"]

#: ``"share"`` is written as percent with a bar, ``"bins"`` (counts of a histogram) as a picture.
Kind = Literal["text", "count", "share", "number", "bins"]

#: More rows than this make a page that nobody reads and that grows with the data.
MAX_ROWS: Final = 1_000


@dataclass(frozen=True)
class Column:
    """One column.

    Parameters
    ----------
    name
        Heading.
    kind
        What its values are, which decides how they are written and sorted.
    """

    name: str
    kind: Kind = "text"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows that can be sorted and, where there are many, filtered.

    Parameters
    ----------
    key
        Name in the machine-readable part, and anchor on the page.
    caption
        What the table shows, in a sentence.
    columns
        The columns; the first one names the row.
    rows
        One tuple a row; ``None`` where there is no value.
    filtered
        Whether the page offers to filter the rows.
    """

    key: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    filtered: bool = False

    @classmethod
    def of(
        cls,
        key: str,
        caption: str,
        columns: Sequence[Column],
        rows: Sequence[tuple[Any, ...]],
        *,
        filtered: bool = False,
        n_rows: int | None = None,
    ) -> Table:
        """Make a table of the first rows, without columns that say nothing in any of them.

        Parameters
        ----------
        key, caption, columns, rows, filtered
            As above.
        n_rows
            How many rows there would be, where the caller made only the first of them.
        """
        n_rows = len(rows) if n_rows is None else n_rows
        if n_rows > MAX_ROWS:
            caption += f" The first {MAX_ROWS:,} of {n_rows:,} are shown."
        said = [i for i in range(len(columns)) if not rows or any(row[i] != "" for row in rows)]
        return cls(
            key=key,
            caption=caption,
            columns=tuple(columns[i] for i in said),
            rows=tuple(tuple(row[i] for i in said) for row in rows[:MAX_ROWS]),
            filtered=filtered,
        )

    def to_dict(self) -> dict[str, Any]:
        """Give caption and rows, each row by the names of its columns."""
        names = [column.name for column in self.columns]
        rows = [dict(zip(names, row, strict=True)) for row in self.rows]
        return {"caption": self.caption, "rows": plain(rows)}


def plain(value: Any) -> Any:
    """Turn a value into what JSON has: numbers that it lacks become ``None``, objects text.

    Examples
    --------
    >>> import numpy as np
    >>> plain({"a": np.float32(0.5), 2: (np.nan, np.int64(3), {"x"})})
    {'a': 0.5, '2': [None, 3, "{'x'}"]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
