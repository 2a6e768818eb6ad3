"""The most variable genes of a reference, in two passes over its counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hdeepinsight.data._errors import InputError

if TYPE_CHECKING:
    import scipy.sparse as sp

    from hdeepinsight.data._streaming import CountSource

MIN_CELLS = 3
Floats = NDArray[np.float64]


class _Moments(NamedTuple):
    """Mean, variance and number of positive cells of every gene, shape ``(n_genes,)``."""

    n_cells: int
    mean: Floats
    variance: Floats
    n_positive: Floats


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
    names = list(dict.fromkeys(map(str, source.var_names)))
    unknown = [gene for gene in keep if gene not in set(names)]
    if unknown:
        found = f"{len(unknown)} of the genes to keep are not in the reference: {unknown[:5]}."
        raise InputError(
            found, "Valid are names of its genes.", "Check the spelling, or drop them."
        )
    alignment = source.align(names)
    scores = dispersion_scores(
        lambda: (counts for _, counts in source.chunks(alignment)), len(names)
    )
    kept = set(keep)
    ranked = [
        i for i in np.argsort(-scores, kind="stable") if scores[i] > 0 and names[i] not in kept
    ]
    chosen = sorted(ranked[: max(n_genes - len(kept), 0)])
    genes = [*dict.fromkeys(keep), *(names[i] for i in chosen)]
    if not genes:
        found = f"No gene is seen in at least {MIN_CELLS} cells."
        raise InputError(found, "A reference needs expressed genes.", "Check the matrix.")
    return genes


def dispersion_scores(read: Callable[[], Iterable[sp.csr_matrix]], n_genes: int) -> Floats:
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
    moments = _moments(read(), n_genes)
    usable = (moments.n_positive >= MIN_CELLS) & (moments.variance > 0)
    if not usable.any():
        return np.full(len(usable), -1.0)
    deviation = _expected_deviation(moments, usable)
    clip = np.sqrt(moments.n_cells)
    squares = np.zeros_like(moments.mean)
    for counts in read():
        z = (counts.data - moments.mean[counts.indices]) / deviation[counts.indices]
        squares += np.bincount(counts.indices, np.minimum(z, clip) ** 2, len(squares))
    n_zero = moments.n_cells - moments.n_positive
    squares += n_zero * (moments.mean / deviation) ** 2
    return np.where(usable, squares / moments.n_cells, -1.0)


def _moments(blocks: Iterable[sp.csr_matrix], n_genes: int) -> _Moments:
    n_cells = 0
    total, squares, positive = np.zeros((3, n_genes))
    for counts in blocks:
        n_cells += counts.shape[0]
        total += _per_gene(counts, counts.data)
        squares += _per_gene(counts, counts.data.astype(np.float64) ** 2)
        positive += np.bincount(counts.indices, minlength=n_genes)
    mean = total / max(n_cells, 1)
    return _Moments(n_cells, mean, squares / max(n_cells, 1) - mean**2, positive)


def _per_gene(counts: sp.csr_matrix, values: NDArray[np.floating]) -> Floats:
    return np.bincount(counts.indices, values, counts.shape[1]).astype(np.float64)


def _expected_deviation(moments: _Moments, usable: NDArray[np.bool_]) -> Floats:
    """Return the standard deviation that the trend expects; 1 for genes that are not used."""
    log_mean, log_variance = np.log10(moments.mean[usable]), np.log10(moments.variance[usable])
    degree = min(2, len(np.unique(log_mean)) - 1)
    trend = np.polynomial.Polynomial.fit(log_mean, log_variance, degree)
    deviation = np.ones_like(moments.mean)
    deviation[usable] = 10 ** (trend(log_mean) / 2)
    return deviation
