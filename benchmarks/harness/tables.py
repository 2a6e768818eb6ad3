"""Markdown tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from .summary import Summary


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown table: first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def replace_between(page: str, name: str, text: str) -> str:
    """Put `text` between ``<!-- name:begin -->`` and ``<!-- name:end -->`` of a page."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(
            f"the page has {page.count(begin)} begin and {page.count(end)} end marks of {name}. It "
            f"needs one {begin} and one {end}. Put them around the place of the table."
        )
    pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
    return re.sub(pattern, lambda _: f"{begin}\n{text}\n{end}", page, flags=re.DOTALL)


def figure(
    summary: Summary | None, digits: int = 3, *, bold: bool = False, signed: bool = False
) -> str:
    """Mean ± half the spread, or a dash; the spread is left out for a single seed."""
    if summary is None:
        return "–"
    text = f"{summary.mean:{'+' if signed else ''}.{digits}f}"
    if summary.n > 1:
        text += f" ± {summary.half:.{digits}f}"
    return f"**{text}**" if bold else text
