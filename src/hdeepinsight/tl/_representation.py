"""Compute and read low-dimensional coordinates of cells, for graphs and plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.utils import check_array
from sklearn.utils.sparsefuncs import incr_mean_variance_axis

from hdeepinsight._errors import check_integer, invalid, missing_column, refuse_path
from hdeepinsight.annotation import check_same_cells, target_of
from hdeepinsight.data import (
    AlignedQuery,
    CountSource,
    DataLike,
    ScaleMode,
    log_normalize,
    open_counts,
)
from hdeepinsight.image import MIN_DISTINCT, preserve_neighbors, principal_plane

Floats = NDArray[np.float64]

_N_BINS = 20
#: Minimum relative variance of a variable gene; smaller values are rounding errors.
_VARYING = 1e-9
#: Repulsive edges per attractive edge. A few are enough, because the constraint spreads the cells.
_REPULSIVE = 0.7


def expression_pca(
    cells: DataLike | AlignedQuery | Sequence[sp.csr_matrix],
    *,
    layer: str | None = None,
    n_top_genes: int = 2_000,
    n_comps: int = 50,
    seed: int = 0,
    key_added: str | None = None,
) -> NDArray[np.float32]:
    """Compute principal components of normalised counts.

    Counts are scaled to 10,000 per cell and log1p-transformed. Principal components are computed
    from highly variable genes. The counts are read once and not modified.

    Parameters
    ----------
    cells
        Cells with raw counts: an AnnData, a path, an opened query, or a sequence of CSR blocks of
        cells with all genes, such as the blocks kept by ``AlignedQuery.chunks(keep=blocks)``.
        Blocks are not validated.
    layer
        Layer with the counts; ``X`` by default.
    n_top_genes
        Number of highly variable genes; all genes if there are not more.
    n_comps
        Number of components; fewer if there are fewer cells or genes.
    seed
        Random seed of the decomposition.
    key_added
        Key of ``obsm`` to which the result is written; by default nothing is written.

    Returns
    -------
    numpy.ndarray
        Coordinates, float32, shape ``(n_cells, n_comps)``.

    Raises
    ------
    ValueError
        If the layer does not exist, the matrix has no raw counts, there are fewer than 3 cells or 3
        variable genes, or `n_top_genes` or `n_comps` is not positive.

    Notes
    -----
    The steps and their settings are those of scanpy (Wolf et al. 2018,
    doi:10.1186/s13059-017-1382-0), with genes ranked as in Seurat (Satija et al. 2015,
    doi:10.1038/nbt.3192). They are implemented here because scanpy cannot be imported if numba
    finds no folder for its cache, as in containers without a writable home.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> counts = np.random.default_rng(0).poisson(1.0, (40, 30)).astype(np.float32)
    >>> hdi.tl.expression_pca(ad.AnnData(counts), n_comps=5).shape
    (40, 5)
    """
    target = target_of(cells, key_added)
    check_integer("n_top_genes", n_top_genes, 3, hint="Omit it to use 2000.")
    check_integer("n_comps", n_comps, hint="Omit it to use 50.")
    if isinstance(cells, Sequence) and not isinstance(cells, str):
        blocks: list[sp.csr_matrix] = list(cells)
    else:
        source = counts_of(cells, layer, scale="counts")
        blocks = [sp.csr_matrix(block) for _, block in source.blocks()]
    mean, variance, n_cells = _moments(blocks)
    n_varying = int((variance > _VARYING * mean**2).sum())
    if n_cells < 3 or n_varying < 3:
        found = f"{n_cells} cells and {n_varying} such genes. Pass more data."
        raise ValueError(f"There must be at least 3 cells and 3 variable genes, got {found}")
    chosen = np.ones(len(mean), dtype=bool)
    if len(mean) > n_top_genes:
        chosen = _highly_variable(mean, variance, n_top_genes)
    most = min(n_cells, int(chosen.sum())) - 1
    values = sp.vstack([log_normalize(block)[:, chosen] for block in blocks], format="csr")
    pca = PCA(min(n_comps, most), svd_solver="arpack", random_state=seed)
    coordinates = np.asarray(pca.fit_transform(values), dtype=np.float32)
    if target is not None:
        target.obsm[key_added] = coordinates
    return coordinates


def _moments(blocks: Iterable[sp.csr_matrix]) -> tuple[Floats, Floats, int]:
    """Compute mean and variance of counts per 10,000 for each gene, and the number of cells."""
    mean, variance, count = np.zeros(0), np.zeros(0), np.zeros(0)
    for block in blocks:
        linear = log_normalize(block).expm1().astype(np.float64)
        if not len(mean):
            mean, variance, count = np.zeros((3, linear.shape[1]))
        if linear.shape[0]:
            mean, variance, count = incr_mean_variance_axis(
                linear, axis=0, last_mean=mean, last_var=variance, last_n=count
            )
    n_cells = int(count.max(initial=0))
    return mean, variance * n_cells / max(n_cells - 1, 1), n_cells


def _highly_variable(mean: Floats, variance: Floats, n_genes: int) -> NDArray[np.bool_]:
    """Select the genes with the highest dispersion relative to genes with a similar mean."""
    with np.errstate(divide="ignore"):
        dispersion = np.log(variance / np.where(mean > 0, mean, 1e-12))
    genes = pd.Series(np.where(np.isfinite(dispersion), dispersion, np.nan))
    by_mean = genes.groupby(pd.cut(np.log1p(mean), _N_BINS), observed=True)
    average, deviation = by_mean.transform("mean"), by_mean.transform("std")
    # A gene that is alone in its bin gets the score 1.
    score = (genes - average.where(deviation.notna(), 0.0)) / deviation.fillna(average)
    known = np.sort(score.dropna())
    chosen: NDArray[np.bool_] = (score >= known[-min(n_genes, len(known))]).to_numpy()
    return chosen


def counts_of(
    cells: DataLike | AlignedQuery, layer: str | None = None, *, scale: ScaleMode = "auto"
) -> CountSource:
    """Return the counts of cells, which are opened unless they are already open."""
    if isinstance(cells, AlignedQuery):
        return cells.source
    return open_counts(cells, layer=layer, scale=scale, arguments={"layer": "layer"})


def coordinates(
    cells: AnnData | AlignedQuery, use_rep: str | NDArray[np.floating]
) -> NDArray[np.floating]:
    """Read coordinates of the cells from ``obsm``, or validate given ones.

    Parameters
    ----------
    cells
        Cells. For an opened query, which has no coordinates, ``"X_pca"`` is computed.
    use_rep
        Key of ``obsm``, or coordinates, shape ``(n_cells, d)``.

    Raises
    ------
    KeyError
        If the key does not exist; the message shows how to compute it.
    ValueError
        If there is not one row per cell.
    """
    if isinstance(use_rep, str):
        if isinstance(cells, AlignedQuery) and use_rep == "X_pca":
            return expression_pca(cells)
        stored = getattr(cells, "obsm", {})
        if use_rep not in stored:
            hint = f"Compute it by hdi.tl.expression_pca(adata, key_added={use_rep!r}), or pass "
            hint += "another key as `use_rep`."
            raise missing_column(use_rep, stored, where="adata.obsm", hint=hint)
        use_rep = stored[use_rep]
    if isinstance(use_rep, pd.DataFrame):
        check_same_cells(pd.Index(cells.obs_names), use_rep, "use_rep")
    points = np.asarray(use_rep)
    if points.ndim != 2 or len(points) != cells.n_obs:
        found = f"shape {points.shape} for {cells.n_obs} cells"
        hint = "Pass the coordinates of these cells."
        raise ValueError(f"use_rep must have one row per cell, got {found}. {hint}")
    return points


def mde(
    data: AnnData | ArrayLike, *, use_rep: str | None = None, n_neighbors: int = 15, seed: int = 0
) -> NDArray[np.float32]:
    """Embed cells in two dimensions for plots, preserving neighbourhoods.

    Nothing is written; assign the result to ``adata.obsm["X_mde"]`` to store it.

    Parameters
    ----------
    data
        Coordinates of the cells, ``(n_cells, d)``, such as ``model.get_latent_representation()``,
        or an AnnData that contains them.
    use_rep
        Key of ``adata.obsm``; only for an AnnData.
    n_neighbors
        Number of neighbours per cell to be kept close; all other cells if there are fewer.
    seed
        Random seed; the same data and seed give the same result. Global generators are not changed.

    Returns
    -------
    numpy.ndarray
        Coordinates, float32, shape ``(n_cells, 2)``: centred, uncorrelated, with unit variance.
        With fewer than eight distinct points, the first two principal components are returned
        instead, because neighbourhoods are then not meaningful.

    Raises
    ------
    KeyError
        If `use_rep` is not in ``adata.obsm``.
    ValueError
        If the coordinates are not ``(n_cells, d)`` and finite, `n_neighbors` is not positive, or
        `use_rep` is missing for an AnnData or given for an array.

    Examples
    --------
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> latent = np.random.default_rng(0).normal(size=(60, 10))
    >>> points = hdi.tl.mde(latent, n_neighbors=5)
    >>> points.shape, points.std(axis=0).round(3).tolist()
    ((60, 2), [1.0, 1.0])

    Notes
    -----
    Agrawal, Ali and Boyd (2021), Minimum-distortion embedding, doi:10.1561/2200000090, implemented
    by their package pymde: `preserve_neighbors` with the standardisation constraint. The
    initialisation with principal components, for reproducibility, is our design.
    """
    refuse_path(data)
    if hasattr(data, "obsm"):
        if use_rep is None:
            expected = f"a key of adata.obsm, which has {list(data.obsm)}"
            raise invalid("use_rep", None, expected, "Pass one of them.")
        data = coordinates(data, use_rep)
    elif use_rep is not None:
        raise invalid("use_rep", use_rep, "None for an array", "Omit it, or pass the AnnData.")
    points = check_array(data, dtype=np.float32, ensure_min_samples=0, input_name="data")
    check_integer("n_neighbors", n_neighbors, hint="Omit it to use 15.")
    if len(points) < 2:
        return np.zeros((len(points), 2), dtype=np.float32)
    points = np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1]))))
    if len(np.unique(points.round(6), axis=0)) < MIN_DISTINCT:
        return principal_plane(points)
    import pymde

    return preserve_neighbors(
        points,
        n_neighbors,
        seed,
        noise=0.01,
        constraint=pymde.Standardized(),
        repulsive_fraction=_REPULSIVE,
    )
