"""Detect the scale of a matrix, and report it with problems and repairs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp

from hdeepinsight._errors import ARGUMENTS, InputError, counted, examples
from hdeepinsight.data import _genes
from hdeepinsight.data._matrix import LARGEST_COUNT, SAMPLE_CELLS, RowMatrix, Scan
from hdeepinsight.data._recover import MAX_LOG, Denormalizer, find_log_base
from hdeepinsight.data._store import DataLike, Store, open_store, slot_name

Scale: TypeAlias = Literal[
    "counts",
    "binary",
    "log1p_counts",
    "log1p",
    "normalized",
    "fractional_counts",
    "scaled",
    "empty",
]


@dataclass(frozen=True)
class InputReport:
    """Report of `inspect_input` on a matrix of shape ``(n_obs, n_vars)``.

    Parameters
    ----------
    n_obs
        Number of cells.
    n_vars
        Number of genes.
    layer
        Matrix that was read: ``"X"``, ``".raw"`` or ``"layers['name']"``.
    storage
        Type of storage, such as ``"csr_matrix"``, ``"dense"``, ``"h5ad csr"``, ``"dask"``.
    scale
        ``"counts"``; ``"binary"`` (only 0 and 1); ``"log1p_counts"`` (log1p-normalised, counts can
        be recovered); ``"log1p"`` (counts cannot be recovered); ``"normalized"`` (library-size
        normalised without logarithm); ``"fractional_counts"`` (ambient-corrected or model-based
        counts); ``"scaled"`` (negative or very large values); ``"empty"``.
    evidence
        Reason for the scale, in words.
    largest
        Largest finite value.
    n_nan
        Number of NaN.
    n_inf
        Number of infinite values.
    n_negative
        Number of negative values.
    n_empty_cells
        Number of cells without counts.
    duplicated_genes
        Gene names that occur more than once.
    identifiers
        Symbols, Ensembl ids, both, or neither.
    versioned
        Whether Ensembl ids have versions.
    species
        Species, guessed from prefixes and case.
    looks_transposed
        Whether the columns are named like cells and the rows like genes.
    rounding
        Unit to which the values are rounded, such as 0.01; 0.0 if they are not rounded.
    log_base
        Base of the logarithm.
    problems
        Sentences on what prevents reading: what was found, what is valid, what to do.
    repairs
        Sentences on what is repaired or dropped when the counts are read.
    notes
        Sentences on what else to consider.

    Examples
    --------
    >>> import anndata as ad
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> counts = np.random.default_rng(0).poisson(1.0, (20, 5)).astype("float32")
    >>> report = hdi.pp.inspect_input(ad.AnnData(counts))
    >>> report.scale, report.n_obs, report.n_vars
    ('counts', 20, 5)
    """

    n_obs: int
    n_vars: int
    layer: str
    storage: str
    scale: Scale
    evidence: str
    largest: float = 0.0
    n_nan: int = 0
    n_inf: int = 0
    n_negative: int = 0
    n_empty_cells: int = 0
    duplicated_genes: tuple[str, ...] = ()
    identifiers: _genes.IdentifierKind = "unknown"
    versioned: bool = False
    species: _genes.Species = "unknown"
    looks_transposed: bool = False
    rounding: float = 0.0
    log_base: float = math.e
    problems: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def doubts(self) -> tuple[str, ...]:
        """Notes on values that may not be counts, although they are whole numbers."""
        return tuple(text for text in self.notes if text.endswith(_DOUBT))

    def __str__(self) -> str:
        names = f"{self.identifiers}{' with versions' if self.versioned else ''}, {self.species}"
        lines = [
            f"{self.n_obs:,} cells × {self.n_vars:,} genes in {self.layer} ({self.storage})",
            f"  scale     {self.scale}: {self.evidence}",
            f"  genes     {names}",
        ]
        lines += [f"  repaired  {text}" for text in self.repairs]
        lines += [f"  note      {text}" for text in self.notes]
        lines += [f"  problem   {text}" for text in self.problems]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the report in JSON types.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> counts = np.random.default_rng(0).poisson(1.0, (20, 5)).astype("float32")
        >>> hdi.pp.inspect_input(ad.AnnData(counts)).to_dict()["scale"]
        'counts'
        """
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


ScaleMode: TypeAlias = Literal["auto", "counts", "recover", "as_is"]
#: Scales that are read by default, as they are or with counts recovered.
ACCEPTED_SCALES: Final = frozenset({"counts", "binary", "log1p_counts"})
_EXPECTED: Final = "Expected raw counts: whole numbers >= 0."
#: What to do about scales that cannot be read.
_ADVICE: Final[dict[Scale, str]] = {
    "empty": "Pass a matrix with cells, genes and counts.",
    "scaled": "Pass the matrix before scaling, centring or batch correction.",
    "log1p": "Pass the counts that the values were computed from.",
    "normalized": "Pass the raw counts, or recover them with hdi.pp.recover_counts first.",
    "fractional_counts": "Pass the raw counts.",
}
#: The same for callers with an argument for the scale.
_ADVICE_WITH_SCALE: Final[dict[Scale, str]] = {
    "normalized": (
        "Pass the raw counts; or {0}='recover' to recover them if possible, or {0}='as_is' to use "
        "the values unchanged."
    ),
    "fractional_counts": (
        "Pass the raw counts, or {0}='as_is' to use corrected or estimated counts unchanged."
    ),
}

#: Largest integer below which single precision, used for counts, represents all integers.
LARGEST_EXACT = 2**24
#: Rows by which the scales of matrices are compared.
PEEK_ROWS = 256
#: Share of the largest coverage from which a matrix counts as equally good.
NEARLY = 0.9
_MIN_CELLS = 3  # one or two cells may have the same sum by chance
_SAME_SUM = 5e-3
_MOSTLY_WHOLE = 0.1  # normalised values are rarely whole numbers
_NATURAL = math.e


def classify_scale(
    matrix: RowMatrix, scan: Scan, log_base: float | None = None
) -> tuple[Scale, str, float]:
    """Classify the scale of a matrix by a scan of its values.

    Parameters
    ----------
    matrix, scan
        The matrix, and the scan of its values.
    log_base
        Base of the logarithm according to the file, tried first.

    Returns
    -------
    The scale, the evidence for it in words, and the base of the logarithm.
    """
    if 0 in matrix.shape:
        return "empty", f"there are {matrix.shape[0]} cells × {matrix.shape[1]} genes", _NATURAL
    if scan.high == -np.inf:
        return "empty", "all values are zero", _NATURAL
    if scan.low < 0:
        values = counted(scan.n_negative, "value is", "values are")
        return "scaled", f"{values} negative (down to {scan.low:.4g})", _NATURAL
    if scan.high > LARGEST_COUNT:
        return "scaled", f"values up to {scan.high:.3g} are too large for counts", _NATURAL
    if scan.all_whole and scan.high == 1:
        return "binary", "all values are 0 or 1", _NATURAL
    if scan.all_whole:
        return "counts", f"all values are whole numbers from 0 to {scan.high:,.0f}", _NATURAL
    sample = sp.vstack(scan.sample, format="csr")
    if scan.n_nan or scan.n_inf:  # reported separately
        sample.data = np.nan_to_num(sample.data, nan=0.0, posinf=0.0, neginf=0.0)
        sample.eliminate_zeros()
    multiples = "of a cell are integer multiples of one unit (tested on "
    multiples += f"{counted(sample.shape[0], 'cell')})"
    base = find_log_base(matrix.dtype, scan.grid, sample, log_base)
    if base is not None:
        return "log1p_counts", f"after {_inverse(base)}, all values {multiples}", base
    share_whole = scan.n_whole / scan.n_nonzero
    fractions = f"{1 - share_whole:.1%} of the positive values are not whole numbers"
    largest = f"{fractions} (largest value {scan.high:,.4g})"
    if share_whole > _MOSTLY_WHOLE:
        return "fractional_counts", largest, _NATURAL
    if Denormalizer("normalized", matrix.dtype, scan.grid).share_solved(sample) == 1:
        return "normalized", f"all values {multiples}", _NATURAL
    # Before logarithms, because expm1 hardly changes the sums of small values such as fractions.
    sums = np.asarray(sample.sum(axis=1, dtype=np.float64)).ravel()
    if _are_same(sums):
        same = f"all cells have the same sum, {sums.mean():.4g}"
        return "normalized", f"{same}, and {fractions}", _NATURAL
    if scan.high <= 1:  # logarithms have larger ones
        return "normalized", f"values are fractions up to {scan.high:.3g}", _NATURAL
    if scan.high > MAX_LOG:
        return "fractional_counts", largest, _NATURAL
    missed = f"in none of the bases e, 2 and 10 all values {multiples}"
    for base in (log_base or _NATURAL, _NATURAL, 2.0, 10.0):
        linear = sample.astype(np.float64)
        linear.data = np.expm1(linear.data * np.log(base))
        if _are_same(np.asarray(linear.sum(axis=1)).ravel()):
            same = f"after {_inverse(base)} all cells have the same sum"
            return "log1p", f"{same}, and {missed}", base
    return "log1p", f"values are fractions up to {scan.high:.3g}, and {missed}", _NATURAL


def _inverse(base: float) -> str:
    return "expm1" if base == _NATURAL else f"{base:g}^x - 1"


def _are_same(sums: np.ndarray[Any, Any]) -> bool:
    """Return whether all non-empty cells have the same total."""
    sums = sums[sums > 0]
    return bool(len(sums) >= _MIN_CELLS and np.std(sums) < _SAME_SUM * np.mean(sums))


def inspect_input(
    data: DataLike, *, layer: str | None = None, use_raw: bool = False
) -> InputReport:
    """Detect the scale of a matrix and problems in it, without modifying it.

    All values are checked for NaN, infinite and negative values, whole numbers and empty cells, in
    blocks of rows, so memory does not depend on the number of cells. Whether counts can be
    recovered from normalised values is tested on about 2,000 evenly spaced cells.

    Parameters
    ----------
    data
        AnnData (in memory or backed), path of a file, or result of `open_store`.
    layer
        Layer to inspect, shape ``(n_obs, n_vars)``; ``X`` if ``None``.
    use_raw
        Inspect ``.raw`` instead.

    Returns
    -------
    Report with the scale, the evidence for it, problems and repairs.

    Raises
    ------
    InputError
        If the file or the layer does not exist.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> counts = np.array([[0, 3, 1], [2, 0, 0]], dtype="float32")
    >>> hdi.pp.inspect_input(ad.AnnData(counts)).scale
    'counts'
    >>> hdi.pp.inspect_input(ad.AnnData(np.log1p(counts / 7))).scale
    'log1p_counts'
    """
    store = open_store(data)
    report = inspect_store(store, layer, use_raw)
    if error := refusal(report):
        hint = where_counts_are(store, report.layer)
        return replace(report, problems=(str(error), *hint, *report.problems))
    for best in readable(store, [slot for slot in store.slots if slot != report.layer])[:1]:
        if not report.problems and best.n_vars > report.n_vars:
            text = f"{best.slot} has {best.n_vars:,} genes, {report.layer} has {report.n_vars:,}."
            report = replace(report, notes=(*report.notes, text))
    return report


def inspect_store(
    store: Store, layer: str | None, use_raw: bool, scan: Scan | None = None
) -> InputReport:
    """Return the report on one matrix of an open store, which is scanned once; see `refusal`.

    With a ``scan`` of a sample of cells, the report covers only these.
    """
    matrix, slot = store.matrix(layer, use_raw), slot_name(layer, use_raw)
    if scan is None and ("report", slot) in store.known:
        known: InputReport = store.known["report", slot]
        return known
    scan = scan or matrix.scan()
    scale, evidence, log_base = classify_scale(matrix, scan, store.log_base)
    if scan.n_rows < matrix.shape[0]:
        evidence += f", in a sample of {counted(scan.n_rows, 'cell')}"
    var_names = store.genes(use_raw).index.astype(str)
    cells = store.obs.index[:: 1 + len(store.obs) // SAMPLE_CELLS]
    names, obs_names = var_names.tolist(), cells.astype(str).tolist()
    transposed = _genes.share_barcodes(names) > 0.5 and _genes.share_genes(obs_names) > 0.5
    report = InputReport(
        *matrix.shape,
        slot,
        matrix.storage,
        scale,
        evidence,
        largest=max(0.0, scan.high),
        n_nan=scan.n_nan,
        n_inf=scan.n_inf,
        n_negative=scan.n_negative,
        n_empty_cells=scan.n_empty,
        log_base=log_base,
        rounding=0.0 if scan.all_whole else scan.grid,
        duplicated_genes=tuple(var_names[var_names.duplicated()].unique()),
        identifiers=_genes.identifier_kind(names),
        versioned=any(_genes.strip_version(name) != name for name in names),
        species=_genes.guess_species(names),
        looks_transposed=transposed,
        problems=(_TRANSPOSED,) if transposed else (),
    )
    repairs = (*store.notes, *store.columns_note(use_raw), *_repairs(report))
    report = replace(report, repairs=repairs, notes=tuple(_notes(report, scan)))
    if scan.n_rows == matrix.shape[0]:
        store.known["report", slot] = report
    return report


_TRANSPOSED: Final = (
    "The columns are named like cells and the rows like genes. Expected cells in rows and genes in "
    "columns. Pass adata.T."
)


#: Ends the notes on values that may not be counts.
_DOUBT: Final = "Pass the original counts if you have them."
#: Fewest values and cells by which whole numbers are recognised as transformed.
_MANY_VALUES, _MANY_CELLS = 100, 20
_SIMILAR_SUM = 0.97  # rounding hardly changes the sum of a cell


def _notes(report: InputReport, scan: Scan) -> Iterator[str]:
    """Yield sentences on unusual values that do not prevent reading."""
    empty = counted(report.n_empty_cells, "cell has", "cells have")
    is_whole, high = report.scale == "counts", scan.high
    # Counts with many zeros have ones, and more ones than twos if most of them are zero.
    filled = scan.n_nonzero / max(1, scan.n_rows * report.n_vars)
    are_rare = filled < (0.5 if scan.n_ones else 0.9) and scan.n_ones < max(1, 0.8 * scan.n_twos)
    n_filled = scan.n_rows - report.n_empty_cells
    notes = {
        f"The largest value is {high:.3g}. Counts above {LARGEST_EXACT:,} are read to seven "
        f"digits and are unusual for a single gene. {_DOUBT}": (
            LARGEST_EXACT < high <= LARGEST_COUNT
        ),
        f"All values are 0 or 1, so counts may have been binarised. {_DOUBT}": (
            report.scale == "binary"
        ),
        f"1 occurs {scan.n_ones:,} times and 2 occurs {scan.n_twos:,} times in a sample, but most "
        f"positive counts are 1: these may be rounded logarithms, ranks or multiples. {_DOUBT}": (
            is_whole and are_rare and scan.n_nonzero >= _MANY_VALUES
        ),
        f"All cells have nearly the same sum ({scan.low_sum:,.0f} to {scan.high_sum:,.0f}), so "
        f"they may have been normalised and rounded. {_DOUBT}": (
            is_whole and n_filled >= _MANY_CELLS and scan.low_sum > _SIMILAR_SUM * scan.high_sum
        ),
        f"{empty} no counts and will be labelled Unknown. Filter empty cells if you do not want "
        "them.": report.n_empty_cells and report.scale != "empty",
    }
    return (text for text, applies in notes.items() if applies)


def _repairs(report: InputReport) -> Iterator[str]:
    if report.scale == "log1p_counts":
        notes = [f"base {report.log_base:g}"] if report.log_base != _NATURAL else []
        notes += [f"values are rounded to {report.rounding:g}"] if report.rounding else []
        details = f" ({', '.join(notes)})" if notes else ""
        yield f"Counts are recovered from the log1p-normalised values of each cell{details}."
    if report.duplicated_genes:
        listed = examples(report.duplicated_genes)
        yield f"Columns with the same gene name are summed: {listed}."
    if report.versioned:
        yield "Versions of Ensembl ids are ignored when genes are matched."


def refusal(
    report: InputReport, arguments: Mapping[str, str] = ARGUMENTS, mode: ScaleMode = "auto"
) -> InputError | None:
    """Return the error for a matrix that cannot be read in this mode, or ``None``."""
    found = f"{report.layer} looks {report.scale}: {report.evidence}."
    scale, expected, takes = report.scale, _EXPECTED, arguments.get("scale")
    is_whole = scale in ("counts", "binary")
    if report.n_nan or report.n_inf:
        infinite = counted(report.n_inf, "infinite value")
        found = f"{report.layer} holds {report.n_nan:,} NaN and {infinite}."
        advice = "Remove or correct these cells or genes: the true values cannot be guessed."
    elif scale in ("empty", "scaled") or (mode == "auto" and scale not in ACCEPTED_SCALES):
        advice = _ADVICE_WITH_SCALE.get(scale, "").format(takes) if takes else ""
        advice = advice or _ADVICE[scale]
    elif mode == "counts" and not is_whole:
        advice = f"Pass the raw counts{f', or another `{takes}`' if takes else ''}."
    elif mode == "recover" and scale not in ("log1p_counts", "normalized"):
        expected = "Counts can be recovered from library-size normalised values only."
        whole = f"Use {takes}='auto'." if takes else "Use them."
        advice = whole if is_whole else "Pass the raw counts."
    else:
        return None
    return InputError(found, expected, advice)


class Readable(NamedTuple):
    """Matrix that counts can be read from, with its scale, genes and the sum of some cells."""

    slot: str
    scale: Scale
    n_vars: int
    coverage: float
    total: float


def readable(
    store: Store, slots: Sequence[str], coverage: Callable[[pd.DataFrame], float] | None = None
) -> list[Readable]:
    """Return the matrices of a store that counts can be read from, the best one first.

    These include normalised values from which only ``scale="recover"`` reads counts. The matrices
    are sorted by coverage of the required genes, then raw counts precede logged values, and larger
    counts (all molecules) smaller ones (the spliced ones).

    Parameters
    ----------
    store
        The open store.
    slots
        Names of the matrices.
    coverage
        Function that returns the share of the required genes in a table of genes; by default the
        number of genes.
    """
    found = []
    for slot in slots:
        try:
            matrix, genes = store.at(slot), store.genes(slot == ".raw")
            scan = matrix.peek(PEEK_ROWS)
        except InputError:  # raised again if this matrix is requested
            continue
        scale, evidence, _ = classify_scale(matrix, scan, store.log_base)
        is_exact = scale == "normalized" and "multiples" in evidence
        if (scale in ACCEPTED_SCALES or is_exact) and not scan.n_nan and not scan.n_inf:
            share = coverage(genes) if coverage else float(len(genes))
            total = sum(float(part.sum()) for part in scan.sample)
            found.append(Readable(slot, scale, len(genes), share, total))
    enough = NEARLY * max((each.coverage for each in found), default=0.0)
    order = ("counts", "log1p_counts", "normalized", "binary")

    def rank(m: Readable) -> tuple[Any, ...]:
        named = "counts" not in m.slot, m.slot != ".raw"
        return m.coverage < enough, order.index(m.scale), *named, -m.total

    return sorted(found, key=rank)


def where_counts_are(
    store: Store, here: str, coverage: Callable[[pd.DataFrame], float] | None = None
) -> list[str]:
    """Return a sentence that recommends another matrix with counts, if there is one."""
    arguments = store.arguments
    found = readable(store, [slot for slot in store.slots if slot != here], coverage)
    if not found:
        return []
    other, advice = found[0], "pass an AnnData that has them as X"
    kind = {"log1p_counts": "log-normalised", "normalized": "normalised"}.get(other.scale)
    what = f"{kind} values from which counts can be recovered" if kind else "whole numbers"
    share = f", {other.coverage:.1%} of the reference's expression" if coverage else ""
    name = None if other.slot == "X" else other.slot.removeprefix("layers[")[:-1]
    argument, value = ("use_raw", True) if other.slot == ".raw" else ("layer", name)
    is_normalised = other.scale == "normalized"
    if argument in arguments and (not is_normalised or "scale" in arguments):
        advice = f"pass {arguments[argument]}={value}"
        advice += f" and {arguments['scale']}='recover'" if is_normalised else ""
    elif is_normalised:
        advice = f"pass hdi.pp.recover_counts(adata, {argument}={value})"
    elif other.slot == ".raw":
        advice = "pass adata.raw.to_adata()"
    return [f"{other.slot} holds {what} ({counted(other.n_vars, 'gene')}{share}): {advice}."]
