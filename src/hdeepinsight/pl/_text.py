"""Names on pictures: as they are, not too long, and never on top of each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["plain", "shortened", "spread"]


def plain(name: object) -> str:
    """Return a name that matplotlib writes as it is, also with dollar signs (no mathematics)."""
    return str(name).replace("$", r"\$")


def shortened(name: object, longest: int = 36) -> str:
    """Return a plain name with its middle cut out, since names often differ at their ends."""
    text = str(name)
    if len(text) > longest:
        tail = (longest - 1) // 2
        text = f"{text[: longest - 1 - tail]}…{text[-tail:]}"
    return plain(text)


def spread(
    places: Sequence[float] | np.ndarray, gap: float, *, low: float, high: float
) -> np.ndarray:
    """Move places apart by at least a gap, within bounds.

    Parameters
    ----------
    places
        Where names would stand, ``(n,)``.
    gap
        Distance that a name needs; less, where `n` of them do not fit.
    low, high
        Bounds.

    Returns
    -------
    Places ``(n,)`` in the same order, moved up from the lowest, then down from the upper bound.
    """
    order = np.argsort(places, kind="stable")
    moved = np.asarray(places, dtype=np.float64)[order]
    gap = min(gap, (high - low) / max(1, len(moved) - 1))
    for i in range(len(moved)):
        moved[i] = max(moved[i], moved[i - 1] + gap if i else low)
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], moved[i + 1] - gap if i < len(moved) - 1 else high)
    return np.asarray(moved[np.argsort(order)])
