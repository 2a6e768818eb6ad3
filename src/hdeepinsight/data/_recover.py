"""Counts from normalised values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args, overload

import anndata as ad
import numpy as np
import scipy.sparse as sp

from hdeepinsight.data._decode import Denormalizer, Normalisation
from hdeepinsight.data._errors import InputError
from hdeepinsight.data._matrix import RowMatrix, wrap
from hdeepinsight.data._scale import check_scale
from hdeepinsight.data._scan import ROWS, Scan, scan
from hdeepinsight.data._store import open_store
from hdeepinsight.data._units import MAX_SMALLEST

__all__ = ["RecoveredCounts", "decode_blocks", "recover_counts"]


@dataclass(frozen=True, eq=False)
class RecoveredCounts:
    """Counts that normalised values were made from.

    Parameters
    ----------
    matrix
        Counts, CSR float32, shape ``(n_cells, n_genes)``.
    units
        Normalised value of one count in every cell, shape ``(n_cells,)``; NaN for empty cells. With
        totals over all genes and CP10k it is ``1e4 / total``.
    residual
        Largest distance of ``value / unit`` from its whole number over all values.
    rounding
        Distance of the decimals that the values were rounded to; 0.0 if they were not.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> counts = np.array([[0, 1, 5, 2], [3, 2, 0, 4]])
    >>> values = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    >>> found = hdi.pp.recover_counts(values)
    >>> found.n_cells, found.units.round(3).tolist()
    (2, [1250.0, 1111.111])
    """

    matrix: sp.csr_matrix
    units: np.ndarray[Any, np.dtype[np.float64]]
    residual: float
    rounding: float

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return int(self.matrix.shape[0])

    def __repr__(self) -> str:
        n_cells, n_genes = self.matrix.shape
        return f"RecoveredCounts({n_cells} cells × {n_genes} genes, residual {self.residual:.2g})"


@overload
def recover_counts(
    data: ad.AnnData,
    *,
    layer: str | None = ...,
    use_raw: bool = ...,
    scale: Normalisation = ...,
) -> ad.AnnData: ...


@overload
def recover_counts(  # type: ignore[overload-cannot-match]
    data: Any, *, scale: Normalisation = ...
) -> RecoveredCounts: ...


def recover_counts(
    data: Any,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    scale: Normalisation = "log1p",
) -> ad.AnnData | RecoveredCounts:
    r"""Recover raw counts from library-size normalised values, exactly or not at all.

    Dividing by the library size multiplies the counts of a cell by one factor, so after expm1 all
    its values are whole multiples of one unit. The largest such unit is found for every cell within
    the precision of the stored values: floating point, or decimals that the file was rounded to.

    Parameters
    ----------
    data
        An AnnData, or a matrix of shape ``(n_cells, n_genes)``: dense, sparse or dask.
    layer
        Layer of an AnnData; ``X`` if ``None``.
    use_raw
        Take ``.raw`` of an AnnData, with its genes.
    scale
        ``"log1p"``: the values are the natural log1p of normalised counts (for another base,
        multiply the values by its natural log first); ``"normalized"``: they were not logged.

    Returns
    -------
    For an AnnData a new one with the counts as ``X`` (CSR float32) and copies of ``obs`` and
    ``var``; for a matrix `RecoveredCounts`. What was passed stays as it is.

    Raises
    ------
    InputError
        If a cell has no such unit (scaled, imputed, smoothed, batch-corrected, gene-length
        normalised values), or the values are too coarse to tell counts apart.

    Notes
    -----
    Normalised values do not tell counts 2, 4, 6 from 1, 2, 3: counts that share a divisor come back
    divided by it. In a cell with dozens of detected genes some count is nearly always 1.

    Examples
    --------
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> counts = np.array([[0, 1, 5, 2], [3, 2, 0, 4]])
    >>> values = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)).astype("float32")
    >>> hdi.pp.recover_counts(values).matrix.toarray()
    array([[0., 1., 5., 2.], [3., 2., 0., 4.]], dtype=float32)
    """
    check_scale(scale, get_args(Normalisation))
    if not isinstance(data, ad.AnnData):
        return _recover(wrap(_as_matrix(data)), scale)
    store = open_store(data)
    found = _recover(store.matrix(layer, use_raw), scale)
    return ad.AnnData(X=found.matrix, obs=store.obs.copy(), var=store.genes(use_raw).copy())


def _as_matrix(data: Any) -> Any:
    if getattr(data, "ndim", None) == 2 and hasattr(data, "dtype"):
        return data
    shape = f" of shape {data.shape}" if hasattr(data, "shape") else ""
    raise InputError(
        f"The data is a {type(data).__name__}{shape}.",
        "Valid are an AnnData, and a dense, sparse or dask matrix of cells × genes.",
        "Read a file with anndata first, and take the values of a table with to_numpy().",
    )


def _recover(matrix: RowMatrix, scale: Normalisation) -> RecoveredCounts:
    tally = scan(matrix, max_cells=1)
    _check_values(tally)
    decoder = Denormalizer(scale, matrix.dtype, tally.grid)
    parts, units, residual, n_failed = [], [np.empty(0)], 0.0, 0
    for _, block in matrix.blocks(ROWS):
        counts, found = decoder.decode(block)
        parts.append(counts)
        units.append(found.units)
        residual = max(residual, float(np.nanmax(found.residual, initial=0.0)))
        n_failed += int(np.count_nonzero(~found.solved))
    if n_failed:
        raise _cannot(n_failed, matrix.shape[0], scale)
    whole = (
        sp.vstack(parts, format="csr") if parts else sp.csr_matrix(matrix.shape, dtype=np.float32)
    )
    return RecoveredCounts(whole, np.concatenate(units), residual, tally.grid)


def _check_values(tally: Scan) -> None:
    valid = "Valid are library-size normalised values: finite, from 0 up, and not whole numbers."
    if tally.n_nan or tally.n_inf:
        text = f"The matrix holds {tally.n_nan:,} NaN and {tally.n_inf:,} infinite values."
        raise InputError(text, valid, "Remove these cells or genes first.")
    if tally.low < 0:
        text = f"The matrix holds {tally.n_negative:,} negative values (down to {tally.low:.4g})."
        raise InputError(text, valid, "Pass the values as they were before scaling.")
    if tally.all_whole and tally.n_nonzero:
        raise InputError(
            "The matrix holds whole numbers only.", valid, "Use it as the counts it is."
        )


def _cannot(n_failed: int, n_cells: int, scale: Normalisation, where: str = "") -> InputError:
    after = " after expm1" if scale == "log1p" else ""
    return InputError(
        f"In {n_failed:,} of {n_cells:,} cells{where} ({n_failed / n_cells:.1%}) the values"
        f"{after} are not whole multiples of one unit (tried with a smallest count of 1 to "
        f"{MAX_SMALLEST}).",
        "Counts can be recovered from values that were only divided by the library size"
        + (" and logged by natural log1p." if scale == "log1p" else "."),
        "Pass the raw counts: imputed, smoothed, batch-corrected, gene-length normalised or "
        "coarsely rounded values do not hold them any more.",
    )


def decode_blocks(
    matrix: RowMatrix, decoder: Denormalizer, size: int
) -> Iterator[tuple[slice, sp.csr_matrix]]:
    """Recover block by block; raises `InputError` at the first block in which a cell fails."""
    for rows, block in matrix.blocks(size):
        counts, found = decoder.decode(block)
        failed = np.flatnonzero(~found.solved)
        if len(failed):
            where = f" {rows.start:,} to {rows.stop - 1:,}"
            raise _cannot(len(failed), rows.stop - rows.start, decoder.scale, where)
        yield rows, counts
