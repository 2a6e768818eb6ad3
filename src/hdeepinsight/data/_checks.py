"""Recognise what kind of matrix comes in, and say it in sentences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from hdeepinsight.data._errors import InputError
from hdeepinsight.data._names import (
    examples,
    guess_species,
    has_versions,
    identifier_kind,
    share_barcodes,
    share_genes,
)
from hdeepinsight.data._report import InputReport
from hdeepinsight.data._scale import DO_NEXT, READY, VALID, judge
from hdeepinsight.data._scan import scan, scan_rows
from hdeepinsight.data._store import DataLike, Store, open_store, slot_name

__all__ = ["inspect_input", "inspect_store", "not_finite", "refusal", "where_counts_are"]

_HINT_ROWS = 256


def inspect_input(
    data: DataLike, *, layer: str | None = None, use_raw: bool = False, max_cells: int = 2000
) -> InputReport:
    """Recognise what a matrix holds, without changing it.

    NaN, infinite and negative values, whole numbers and empty cells are checked in every value, in
    blocks of rows, so that memory does not grow with the number of cells. Whether counts can be
    recovered from normalised values is tried on ``max_cells`` evenly spaced cells.

    Parameters
    ----------
    data
        An AnnData (in memory or backed), or the path of an ``.h5ad`` file or ``.zarr`` store.
    layer
        Layer to look at, shape ``(n_obs, n_vars)``; ``X`` if ``None``.
    use_raw
        Look at ``.raw`` instead.
    max_cells
        Cells that the recovery of counts is tried on.

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
    return inspect_store(open_store(data), layer=layer, use_raw=use_raw, max_cells=max_cells)


def inspect_store(
    store: Store, *, layer: str | None, use_raw: bool = False, max_cells: int = 2000
) -> InputReport:
    """Inspect one matrix of an open store; see `inspect_input`.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> from hdeepinsight.data import inspect_store, open_store
    >>> inspect_store(open_store(ad.AnnData(np.ones((3, 2)))), layer=None).scale
    'binary'
    """
    matrix = store.matrix(layer, use_raw)
    here = slot_name(layer, use_raw)
    tally = scan(matrix, max_cells)
    verdict = judge(matrix, tally)
    var_names = store.genes(use_raw).index.astype(str).tolist()
    report = InputReport(
        n_obs=matrix.shape[0],
        n_vars=matrix.shape[1],
        layer=here,
        storage=matrix.storage,
        scale=verdict.scale,
        evidence=verdict.evidence,
        n_nan=tally.n_nan,
        n_inf=tally.n_inf,
        n_negative=tally.n_negative,
        n_empty_cells=tally.n_empty,
        rounding=0.0 if tally.all_whole else tally.grid,
        **_describe_names(var_names, store.obs.index.astype(str).tolist()),
    )
    return replace(report, problems=_problems(report, store), repairs=_repairs(report))


def not_finite(report: InputReport) -> InputError | None:
    """Return the error for NaN and infinite values, which no setting accepts, if there are any.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> from hdeepinsight.data import inspect_input, not_finite
    >>> str(not_finite(inspect_input(ad.AnnData(np.array([[1.0, np.nan]])))))[:44]
    'X holds 1 NaN and 0 infinite values. Valid a'
    """
    if not report.n_nan and not report.n_inf:
        return None
    return InputError(
        f"{report.layer} holds {report.n_nan:,} NaN and {report.n_inf:,} infinite values.",
        VALID,
        "Remove these cells or genes, or repair them: which value is right cannot be guessed.",
    )


def refusal(report: InputReport) -> InputError | None:
    """Error for a matrix that is not read without being asked for; ``None`` if it is."""
    if report.scale in READY:
        return not_finite(report)
    found = f"{report.layer} looks {report.scale}: {report.evidence}."
    return not_finite(report) or InputError(found, VALID, DO_NEXT[report.scale])


def _problems(report: InputReport, store: Store) -> tuple[str, ...]:
    found = [str(error) for error in [refusal(report)] if error]
    if found or report.scale == "log1p_counts":
        found += where_counts_are(store, report.layer)
    return (*found, *_cautions(report))


def where_counts_are(store: Store, here: str) -> tuple[str, ...]:
    """Point to another matrix that holds counts; never switch to it."""
    order = sorted(store.slots, key=lambda slot: ("counts" not in slot, slot != ".raw"))
    for slot in order:
        if slot == here or 0 in store.slots[slot]().shape:
            continue
        tally = scan_rows(store.slots[slot](), _HINT_ROWS)
        if tally.all_whole and tally.low >= 0 and tally.n_nonzero:
            return (f"{slot} holds whole numbers. Counts may be there: {_how_to_pass(slot)}.",)
    return ()


def _how_to_pass(slot: str) -> str:
    if slot == ".raw":
        return "pass use_raw=True, or adata.raw.to_adata()"
    return "pass layer=None" if slot == "X" else f"pass layer={slot[len('layers[') : -1]}"


def _describe_names(var_names: list[str], obs_names: list[str]) -> dict[str, Any]:
    """Fields of the report that come from names alone."""
    index = pd.Index(var_names)
    transposed = share_barcodes(var_names) > 0.5 and share_genes(obs_names) > 0.5
    return {
        "duplicated_genes": tuple(index[index.duplicated()].unique()),
        "identifiers": identifier_kind(var_names),
        "versioned": has_versions(var_names),
        "species": guess_species(var_names),
        "looks_transposed": transposed,
    }


def _cautions(report: InputReport) -> list[str]:
    """Sentences about what does not stop the reading but may surprise."""
    found = []
    if report.looks_transposed:
        found.append(
            "The columns are named like cells and the rows like genes. Valid are cells in rows and "
            "genes in columns. Pass adata.T."
        )
    if report.scale == "binary":
        found.append(
            "All values are 0 or 1, so counts may have been binarised. Valid are counts of any "
            "size. Pass the counts before binarising, if there are any."
        )
    if report.n_empty_cells and report.scale != "empty":
        found.append(
            f"{report.n_empty_cells:,} cells hold zeros only. A cell needs counts to be told from "
            "others. They are kept and stay without a label; filter them if they are not wanted."
        )
    return found


def _repairs(report: InputReport) -> tuple[str, ...]:
    done = []
    if report.scale == "log1p_counts":
        rounded = f" (values are rounded to {report.rounding:g})" if report.rounding else ""
        done.append(f"Counts are recovered from the log1p-normalised values of each cell{rounded}.")
    if report.duplicated_genes:
        listed = examples(report.duplicated_genes)
        done.append(f"Columns that carry the same gene name are summed: {listed}.")
    if report.versioned:
        done.append("Versions of Ensembl ids are left out where genes are matched.")
    return tuple(done)
