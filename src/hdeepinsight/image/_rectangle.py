"""From a cloud of genes in the plane to a square grid."""

from __future__ import annotations

import numpy as np
from scipy.spatial import ConvexHull, QhullError
from scipy.stats import rankdata


def align_to_rectangle(points: np.ndarray) -> np.ndarray:
    """Rotate points so that their rectangle of least area lies on the axes, long side horizontal.

    Parameters
    ----------
    points
        Coordinates ``(n, 2)``; a single point or points on one line are fine.

    Returns
    -------
    Rotated coordinates ``(n, 2)``: column 0 runs along the long side, column 1 along the short one.
    """
    turned: np.ndarray = points @ _rotation(minimum_area_angle(points))
    width, height = np.ptp(turned, axis=0)
    # A quarter turn, exactly: (x, y) becomes (y, -x).
    return turned[:, ::-1] * (1.0, -1.0) if height > width else turned


def minimum_area_angle(points: np.ndarray) -> float:
    """Angle in ``[0, π/2)`` of the rectangle of least area around the points.

    One side of that rectangle lies on an edge of the convex hull, so only the hull's edges are
    tried; of equal areas the smaller angle wins.
    """
    hull = _hull(points)
    edges = np.roll(hull, -1, axis=0) - hull
    angles = np.arctan2(edges[:, 1], edges[:, 0]) % (np.pi / 2)
    angles[np.isclose(angles, np.pi / 2)] = 0.0
    extents = np.array([np.ptp(hull @ _rotation(angle), axis=0) for angle in angles])
    areas = extents.prod(axis=1)
    smallest = areas <= areas.min() + 1e-9 * np.ptp(hull, axis=0).max() ** 2
    return float(angles[smallest].min())


def scale_to_grid(points: np.ndarray, side: int, *, equalize: bool) -> np.ndarray:
    """Scale each axis on its own to ``[0, side]``.

    Parameters
    ----------
    points
        Aligned coordinates ``(n, 2)`` as (long axis, short axis).
    side
        Pixels along one side of the image.
    equalize
        Replace each axis by its ranks first, which fills a crowded image evenly.

    Returns
    -------
    ``(n, 2)`` as (row, column), in pixels; the centre of pixel ``i`` is at ``i + 0.5``.
    """
    axis = _ranks if equalize else _stretch
    return np.stack([axis(points[:, 1]), axis(points[:, 0])], axis=1) * side


def _rotation(angle: float) -> np.ndarray:
    """Matrix that turns row vectors by ``-angle``."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _hull(points: np.ndarray) -> np.ndarray:
    """Corners of the convex hull; the two ends where the points have no area."""
    try:
        corners = ConvexHull(points).vertices
    except (QhullError, ValueError):  # fewer than three points, or all of them on one line
        along = _leading_direction(points)
        corners = np.array([along.argmin(), along.argmax()])
    return np.asarray(points[corners])


def _leading_direction(points: np.ndarray) -> np.ndarray:
    centred = points - points.mean(axis=0)
    direction: np.ndarray = np.linalg.svd(centred, full_matrices=False)[2][0]
    return np.asarray(centred @ direction)


def _ranks(values: np.ndarray) -> np.ndarray:
    return np.asarray((rankdata(values) - 0.5) / len(values))


def _stretch(values: np.ndarray) -> np.ndarray:
    span = np.ptp(values)
    return (values - values.min()) / span if span > 0 else np.full(len(values), 0.5)
