"""Surface proteins of cells, in the order of a model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hdeepinsight.data._align import GeneAlignment, GeneReport
from hdeepinsight.data._checks import inspect_store
from hdeepinsight.data._names import examples
from hdeepinsight.data._protein_names import clean_protein_name, match_proteins, protein_key
from hdeepinsight.data._store import open_store
from hdeepinsight.data._streaming import source_of

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = [
    "ProteinCounts",
    "ProteinCoverageWarning",
    "align_proteins",
    "protein_names",
    "read_proteins",
]


class ProteinCoverageWarning(UserWarning):
    """A query has a protein modality, and nothing of it is of use to the model."""


@dataclass(frozen=True, eq=False)
class ProteinCounts:
    """Raw protein counts of cells in the order of a model.

    Parameters
    ----------
    counts
        Counts, float32, shape ``(n_cells, n_proteins)``; 0 where not measured.
    measured
        Whether the protein was measured in the cell, bool, shape ``(n_cells, n_proteins)``.
        Nothing is measured in a cell without a single protein count.
    message
        What was found, in a sentence.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.data import ProteinCounts
    >>> counts = np.array([[5, 0], [0, 0]], dtype=np.float32)
    >>> stained = np.array([[True, True], [False, False]])
    >>> found = ProteinCounts(counts, stained, "2 of 2 proteins measured, in 1 of 2 cells.")
    >>> len(found), found[:1].counts.tolist()
    (2, [[5.0, 0.0]])
    """

    counts: np.ndarray[Any, np.dtype[np.float32]]
    measured: np.ndarray[Any, np.dtype[np.bool_]]
    message: str

    def __post_init__(self) -> None:
        if self.counts.shape != self.measured.shape:
            msg = (
                f"Counts have shape {self.counts.shape} and their mask {self.measured.shape}. "
                "Valid is one mask entry a count. Pass arrays of one shape."
            )
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, rows: Any) -> ProteinCounts:
        return ProteinCounts(self.counts[rows], self.measured[rows], self.message)

    @classmethod
    def none(cls, n_cells: int, n_proteins: int, message: str) -> ProteinCounts:
        """No protein was measured in any cell.

        Examples
        --------
        >>> from hdeepinsight.data import ProteinCounts
        >>> bool(ProteinCounts.none(2, 3, "No proteins.").measured.any())
        False
        """
        nothing = np.zeros((n_cells, n_proteins), dtype=np.float32)
        return cls(nothing, nothing.astype(bool), message)


def protein_names(adata: AnnData) -> list[str]:
    """Return the proteins of a modality: cleaned names, each once, sorted by what they mean.

    Raises
    ------
    ValueError
        If the modality holds no protein.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> from hdeepinsight.data import protein_names
    >>> var = pd.DataFrame(index=["CD56_TotalSeqB", "CD3_TotalSeqB"])
    >>> protein_names(ad.AnnData(np.ones((2, 2)), var=var))
    ['CD3', 'CD56']
    """
    by_key = {protein_key(name): clean_protein_name(name) for name in map(str, adata.var_names)}
    if not by_key:
        msg = (
            "The protein modality has no column. Valid is one column a protein. Register the RNA "
            "alone with setup_anndata(), or add the proteins."
        )
        raise ValueError(msg)
    return [by_key[key] for key in sorted(by_key)]


def align_proteins(names: Sequence[str], proteins: Sequence[str]) -> GeneAlignment:
    """Match the proteins of a query to those of a model, by what their names mean.

    Parameters
    ----------
    names
        Names of the query's columns, shape ``(n_columns,)``.
    proteins
        Proteins of the model, shape ``(n_proteins,)``.

    Returns
    -------
    The map; columns of the same protein (two clones) are summed.

    Examples
    --------
    >>> from hdeepinsight.data import align_proteins
    >>> align_proteins(["NCAM1", "CD3_TotalSeqB"], ["CD3", "CD56", "CD4"]).source
    array([ 1,  0, -1])
    """
    target = np.asarray(match_proteins(names, proteins), dtype=np.int64)
    source = np.full(len(proteins), -1, dtype=np.int64)
    used = np.flatnonzero(target >= 0)
    source[target[used[::-1]]] = used[::-1]  # the first column wins
    measured = source >= 0
    report = GeneReport(
        n_model=len(proteins),
        n_query=len(names),
        n_measured=int(measured.sum()),
        coverage=float(measured.mean()),
        missing=tuple(np.asarray(proteins, dtype=object)[~measured]),
        n_extra=int((target < 0).sum()),
    )
    return GeneAlignment(source=source, target=target, measured=measured, report=report)


def read_proteins(
    adata: AnnData,
    proteins: Sequence[str],
    *,
    layer: str | None = None,
    rows: np.ndarray[Any, np.dtype[np.int64]] | None = None,
    warn: bool = True,
) -> ProteinCounts:
    """Read protein counts of a query in the order of a model.

    Parameters
    ----------
    adata
        Protein modality with raw counts, shape ``(n_obs, n_columns)``; only read.
    proteins
        Proteins of the model.
    layer
        Layer with the counts; ``X`` by default.
    rows
        Row of the modality that belongs to each cell, -1 for none, shape ``(n_cells,)``; by
        default the cells are those of the modality.
    warn
        Whether to warn of a modality that is of no use to the model.

    Returns
    -------
    The counts; none at all, with a :class:`ProteinCoverageWarning`, if the modality is empty or no
    name matches.

    Raises
    ------
    InputError
        If the matrix does not hold counts, such as values that are centred already.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> from hdeepinsight.data import read_proteins
    >>> var = pd.DataFrame(index=["CD56_TotalSeqB", "CD3_TotalSeqB"])
    >>> cells = ad.AnnData(np.array([[7.0, 1.0], [0.0, 9.0]], dtype="float32"), var=var)
    >>> found = read_proteins(cells, ["CD3", "CD4", "CD56"])
    >>> found.counts.tolist()
    [[1.0, 0.0, 7.0], [9.0, 0.0, 0.0]]
    >>> found.message
    '2 of 3 proteins measured, in 2 of 2 cells.'
    """
    rows = np.arange(adata.n_obs) if rows is None else rows
    alignment = align_proteins(list(map(str, adata.var_names)), proteins)
    store = open_store(adata)
    report = None
    unusable = ""
    if not adata.n_obs or not adata.n_vars:
        unusable = f"The protein modality is empty ({adata.n_obs} × {adata.n_vars})."
    elif not alignment.measured.any():
        unusable = (
            f"None of the {adata.n_vars} proteins ({examples(adata.var_names.tolist(), 3)}) is one "
            f"of the model's {len(proteins)} ({examples(list(proteins), 3)})."
        )
    else:
        report = inspect_store(store, layer=layer)
        if report.scale == "empty":
            unusable = "The protein modality holds zeros only."
    if report is None or unusable:
        message = f"{unusable} The cells are annotated from their RNA alone."
        if warn:
            warnings.warn(message, ProteinCoverageWarning, stacklevel=2)
        return ProteinCounts.none(len(rows), len(proteins), message)
    # With a row of zeros behind the last, so that -1 means a cell without proteins.
    counts = np.zeros((adata.n_obs + 1, len(proteins)), dtype=np.float32)
    for place, chunk in source_of(store, report, layer=layer).chunks(alignment):
        counts[place] = chunk.toarray()
    counts = counts[rows]
    stained = counts.sum(axis=1) > 0
    message = (
        f"{alignment.report.n_measured} of {alignment.report.n_model} proteins measured, in "
        f"{int(stained.sum()):,} of {len(rows):,} cells."
    )
    return ProteinCounts(counts, stained[:, None] & alignment.measured, message)
