"""Counts of a query, chunk by chunk, in the gene order of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import scipy.sparse as sp

from hdeepinsight._errors import check_integer
from hdeepinsight.data._checks import inspect_store, not_finite, refusal, where_counts_are
from hdeepinsight.data._decode import Denormalizer, Normalisation
from hdeepinsight.data._errors import InputError
from hdeepinsight.data._genes import align_genes
from hdeepinsight.data._matrix import Block, RowMatrix
from hdeepinsight.data._recover import decode_blocks
from hdeepinsight.data._report import InputReport
from hdeepinsight.data._scale import VALID, check_scale
from hdeepinsight.data._store import DataLike, Store, open_store

if TYPE_CHECKING:
    import pandas as pd

    from hdeepinsight.data._align import GeneAlignment

__all__ = ["CountSource", "ScaleMode", "open_counts"]

ScaleMode: TypeAlias = Literal["auto", "counts", "recover", "as_is"]

_LOGGED = ("log1p_counts", "log1p")


@dataclass(frozen=True, eq=False, repr=False)
class CountSource:
    """Counts of shape ``(n_obs, n_vars)``, read in chunks; made by `open_counts`.

    Parameters
    ----------
    matrix
        Where the values come from.
    obs
        Annotation of the cells; a table of its own, the user's one is not touched by changing it.
    var
        Annotation of the genes.
    report
        What the values are, and what is repaired.
    denormalizer
        How counts are recovered from the values; ``None`` if they are used as they are.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> from hdeepinsight.data import open_counts
    >>> open_counts(ad.AnnData(np.array([[1.0, 0.0], [5.0, 2.0]])))
    CountSource(2 cells × 2 genes, counts in X, dense)
    """

    matrix: RowMatrix
    obs: pd.DataFrame
    var: pd.DataFrame
    report: InputReport
    denormalizer: Denormalizer | None = None

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return self.matrix.shape[0]

    @property
    def n_vars(self) -> int:
        """Number of genes."""
        return self.matrix.shape[1]

    @property
    def obs_names(self) -> pd.Index:
        """Names of the cells."""
        return self.obs.index

    @property
    def var_names(self) -> pd.Index:
        """Names of the genes."""
        return self.var.index

    def __repr__(self) -> str:
        size = f"{self.n_obs:,} cells × {self.n_vars:,} genes"
        how = "recovered from" if self.denormalizer else "in"
        return f"CountSource({size}, counts {how} {self.report.layer}, {self.report.storage})"

    def align(self, genes: Sequence[str], **options: Any) -> GeneAlignment:
        """Match the genes to those of a model; options as in `align_genes`.

        Examples
        --------
        >>> import anndata as ad
        >>> import numpy as np
        >>> import pandas as pd
        >>> from hdeepinsight.data import open_counts
        >>> var = pd.DataFrame(index=["NKG7", "CD3D"])
        >>> source = open_counts(ad.AnnData(np.array([[1.0, 0.0], [5.0, 2.0]]), var=var))
        >>> source.align(["CD3D", "NKG7"]).source.tolist()
        [1, 0]
        """
        return align_genes(self.var, genes, **options)

    def chunks(
        self, alignment: GeneAlignment, chunk_size: int = 4096
    ) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Read counts in model order, cells in file order.

        Parameters
        ----------
        alignment
            Map to the model's genes, made from ``var`` or ``var_names``.
        chunk_size
            Most cells of a chunk. What a cell gets does not depend on it.

        Yields
        ------
        Rows of the chunk, and its counts: CSR float32, shape ``(n_cells, n_genes)``.

        Raises
        ------
        InputError
            If the counts of a cell cannot be recovered.

        Examples
        --------
        >>> import anndata as ad
        >>> import numpy as np
        >>> import pandas as pd
        >>> from hdeepinsight.data import open_counts
        >>> var = pd.DataFrame(index=["NKG7", "CD3D"])
        >>> source = open_counts(ad.AnnData(np.array([[1.0, 0.0], [5.0, 2.0]]), var=var))
        >>> alignment = source.align(["CD3D", "NKG7"])
        >>> [counts.toarray().tolist() for rows, counts in source.chunks(alignment)]
        [[[0.0, 1.0], [2.0, 5.0]]]
        """
        for rows, block in self.blocks(chunk_size):
            yield rows, alignment.apply(block)

    def read(self, alignment: GeneAlignment, rows: np.ndarray | None = None) -> sp.csr_matrix:
        """Read all counts at once, as :meth:`chunks` gives them, or those of some cells.

        Parameters
        ----------
        alignment
            Map to the model's genes.
        rows
            Positions of the cells to read, in any order; all of them if ``None``. Memory grows
            with these.

        Returns
        -------
        Counts: CSR float32, shape ``(n_cells, n_genes)``.

        Examples
        --------
        >>> import anndata as ad
        >>> import numpy as np
        >>> import pandas as pd
        >>> from hdeepinsight.data import open_counts
        >>> var = pd.DataFrame(index=["NKG7", "CD3D"])
        >>> source = open_counts(ad.AnnData(np.array([[1.0, 0.0], [5.0, 2.0]]), var=var))
        >>> alignment = source.align(["CD3D", "NKG7"])
        >>> source.read(alignment).toarray().tolist()
        [[0.0, 1.0], [2.0, 5.0]]
        >>> source.read(alignment, np.array([1])).toarray().tolist()
        [[2.0, 5.0]]
        """
        source = self if rows is None else self.take(rows)
        nothing = sp.csr_matrix((0, len(alignment.source)), dtype=np.float32)
        return sp.vstack([nothing, *(counts for _, counts in source.chunks(alignment))], "csr")

    def take(self, rows: np.ndarray) -> CountSource:
        """Return the source of the cells at some positions, in their order.

        Examples
        --------
        >>> import anndata as ad
        >>> import numpy as np
        >>> from hdeepinsight.data import open_counts
        >>> source = open_counts(ad.AnnData(np.array([[1.0, 0.0], [5.0, 2.0]])))
        >>> source.take(np.array([1])).obs_names.tolist()
        ['1']
        """
        text = f"{len(rows):,} of the {self.n_obs:,} cells were chosen."
        return replace(
            self,
            matrix=self.matrix.take(rows),
            obs=self.obs.iloc[rows],
            report=replace(self.report, repairs=(*self.report.repairs, text)),
        )

    def blocks(self, size: int = 4096) -> Iterator[tuple[slice, Block]]:
        """Read the counts of all genes in blocks, as `RowMatrix.blocks` does.

        Raises
        ------
        InputError
            If the counts of a cell cannot be recovered.
        """
        check_integer("chunk_size", size, hint="Omit it to use 4096.")
        if self.denormalizer is None:
            return self.matrix.blocks(size)
        return decode_blocks(self.matrix, self.denormalizer, size)


def open_counts(
    data: DataLike | Store,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    scale: ScaleMode = "auto",
) -> CountSource:
    """Inspect a query and open it as a source of counts, without changing it.

    Parameters
    ----------
    data
        An AnnData with a dense, sparse, dask or backed matrix, or the path of an ``.h5ad`` file
        or a ``.zarr`` store, which is read lazily and is open only while it is read; or what
        `open_store` returned for one of these.
    layer
        Layer with the values, shape ``(n_obs, n_vars)``; ``X`` if ``None``.
    use_raw
        Read ``.raw``, with its genes.
    scale
        ``"auto"``: counts are used, log1p-normalised values from which counts can be recovered are
        recovered, anything else is refused. ``"counts"``: only whole numbers are accepted.
        ``"recover"``: counts are recovered, also from values that were not logged. ``"as_is"``:
        fractions are used unchanged. NaN, infinite and negative values are always refused.

    Returns
    -------
    The source; its ``report`` says what was found and repaired.

    Raises
    ------
    InputError
        With what was found, what is valid and what to do next. Another layer is never taken
        silently: if one holds counts, the text names it.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> from hdeepinsight.data import open_counts
    >>> open_counts(ad.AnnData(np.array([[1.0, 0.0], [5.0, 2.0]])))
    CountSource(2 cells × 2 genes, counts in X, dense)
    """
    check_scale(scale, get_args(ScaleMode))
    store = data if isinstance(data, Store) else open_store(data)
    report = inspect_store(store, layer=layer, use_raw=use_raw)
    return source_of(store, report, layer=layer, use_raw=use_raw, scale=scale)


def source_of(
    store: Store,
    report: InputReport,
    *,
    layer: str | None,
    use_raw: bool = False,
    scale: ScaleMode = "auto",
) -> CountSource:
    """Open a matrix that was inspected; raises as `open_counts` does."""
    error = _error(report, scale)
    if error is not None:
        hint = where_counts_are(store, report.layer)
        raise InputError(error.found, error.valid, " ".join([error.do_next, *hint]))
    matrix = store.matrix(layer, use_raw)
    return CountSource(
        matrix=matrix,
        obs=store.obs,
        var=store.genes(use_raw),
        report=_note(report, scale),
        denormalizer=_denormalizer(report, scale, matrix),
    )


def _error(report: InputReport, scale: ScaleMode) -> InputError | None:
    error = not_finite(report)
    if error or report.scale in ("empty", "scaled"):
        return error or refusal(report)
    whole = report.scale in ("counts", "binary")
    found = f"{report.layer} looks {report.scale}: {report.evidence}."
    if scale == "counts" and not whole:
        return InputError(found, VALID, "Pass the raw counts, or another `scale`.")
    if scale == "recover" and (whole or report.scale in ("log1p", "fractional_counts")):
        valid = "Counts are recovered from values that were only divided by the library size."
        return InputError(found, valid, "Use scale='auto'." if whole else "Pass the raw counts.")
    return refusal(report) if scale == "auto" else None


def _denormalizer(report: InputReport, scale: ScaleMode, matrix: RowMatrix) -> Denormalizer | None:
    if scale == "recover" or (scale == "auto" and report.scale == "log1p_counts"):
        form: Normalisation = "log1p" if report.scale in _LOGGED else "normalized"
        return Denormalizer(form, matrix.dtype, report.rounding)
    return None


def _note(report: InputReport, scale: ScaleMode) -> InputReport:
    """Say what an explicit `scale` changes."""
    if scale == "as_is" and report.scale not in ("counts", "binary"):
        text = f"The {report.scale} values are used unchanged, because scale='as_is' was given."
        return replace(report, problems=(), repairs=(text,))
    if scale == "recover" and report.scale == "normalized":
        text = "Counts are recovered from the normalised values of each cell."
        return replace(report, problems=(), repairs=(*report.repairs, text))
    return report
