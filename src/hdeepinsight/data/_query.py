"""Open a query, check it, and align it to the genes and proteins of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from hdeepinsight._errors import ARGUMENTS, InputError, examples
from hdeepinsight._keys import FIELD_KEYS
from hdeepinsight.data import _genes, _matrix
from hdeepinsight.data._counts import CountSource, Inspection, open_counts
from hdeepinsight.data._inspect import ACCEPTED_SCALES, InputReport, ScaleMode, readable
from hdeepinsight.data._modalities import Modalities, ProteinCounts, is_paired, open_paired
from hdeepinsight.data._store import DataLike, open_store, slot_name

if TYPE_CHECKING:
    from mudata import MuData

Ints = np.ndarray[Any, np.dtype[np.int64]]

#: Rows that are read at once.
STEP = 256
#: Additional share of the reference's expression from which ``.raw`` is read instead of ``X``.
CLEARLY_MORE = 0.05


@dataclass(frozen=True, eq=False)
class ExtraInputs:
    """Inputs of a query besides its RNA counts.

    Parameters
    ----------
    proteins
        Protein counts of all cells; ``None`` if the model or the query has no proteins.
    has_rna
        Whether RNA was measured in each cell, bool, shape ``(n_cells,)``; ``None`` for all cells.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.data import ExtraInputs
    >>> ExtraInputs(has_rna=np.array([True, False]))[np.array([1])].has_rna.tolist()
    [False]
    """

    proteins: ProteinCounts | None = None
    has_rna: np.ndarray[Any, np.dtype[np.bool_]] | None = None

    def __getitem__(self, rows: Any) -> ExtraInputs:
        return ExtraInputs(
            None if self.proteins is None else self.proteins[rows],
            None if self.has_rna is None else self.has_rna[rows],
        )

    @property
    def arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """Arrays that are passed to a network besides counts, by the names of its inputs."""
        if self.proteins is None:
            return {}
        return {
            FIELD_KEYS.PROTEINS: self.proteins.counts,
            "proteins_measured": self.proteins.measured,
        }


@dataclass(frozen=True, eq=False, repr=False)
class AlignedQuery:
    """Query that is opened, checked and aligned to a model; created by `open_query`.

    Parameters
    ----------
    source
        Counts of the query, with its own genes.
    alignment
        Map from these to the genes of the model.
    extra
        Further inputs.
    genes
        Genes of the model, in its order.
    proteins
        Proteins of the model, in its order; empty if it has none.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> from hdeepinsight.data import open_query
    >>> var = pd.DataFrame(index=["NKG7", "CD3D"])
    >>> query = ad.AnnData(np.array([[1.0, 0.0], [5.0, 2.0]]), var=var)
    >>> open_query(query, ["CD3D", "NKG7"])
    AlignedQuery(2 of 2 genes, CountSource(2 cells × 2 genes, counts in X, dense))
    """

    source: CountSource
    alignment: _genes.GeneAlignment
    extra: ExtraInputs
    genes: tuple[str, ...]
    proteins: tuple[str, ...] = ()

    @property
    def obs(self) -> pd.DataFrame:
        """Annotation of the cells, a copy of the user's table."""
        return self.source.obs

    @property
    def obs_names(self) -> pd.Index:
        """Names of the cells."""
        return self.source.obs_names

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return self.source.n_obs

    @property
    def measured(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Whether the query has each gene of the model, bool, shape ``(n_genes,)``."""
        return self.alignment.measured

    @property
    def query_genes(self) -> list[str]:
        """Unique genes of the query in its order, which are the columns of what `chunks` keeps."""
        return list(dict.fromkeys(map(str, self.source.var_names)))

    @property
    def input_report(self) -> InputReport:
        """Report on the values; for large queries on a sample, until a pass has read all cells."""
        return self.source.report

    @property
    def gene_report(self) -> _genes.GeneReport:
        """Report on how the genes and proteins match those of the model."""
        report = self.alignment.report
        if self.extra.proteins is None:
            return report
        return replace(report, messages=(*report.messages, self.extra.proteins.message))

    @property
    def n_passes(self) -> int:
        """Number of passes over the matrix so far, including scans of all values."""
        return self.source.matrix.counter["passes"]

    @property
    def n_scans(self) -> int:
        """Number of scans of the values, of all or some cells, to detect their scale."""
        return self.source.matrix.counter["scans"]

    def __repr__(self) -> str:
        n_measured = self.alignment.report.n_measured
        return f"AlignedQuery({n_measured:,} of {len(self.genes):,} genes, {self.source!r})"

    def chunks(
        self, chunk_size: int = _matrix.CHUNK_CELLS, keep: list[sp.csr_matrix] | None = None
    ) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Read counts with genes in model order and cells in their order, in one pass.

        A thread reads the next chunk while one is used.

        Parameters
        ----------
        chunk_size
            Maximum number of cells per chunk. It does not change the counts.
        keep
            List to which the counts of all genes of the query are appended, chunk by chunk (CSR
            float32, columns as in ``query_genes``, read-only), so that other steps need no
            additional pass.

        Yields
        ------
        Rows of the chunk, and its counts: CSR float32, shape ``(n_cells, n_genes)``.

        Raises
        ------
        InputError
            If the counts of a cell cannot be recovered, or values do not have the scale of the
            sample.

        Examples
        --------
        >>> import anndata as ad
        >>> import numpy as np
        >>> import pandas as pd
        >>> from hdeepinsight.data import open_query
        >>> var = pd.DataFrame(index=["NKG7", "ACTB", "CD3D"])
        >>> query = ad.AnnData(np.array([[1.0, 9.0, 0.0], [5.0, 8.0, 2.0]]), var=var)
        >>> opened, kept = open_query(query, ["CD3D", "NKG7"]), []
        >>> [counts.toarray().tolist() for rows, counts in opened.chunks(keep=kept)]
        [[[0.0, 1.0], [2.0, 5.0]]]
        >>> kept[0].toarray().tolist(), opened.n_passes
        ([[1.0, 9.0, 0.0], [5.0, 8.0, 2.0]], 2)
        """
        return _matrix.prefetch(self._chunks(chunk_size, keep))

    def _chunks(
        self, chunk_size: int, keep: list[sp.csr_matrix] | None
    ) -> Iterator[tuple[slice, sp.csr_matrix]]:
        own = None
        if keep is not None and not self.source.var_names.is_unique:
            unique = pd.Index(self.query_genes)
            own = _genes.alignment_of(unique.get_indexer(self.source.var_names.astype(str)), unique)
        # Read in small steps to save memory; the genes of the model are combined to chunks.
        step = STEP if chunk_size in range(STEP, 2**31, STEP) else chunk_size
        start, parts = 0, []
        for rows, block in self.source.blocks(step):
            if keep is not None:
                kept = own.apply(block) if own else _matrix.canonical(block)
                keep.append(kept.astype(np.float32, copy=False))
            parts.append(self.alignment.apply(block))
            if rows.stop - start >= chunk_size or rows.stop == self.n_obs:
                yield slice(start, rows.stop), sp.vstack(parts, "csr") if parts[1:] else parts[0]
                start, parts = rows.stop, []

    def read(self, rows: np.ndarray[Any, Any] | None = None) -> sp.csr_matrix:
        """Read the counts of all or some cells at once, with genes in model order.

        Parameters
        ----------
        rows
            Positions of the cells, in any order; all by default. Memory is proportional to their
            number.

        Returns
        -------
        Counts: CSR float32, shape ``(n_cells, n_genes)``.

        Examples
        --------
        >>> import anndata as ad
        >>> import numpy as np
        >>> import pandas as pd
        >>> from hdeepinsight.data import open_query
        >>> var = pd.DataFrame(index=["NKG7", "CD3D"])
        >>> opened = open_query(ad.AnnData(np.array([[1.0, 0.0], [5.0, 2.0]]), var=var), ["CD3D"])
        >>> opened.read(np.array([1, 0])).toarray().tolist()
        [[2.0], [0.0]]
        """
        return self.source.read(self.alignment, rows)

    def sample_rows(self) -> Ints:
        """Return the cells that the verdict is based on: all, or a sample of a large query."""
        if self.n_obs <= _matrix.CHUNK_CELLS:
            return np.arange(self.n_obs)
        return _matrix.spread_rows(self.n_obs, _matrix.SAMPLE_CELLS)

    def subset(self, indices: Any) -> AlignedQuery:
        """Return a query of some cells, in the given order, without scanning the values again.

        Parameters
        ----------
        indices
            Positions from 0, a boolean mask, names of cells, or a slice. Positions may repeat.

        Raises
        ------
        InputError
            If they are invalid, or select no cell.

        Examples
        --------
        >>> import anndata as ad
        >>> import numpy as np
        >>> import pandas as pd
        >>> from hdeepinsight.data import open_query
        >>> var = pd.DataFrame(index=["NKG7", "CD3D"])
        >>> query = ad.AnnData(np.array([[1.0, 0.0], [5.0, 2.0]]), var=var)
        >>> query.obs_names = ["a", "b"]
        >>> opened = open_query(query, ["CD3D", "NKG7"])
        >>> opened.subset(["b"]).read().toarray().tolist()
        [[2.0, 5.0]]
        """
        rows = cell_positions(indices, self.obs_names)
        return replace(self, source=self.source.take(rows), extra=self.extra[rows])

    def named(self, names: pd.Index) -> AlignedQuery:
        """Return the query with other cell names."""
        return replace(self, source=replace(self.source, obs=self.obs.set_axis(names)))

    def portable(self, columns: Sequence[str] = ()) -> AlignedQuery:
        """Return a copy to send to other processes, which read the counts themselves.

        Parameters
        ----------
        columns
            Columns of ``obs`` to keep if present. Cell names and all other columns are dropped.

        Raises
        ------
        InputError
            If the counts are in memory.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import anndata as ad
        >>> import numpy as np
        >>> import pandas as pd
        >>> from hdeepinsight.data import open_query
        >>> cells = ad.AnnData(np.ones((2, 2)), var=pd.DataFrame(index=["NKG7", "CD3D"]))
        >>> cells.obs["donor"] = ["a", "b"]
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "cells.h5ad"
        ...     cells.write_h5ad(path)
        ...     opened = open_query(path, ["CD3D"])
        >>> opened.portable(["donor"]).obs["donor"].tolist(), opened.portable().obs.shape
        (['a', 'b'], (2, 0))
        """
        return replace(self, source=self.source.portable(columns))


def open_query(
    data: DataLike | MuData | AlignedQuery,
    genes: Sequence[str],
    *,
    layer: str | None = None,
    use_raw: bool = False,
    scale: ScaleMode = "auto",
    fold_case: bool = False,
    weights: np.ndarray[Any, Any] | None = None,
    proteins: Sequence[str] = (),
    protein_layer: str | None = None,
    modalities: Modalities | None = None,
    preferred_layer: str | None = None,
    warn: bool = True,
) -> AlignedQuery:
    """Open a query, detect the scale of its values, and align it to the genes of a model.

    The scale of a large query is detected on a sample; the other cells are checked in the first
    pass.

    Parameters
    ----------
    data
        AnnData (in memory or backed), MuData, or path of an ``.h5ad``, ``.zarr`` or ``.h5mu``
        file; or a result of this function for the same genes, which is returned unchanged.
    genes
        Genes of the model.
    layer, use_raw, scale
        Matrix with the counts of the RNA, and their scale; see `open_counts`. If neither ``layer``
        nor ``use_raw`` is given and ``.raw`` has clearly more of the genes, ``.raw`` is read, which
        the report states; ``layer="X"`` always reads ``X``.
    fold_case, weights
        As in `align_genes`.
    proteins
        Proteins of the model; those of a MuData are read in their order.
    protein_layer
        Layer of the protein modality with the counts; ``X`` if there is no such layer.
    modalities
        Names of the modalities of a MuData; common names by default.
    preferred_layer
        Layer to read if the query has it and neither ``layer`` nor ``use_raw`` is given, such as
        the layer that the reference was registered with.
    warn
        Whether to warn, once, about genes and proteins that the query lacks.

    Returns
    -------
    The query; reading from it does not repeat the checks.

    Raises
    ------
    InputError
        If the values cannot be read as counts, the genes do not match, a MuData has no input of
        the model, or the query was opened for other genes or proteins.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> from hdeepinsight.data import open_query
    >>> var = pd.DataFrame(index=["NKG7", "CD3D"])
    >>> opened = open_query(ad.AnnData(np.array([[1.0, 0.0], [5.0, 2.0]]), var=var), ["CD3D"])
    >>> opened.n_scans, opened.n_passes
    (1, 1)
    """
    genes, proteins = tuple(map(str, genes)), tuple(map(str, proteins))
    if isinstance(data, AlignedQuery):
        if data.genes != genes or data.proteins != proteins:
            found = f"The query was opened for another model, of {len(data.genes):,} genes."
            valid = f"Expected one opened for this model, of {len(genes):,} genes."
            raise InputError(found, valid, "Open the query again with this model.")
        given = layer is not None, use_raw, scale != "auto", fold_case
        if late := [name for name, is_given in zip(ARGUMENTS, given, strict=True) if is_given]:
            raise InputError(
                f"{' and '.join(late)} was passed with a query that is already open.",
                "These arguments only apply when a query is opened.",
                "Pass them to open.",
            )
        return data
    modalities = modalities or Modalities()
    mdata: Any = open_paired(data) if is_paired(data) else None
    rna = data if mdata is None else modalities.rna_of(mdata)
    if rna is None:
        matrix = _matrix.wrap(sp.csr_matrix((mdata.n_obs, 0), dtype=np.float32))
        report = InputReport(mdata.n_obs, 0, "X", "none", scale="empty", evidence="no RNA")
        var = pd.DataFrame(index=pd.Index([], dtype=str))
        source = CountSource(matrix, mdata.obs, var, Inspection(report))
        message = "No RNA modality: the cells are annotated from their proteins alone."
        nothing = np.empty(0, dtype=np.int64)
        alignment = _genes.alignment_of(nothing, pd.Index(genes, dtype=object), messages=[message])
    else:
        store, remarks = open_store(rna), list[str]()
        coverage = partial(_genes.gene_coverage, genes=genes, weights=weights)
        if layer is None and not use_raw:
            if preferred_layer is not None and slot_name(preferred_layer) in store.slots:
                layer = preferred_layer
            here = slot_name(layer)
            if scale == "auto" and {here, ".raw"} <= set(store.slots):
                both = readable(store, [here, ".raw"], coverage)
                has = {m.slot: m.coverage for m in both if m.scale in ACCEPTED_SCALES}
                if len(has) == 2 and has[".raw"] >= has[here] + CLEARLY_MORE:
                    remarks.append(
                        f"Read from .raw, which has {has['.raw']:.1%} of the reference's "
                        f"expression, while {here} has {has[here]:.1%}; layer={layer or 'X'!r} "
                        f"reads {here}."
                    )
                    layer, use_raw = None, True
        source = open_counts(
            store, layer=layer, use_raw=use_raw, scale=scale, coverage=coverage, sampled=True
        )
        source = replace(source, remarks=tuple(remarks))
        alignment = _genes.align_genes(
            source.var,
            genes,
            weights=weights,
            fold_case=fold_case,
            warn_coverage=_genes.WARN_COVERAGE if warn else 0.0,
        )
    if mdata is None:
        return AlignedQuery(source, alignment, ExtraInputs(), genes, proteins)
    has_rna = modalities.has_rna(mdata)
    counts = None
    if proteins:
        counts = modalities.proteins_of(mdata, proteins, layer=protein_layer, warn=warn)
    if not has_rna.any() and (counts is None or not counts.measured.any()):
        raise InputError(
            f"The MuData (modalities: {', '.join(mdata.mod)}) has no RNA and no protein that "
            "the model uses.",
            f"The model needs RNA{' or proteins' if proteins else ''}.",
            "Add the RNA modality, or check the names of modalities and proteins.",
        )
    extra = ExtraInputs(counts, None if has_rna.all() else has_rna)
    obsm = {name: partial(mdata.obsm.__getitem__, name) for name in mdata.obsm}
    source = replace(source, obs=modalities.obs_of(mdata), obsm=obsm)
    return AlignedQuery(source, alignment, extra, genes, proteins)


def cell_positions(indices: Any, obs_names: pd.Index) -> Ints:
    """Return the positions of selected cells.

    Parameters
    ----------
    indices
        Positions from 0, a boolean mask, names of cells, or a slice.
    obs_names
        Names of all cells.

    Returns
    -------
    Positions, int64, in the given order.

    Raises
    ------
    InputError
        If the selection is invalid or empty.

    Examples
    --------
    >>> import pandas as pd
    >>> from hdeepinsight.data import cell_positions
    >>> names = pd.Index(["a", "b", "c"])
    >>> [cell_positions(given, names).tolist() for given in (["c", "a"], [True, False, True], [1])]
    [[2, 0], [0, 2], [1]]
    """
    n_obs = len(obs_names)
    if isinstance(indices, slice):
        indices = np.arange(n_obs)[indices]
    given: np.ndarray[Any, Any] = np.atleast_1d(np.asarray(indices))
    own: Any = getattr(indices, "index", None)
    if given.dtype == object and pd.api.types.infer_dtype(given) == "boolean":
        given = given.astype(bool)
    kind, is_mask = given.dtype.kind, given.dtype.kind == "b"
    has_names = isinstance(own, pd.Index) and own.dtype.kind == "O"
    found = ""
    if given.ndim != 1 or not len(given) or (is_mask and not given.any()):
        found = "The selection is empty, or not one-dimensional."
    elif is_mask and len(given) != n_obs:
        found = f"The mask has {len(given):,} entries, but there are {n_obs:,} cells."
    elif is_mask and has_names and not own.equals(obs_names):
        found = "The index of the mask does not match the cells, or is in another order."
    elif kind in "iu" and len(given) == n_obs > 2 and not (given >> 1).any():
        found = "All positions are 0 or 1, as in a mask. Convert masks to Boolean."
    elif kind in "iu" and len(outside := given[(given < 0) | (given >= n_obs)]):
        found = f"{len(outside):,} positions are out of range: {examples(outside)}."
    elif kind not in "biuOUT":
        found = f"Cells are selected by values of type {given.dtype}."
    elif kind in "OUT" and not obs_names.is_unique:
        found = "Cells are selected by name, but names of the query occur more than once."
    elif kind in "OUT" and len(missing := given[~np.isin(given, obs_names)]):
        found = f"The query has no cell {examples(map(repr, missing.tolist()))}."
    if found:
        valid = f"Expected positions from 0 to {n_obs - 1:,}, a mask of {n_obs:,}, or names."
        raise InputError(found, valid, "Correct the selection.")
    if is_mask:
        return np.flatnonzero(given)
    return given.astype(np.int64) if kind in "iu" else obs_names.get_indexer(given.astype(object))
