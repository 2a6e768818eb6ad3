"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .summary import Summary


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown table: first column to the left, the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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
