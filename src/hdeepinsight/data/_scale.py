"""On which scale are the values? The verdict, its evidence, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.sparse as sp

from hdeepinsight.data._decode import MAX_LOG, Denormalizer
from hdeepinsight.data._errors import InputError
from hdeepinsight.data._matrix import RowMatrix
from hdeepinsight.data._report import Scale
from hdeepinsight.data._scan import Scan

__all__ = ["DO_NEXT", "READY", "VALID", "Verdict", "check_scale", "judge"]

#: Scales that are read without being asked: as they are, or with their counts recovered.
READY: Final = frozenset({"counts", "binary", "log1p_counts"})
VALID: Final = "Valid are raw counts: whole numbers from 0 up."
DO_NEXT: Final[dict[Scale, str]] = {
    "empty": "Pass a matrix that has cells, genes and counts.",
    "scaled": "Pass the matrix as it was before scaling, centring or batch correction.",
    "log1p": "Pass the counts that the values were made from.",
    "normalized": (
        "Pass the raw counts; or scale='recover' to recover them where they can be, or "
        "scale='as_is' to use the values unchanged."
    ),
    "fractional_counts": (
        "Pass the raw counts, or scale='as_is' to use corrected or estimated counts unchanged."
    ),
}

_FEWEST_CELLS = 3  # one or two cells have "the same sum" too easily
_SAME_SUM = 5e-3
_MOSTLY_WHOLE = 0.1  # dividing by the library size leaves hardly a whole number


def check_scale(scale: str, valid: tuple[str, ...]) -> None:
    """Raise ``InputError`` unless a user asks for one of these scales."""
    if scale not in valid:
        options = f"Valid are {', '.join(map(repr, valid))}."
        raise InputError(f"Found scale={scale!r}.", options, "Choose one of them.")


@dataclass(frozen=True)
class Verdict:
    """Scale of a matrix, and why."""

    scale: Scale
    evidence: str


def judge(matrix: RowMatrix, tally: Scan) -> Verdict:
    """Scale of a matrix from the tallies over all of its values and the sampled cells."""
    if 0 in matrix.shape:
        return Verdict("empty", f"there are {matrix.shape[0]} cells × {matrix.shape[1]} genes")
    if tally.high == -np.inf:
        return Verdict("empty", "there are no values but zeros")
    if tally.low < 0:
        text = f"{tally.n_negative:,} values are negative (down to {tally.low:.4g})"
        return Verdict("scaled", text)
    if not tally.all_whole:
        return _judge_fractions(matrix, tally)
    if tally.high == 1:
        return Verdict("binary", "all values are 0 or 1")
    return Verdict("counts", f"all values are whole numbers from 0 to {tally.high:,.0f}")


def _judge_fractions(matrix: RowMatrix, tally: Scan) -> Verdict:
    sample = _finite(sp.vstack(tally.sample, format="csr"))
    n = f"{sample.shape[0]:,} cells"
    logged = Denormalizer("log1p", matrix.dtype, tally.grid).share_solved(sample)
    if logged == 1:
        return Verdict("log1p_counts", _multiples("after expm1, all values", n))
    share_whole = tally.n_whole / tally.n_nonzero
    fractions = f"{1 - share_whole:.1%} of the positive values are no whole numbers"
    if share_whole > _MOSTLY_WHOLE:
        return Verdict("fractional_counts", f"{fractions} (largest value {tally.high:,.4g})")
    if Denormalizer("normalized", matrix.dtype, tally.grid).share_solved(sample) == 1:
        return Verdict("normalized", _multiples("all values", n))
    if tally.high <= MAX_LOG and _same_sums(sample, log=True):
        return _log1p("after expm1 all cells have the same sum", logged, n)
    if _same_sums(sample, log=False):
        return Verdict("normalized", f"all cells have the same sum, and {fractions}")
    if tally.high > MAX_LOG:
        return Verdict("fractional_counts", f"{fractions} (largest value {tally.high:,.4g})")
    return _log1p(f"values are fractions up to {tally.high:.3g}", logged, n)


def _multiples(start: str, n: str) -> str:
    return f"{start} of a cell are whole multiples of one unit (tried on {n})"


def _log1p(start: str, share: float, n: str) -> Verdict:
    missed = f"in {1 - share:.1%} of {n} they are no whole multiples of one unit (natural log)"
    return Verdict("log1p", f"{start}, and {missed}")


def _finite(rows: sp.csr_matrix) -> sp.csr_matrix:
    """Rows without their NaN and infinite values, which are reported on their own."""
    if rows.dtype.kind == "f" and not np.isfinite(rows.data).all():
        rows.data = np.nan_to_num(rows.data, nan=0.0, posinf=0.0, neginf=0.0)
        rows.eliminate_zeros()
    return rows


def _same_sums(sample: sp.csr_matrix, *, log: bool) -> bool:
    """Whether the cells have one total."""
    rows = sample.astype(np.float64)
    if log:
        rows.data = np.expm1(rows.data)
    sums = np.asarray(rows.sum(axis=1)).ravel()
    sums = sums[sums > 0]
    return bool(len(sums) >= _FEWEST_CELLS and np.std(sums) < _SAME_SUM * np.mean(sums))
