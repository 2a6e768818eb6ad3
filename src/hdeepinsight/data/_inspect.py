"""Find out what the values of a matrix are, and say it in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp

from hdeepinsight._errors import ARGUMENTS, InputError, counted, examples
from hdeepinsight.data import _genes
from hdeepinsight.data._matrix import LARGEST_COUNT, RowMatrix, Scan
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
    """What `inspect_input` found in a matrix of shape ``(n_obs, n_vars)``.

    Parameters
    ----------
    n_obs
        Number of cells.
    n_vars
        Number of genes.
    layer
        Matrix that was read: ``"X"``, ``".raw"`` or ``"layers['name']"``.
    storage
        How it is stored, for example ``"csr_matrix"``, ``"dense"``, ``"h5ad csr"``, ``"dask"``.
    scale
        ``"counts"``; ``"binary"`` (only 0 and 1); ``"log1p_counts"`` (log1p-normalised, counts can
        be recovered); ``"log1p"`` (they cannot); ``"normalized"`` (library-size normalised, not
        logged); ``"fractional_counts"`` (ambient-corrected or model-based float counts);
        ``"scaled"`` (negative values, or some beyond all counts); ``"empty"``.
    evidence
        Why, in a sentence.
    n_nan
        Number of NaN.
    n_inf
        Number of infinite values.
    n_negative
        Number of negative values.
    n_empty_cells
        Number of cells with zeros only.
    duplicated_genes
        Names that more than one column carries.
    identifiers
        Symbols, Ensembl ids, both, or neither.
    versioned
        Whether Ensembl ids carry versions.
    species
        Guess from prefixes and case.
    looks_transposed
        Whether the columns are named like cells and the rows like genes.
    rounding
        Distance of the decimals that the values are rounded to; 0.0 if they are not.
    log_base
        Base of the logarithms from which counts are recovered.
    problems
        Sentences about what stands in the way: found, valid, do next.
    repairs
        Sentences about what is repaired or left out when the counts are read.
    notes
        Sentences about what is not in the way, and worth knowing.

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
    log_base: float = float(np.e)
    problems: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

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
        """Plain types only (numbers, strings, lists), as JSON takes them.

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
#: Scales that are read without being asked: as they are, or with their counts recovered.
ACCEPTED_SCALES: Final = frozenset({"counts", "binary", "log1p_counts"})
_EXPECTED: Final = "Valid are raw counts: whole numbers from 0 up."
#: What to do about a scale that is not read.
_ADVICE: Final[dict[Scale, str]] = {
    "empty": "Pass a matrix that has cells, genes and counts.",
    "scaled": "Pass the matrix as it was before scaling, centring or batch correction.",
    "log1p": "Pass the counts that the values were made from.",
    "normalized": "Pass the raw counts, or recover them with hdi.pp.recover_counts first.",
    "fractional_counts": "Pass the raw counts.",
}
#: Instead, where the caller takes a scale.
_ADVICE_WITH_SCALE: Final[dict[Scale, str]] = {
    "normalized": (
        "Pass the raw counts; or {0}='recover' to recover them where they can be, or {0}='as_is' "
        "to use the values unchanged."
    ),
    "fractional_counts": (
        "Pass the raw counts, or {0}='as_is' to use corrected or estimated counts unchanged."
    ),
}

#: Largest whole number that single precision, in which counts are read, tells from its neighbours.
LARGEST_EXACT = 2**24
#: Rows by which matrices are compared.
PEEK_ROWS = 256
#: Matrices whose coverage is at least this share of the largest are as good by it.
NEARLY = 0.9
_FEWEST_CELLS = 3  # one or two cells have "the same sum" too easily
_SAME_SUM = 5e-3
_MOSTLY_WHOLE = 0.1  # dividing by the library size leaves hardly a whole number
_NATURAL = float(np.e)


def classify_scale(
    matrix: RowMatrix, tally: Scan, log_base: float | None = None
) -> tuple[Scale, str, float]:
    """Guess the scale of a matrix from the tallies over its values and the sampled cells.

    Parameters
    ----------
    matrix, tally
        The matrix, and what was found in it.
    log_base
        Base of logarithms that the file tells, tried first.

    Returns
    -------
    The scale, the evidence for it in words, and the base of logarithms.
    """
    if 0 in matrix.shape:
        return "empty", f"there are {matrix.shape[0]} cells × {matrix.shape[1]} genes", _NATURAL
    if tally.high == -np.inf:
        return "empty", "there are no values but zeros", _NATURAL
    if tally.low < 0:
        values = counted(tally.n_negative, "value is", "values are")
        return "scaled", f"{values} negative (down to {tally.low:.4g})", _NATURAL
    if tally.high > LARGEST_COUNT:
        return "scaled", f"values go up to {tally.high:.3g}, where no counts are", _NATURAL
    if tally.all_whole and tally.high == 1:
        return "binary", "all values are 0 or 1", _NATURAL
    if tally.all_whole:
        return "counts", f"all values are whole numbers from 0 to {tally.high:,.0f}", _NATURAL
    sample = sp.vstack(tally.sample, format="csr")
    if tally.n_nan or tally.n_inf:  # which are reported on their own
        sample.data = np.nan_to_num(sample.data, nan=0.0, posinf=0.0, neginf=0.0)
        sample.eliminate_zeros()
    multiples = "of a cell are whole multiples of one unit (tried on "
    multiples += f"{counted(sample.shape[0], 'cell')})"
    base = find_log_base(matrix.dtype, tally.grid, sample, log_base)
    if base is not None:
        return "log1p_counts", f"after {_undone(base)}, all values {multiples}", base
    share_whole = tally.n_whole / tally.n_nonzero
    fractions = f"{1 - share_whole:.1%} of the positive values are not whole numbers"
    largest = f"{fractions} (largest value {tally.high:,.4g})"
    if share_whole > _MOSTLY_WHOLE:
        return "fractional_counts", largest, _NATURAL
    if Denormalizer("normalized", matrix.dtype, tally.grid).share_solved(sample) == 1:
        return "normalized", f"all values {multiples}", _NATURAL
    # Before logarithms: of shares, which are small, expm1 has nearly the same sum.
    sums = np.asarray(sample.sum(axis=1, dtype=np.float64)).ravel()
    if _are_same(sums):
        same = f"all cells have the same sum, {sums.mean():.4g}"
        return "normalized", f"{same}, and {fractions}", _NATURAL
    if len(sums) >= _FEWEST_CELLS and sums.max() <= 1:
        return "normalized", f"no cell has a sum above {sums.max():.3g}: they are shares", _NATURAL
    if tally.high > MAX_LOG:
        return "fractional_counts", largest, _NATURAL
    missed = f"in none of the bases e, 2 and 10 all values {multiples}"
    for base in (log_base or _NATURAL, _NATURAL, 2.0, 10.0):
        linear = sample.astype(np.float64)
        linear.data = np.expm1(linear.data * np.log(base))
        if _are_same(np.asarray(linear.sum(axis=1)).ravel()):
            same = f"after {_undone(base)} all cells have the same sum"
            return "log1p", f"{same}, and {missed}", base
    return "log1p", f"values are fractions up to {tally.high:.3g}, and {missed}", _NATURAL


def _undone(base: float) -> str:
    return "expm1" if base == _NATURAL else f"{base:g}^x - 1"


def _are_same(sums: np.ndarray[Any, Any]) -> bool:
    """Return whether all cells that are not empty have one total."""
    sums = sums[sums > 0]
    return bool(len(sums) >= _FEWEST_CELLS and np.std(sums) < _SAME_SUM * np.mean(sums))


def inspect_input(
    data: DataLike, *, layer: str | None = None, use_raw: bool = False
) -> InputReport:
    """Recognise what a matrix holds, without changing it.

    NaN, infinite and negative values, whole numbers and empty cells are checked in every value, in
    blocks of rows, so that memory does not grow with the number of cells. Whether counts can be
    recovered from normalised values is tried on some 2,000 evenly spaced cells.

    Parameters
    ----------
    data
        An AnnData (in memory or backed), the path of a file, or what `open_store` returned for one.
    layer
        Layer to look at, shape ``(n_obs, n_vars)``; ``X`` if ``None``.
    use_raw
        Look at ``.raw`` instead.

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
            text = f"{best.slot} has {best.n_vars:,} genes, and {report.layer} {report.n_vars:,}."
            report = replace(report, notes=(*report.notes, text))
    return report


def inspect_store(
    store: Store,
    layer: str | None,
    use_raw: bool,
    *,
    arguments: Mapping[str, str] = ARGUMENTS,
    tally: Scan | None = None,
) -> InputReport:
    """Return what one matrix of an open store holds, which is looked at once; see `refusal`.

    By a ``tally`` of some cells, if that is given, the report is on what was seen so far.
    """
    matrix, slot = store.matrix(layer, use_raw, arguments=arguments), slot_name(layer, use_raw)
    if tally is None and ("report", slot) in store.known:
        known: InputReport = store.known["report", slot]
        return known
    tally = tally or matrix.scan()
    scale, evidence, log_base = classify_scale(matrix, tally, store.log_base)
    if tally.n_rows < matrix.shape[0]:
        evidence += f", in {counted(tally.n_rows, 'cell')} that were looked at so far"
    var_names = store.genes(use_raw).index.astype(str)
    names, obs_names = var_names.tolist(), store.obs.index.astype(str).tolist()
    transposed = _genes.share_barcodes(names) > 0.5 and _genes.share_genes(obs_names) > 0.5
    values: dict[str, Any] = {"n_nan": tally.n_nan, "n_inf": tally.n_inf, "log_base": log_base}
    values |= {"n_negative": tally.n_negative, "n_empty_cells": tally.n_empty}
    report = InputReport(
        *matrix.shape,
        slot,
        matrix.storage,
        scale,
        evidence,
        **values,
        rounding=0.0 if tally.all_whole else tally.grid,
        duplicated_genes=tuple(var_names[var_names.duplicated()].unique()),
        identifiers=_genes.identifier_kind(names),
        versioned=_genes.has_versions(names),
        species=_genes.guess_species(names),
        looks_transposed=transposed,
        problems=(_TRANSPOSED,) if transposed else (),
    )
    repairs = (*store.notes, *store.columns_note(use_raw), *_repairs(report))
    report = replace(report, repairs=repairs, notes=tuple(_notes(report, tally.high)))
    if tally.n_rows == matrix.shape[0]:
        store.known["report", slot] = report
    return report


_TRANSPOSED: Final = (
    "The columns are named like cells and the rows like genes. Valid are cells in rows and genes "
    "in columns. Pass adata.T."
)


def _notes(report: InputReport, high: float) -> Iterator[str]:
    """Say what does not stop the reading but may surprise."""
    empty = counted(report.n_empty_cells, "cell holds", "cells hold")
    notes = {
        f"The largest value is {high:.3g}. Counts above {LARGEST_EXACT:,} are read to seven "
        "digits, and hardly a cell has so many of one gene. Check that these are counts.": (
            LARGEST_EXACT < high <= LARGEST_COUNT
        ),
        "All values are 0 or 1, so counts may have been binarised. Pass the counts before "
        "binarising, if there are any.": report.scale == "binary",
        f"{empty} zeros only; without counts a cell keeps no label but Unknown. Filter such cells "
        "if they are not wanted.": report.n_empty_cells and report.scale != "empty",
    }
    return (text for text, applies in notes.items() if applies)


def _repairs(report: InputReport) -> Iterator[str]:
    if report.scale == "log1p_counts":
        notes = [f"to base {report.log_base:g}"] if report.log_base != _NATURAL else []
        notes += [f"values are rounded to {report.rounding:g}"] if report.rounding else []
        how = f" ({', '.join(notes)})" if notes else ""
        yield f"Counts are recovered from the log1p-normalised values of each cell{how}."
    if report.duplicated_genes:
        listed = examples(report.duplicated_genes)
        yield f"Columns that carry the same gene name are summed: {listed}."
    if report.versioned:
        yield "Versions of Ensembl ids are left out where genes are matched."


def refusal(
    report: InputReport, arguments: Mapping[str, str] = ARGUMENTS, mode: ScaleMode = "auto"
) -> InputError | None:
    """Return the error for a matrix that is not read in some mode, with advice for the caller."""
    found = f"{report.layer} looks {report.scale}: {report.evidence}."
    scale, expected, takes = report.scale, _EXPECTED, arguments.get("scale")
    is_whole = scale in ("counts", "binary")
    if report.n_nan or report.n_inf:
        infinite = counted(report.n_inf, "infinite value")
        found = f"{report.layer} holds {report.n_nan:,} NaN and {infinite}."
        advice = (
            "Remove these cells or genes, or repair them: which value is right cannot be guessed."
        )
    elif scale in ("empty", "scaled") or (mode == "auto" and scale not in ACCEPTED_SCALES):
        advice = _ADVICE_WITH_SCALE.get(scale, "").format(takes) if takes else ""
        advice = advice or _ADVICE[scale]
    elif mode == "counts" and not is_whole:
        advice = f"Pass the raw counts{f', or another `{takes}`' if takes else ''}."
    elif mode == "recover" and scale not in ("log1p_counts", "normalized"):
        expected = "Counts are recovered from values that were only divided by the library size."
        whole = f"Use {takes}='auto'." if takes else "Use them."
        advice = whole if is_whole else "Pass the raw counts."
    else:
        return None
    return InputError(found, expected, advice)


class Readable(NamedTuple):
    """A matrix that counts can be read from, by the scale of some rows and by its genes."""

    slot: str
    scale: Scale
    n_vars: int
    coverage: float


def readable(
    store: Store, slots: Sequence[str], coverage: Callable[[pd.DataFrame], float] | None = None
) -> list[Readable]:
    """Return the matrices of a store that counts can be read from, the best one first.

    Best are those with most of the genes, and among them whole numbers before logarithms.

    Parameters
    ----------
    store
        The open store.
    slots
        Names of the matrices.
    coverage
        Share of the wanted genes that a table of genes has; by default their number counts.
    """
    found = []
    for slot in slots:
        try:
            matrix, genes = store.at(slot), store.genes(slot == ".raw")
            tally = matrix.peek(PEEK_ROWS)
        except InputError:  # which is in the way only of who asks for this matrix
            continue
        scale = classify_scale(matrix, tally, store.log_base)[0]
        if scale in ACCEPTED_SCALES and not tally.n_nan and not tally.n_inf:
            share = coverage(genes) if coverage else float(len(genes))
            found.append(Readable(slot, scale, len(genes), share))
    enough = NEARLY * max((each.coverage for each in found), default=0.0)
    order = ("counts", "log1p_counts", "binary")

    def rank(m: Readable) -> tuple[Any, ...]:
        return m.coverage < enough, order.index(m.scale), "counts" not in m.slot, m.slot != ".raw"

    return sorted(found, key=rank)


def where_counts_are(
    store: Store,
    here: str,
    arguments: Mapping[str, str] = ARGUMENTS,
    coverage: Callable[[pd.DataFrame], float] | None = None,
) -> list[str]:
    """Point to another matrix that counts can be read from; never switch to it."""
    found = readable(store, [slot for slot in store.slots if slot != here], coverage)
    if not found:
        return []
    other, how = found[0], "pass an AnnData that has them as X"
    what = "log-normalised values from which counts are recovered"
    what = what if other.scale == "log1p_counts" else "whole numbers"
    share = f", {other.coverage:.1%} of the reference's expression" if coverage else ""
    if other.slot == ".raw":
        named = f"{arguments['use_raw']}=True" if "use_raw" in arguments else ""
        how = f"pass {named or 'adata.raw.to_adata()'}"
    elif "layer" in arguments:
        name = None if other.slot == "X" else other.slot.removeprefix("layers[")[:-1]
        how = f"pass {arguments['layer']}={name}"
    return [f"{other.slot} holds {what} ({counted(other.n_vars, 'gene')}{share}): {how}."]
