"""Figures that say how good a layout is."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

N_NEAREST = 10
_CHUNK = 1024


def displacement(coords: np.ndarray, pixel: np.ndarray, side: int) -> dict[str, float]:
    """Distance in pixels between where a gene wanted to be and the centre of its pixel."""
    centres = np.stack(np.divmod(pixel, side), axis=1) + 0.5
    moved = np.linalg.norm(coords - centres, axis=1)
    return {
        "displacement_mean": float(moved.mean()),
        "displacement_p95": float(np.quantile(moved, 0.95)),
        "displacement_max": float(moved.max()),
    }


def neighbors_kept(
    profiles: np.ndarray, pixel: np.ndarray, side: int, *, k: int = N_NEAREST
) -> float:
    """Share of each gene's `k` nearest genes (cosine) that are among its `k` nearest on the image.

    Parameters
    ----------
    profiles
        Unit vectors ``(n_genes, d)``.
    pixel
        Row-major pixel of each gene ``(n_genes,)``.
    side
        Pixels along one side.
    k
        Neighbours that are compared; at most the number of other genes.

    Returns
    -------
    A number in ``[0, 1]``; 1 for a single gene, which has no neighbour to lose.
    """
    k = min(k, len(profiles) - 1)
    if k == 0:
        return 1.0
    on_image = _nearest_pixels(np.stack(np.divmod(pixel, side), axis=1), k)
    shared = 0
    for start in range(0, len(profiles), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(profiles)))
        nearest = _nearest_profiles(profiles, rows, k)
        shared += int((nearest[:, :, None] == on_image[rows][:, None, :]).sum())
    return shared / (k * len(profiles))


def _nearest_profiles(profiles: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    similarity = profiles[rows] @ profiles.T
    similarity[np.arange(len(rows)), rows] = -np.inf
    return np.argpartition(-similarity, k - 1, axis=1)[:, :k]


def _nearest_pixels(positions: np.ndarray, k: int) -> np.ndarray:
    # Pixels are distinct, so the nearest one is the gene itself.
    nearest: np.ndarray = cKDTree(positions).query(positions, k=np.arange(2, k + 2))[1]
    return nearest
