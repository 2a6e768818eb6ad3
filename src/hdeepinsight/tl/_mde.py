"""Cells in the plane, by minimum-distortion embedding."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hdeepinsight.image import MIN_DISTINCT, global_seeds, principal_plane
from hdeepinsight.tl._representation import coordinates

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["mde"]

#: Repelling edges for each attracting one; few, as the constraint spreads the cells already.
_REPULSIVE = 0.7


def mde(
    data: AnnData | ArrayLike,
    *,
    use_rep: str | None = None,
    n_neighbors: int = 15,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Embed cells in two dimensions, with neighbours kept near, for pictures.

    Nothing is written: put the result into ``adata.obsm["X_mde"]`` yourself, if you want it there.

    Parameters
    ----------
    data
        Coordinates of the cells, ``(n_cells, d)``, such as ``model.get_latent_representation()``;
        or an AnnData that holds them.
    use_rep
        Key of ``adata.obsm``; for an AnnData only.
    n_neighbors
        Neighbours of a cell that are to stay near it; all others where there are fewer cells.
    seed
        Same data and seed, same picture. The states of the global generators stay as they are.

    Returns
    -------
    Coordinates, float32, ``(n_cells, 2)``: centred, of unit variance and uncorrelated. Cells with
    fewer than eight distinct places are given by their two leading principal components instead,
    because neighbourhoods have no meaning there.

    Raises
    ------
    KeyError
        If ``adata.obsm`` lacks `use_rep`.
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
    Agrawal, Ali and Boyd (2021), Minimum-distortion embedding, doi:10.1561/2200000090, in their
    package pymde: `preserve_neighbors` under the standardisation constraint. The start from
    principal components, which makes the picture reproducible, is our decision.
    """
    points = _points(data, use_rep)
    if operator.index(n_neighbors) < 1:
        raise ValueError(
            f"Found n_neighbors={n_neighbors}. Valid is 1 or more. Use 15 to begin with."
        )
    if len(points) < 2:
        return np.zeros((len(points), 2), dtype=np.float32)
    start = principal_plane(np.pad(points, ((0, 0), (0, max(0, 2 - points.shape[1])))))
    if len(np.unique(points.round(6), axis=0)) < MIN_DISTINCT:
        return start
    return _embedded(points, start, min(n_neighbors, len(points) - 1), seed)


def _points(data: AnnData | ArrayLike, use_rep: str | None) -> NDArray[np.float32]:
    if hasattr(data, "obsm"):
        if use_rep is None:
            raise ValueError(
                "Found an AnnData without `use_rep`. Valid is the name of coordinates in "
                f"adata.obsm, which holds {list(data.obsm)}. Name one of them."
            )
        data = coordinates(data, use_rep)
    elif use_rep is not None:
        raise ValueError(
            f"Found use_rep={use_rep!r} beside an array. It names coordinates of an AnnData. "
            "Leave it out, or pass the AnnData."
        )
    points = np.asarray(data, dtype=np.float32)
    if points.ndim != 2 or not points.shape[1]:
        raise ValueError(
            f"Found coordinates of the shape {points.shape}. Valid is one row a cell, "
            "(n_cells, d). Reshape them."
        )
    n_broken = int((~np.isfinite(points).all(axis=1)).sum())
    if n_broken:
        raise ValueError(
            f"Found {n_broken} of {len(points)} cells with NaN or infinite coordinates. Valid are "
            "finite numbers. Leave these cells out, or look at how they were computed."
        )
    return points


def _embedded(
    points: NDArray[np.float32], start: NDArray[np.float32], n_neighbors: int, seed: int
) -> NDArray[np.float32]:
    import pymde
    import torch

    constraint = pymde.Standardized()
    with global_seeds(seed):
        problem = pymde.preserve_neighbors(
            points,
            constraint=constraint,
            n_neighbors=n_neighbors,
            repulsive_fraction=_REPULSIVE,
            init="random",
        )
        # The noise parts equal cells, whose distance would have no gradient.
        noisy = torch.from_numpy(start) + 0.01 * torch.randn(start.shape)
        embedded = problem.embed(X=constraint.project_onto_constraint(noisy))
        return np.asarray(embedded.detach().cpu().numpy(), dtype=np.float32)
