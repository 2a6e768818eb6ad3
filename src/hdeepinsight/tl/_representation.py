"""Coordinates of cells in which neighbours mean something."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from anndata import AnnData

_TARGET_SUM = 1e4


def expression_pca(
    adata: AnnData,
    *,
    layer: str | None = None,
    n_top_genes: int = 2_000,
    n_comps: int = 50,
    seed: int = 0,
    key_added: str | None = None,
) -> NDArray[np.float32]:
    """Principal components of normalised counts, for neighbour graphs.

    Counts are scaled to 10,000 a cell and ``log1p`` is taken, highly variable genes are chosen,
    and their principal components computed: on a copy.

    Parameters
    ----------
    adata
        Cells with raw counts.
    layer
        Where the counts are; ``X`` by default.
    n_top_genes
        Highly variable genes; all genes where there are not more.
    n_comps
        Components; fewer where cells or genes are fewer.
    seed
        Seed of the decomposition.
    key_added
        Key of ``obsm`` to write the result to; nothing is written by default.

    Returns
    -------
    Coordinates, float32, shape ``(n_cells, n_comps)``.

    Raises
    ------
    KeyError
        If there is no such layer, or no matrix at all.
    ValueError
        If the matrix holds negative, fractional or non-finite values, fewer than 3 cells or
        genes vary, or `n_top_genes` or `n_comps` is not positive.

    Notes
    -----
    The steps and their settings are scanpy's (Wolf et al. 2018, doi:10.1186/s13059-017-1382-0).

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> counts = np.random.default_rng(0).poisson(1.0, (40, 30)).astype(np.float32)
    >>> hdi.tl.expression_pca(ad.AnnData(counts), n_comps=5).shape
    (40, 5)
    """
    import anndata as ad
    import scanpy as sc

    _check_sizes(n_top_genes=n_top_genes, n_comps=n_comps)
    matrix = _matrix(adata, layer)
    _check_counts(matrix, "X" if layer is None else f"layers[{layer!r}]")
    copy = ad.AnnData(matrix.astype(np.float32))
    sc.pp.normalize_total(copy, target_sum=_TARGET_SUM)
    sc.pp.log1p(copy)
    n_varying = _n_varying(copy.X)
    if copy.n_obs < 3 or n_varying < 3:
        raise ValueError(
            f"Found {copy.n_obs} cells and {n_varying} genes that vary among them. Valid are 3 or "
            "more of both. A neighbour graph needs more data."
        )
    if copy.n_vars > n_top_genes:
        sc.pp.highly_variable_genes(copy, n_top_genes=n_top_genes)
        copy = copy[:, copy.var["highly_variable"].to_numpy()].copy()
    most = min(copy.shape) - 1
    if most < 2:
        raise ValueError(
            f"Found {copy.n_vars} highly variable genes. Valid are 3 or more. Raise n_top_genes."
        )
    sc.pp.pca(copy, n_comps=min(n_comps, most), random_state=seed)
    coordinates = np.asarray(copy.obsm["X_pca"], dtype=np.float32)
    if key_added is not None:
        adata.obsm[key_added] = coordinates
    return coordinates


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if operator.index(value) < 1:
            raise ValueError(f"Found {name}={value}. Valid is 1 or more. Leave it out if in doubt.")


def _matrix(adata: AnnData, layer: str | None) -> Any:
    matrix = adata.X if layer is None else adata.layers.get(layer)
    if matrix is None:
        named = [name for name in adata.layers if name is not None]  # X is one in anndata 0.13
        raise KeyError(
            f"The AnnData has no {'X' if layer is None else f'layers[{layer!r}]'}; its layers are "
            f"{named}. Valid is a matrix of raw counts. Name its layer."
        )
    return matrix


def _n_varying(matrix: Any) -> int:
    """Columns with more than one value."""
    if not matrix.shape[0]:
        return 0
    ends = (matrix.max(axis=0), matrix.min(axis=0))
    high, low = (np.asarray(end.todense() if hasattr(end, "todense") else end) for end in ends)
    return int((high > low).sum())


def _check_counts(matrix: Any, where: str) -> None:
    values = np.asarray(matrix.data if hasattr(matrix, "indptr") else matrix)
    if not np.isfinite(values).all() or (values < 0).any() or (values != np.rint(values)).any():
        raise ValueError(
            f"Found values in {where} that are negative, fractional or not finite. Valid are raw "
            "counts. Name the layer that holds them, or compute `X_pca` yourself."
        )


def coordinates(adata: AnnData, use_rep: str | NDArray[np.floating]) -> NDArray[np.floating]:
    """Read coordinates of the cells from ``obsm``, or check those given.

    Parameters
    ----------
    adata
        The cells.
    use_rep
        Key of ``obsm``, or coordinates, shape ``(n_cells, d)``.

    Raises
    ------
    KeyError
        If the key is not there; the message says how to make it.
    ValueError
        If there is not one row a cell.
    """
    if isinstance(use_rep, str):
        if use_rep not in adata.obsm:
            raise KeyError(
                f"adata.obsm has no {use_rep!r}; it holds {list(adata.obsm)}. Make it from raw "
                f"counts with hdi.tl.expression_pca(adata, key_added={use_rep!r}), or name "
                "another one in `use_rep`."
            )
        use_rep = adata.obsm[use_rep]
    points = np.asarray(use_rep)
    if points.ndim != 2 or len(points) != adata.n_obs:
        raise ValueError(
            f"Found a representation of shape {points.shape} for {adata.n_obs} cells. Valid is "
            "one row a cell. Pass that of these cells."
        )
    return points
