"""Compute differentially private principal components of expression by the Gaussian mechanism."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, sqrt

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.preprocessing import normalize

from hdeepinsight._errors import check_integer, check_number, invalid
from hdeepinsight.data import AlignedQuery, DataLike, log_normalize, open_query, open_store
from hdeepinsight.tl._representation import as_anndata

#: Maximum number of genes; the square matrix takes half a gigabyte in double precision.
_MAX_GENES = 8192
#: Number of cells with dense residuals in memory.
_BLOCK = 1024
#: Fraction of the budget for the mean of all cells, in units of a Gaussian release, and the maximum
#: length of residuals. Both were chosen on datasets that are not part of the benchmark.
_CENTRE_SHARE, _LONGEST_RESIDUAL = 0.1, 0.75
_CONDITIONS = (
    "The unit of privacy is one cell: (epsilon, delta) bounds the effect of adding or removing one "
    "cell, not one donor.",
    "The guarantee covers the projection (centre, components, eigenvalues). The coordinates of a "
    "cell are a function of that cell and are not covered.",
    "The number of cells is regarded as public.",
    "Anything else computed on these cells and released, including settings chosen on them, adds "
    "to epsilon.",
    "Leaks through floating-point arithmetic are out of scope.",
)
_GENE_CONDITION = "The list of genes is regarded as public; a choice based on these cells is not "
_GENE_CONDITION += "covered."
_SEED_CONDITION = "noise_seed is known, so the noise can be subtracted: there is no guarantee."


@dataclass(frozen=True, eq=False, kw_only=True)
class PrivateProjection:
    """Result of `dp_pca`: differentially private principal components.

    Parameters
    ----------
    genes
        Genes, in the order of the columns of ``components``.
    centre
        Noisy mean of the cells as unit vectors, shape ``(n_genes,)``; 0 without centring.
    components
        Orthonormal components, shape ``(n_comps, n_genes)``.
    eigenvalues
        Noisy eigenvalues in decreasing order, shape ``(n_comps,)``; without noise, at most the
        number of cells.
    epsilon, delta
        Privacy guarantee per cell; ``epsilon`` is ``None`` if the seed of the noise is known.
    noise_sd
        Standard deviation of the noise of a single release with sensitivity 1 at this budget.
    conditions
        Assumptions and limits of the guarantee, as sentences.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> counts = np.random.default_rng(0).poisson(1.0, (200, 30)).astype(np.float32)
    >>> cells = ad.AnnData(counts, var=pd.DataFrame(index=[f"GENE{i}" for i in range(30)]))
    >>> result = hdi.tl.dp_pca(cells, epsilon=1.0, n_comps=5)
    >>> result
    PrivateProjection(5 directions of 30 genes, epsilon 1 and delta 1e-05 per cell)
    >>> result.transform(cells[:3]).shape
    (3, 5)
    """

    genes: tuple[str, ...]
    centre: NDArray[np.float64]
    components: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    epsilon: float | None
    delta: float
    noise_sd: float
    conditions: tuple[str, ...]

    def transform(
        self, cells: DataLike | AlignedQuery, *, layer: str | None = None
    ) -> NDArray[np.float32]:
        """Project cells, which may be new ones, onto the components.

        Parameters
        ----------
        cells
            Cells with raw counts: an AnnData, a path, or a query opened with these genes.
        layer
            Layer with the counts; ``X`` by default.

        Returns
        -------
        numpy.ndarray
            Coordinates, float32, shape ``(n_cells, n_comps)``, not covered by the guarantee.

        Raises
        ------
        InputError
            If the matrix cannot be read as counts or the genes do not match.
        """
        opened = open_query(cells, self.genes, layer=layer)
        parts = [unit @ self.components.T for unit in _unit_rows(opened)]
        points = np.concatenate([np.zeros((0, len(self.components))), *parts])
        return np.asarray(points - self.components @ self.centre, dtype=np.float32)

    @property
    def loadings(self) -> pd.DataFrame:
        """Components as a table of genes × components, which may be released."""
        names = [f"DP{i + 1}" for i in range(len(self.components))]
        return pd.DataFrame(self.components.T, index=list(self.genes), columns=names)

    def __repr__(self) -> str:
        size = f"{len(self.components)} directions of {len(self.genes):,} genes"
        if self.epsilon is None:
            return f"PrivateProjection({size}, not private)"
        guarantee = f"epsilon {self.epsilon:g} and delta {self.delta:g} per cell"
        return f"PrivateProjection({size}, {guarantee})"


def dp_pca(
    cells: DataLike | AlignedQuery,
    *,
    epsilon: float,
    delta: float = 1e-5,
    genes: Sequence[str] | None = None,
    genes_are_public: bool = False,
    n_comps: int = 16,
    centred: bool = True,
    layer: str | None = None,
    noise_seed: int | None = None,
    key_added: str | None = None,
) -> PrivateProjection:
    r"""Compute principal components of expression with (ε, δ)-differential privacy.

    Parameters
    ----------
    cells
        Cells with raw counts: an AnnData, a path, or an opened query.
    epsilon, delta
        Privacy budget per cell. ``delta`` must be below one over the number of cells.
    genes
        Genes to use, at most 8,192; by default all genes. Choose them on other, public data; fewer
        genes also mean less noise.
    genes_are_public
        State that the genes were chosen without these cells. Otherwise, ``conditions`` contains
        that the guarantee is conditional on the list of genes.
    n_comps
        Number of components.
    centred
        Spend a tenth of the budget on the mean of the cells, and compute components of the
        residuals, which need less noise. Otherwise components are not centred, as published.
    layer
        Layer with the counts; ``X`` by default.
    noise_seed
        Seed of the noise, for tests. It voids the guarantee, which the result reports.
    key_added
        Key of ``obsm`` to which the coordinates of the cells are written; by default nothing is
        written.

    Returns
    -------
    PrivateProjection
        Components and privacy guarantee.

    Raises
    ------
    InputError
        If the matrix has no raw counts, or a gene is missing.
    ValueError
        If a setting is out of range.

    Notes
    -----
    Each cell is a row :math:`a_i` of ``log1p`` counts per 10,000 with unit norm, or 0 if it has no
    counts. Without ``centred``, the mechanism releases

    .. math:: G = \sum_i a_i a_i^\top + E, \qquad
        E_{jj} \sim N(0, \sigma^2), \quad E_{jk} = E_{kj} \sim N(0, \sigma^2 / 2),

    and its leading eigenvectors, which are post-processing. A cell changes the sum by 1 in the
    Frobenius norm, in which :math:`E` is white noise. Therefore :math:`\sigma` is that of the
    analytic Gaussian mechanism (Balle and Wang 2018, arXiv:1805.06530) for sensitivity 1. Noise on
    the matrix of second moments is due to Dwork et al. (2014, doi:10.1145/2591796.2591883).

    With ``centred`` (our design), there are two releases: the mean :math:`m` from
    :math:`\sum_i a_i` with noise :math:`\sigma / \sqrt{0.1}`, and :math:`G` of the residuals
    :math:`a_i - m`, clipped to a length of 0.75. A cell changes :math:`G` by at most
    :math:`0.75^2`, so that its noise is :math:`0.75^2 \sigma / \sqrt{0.9}`: Gaussian releases
    compose exactly, by their squared ratios of sensitivity to noise. Genes are not scaled. The unit
    of privacy is one cell, not one donor.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> counts = np.random.default_rng(0).poisson(1.0, (200, 30)).astype(np.float32)
    >>> cells = ad.AnnData(counts, var=pd.DataFrame(index=[f"GENE{i}" for i in range(30)]))
    >>> result = hdi.tl.dp_pca(cells, epsilon=4.0, n_comps=5, key_added="X_dp")
    >>> cells.obsm["X_dp"].shape, round(result.noise_sd, 2)
    ((200, 5), 1.08)
    """
    target = as_anndata(cells, key_added)
    check_integer("n_comps", n_comps, hint="Omit it to use 16.")
    check_integer("noise_seed", noise_seed, 0, optional=True)
    noise_sd = gaussian_noise_sd(epsilon, delta)
    if isinstance(cells, AlignedQuery) and genes is None:
        opened = cells
    else:
        if genes is None:
            genes = list(dict.fromkeys(map(str, open_store(cells).genes(False).index)))
        opened = open_query(cells, list(genes), layer=layer)
    d, n = len(opened.genes), opened.n_obs
    if d > _MAX_GENES:
        hint = "Pass fewer in genes=, chosen on public data."
        raise invalid("genes", f"{d:,} names", f"at most {_MAX_GENES:,} names", hint)
    if n_comps > d:
        raise invalid("n_comps", n_comps, f"at most the number of genes, {d:,}", "Lower it.")
    check_delta(delta, n)
    centre, components, eigenvalues = private_directions(
        lambda: _unit_rows(opened),
        n,
        noise_sd,
        np.random.default_rng(noise_seed),
        n_comps=n_comps,
        centred=centred,
    )
    public = () if genes_are_public else (_GENE_CONDITION,)
    result = PrivateProjection(
        genes=opened.genes,
        centre=centre,
        components=components,
        eigenvalues=eigenvalues,
        epsilon=float(epsilon) if noise_seed is None else None,
        delta=float(delta),
        noise_sd=noise_sd,
        conditions=(*(() if noise_seed is None else (_SEED_CONDITION,)), *public, *_CONDITIONS),
    )
    if target is not None:
        target.obsm[key_added] = result.transform(opened)
    return result


def private_directions(
    unit_rows: Callable[[], Iterable[sp.csr_matrix]],
    n_cells: int,
    noise_sd: float,
    rng: np.random.Generator,
    *,
    n_comps: int,
    centred: bool = True,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Compute a noisy mean and noisy leading components of unit vectors; see `dp_pca`.

    Parameters
    ----------
    unit_rows
        Function that returns the cells as blocks of rows with norm 1 or 0, at each call.
    n_cells
        Number of cells.
    noise_sd
        Standard deviation of the noise of a single release with sensitivity 1 at the total budget.
    rng
        Random number generator of the noise.
    n_comps, centred
        As in `dp_pca`.

    Returns
    -------
    centre, components, eigenvalues
        Arrays of shapes ``(n_genes,)``, ``(n_comps, n_genes)`` and ``(n_comps,)``.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> rows = sp.csr_matrix(np.eye(4)[[0] * 90 + [1] * 60])
    >>> rng = np.random.default_rng(0)
    >>> found = private_directions(lambda: [rows], 150, 0.0, rng, n_comps=1)
    >>> found[0].round(1).tolist(), np.abs(found[1]).round(2).tolist()
    ([0.6, 0.4, 0.0, 0.0], [[0.71, 0.71, 0.0, 0.0]])
    """
    centre, longest = np.zeros(next(iter(unit_rows())).shape[1]), 1.0
    d = len(centre)
    if centred:
        total = sum(np.asarray(block.sum(axis=0)).ravel() for block in unit_rows())
        centre = (total + rng.normal(scale=noise_sd / sqrt(_CENTRE_SHARE), size=d)) / n_cells
        longest, noise_sd = _LONGEST_RESIDUAL, noise_sd / sqrt(1 - _CENTRE_SHARE)
    moments = np.zeros((d, d))
    for block in unit_rows():
        for start in range(0, block.shape[0], _BLOCK):
            rows = block[start : start + _BLOCK].toarray()
            residuals = (rows - centre) * rows.any(axis=1, keepdims=True)
            length = np.linalg.norm(residuals, axis=1, keepdims=True)
            residuals *= np.minimum(1.0, longest / np.maximum(length, 1e-12))
            moments += residuals.T @ residuals
    noise = rng.normal(scale=longest**2 * noise_sd / 2, size=(d, d))
    moments += noise + noise.T  # variance σ² on the diagonal and σ² / 2 off it
    values, vectors = eigh(moments, subset_by_index=(d - n_comps, d - 1))
    components = np.ascontiguousarray(vectors[:, ::-1].T)
    # The sign of an eigenvector is arbitrary: make its sum positive.
    components *= np.where(components.sum(axis=1) < 0, -1.0, 1.0)[:, None]
    return centre, components, values[::-1]


def gaussian_noise_sd(epsilon: float, delta: float) -> float:
    r"""Compute the noise that makes a release with sensitivity 1 (ε, δ)-differentially private.

    Parameters
    ----------
    epsilon, delta
        Privacy budget.

    Returns
    -------
    float
        Smallest standard deviation for the analytic Gaussian mechanism.

    Raises
    ------
    ValueError
        If ``epsilon`` is not positive, or ``delta`` is not between 0 and 1.

    Notes
    -----
    Balle and Wang (2018), arXiv:1805.06530: with :math:`s = \sigma / \Delta`, the mechanism is
    private if and only if :math:`\Phi(1/(2s) - \varepsilon s) - e^\varepsilon \Phi(-1/(2s) -
    \varepsilon s) \le \delta`.

    Examples
    --------
    >>> round(gaussian_noise_sd(1.0, 1e-5), 2)
    3.73
    """
    check_number("epsilon", epsilon, 1e-3, 1e2, hint="Common values are 0.1 to 10.")
    check_delta(delta)

    def excess(s: float) -> float:
        tail = norm.logcdf(-0.5 / s - epsilon * s) + epsilon
        return float(norm.cdf(0.5 / s - epsilon * s) - exp(tail) - delta)

    # The classical bound is an upper bound for epsilon <= 1, and twice it for larger epsilon.
    high = 2 * sqrt(2 * np.log(1.25 / delta)) / min(epsilon, 1.0)
    return float(brentq(excess, 1e-3, high, xtol=1e-12))


def check_delta(delta: float, n_cells: int = 1) -> None:
    """Raise ``ValueError`` unless delta is above 0 and below one over the number of cells.

    Examples
    --------
    >>> check_delta(1e-5, n_cells=3000)
    """
    check_number("delta", delta, hint="Omit it to use 1e-5.")
    if not 0 < delta * n_cells < 1:
        expected = f"above 0 and below 1 / {n_cells:,}, one over the number of cells"
        hint = "With a larger delta, a mechanism may publish complete cells."
        raise invalid("delta", delta, expected, hint)


def _unit_rows(opened: AlignedQuery) -> Iterator[sp.csr_matrix]:
    """Yield blocks of log-normalised cells with unit norm; cells without counts are 0."""
    for _, block in opened.source.blocks():
        logged = opened.alignment.apply(log_normalize(sp.csr_matrix(block)))
        yield normalize(logged.astype(np.float64))
