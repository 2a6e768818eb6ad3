"""Fit gene layouts: embed gene profiles, align them to the image and assign pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import norm as sparse_norm
from scipy.spatial import ConvexHull, QhullError, cKDTree
from threadpoolctl import threadpool_limits

from hdeepinsight._errors import check_choice
from hdeepinsight.image._assign import CROWDED, assign_pixels

LayoutMethod = Literal["tsne", "tsne_published", "mde", "random"]
Report = dict[str, float]

N_COMPONENTS = 50
#: Settings of t-SNE. Ours place 4,096 genes in a fifth of the time of the published ones, preserve
#: the same fraction of neighbours, and resulted in the same macro F1 of networks.
TSNE: dict[str, dict[str, Any]] = {
    "tsne": {"perplexity": 15.0, "early_exaggeration": 2.0, "max_iter": 300, "angle": 1.0},
    "tsne_published": {
        "perplexity": 70.0,
        "early_exaggeration": 8.0,
        "max_iter": 1000,
        "angle": 0.5,
    },
}
#: Minimum number of distinct points with meaningful neighbourhoods.
MIN_DISTINCT = 8
N_NEIGHBORS = 15
N_NEAREST = 10
_CHUNK = 1024


def gene_profiles(x: Any, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Compute low-dimensional unit vectors of genes, whose inner products approximate cosines.

    Each gene is scaled to unit length over the cells, so that squared Euclidean distances are
    ``2 (1 - cosine)``. The genes × cells matrix is then reduced to its leading singular vectors and
    scaled to unit length again.

    Parameters
    ----------
    x
        Log-normalised expression, ``(n_cells, n_genes)``, dense or scipy sparse.
    seed
        Random seed of the decomposition.

    Returns
    -------
    profiles, expressed
        Profiles of the expressed genes, ``(n_expressed, d)`` with ``d <= 50``, and the
        mask of genes with values other than zero, ``(n_genes,)``.

    Raises
    ------
    ValueError
        If a value is NaN or infinite, or no gene is expressed.
    """
    if sparse.issparse(x):
        genes = sparse.csr_array(x.T, dtype=np.float64)
        norms = sparse_norm(genes, axis=1)
    else:
        genes = np.asarray(x, dtype=np.float64).T
        norms = np.linalg.norm(genes, axis=1)
    if not np.isfinite(norms).all():
        found = f"NaN or infinite values of {int((~np.isfinite(norms)).sum())} genes"
        hint = "Remove these cells or genes, or normalise the counts again."
        raise ValueError(f"Log-normalised expression must be finite, got {found}. {hint}")
    expressed = norms > 0
    if not expressed.any():
        hint = "Check the layer, or use GeneLayout.random(genes), which needs no expression."
        raise ValueError(f"At least one of {norms.size} genes must be expressed, got none. {hint}")
    unit = sparse.diags_array(1.0 / norms[expressed]) @ genes[np.flatnonzero(expressed)]
    if min(unit.shape) <= N_COMPONENTS:  # exact decomposition of a small matrix
        dense = unit.toarray() if sparse.issparse(unit) else np.asarray(unit)
        left, values, _ = np.linalg.svd(dense, full_matrices=False)
    else:
        from sklearn.utils.extmath import randomized_svd  # imports for half a second

        left, values, _ = randomized_svd(unit, N_COMPONENTS, n_iter=4, random_state=seed)
    profiles = np.asarray(left * values)
    # The profile of a gene that is orthogonal to all components remains zero.
    lengths = np.linalg.norm(profiles, axis=1, keepdims=True)
    return profiles / np.where(lengths > np.finfo(np.float64).eps, lengths, np.inf), expressed


def embed_genes(profiles: np.ndarray, method: LayoutMethod, *, seed: int = 0) -> np.ndarray:
    """Embed gene profiles in two dimensions.

    Parameters
    ----------
    profiles
        Unit vectors, ``(n_genes, d)``.
    method
        ``"tsne"`` or ``"tsne_published"`` (Barnes-Hut t-SNE with a perplexity of at most a third of
        the genes), or ``"mde"``.
    seed
        Random seed.

    Returns
    -------
    numpy.ndarray
        Coordinates in arbitrary units, ``(n_genes, 2)``.

    Notes
    -----
    With fewer than eight distinct profiles, any method returns the first two components, because
    neighbour graphs and perplexities are then not meaningful (our design).
    """
    wide = np.pad(profiles, ((0, 0), (0, max(0, 2 - profiles.shape[1]))))
    if len(np.unique(wide.round(6), axis=0)) < MIN_DISTINCT:
        return wide[:, :2]
    wide = wide.astype(np.float32)
    if method in TSNE:
        from sklearn import manifold

        settings = {**TSNE[method], "metric": "cosine", "init": "pca", "random_state": seed}
        settings["perplexity"] = min(settings["perplexity"], (len(wide) - 1) / 3)
        found = np.asarray(manifold.TSNE(learning_rate="auto", **settings).fit_transform(wide))
    else:
        found = preserve_neighbors(wide, N_NEIGHBORS, seed, noise=0.1)
    return found.astype(np.float64)


def preserve_neighbors(
    points: Any,
    n_neighbors: int,
    seed: int,
    *,
    noise: float,
    constraint: Any = None,
    **options: Any,
) -> np.ndarray:
    """Compute a reproducible two-dimensional minimum-distortion embedding.

    Parameters
    ----------
    points
        Coordinates, float32, ``(n, d)``.
    n_neighbors
        Number of neighbours to be kept close; all other points if there are fewer.
    seed
        Random seed.
    noise
        Standard deviation of the noise added to the initial principal components. It separates
        equal points, whose distance would have no gradient.
    constraint
        Constraint of pymde, onto which the initial coordinates are projected.
    **options
        Further arguments of ``pymde.preserve_neighbors``.

    Returns
    -------
    numpy.ndarray
        Coordinates, float32, ``(n, 2)``.

    Notes
    -----
    The spectral initialisation of pymde uses ARPACK, which cannot be seeded.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.image import preserve_neighbors
    >>> points = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    >>> preserve_neighbors(points, 5, seed=0, noise=0.1).shape
    (20, 2)
    """
    import pymde
    import torch

    options |= {"constraint": constraint, "init": "random"}
    with global_seeds(seed):
        k = min(n_neighbors, len(points) - 1)
        problem = pymde.preserve_neighbors(points, n_neighbors=k, **options)
        start = torch.from_numpy(principal_plane(np.asarray(points)))
        start += noise * torch.randn(start.shape)
        start = start if constraint is None else constraint.project_onto_constraint(start)
        return np.asarray(problem.embed(X=start).detach().cpu(), dtype=np.float32)


def principal_plane(profiles: np.ndarray) -> np.ndarray:
    """Return the first two principal components with joint unit spread, float32 ``(n, 2)``.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.image import principal_plane
    >>> principal_plane(np.array([[0.0, 0.0, 4.0], [0.0, 1.0, 0.0], [2.0, 0.0, 0.0]])).shape
    (3, 2)
    """
    centred = profiles - profiles.mean(axis=0)
    plane = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    return np.asarray(plane / (plane.std() or 1.0), dtype=np.float32)


@contextmanager
def global_seeds(seed: int) -> Iterator[None]:
    """Seed the global generators that pymde uses, and restore their states afterwards.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.image import global_seeds
    >>> before = torch.get_rng_state()
    >>> with global_seeds(3):
    ...     _ = torch.rand(2)
    >>> bool((torch.get_rng_state() == before).all())
    True
    """
    import pymde
    import torch

    numpy_state = np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            pymde.seed(seed)
            yield
    finally:
        np.random.set_state(numpy_state)


def align_to_rectangle(points: np.ndarray) -> np.ndarray:
    """Rotate points so that the sides of their minimum-area rectangle are parallel to the axes.

    Parameters
    ----------
    points
        Coordinates, ``(n, 2)``; a single point or collinear points are allowed.

    Returns
    -------
    numpy.ndarray
        Rotated coordinates, ``(n, 2)``, with the longer side along column 0.
    """
    rotated: np.ndarray = points @ _rotation(minimum_area_angle(points))
    width, height = np.ptp(rotated, axis=0)
    # An exact rotation by 90 degrees: (x, y) becomes (y, -x).
    return rotated[:, ::-1] * (1.0, -1.0) if height > width else rotated


def minimum_area_angle(points: np.ndarray) -> float:
    """Return the angle in ``[0, π/2)`` of the minimum-area rectangle around the points.

    One side of this rectangle contains an edge of the convex hull, so that only these edges are
    considered. For equal areas, the smaller angle is returned.
    """
    try:
        hull = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):  # fewer than three points, or collinear points: use both ends
        centred = points - points.mean(axis=0)
        along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
        hull = points[[along.argmin(), along.argmax()]]
    edges = np.roll(hull, -1, axis=0) - hull
    angles = np.arctan2(edges[:, 1], edges[:, 0]) % (np.pi / 2)
    angles[np.isclose(angles, np.pi / 2)] = 0.0
    extents = np.array([np.ptp(hull @ _rotation(angle), axis=0) for angle in angles])
    areas = extents.prod(axis=1)
    smallest = areas <= areas.min() + 1e-9 * np.ptp(hull, axis=0).max() ** 2
    return float(angles[smallest].min())


def scale_to_grid(points: np.ndarray, side: int, *, equalize: bool) -> np.ndarray:
    """Scale each axis separately to ``[0, side]``.

    Parameters
    ----------
    points
        Aligned coordinates as (long axis, short axis), ``(n, 2)``.
    side
        Number of pixels along one side of the image.
    equalize
        First replace each axis by its ranks, which distributes genes evenly on a crowded image.

    Returns
    -------
    numpy.ndarray
        Coordinates as (row, column) in pixels, ``(n, 2)``; the centre of pixel ``i`` is
        ``i + 0.5``.
    """
    from scipy.stats import rankdata  # imports for half a second

    unit = np.empty(points.shape)
    for axis in range(2):
        values = points[:, 1 - axis]
        span = np.ptp(values)
        if equalize:
            unit[:, axis] = (rankdata(values) - 0.5) / len(values)
        else:
            unit[:, axis] = (values - values.min()) / span if span > 0 else 0.5
    return unit * side


def _rotation(angle: float) -> np.ndarray:
    """Return the matrix that rotates row vectors by ``-angle``."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def neighbors_kept(
    profiles: np.ndarray, pixel: np.ndarray, side: int, *, k: int = N_NEAREST
) -> float:
    """Compute the fraction of the `k` nearest genes (cosine) that are also nearest on the image.

    Parameters
    ----------
    profiles
        Unit vectors, ``(n_genes, d)``.
    pixel
        Row-major pixel of each gene, ``(n_genes,)``.
    side
        Number of pixels along one side.
    k
        Number of neighbours; at most the number of other genes.

    Returns
    -------
    float
        Fraction in ``[0, 1]``; 1 for a single gene.
    """
    k = min(k, len(profiles) - 1)
    if k == 0:
        return 1.0
    positions = np.stack(np.divmod(pixel, side), axis=1)
    # The closest position is that of the gene itself, since pixels are distinct.
    on_image = cKDTree(positions).query(positions, k=np.arange(2, k + 2))[1]
    shared = 0
    for start in range(0, len(profiles), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(profiles)))
        similarity = profiles[rows] @ profiles.T
        similarity[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        shared += int((nearest[:, :, None] == on_image[rows][:, None, :]).sum())
    return shared / (k * len(profiles))


def default_side(n_genes: int) -> int:
    """Return the smallest multiple of 8 whose square is at least the number of genes."""
    side = math.isqrt(n_genes - 1) + 1
    return 8 * math.ceil(side / 8)


def random_pixels(n_genes: int, side: int, seed: int) -> np.ndarray:
    """Draw distinct random pixels, int64, shape ``(n_genes,)``."""
    return np.random.default_rng(seed).permutation(side * side)[:n_genes]


def fit_pixels(x: Any, side: int, *, method: LayoutMethod, seed: int) -> tuple[np.ndarray, Report]:
    """Compute the pixels of genes on a ``side × side`` grid from expression.

    Genes without expression have no profile. They are assigned to free pixels in the order of the
    genes, starting at the edge of the image.

    Returns
    -------
    pixel, report
        Row-major pixels, ``(n_genes,)``, and the report.
    """
    check_choice("method", method, get_args(LayoutMethod))
    # With several threads, rounding errors depend on the number of cores, and the embedding
    # amplifies them to a different layout for the same seed.
    with threadpool_limits(limits=1):
        profiles, expressed = gene_profiles(x, seed=seed)
        random = random_pixels(len(expressed), side, seed)
        pixel, moved = random, Report()
        if method != "random":
            plane = align_to_rectangle(embed_genes(profiles, method, seed=seed))
            coords = scale_to_grid(plane, side, equalize=len(profiles) > CROWDED * side**2)
            pixel = np.empty(len(expressed), dtype=np.int64)
            pixel[expressed] = assign_pixels(coords, side)
            free = rim_first(np.setdiff1d(np.arange(side**2), pixel[expressed]), side)
            pixel[~expressed] = free[: int((~expressed).sum())]
            centres = np.stack(np.divmod(pixel[expressed], side), axis=1) + 0.5
            distance = np.linalg.norm(coords - centres, axis=1)
            moved = {
                "displacement_mean": float(distance.mean()),
                "displacement_p95": float(np.quantile(distance, 0.95)),
                "displacement_max": float(distance.max()),
            }
        return pixel, {
            **moved,
            "occupancy": len(pixel) / side**2,
            "silent_genes": int((~expressed).sum()),
            "neighbors_kept": neighbors_kept(profiles, pixel[expressed], side),
            "neighbors_kept_random": neighbors_kept(profiles, random[expressed], side),
        }


def rim_first(pixels: np.ndarray, side: int) -> np.ndarray:
    """Sort pixels by their distance to the edge of the image, then by index."""
    row, column = np.divmod(pixels, side)
    to_edge = np.minimum.reduce([row, column, side - 1 - row, side - 1 - column])
    return pixels[np.lexsort((pixels, to_edge))]
