"""Open any input as a source of counts, read in chunks; select genes and normalise counts."""

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

from hdeepinsight._errors import InputError, check_choice, check_integer, examples
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
from hdeepinsight.data._recover import Denormalizer, Normalisation, Rescaler
from hdeepinsight.data._store import DataLike, Store, open_store, slot_name

#: Smallest number of cells in which a selected gene is detected.
MIN_CELLS = 3
#: Total of a cell given as fractions.
TARGET_SUM = 10_000
#: Missing gene names, in lower case; and maximum mean number of columns per gene name.
NO_NAMES, MAX_COLUMNS_PER_NAME = ("", "nan", "none", "na", "<na>"), 10


@dataclass(eq=False)
class Inspection:
    """Scale of a matrix, inferred from a sample of cells until a pass has read all of them.

    Parameters
    ----------
    report
        Report on the values.
    denormalizer
        Recovers counts from the values; ``None`` if they are used unchanged.
    sampled
        Scan of the sampled cells; ``None`` after all cells were scanned.
    inspect
        Inspects the matrix by a given scan, or by all of its values; ``None`` where it cannot be.
    """

    report: InputReport
    denormalizer: Denormalizer | Rescaler | None = None
    sampled: Scan | None = None
    inspect: Callable[[Scan | None], Inspection] | None = None

    def check_while_reading(self, matrix: RowMatrix, size: int) -> Iterator[tuple[slice, Block]]:
        """Read blocks, and check in the same pass that all values have the scale of the sample.

        Raises
        ------
        InputError
            If they do not, after an inspection of the whole matrix.
        """
        scan = Scan()
        for rows, block in matrix.blocks(size):
            if self.sampled is not None:
                block = canonical(block)
                scan.add(block)
                if scan.contradicts(self.sampled):
                    self.settle()
            yield rows, block
        if self.sampled is not None and matrix.rows is None and scan.n_rows == self.report.n_obs:
            self.settle(scan.with_sample_of(self.sampled))

    def settle(self, scan: Scan | None = None) -> None:
        """Update the report by a scan of all values, which are read if it is not given.

        Raises
        ------
        InputError
            If they do not have the scale of the sample.
        UnlikeSample
            If that can only be found out in another process.
        """
        if self.inspect is None:
            raise UnlikeSample
        found = self.inspect(scan)
        if found.denormalizer != self.denormalizer:
            raise InputError(
                f"{found.report.layer} looks {self.report.scale} in a sample of cells, but "
                f"{found.report.scale} in all of them: {found.report.evidence}.",
                "Expected values on one scale, normalised in the same way.",
                "Pass the raw counts, or annotate the parts separately.",
            )
        self.report, self.sampled = found.report, None


@dataclass(frozen=True, eq=False, repr=False)
class CountSource:
    """Counts of shape ``(n_obs, n_vars)``, read in chunks; created by `open_counts`.

    Parameters
    ----------
    matrix
        Matrix of the values.
    obs
        Annotation of the cells, a copy of the user's table.
    var
        Annotation of the genes.
    inspection
        Scale of the values, and how counts are computed from them.
    obsm
        Functions that return the coordinates of the cells, by name.
    remarks
        Further sentences on how the counts are read.

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
        """Report on the values and repairs; it covers all cells after the first pass."""
        report = self.inspection.report
        return replace(report, repairs=(*report.repairs, *self.remarks))

    @property
    def denormalizer(self) -> Denormalizer | Rescaler | None:
        """Recovers counts from the values; ``None`` if they are used unchanged."""
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
        """Match the genes to those of a model, with the options of `align_genes`.

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
        """Read counts with genes in model order and cells in file order.

        Parameters
        ----------
        alignment
            Map to the model's genes, computed from ``var`` or ``var_names``.
        chunk_size
            Maximum number of cells per chunk. It does not change the counts.

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
        """Read the counts of all or some cells at once, with genes in model order.

        Parameters
        ----------
        alignment
            Map to the model's genes.
        rows
            Positions of the cells to read, in any order; all cells if ``None``. Memory is
            proportional to their number.

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
        empty = sp.csr_matrix((0, len(alignment.source)), dtype=np.float32)
        return sp.vstack([empty, *(counts for _, counts in source.chunks(alignment))], "csr")

    def take(self, rows: np.ndarray) -> CountSource:
        """Return a source of the cells at the given positions, in this order.

        Examples
        --------
        >>> import anndata as ad
        >>> import numpy as np
        >>> from hdeepinsight.data import open_counts
        >>> source = open_counts(ad.AnnData(np.array([[1.0, 0.0], [5.0, 2.0]])))
        >>> source.take(np.array([1])).obs_names.tolist()
        ['1']
        """
        text = f"{len(rows):,} of the {self.n_obs:,} cells were selected."
        matrix, scan = self.matrix.take(rows), self.inspection.sampled
        sampled_rows = spread_rows(self.n_obs, SAMPLE_CELLS)
        is_sample = self.matrix.rows is None and np.array_equal(sampled_rows, rows)
        if is_sample and scan is not None and scan.sample:
            matrix = wrap(stacked(list(scan.sample)))  # already in memory
            if scan.all_whole:  # not needed again, to save memory
                scan.sample.clear()
        return replace(
            self,
            matrix=matrix,
            obs=self.obs.iloc[rows],
            obsm={name: partial(_rows_of, read, rows) for name, read in self.obsm.items()},
            remarks=(*self.remarks, text),
        )

    def portable(self, columns: Sequence[str]) -> CountSource:
        """Return a copy to send to other processes; see `AlignedQuery.portable`."""
        if self.matrix.is_in_memory:
            raise InputError(
                "The counts are in the memory of this process, where workers cannot read them.",
                "Expected the path of an .h5ad file or a .zarr store, or an AnnData whose matrix "
                "is a dask array.",
                "Write the query to a file that all workers can read, or omit client=.",
            )
        scan = self.inspection.sampled and replace(self.inspection.sampled, sample=[])
        return replace(
            self,
            matrix=replace(self.matrix, counter=Counter(), cache={}),
            obs=self.obs[[name for name in columns if name in self.obs]].reset_index(drop=True),
            inspection=replace(self.inspection, sampled=scan, inspect=None),
            obsm={},
        )

    def blocks(self, size: int = CHUNK_CELLS) -> Iterator[tuple[slice, Block]]:
        """Read the counts of all genes in blocks, as `RowMatrix.blocks` does.

        Raises
        ------
        InputError
            If the counts of a cell cannot be recovered, or the values do not have the scale of the
            sampled cells.
        """
        check_integer("chunk_size", size, hint=f"Omit it to use {CHUNK_CELLS}.")
        blocks = self.inspection.check_while_reading(self.matrix, size)
        return self.denormalizer.blocks(blocks, self.n_obs) if self.denormalizer else blocks


class UnlikeSample(Exception):
    """Values differ in scale from those of the sample, so all values have to be inspected."""


def _rows_of(read: Callable[[], Any], rows: np.ndarray) -> Any:
    values = read()
    return values.iloc[rows] if hasattr(values, "iloc") else values[rows]


def open_counts(
    data: DataLike,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    scale: ScaleMode = "auto",
    arguments: Mapping[str, str] | None = None,
    coverage: Callable[[pd.DataFrame], float] | None = None,
    sampled: bool = False,
) -> CountSource:
    """Inspect a query and open it as a source of counts, without modifying it.

    Parameters
    ----------
    data
        AnnData with a dense, sparse, dask or backed matrix; path of an ``.h5ad`` file or a
        ``.zarr`` store, which is read lazily and open only while it is read; path of another format
        that `open_store` reads; or a result of `open_store`.
    layer
        Layer with the values, shape ``(n_obs, n_vars)``; ``X`` if ``None``.
    use_raw
        Read ``.raw``, with its genes.
    scale
        ``"auto"`` uses counts, recovers them from log1p-normalised values if possible, and raises
        an error otherwise. ``"counts"`` accepts only whole numbers. ``"recover"`` recovers counts,
        also from normalised values without logarithm. ``"as_is"`` uses fractional values
        unchanged, but multiplies fractions of a cell by 10,000. NaN, infinite and negative values
        always raise an error.
    arguments
        Names of ``layer``, ``use_raw`` and ``scale`` in the calling function, such as
        ``{"layer": "rna_layer"}``. Errors recommend only these; by default those of the store.
    coverage
        Function that returns the share of the required genes in a table of genes; errors compare
        matrices by it.
    sampled
        Inspect a sample of the cells of a large matrix first, and the others while they are read.
        The first pass raises an error if their scale differs.

    Returns
    -------
    The source; its ``report`` describes the values and the repairs.

    Raises
    ------
    InputError
        If the values are not valid counts. Another layer is never used silently; if one has
        counts, the message names it.
    ValueError
        If ``scale`` is invalid.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> from hdeepinsight.data import open_counts
    >>> open_counts(ad.AnnData(np.array([[1.0, 0.0], [5.0, 2.0]])))
    CountSource(2 cells × 2 genes, counts in X, dense)
    """
    check_choice("scale", scale, get_args(ScaleMode))
    store = open_store(data)
    store = store if arguments is None else replace(store, arguments=arguments)
    matrix = store.matrix(layer, use_raw)
    is_known = ("report", slot_name(layer, use_raw)) in store.known
    inspect = partial(_inspect, store, layer, use_raw, scale, coverage)
    return CountSource(
        matrix=matrix,
        obs=store.obs.copy(deep=False),
        var=store.genes(use_raw).copy(deep=False),
        inspection=inspect(matrix.scan_some() if sampled and not is_known else None),
        obsm=store.obsm,
    )


def _inspect(
    store: Store,
    layer: str | None,
    use_raw: bool,
    scale: ScaleMode,
    coverage: Callable[[pd.DataFrame], float] | None,
    scan: Scan | None,
) -> Inspection:
    """Inspect a matrix by a scan of some cells, or by all; raise an error if it cannot be used."""
    inspect = partial(_inspect, store, layer, use_raw, scale, coverage)
    report = inspect_store(store, layer, use_raw, scan)
    if error := refusal(report, store.arguments, scale):
        if scan is not None:  # the message describes all cells
            return inspect(None)
        hint = where_counts_are(store, report.layer, coverage)
        raise InputError(error.found, error.valid, " ".join([error.do_next, *hint]))
    denormalizer: Denormalizer | Rescaler | None = None
    text = ""
    if scale == "recover" or (scale == "auto" and report.scale == "log1p_counts"):
        form: Normalisation = "normalized" if report.scale == "normalized" else "log1p"
        dtype = store.matrix(layer, use_raw).dtype
        denormalizer = Denormalizer(form, dtype, report.rounding, report.log_base)
    if scale == "as_is" and report.scale == "normalized" and report.largest <= 1:
        denormalizer = Rescaler(TARGET_SUM)  # depth would be below one count
        text = f"The fractions are multiplied by {TARGET_SUM:,}, because scale='as_is' was passed."
    elif scale == "as_is" and report.scale not in ("counts", "binary"):
        text = f"The {report.scale} values are used unchanged, because scale='as_is' was passed."
    elif scale == "recover" and report.scale == "normalized":
        text = "Counts are recovered from the normalised values of each cell."
    if text:
        report = replace(report, problems=(), repairs=(*report.repairs, text))
    return Inspection(report, denormalizer, scan, inspect)


def recover_counts(data: Any, *, layer: str | None = None, use_raw: bool = False) -> ad.AnnData:
    """Recover exact raw counts from library-size normalised values.

    Normalisation multiplies the counts of a cell by one factor, so all its values (after expm1 if
    they were logged) are integer multiples of one unit. The largest such unit is determined for
    each cell, within the precision of the stored values: floating point, or rounding to decimals.

    Parameters
    ----------
    data
        An AnnData, the path of a file, or a matrix of shape ``(n_cells, n_genes)``: dense, sparse
        or dask. The values are log1p of normalised counts, with the base in ``uns["log1p"]`` or
        base e, 2 or 10; or normalised counts without logarithm.
    layer
        Layer with the values; ``X`` if ``None``.
    use_raw
        Read ``.raw``, with its genes.

    Returns
    -------
    A new AnnData with the counts as ``X`` (CSR float32) and copies of ``obs`` and ``var``. The
    input is not modified.

    Raises
    ------
    InputError
        If a cell has no such unit (scaled, imputed, smoothed, batch-corrected or gene-length
        normalised values), or the values are rounded too coarsely.

    Notes
    -----
    Counts with a common divisor are returned divided by it, because normalised values of counts
    2, 4, 6 and 1, 2, 3 are the same. In cells with dozens of detected genes, some count is nearly
    always 1.

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


def select_genes(
    source: CountSource,
    n_genes: int,
    *,
    keep: Sequence[str] = (),
    panels: NDArray[np.int64] | None = None,
) -> list[str]:
    """Select highly variable genes.

    Parameters
    ----------
    source
        Counts of the reference.
    n_genes
        Maximum number of genes. Genes detected in fewer than 3 cells are never selected, so there
        may be fewer.
    keep
        Genes that are always selected.
    panels
        Gene panel of each cell, shape ``(n_cells,)``; by default all cells have one. Genes are
        scored separately in each.

    Returns
    -------
    Names of the genes: ``keep`` first, then the others in the order of the reference.

    Raises
    ------
    InputError
        If gene names are missing or numbers, a gene of ``keep`` is not in the reference, or no gene
        can be selected.

    Notes
    -----
    The score of a gene is the variance of its counts, standardised by the standard deviation
    expected from a quadratic trend of log variance on log mean, with values clipped at the square
    root of the number of cells. This is the ranking of Stuart et al. (2019,
    doi:10.1016/j.cell.2019.05.031) with a quadratic fit instead of a local regression, which fails
    on small panels. The scores of several panels are averaged over their cells; in a panel that
    lacks a gene, its score is 1, the expected one. Counts are read in chunks, so memory does not
    depend on the number of cells.

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
    if is_numbered(names) or len(names) * MAX_COLUMNS_PER_NAME < source.n_vars:
        what = "are numbers" if is_numbered(names) else "are blank or repeat"
        raise InputError(
            f"The gene names of the reference {what} ({examples(names) or 'all are blank'}).",
            "Expected unique gene names, which match genes across files.",
            "Set var_names to gene names, or store them in a column of var.",
        )
    if unknown := [gene for gene in kept if gene not in source.var_names]:
        found = f"{len(unknown)} of the genes to keep are not in the reference: {unknown[:5]}."
        hint = "Check the spelling, or omit them."
        raise InputError(found, "Expected names of its genes.", hint)
    alignment = source.align(names)
    panels = np.zeros(source.n_obs, dtype=np.int64) if panels is None else panels
    scores, is_usable = np.zeros((2, len(names)))
    for panel in np.unique(panels):
        rows = np.flatnonzero(panels == panel)
        own = source if len(rows) == source.n_obs else source.take(rows)
        of_panel = dispersion_scores(partial(_aligned, own, alignment), len(names))
        scores += len(rows) / source.n_obs * np.where(of_panel < 0, 1.0, of_panel)
        is_usable += of_panel >= 0
    # Processors differ in the last digits, which must not decide between equal genes.
    scores = np.where(is_usable, scores.round(9), -1.0)
    scores[np.isin(names, kept)] = 0.0
    ranked = np.argsort(-scores, kind="stable")[: max(n_genes - len(kept), 0)]
    genes = [*kept, *(names[i] for i in np.sort(ranked) if scores[i] > 0)]
    if not genes:
        found = f"No gene is detected in at least {MIN_CELLS} cells."
        raise InputError(found, "A reference needs expressed genes.", "Check the matrix.")
    return genes


def _aligned(source: CountSource, alignment: GeneAlignment) -> Iterator[sp.csr_matrix]:
    return (counts for _, counts in source.chunks(alignment))


def dispersion_scores(
    read: Callable[[], Iterable[sp.csr_matrix]], n_genes: int
) -> NDArray[np.float64]:
    """Compute the standardised variance of each gene, by which `select_genes` ranks them.

    Parameters
    ----------
    read
        Function that returns the blocks of counts, CSR of shape ``(n_cells, n_genes)``; it is
        called twice.
    n_genes
        Number of genes.

    Returns
    -------
    Scores, shape ``(n_genes,)``; -1 for genes detected in fewer than 3 cells.

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
        Counts, CSR, shape ``(n_cells, n_genes)``; not modified.
    target_sum
        Total that each cell is scaled to.
    totals
        Total count of each cell, shape ``(n_cells,)``; by default the sum over the given genes.

    Returns
    -------
    CSR float32, shape ``(n_cells, n_genes)``. Cells without counts stay at 0.

    Notes
    -----
    Values are ``log1p(count * (target_sum / total))``, computed in double precision and rounded to
    single precision at the end.

    Examples
    --------
    >>> import scipy.sparse as sp
    >>> from hdeepinsight.data import log_normalize
    >>> log_normalize(sp.csr_matrix([[1.0, 3.0], [0.0, 0.0]]), 4.0).toarray().round(3)
    array([[0.693, 1.386],
           [0.   , 0.   ]], dtype=float32)
    """
    totals = counts.sum(axis=1, dtype=np.float64) if totals is None else totals
    totals = np.asarray(totals, dtype=np.float64).ravel()
    factors = target_sum / np.where(totals > 0, totals, 1.0)
    logged = sp.csr_matrix(counts, copy=True)
    logged.data = np.log1p(logged.data * np.repeat(factors, np.diff(logged.indptr)))
    return logged.astype(np.float32)
