"""Compute differentially private principal components of expression by the Gaussian mechanism."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.preprocessing import normalize

from hdeepinsight import nn
from hdeepinsight._errors import check_integer, invalid
from hdeepinsight.annotation import target_of
from hdeepinsight.data import AlignedQuery, DataLike, log_normalize, open_query, open_store

#: Maximum number of genes; the square matrix takes half a gigabyte in double precision.
_MAX_GENES = 8192
_COVERED = (
    "The guarantee covers the projection (centre, components, eigenvalues). The coordinates of a "
    "cell are a function of that cell and are not covered."
)


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
        opened = open_query(_opened(cells), self.genes, layer=layer)
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
    target = target_of(cells, key_added)
    check_integer("n_comps", n_comps, hint="Omit it to use 16.")
    check_integer("noise_seed", noise_seed, 0, optional=True)
    noise_sd = nn.gaussian_noise_sd(epsilon, delta)
    if isinstance(cells, AlignedQuery) and genes is None:
        opened = cells
    else:
        store = _opened(cells)
        if genes is None:
            genes = list(dict.fromkeys(map(str, store.genes(False).index)))
        opened = open_query(store, list(genes), layer=layer)
    d, n = len(opened.genes), opened.n_obs
    if d > _MAX_GENES:
        hint = "Pass fewer in genes=, chosen on public data."
        raise invalid("genes", f"{d:,} names", f"at most {_MAX_GENES:,} names", hint)
    if n_comps > d:
        raise invalid("n_comps", n_comps, f"at most the number of genes, {d:,}", "Lower it.")
    nn.check_delta(delta, n)
    centre, components, eigenvalues = nn.private_directions(
        lambda: _unit_rows(opened),
        n,
        noise_sd,
        np.random.default_rng(noise_seed),
        n_comps=n_comps,
        centred=centred,
    )
    result = PrivateProjection(
        genes=opened.genes,
        centre=centre,
        components=components,
        eigenvalues=eigenvalues,
        epsilon=float(epsilon) if noise_seed is None else None,
        delta=float(delta),
        noise_sd=noise_sd,
        conditions=nn.privacy_conditions(
            _COVERED, genes_are_public=genes_are_public, noise_seed=noise_seed
        ),
    )
    if target is not None:
        target.obsm[key_added] = result.transform(opened)
    return result


def _opened(cells: DataLike | AlignedQuery) -> Any:
    """Return an opened query, or a store whose errors recommend the arguments here."""
    is_open = isinstance(cells, AlignedQuery)
    return cells if is_open else replace(open_store(cells), arguments={"layer": "layer"})


def _unit_rows(opened: AlignedQuery) -> Iterator[sp.csr_matrix]:
    """Yield blocks of log-normalised cells with unit norm; cells without counts are 0."""
    for _, block in opened.source.blocks():
        logged = opened.alignment.apply(log_normalize(sp.csr_matrix(block)))
        yield normalize(logged.astype(np.float64))
