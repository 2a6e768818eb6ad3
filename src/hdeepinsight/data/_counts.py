"""Counts of any input, read chunk by chunk, and what is computed from them without a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, get_args

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from hdeepinsight._errors import ARGUMENTS, InputError, check_choice, check_integer, examples
from hdeepinsight.data._genes import GeneAlignment, align_genes, as_text, is_numbered
from hdeepinsight.data._inspect import (
    InputReport,
    ScaleMode,
    inspect_store,
    refusal,
    where_counts_are,
)
from hdeepinsight.data._matrix import (
    CHUNK_CELLS,
    SAMPLE_CELLS,
    Block,
    RowMatrix,
    Scan,
    canonical,
    spread_rows,
    stacked,
    wrap,
)
from hdeepinsight.data._recover import Denormalizer, Normalisation
from hdeepinsight.data._store import DataLike, Store, open_store, slot_name

#: A gene that fewer cells express is not selected.
MIN_CELLS = 3
#: Names in lower case of genes that have none; and most columns that share a name on average.
NO_NAMES, MOST_COLUMNS = ("", "nan", "none", "na", "<na>"), 10


@dataclass(eq=False)
class Inspection:
    """What a matrix holds and how it is read: told by some cells, until a pass has seen them all.

    Parameters
    ----------
    report
        What the values are.
    denormalizer
        How counts are recovered from the values; ``None`` if they are used as they are.
    seen
        What the cells hold that were looked at; ``None`` once all were.
    again
        Inspects the matrix by other tallies, or by all of its values.
    """

    report: InputReport
    denormalizer: Denormalizer | None = None
    seen: Scan | None = None
    again: Callable[[Scan | None], Inspection] | None = None

    def watch(self, matrix: RowMatrix, size: int) -> Iterator[tuple[slice, Block]]:
        """Read blocks, and check in the same pass that all values are what some of them told.

        Raises
        ------
        InputError
            If they are not: what is said of the whole matrix, which is then looked at.
        """
        tally = Scan()
        for rows, block in matrix.blocks(size):
            if self.seen is not None:
                block = canonical(block)
                tally.add(block)
                if tally.contradicts(self.seen):
                    self.settle()
            yield rows, block
        if self.seen is not None and matrix.rows is None and tally.n_rows == self.report.n_obs:
            tally.sample = self.seen.sample
            self.settle(tally)

    def settle(self, seen: Scan | None = None) -> None:
        """Update the report from the tallies of all values, which are read if not given.

        Raises
        ------
        InputError
            If they contradict the sample.
        """
        found: Inspection = self.again(seen)  # type: ignore[misc]
        if found.denormalizer != self.denormalizer:
            raise InputError(
                f"{found.report.layer} looks {self.report.scale} in some cells, and "
                f"{found.report.scale} in all: {found.report.evidence}.",
                "Valid are values of one scale, normalised alike.",
                "Pass the raw counts, or each part by itself.",
            )
        self.report, self.seen = found.report, None


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
    inspection
        What the values are, and how counts are made from them.
    obsm
        Ways to the coordinates that the cells brought along.
    remarks
        What else there is to say of how the counts are read, in sentences.

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
    inspection: Inspection
    obsm: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def report(self) -> InputReport:
        """What the values are and what is repaired; on all of them from the first pass on."""
        report = self.inspection.report
        return replace(report, repairs=(*report.repairs, *self.remarks))

    @property
    def denormalizer(self) -> Denormalizer | None:
        """How counts are recovered from the values; ``None`` if they are used as they are."""
        return self.inspection.denormalizer

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
        self, alignment: GeneAlignment, chunk_size: int = CHUNK_CELLS
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
        matrix, seen = self.matrix.take(rows), self.inspection.seen
        looked_at = spread_rows(self.n_obs, SAMPLE_CELLS)
        if seen is not None and self.matrix.rows is None and np.array_equal(looked_at, rows):
            matrix = wrap(stacked(list(seen.sample)))  # in memory, of what was looked at
        return replace(
            self,
            matrix=matrix,
            obs=self.obs.iloc[rows],
            obsm={name: partial(_rows_of, way, rows) for name, way in self.obsm.items()},
            remarks=(*self.remarks, text),
        )

    def portable(self, columns: Sequence[str]) -> CountSource:
        """Return a copy to send to other processes; see `AlignedQuery.portable`."""
        if self.matrix.is_in_memory:
            raise InputError(
                "The counts are in the memory of this process, where workers cannot read them.",
                "Valid is the path of an .h5ad file or a .zarr store, or an AnnData whose matrix "
                "is a dask array.",
                "Write the query to a file that all workers can read, or omit client=.",
            )
        seen = self.inspection.seen and replace(self.inspection.seen, sample=[])
        return replace(
            self,
            matrix=replace(self.matrix, counter=Counter(), held={}),
            obs=self.obs[[name for name in columns if name in self.obs]].reset_index(drop=True),
            inspection=replace(self.inspection, seen=seen, again=_unlike),
            obsm={},
        )

    def blocks(self, size: int = CHUNK_CELLS) -> Iterator[tuple[slice, Block]]:
        """Read the counts of all genes in blocks, as `RowMatrix.blocks` does.

        Raises
        ------
        InputError
            If the counts of a cell cannot be recovered, or values are not what some of them told.
        """
        check_integer("chunk_size", size, hint=f"Omit it to use {CHUNK_CELLS}.")
        blocks = self.inspection.watch(self.matrix, size)
        return self.denormalizer.blocks(blocks, self.n_obs) if self.denormalizer else blocks


class UnlikeSample(Exception):
    """Values differ in kind from those of the sample, so all values have to be inspected."""


def _unlike(seen: Scan | None) -> Inspection:
    raise UnlikeSample


def _rows_of(way: Callable[[], Any], rows: np.ndarray) -> Any:
    values = way()
    return values.iloc[rows] if hasattr(values, "iloc") else values[rows]


def open_counts(
    data: DataLike,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    scale: ScaleMode = "auto",
    arguments: Mapping[str, str] = ARGUMENTS,
    coverage: Callable[[pd.DataFrame], float] | None = None,
    genes_only: bool = True,
    sampled: bool = False,
) -> CountSource:
    """Inspect a query and open it as a source of counts, without changing it.

    Parameters
    ----------
    data
        An AnnData with a dense, sparse, dask or backed matrix, or the path of an ``.h5ad`` file
        or a ``.zarr`` store, which is read lazily and is open only while it is read, or of another
        format that `open_store` reads; or what that returned for one of these.
    layer
        Layer with the values, shape ``(n_obs, n_vars)``; ``X`` if ``None``.
    use_raw
        Read ``.raw``, with its genes.
    scale
        ``"auto"``: counts are used, log1p-normalised values from which counts can be recovered are
        recovered, anything else is refused. ``"counts"``: only whole numbers are accepted.
        ``"recover"``: counts are recovered, also from values that were not logged. ``"as_is"``:
        fractions are used unchanged. NaN, infinite and negative values are always refused.
    arguments
        What the caller takes of ``layer``, ``use_raw`` and ``scale``, and by which names, so that
        an error advises nothing else; such as ``{"layer": "rna_layer"}``.
    coverage
        Share of the wanted genes that a table of genes has, by which an error compares matrices.
    genes_only
        Leave out columns that are not genes by what ``var`` says of them.
    sampled
        Judge a large matrix by cells from all over it, and all others as they are read: the first
        pass ends with the error if they are something else.

    Returns
    -------
    The source; its ``report`` says what was found and repaired.

    Raises
    ------
    InputError
        With what was found, what is valid and what to do next. Another layer is never taken
        silently: if one holds counts, the text names it.
    ValueError
        If ``scale`` is none of these.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> from hdeepinsight.data import open_counts
    >>> open_counts(ad.AnnData(np.array([[1.0, 0.0], [5.0, 2.0]])))
    CountSource(2 cells × 2 genes, counts in X, dense)
    """
    check_choice("scale", scale, get_args(ScaleMode))
    store = open_store(data, genes_only=genes_only)
    matrix = store.matrix(layer, use_raw, arguments=arguments)
    how = {"layer": layer, "use_raw": use_raw, "arguments": arguments}
    is_known = ("report", slot_name(layer, use_raw)) in store.known
    inspect = partial(_inspected, store, scale, coverage, how)
    return CountSource(
        matrix=matrix,
        obs=store.obs.copy(deep=False),
        var=store.genes(use_raw).copy(deep=False),
        inspection=inspect(matrix.scan_some() if sampled and not is_known else None),
        obsm=store.obsm,
    )


def _inspected(
    store: Store,
    scale: ScaleMode,
    coverage: Callable[[pd.DataFrame], float] | None,
    how: Mapping[str, Any],
    seen: Scan | None,
) -> Inspection:
    """Inspect a matrix by some cells, or by all, and raise an error if it is not to be read."""
    report = inspect_store(store, **how, tally=seen)
    if error := refusal(report, how["arguments"], scale):
        if seen is not None:  # the error tells what all cells hold
            return _inspected(store, scale, coverage, how, None)
        hint = where_counts_are(store, report.layer, how["arguments"], coverage)
        raise InputError(error.found, error.valid, " ".join([error.do_next, *hint]))
    denormalizer, text = None, ""
    if scale == "recover" or (scale == "auto" and report.scale == "log1p_counts"):
        form: Normalisation = "normalized" if report.scale == "normalized" else "log1p"
        dtype = store.matrix(how["layer"], how["use_raw"]).dtype
        denormalizer = Denormalizer(form, dtype, report.rounding, report.log_base)
    if scale == "as_is" and report.scale not in ("counts", "binary"):
        text = f"The {report.scale} values are used unchanged, because scale='as_is' was given."
    elif scale == "recover" and report.scale == "normalized":
        text = "Counts are recovered from the normalised values of each cell."
    if text:
        report = replace(report, problems=(), repairs=(*report.repairs, text))
    again = partial(_inspected, store, scale, coverage, how)
    return Inspection(report, denormalizer, seen, again)


def recover_counts(data: Any, *, layer: str | None = None, use_raw: bool = False) -> ad.AnnData:
    """Recover raw counts from library-size normalised values, exactly or not at all.

    Dividing by the library size multiplies the counts of a cell by one factor, so all its values,
    after expm1 where they were logged, are whole multiples of one unit. The largest such unit is
    found for every cell within the precision of the stored values: floating point, or decimals that
    the file was rounded to.

    Parameters
    ----------
    data
        An AnnData, the path of a file, or a matrix of shape ``(n_cells, n_genes)``: dense, sparse
        or dask. The values are log1p of normalised counts, to the base that ``uns["log1p"]`` tells,
        or e, 2 or 10; or normalised counts that were not logged.
    layer
        Layer with the values; ``X`` if ``None``.
    use_raw
        Take ``.raw``, with its genes.

    Returns
    -------
    A new AnnData with the counts as ``X`` (CSR float32) and copies of ``obs`` and ``var``. What was
    passed stays as it is.

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
    >>> hdi.pp.recover_counts(values).X.toarray()
    array([[0., 1., 5., 2.], [3., 2., 0., 4.]], dtype=float32)
    """
    is_matrix = getattr(data, "ndim", 0) == 2 and not isinstance(data, ad.AnnData)
    source = open_counts(
        ad.AnnData(data) if is_matrix else data,
        layer=layer,
        use_raw=use_raw,
        scale="recover",
        arguments={"layer": "layer", "use_raw": "use_raw"},
    )
    counts = sp.vstack([block for _, block in source.blocks()], format="csr")
    return ad.AnnData(counts, obs=source.obs.copy(), var=source.var.copy())


def select_genes(source: CountSource, n_genes: int, *, keep: Sequence[str] = ()) -> list[str]:
    """Choose the genes that vary more than their mean explains.

    Parameters
    ----------
    source
        Counts of the reference.
    n_genes
        Most genes to choose. Genes seen in fewer than 3 cells are never chosen, so there may be
        fewer.
    keep
        Genes to choose in any case, first.

    Returns
    -------
    Names of the genes, ``keep`` first, then in the order of the reference.

    Raises
    ------
    InputError
        If a gene of ``keep`` is not in the reference, or no gene is left.

    Notes
    -----
    A gene's score is the variance of its counts, standardised by the standard deviation that a
    quadratic trend of log variance over log mean expects, and clipped at the square root of the
    number of cells. This is the ranking of Stuart et al. (2019, doi:10.1016/j.cell.2019.05.031)
    with a quadratic in place of a local regression, which fails on small panels; it reads the
    counts in chunks, so that memory does not grow with the number of cells.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> from hdeepinsight.data import open_counts
    >>> rng = np.random.default_rng(0)
    >>> counts = rng.poisson(np.linspace(1, 9, 60), (200, 60)).astype(np.float32)
    >>> counts[:100, 30] += 20
    >>> var = pd.DataFrame(index=[f"GENE{i}" for i in range(60)])
    >>> select_genes(open_counts(ad.AnnData(counts, var=var)), 1)
    ['GENE30']
    """
    kept, named = list(dict.fromkeys(keep)), as_text(source.var_names)
    names = list(dict.fromkeys(named[~named.str.strip().str.lower().isin(NO_NAMES)]))
    if is_numbered(names) or len(names) * MOST_COLUMNS < source.n_vars:
        what = "are named by numbers" if is_numbered(names) else "have hardly a name of their own"
        raise InputError(
            f"The genes of the reference {what} ({examples(names) or 'all are blank'}).",
            "Valid are gene names: without them, nothing is said of the genes of another file.",
            "Set var_names to gene names, or keep these in a column of var.",
        )
    if unknown := [gene for gene in kept if gene not in source.var_names]:
        found = f"{len(unknown)} of the genes to keep are not in the reference: {unknown[:5]}."
        hint = "Check the spelling, or drop them."
        raise InputError(found, "Valid are names of its genes.", hint)
    alignment = source.align(names)
    scores = dispersion_scores(
        lambda: (counts for _, counts in source.chunks(alignment)), len(names)
    )
    scores[np.isin(names, kept)] = 0.0
    ranked = np.argsort(-scores, kind="stable")[: max(n_genes - len(kept), 0)]
    genes = [*kept, *(names[i] for i in np.sort(ranked) if scores[i] > 0)]
    if not genes:
        found = f"No gene is seen in at least {MIN_CELLS} cells."
        raise InputError(found, "A reference needs expressed genes.", "Check the matrix.")
    return genes


def dispersion_scores(
    read: Callable[[], Iterable[sp.csr_matrix]], n_genes: int
) -> NDArray[np.float64]:
    """Compute the standardised variance of every gene, as `select_genes` ranks them.

    Parameters
    ----------
    read
        Gives the blocks of a pass over the counts, CSR of shape ``(n_cells, n_genes)``; there are
        two passes.
    n_genes
        Number of genes.

    Returns
    -------
    Scores, shape ``(n_genes,)``; -1 where a gene is seen in fewer than 3 cells.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> from hdeepinsight.data import dispersion_scores
    >>> counts = sp.csr_matrix(np.array([[1, 9, 1], [0, 0, 1], [1, 0, 1], [1, 9, 1], [0, 8, 1]]))
    >>> dispersion_scores(lambda: [counts], 3).round(2)
    array([ 1.,  1., -1.])
    """
    n_cells, (total, squares, n_positive) = 0, np.zeros((3, n_genes))
    for counts in read():
        n_cells += counts.shape[0]
        total += np.bincount(counts.indices, counts.data, n_genes)
        squares += np.bincount(counts.indices, counts.data.astype(np.float64) ** 2, n_genes)
        n_positive += np.bincount(counts.indices, minlength=n_genes)
    mean = total / max(n_cells, 1)
    variance = squares / max(n_cells, 1) - mean**2
    usable = (n_positive >= MIN_CELLS) & (variance > 0)
    if not usable.any():
        return np.full(n_genes, -1.0)
    log_mean, log_variance = np.log10(mean[usable]), np.log10(variance[usable])
    degree = min(2, len(np.unique(log_mean)) - 1)
    trend = np.polynomial.Polynomial.fit(log_mean, log_variance, degree)
    deviation = np.ones(n_genes)
    deviation[usable] = 10 ** (trend(log_mean) / 2)
    squares = np.zeros(n_genes)
    for counts in read():
        z = (counts.data - mean[counts.indices]) / deviation[counts.indices]
        squares += np.bincount(counts.indices, np.minimum(z, np.sqrt(n_cells)) ** 2, n_genes)
    squares += (n_cells - n_positive) * (mean / deviation) ** 2
    return np.where(usable, squares / n_cells, -1.0)


def log_normalize(
    counts: sp.csr_matrix, target_sum: float = 1e4, *, totals: ArrayLike | None = None
) -> sp.csr_matrix:
    """Compute the natural log1p of counts per ``target_sum`` of each cell.

    Parameters
    ----------
    counts
        Counts, CSR, shape ``(n_cells, n_genes)``; not changed.
    target_sum
        Total that every cell is scaled to.
    totals
        What counts as the total of each cell, shape ``(n_cells,)``; by default that of the genes
        given.

    Returns
    -------
    CSR float32, shape ``(n_cells, n_genes)``. Cells without any count stay at 0.

    Notes
    -----
    A value is ``log1p(count * (target_sum / total))``, with the total of the cell over the genes
    given, summed and divided in double precision, and rounded to single precision once, at the end.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from hdeepinsight.data import log_normalize
    >>> log_normalize(sp.csr_matrix([[1.0, 3.0], [0.0, 0.0]]), 4.0).toarray().round(3)
    array([[0.693, 1.386],
           [0.   , 0.   ]], dtype=float32)
    """
    given = counts.sum(axis=1, dtype=np.float64) if totals is None else totals
    totals = np.asarray(given, dtype=np.float64).ravel()
    factors = target_sum / np.where(totals > 0, totals, 1.0)
    logged = sp.csr_matrix(counts, copy=True)
    logged.data = np.log1p(logged.data * np.repeat(factors, np.diff(logged.indptr)))
    return logged.astype(np.float32)
