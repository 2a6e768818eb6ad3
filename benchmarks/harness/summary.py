"""Means and spreads over seeds, and which of them is really the best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """A figure over seeds.

    Parameters
    ----------
    mean
        Mean over seeds.
    spread
        Largest minus smallest over seeds.
    n
        Number of seeds.
    """

    mean: float
    spread: float
    n: int

    @property
    def half(self) -> float:
        """Half the spread, printed after ±."""
        return self.spread / 2


def summarise(rows: Iterable[dict], key: str) -> Summary | None:
    """Summary of one column, or ``None`` where no row has it."""
    values = [row[key] for row in rows if row.get(key) is not None]
    if not values:
        return None
    return Summary(float(np.mean(values)), float(np.max(values) - np.min(values)), len(values))


def finest(rows: Iterable[dict]) -> list[dict]:
    """Rows of the finest level of each pair; the levels of a run come coarse to fine."""
    rows = list(rows)
    last = {row["pair"]: row["level"] for row in rows}
    return [row for row in rows if row["level"] == last[row["pair"]]]


def less(rows: Iterable[dict], base: Iterable[dict], key: str, same: Sequence[str]) -> list[dict]:
    """Rows with their `key` less that of the base row with the same fields; others are left out."""
    known = {tuple(row[name] for name in same): row[key] for row in base}
    places = ((row, tuple(row[name] for name in same)) for row in rows)
    return [{**row, key: row[key] - known[place]} for row, place in places if place in known]


def mean_over(rows: Iterable[dict], key: str, pairs: Sequence[str]) -> Summary | None:
    """Mean over `pairs`, summarised over the seeds that were run on all of them.

    Rows are those of one method and one level a pair; ``None`` where no seed has every pair.
    """
    by_seed: dict[int, dict[str, float]] = {}
    for row in rows:
        if row.get(key) is not None:
            by_seed.setdefault(row["seed"], {})[row["pair"]] = row[key]
    complete = [found for found in by_seed.values() if set(found) >= set(pairs)]
    return summarise([{key: np.mean([f[pair] for pair in pairs])} for f in complete], key)


def means(rows: Iterable[dict], methods: Sequence[str]) -> dict[str, dict[str, Summary | None]]:
    """Mean finest macro-F1 over the pairs that all methods were run on, and over all pairs.

    Returns
    -------
    For each title of a column the summaries by method; the second column only where it differs.
    """
    rows = [row for row in finest(rows) if row["method"] in methods]
    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    run = {(row["method"], row["pair"]) for row in rows}
    shared = [p for p in pairs if all((m, p) in run for m in methods)]
    return {
        f"mean of {len(over)}": {
            m: mean_over([row for row in rows if row["method"] == m], "macro_f1", over)
            for m in methods
        }
        for over in (shared, pairs)
        if over
    }


def clear_best(
    summaries: dict[str, Summary | None], *, lower_is_better: bool = False
) -> str | None:
    """Name of the best, if its lead is more than the spread of it and of the runner-up.

    Notes
    -----
    A single seed has no spread, so nothing is marked. Seeds that agree say nothing about the luck
    of the cells, so a lead of 0.005 is asked for in any case.
    """
    known = {name: s for name, s in summaries.items() if s is not None}
    order = sorted(known, key=lambda name: known[name].mean, reverse=not lower_is_better)
    if len(order) < 2:
        return None
    first, second = known[order[0]], known[order[1]]
    lead = abs(first.mean - second.mean)
    if min(first.n, second.n) < 2:
        return None
    return order[0] if lead > max(first.spread, second.spread, 0.005) else None
