"""Fit the pixels of genes: profiles, plane, rectangle, grid, pixels, report."""

from __future__ import annotations

import math
import warnings
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

LayoutMethod = Literal["tsne", "tsne_published", "umap", "mde", "random"]
Report = dict[str, float]

N_COMPONENTS = 50
#: Settings of t-SNE. Ours place 4,096 genes in a fifth of the time of the published ones, keep as
#: many neighbours, and gave networks of the same macro-F1.
TSNE: dict[str, dict[str, Any]] = {
    "tsne": {"perplexity": 15.0, "early_exaggeration": 2.0, "max_iter": 300, "angle": 1.0},
    "tsne_published": {
        "perplexity": 70.0,
        "early_exaggeration": 8.0,
        "max_iter": 1000,
        "angle": 0.5,
    },
}
#: Below this many distinct genes there is no neighbourhood to preserve.
MIN_DISTINCT = 8
N_NEIGHBORS = 15
N_NEAREST = 10
_CHUNK = 1024


def gene_profiles(
    x: Any, *, n_components: int = N_COMPONENTS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Describe each gene by a short unit vector whose inner products are cosines between genes.

    Each gene is scaled to unit length over the cells, so that squared Euclidean distance is
    ``2 (1 - cosine)``; the genes × cells matrix is then cut to its leading singular vectors and
    the result is scaled to unit length again.

    Parameters
    ----------
    x
        Log-normalised expression, ``(n_cells, n_genes)``, dense or scipy sparse.
    n_components
        Singular vectors that are kept, at most.
    seed
        Seed of the randomised decomposition.

    Returns
    -------
    ``(profiles, expressed)``: profiles of the expressed genes ``(n_expressed, d)`` with
    ``d <= n_components``, and the mask ``(n_genes,)`` of genes with a value other than zero.

    Raises
    ------
    ValueError
        If a value is NaN or infinite, or if no gene is expressed.
    """
    if sparse.issparse(x):
        genes = sparse.csr_array(x.T, dtype=np.float64)
        norms = sparse_norm(genes, axis=1)
    else:
        genes = np.asarray(x, dtype=np.float64).T
        norms = np.linalg.norm(genes, axis=1)
    if not np.isfinite(norms).all():
        raise ValueError(
            f"The expression of {int((~np.isfinite(norms)).sum())} genes holds NaN or infinite "
            "values. A layout is fitted on finite log-normalised values. Remove the cells or genes "
            "with such values, or normalise the counts again."
        )
    expressed = norms > 0
    if not expressed.any():
        raise ValueError(
            f"None of the {norms.size} genes has a value other than zero. A layout is fitted on "
            "log-normalised values with at least one expressed gene. Check the layer that was "
            "passed, or use GeneLayout.random(genes), which needs no expression."
        )
    unit = sparse.diags_array(1.0 / norms[expressed]) @ genes[np.flatnonzero(expressed)]
    if min(unit.shape) <= n_components:  # already narrow: exact
        dense = unit.toarray() if sparse.issparse(unit) else np.asarray(unit)
        left, values, _ = np.linalg.svd(dense, full_matrices=False)
    else:
        from sklearn.utils.extmath import randomized_svd  # half a second, for fitting alone

        left, values, _ = randomized_svd(unit, n_components, n_iter=4, random_state=seed)
    profiles = np.asarray(left * values)
    # A gene that is orthogonal to every kept component has no direction left: it stays at zero.
    lengths = np.linalg.norm(profiles, axis=1, keepdims=True)
    return profiles / np.where(lengths > np.finfo(np.float64).eps, lengths, np.inf), expressed


def embed_genes(profiles: np.ndarray, method: LayoutMethod, *, seed: int = 0) -> np.ndarray:
    """Embed gene profiles in two dimensions.

    Parameters
    ----------
    profiles
        Unit vectors, ``(n_genes, d)``.
    method
        ``"tsne"``, ``"tsne_published"``, ``"umap"`` or ``"mde"``.
    seed
        Seed of the embedding.

    Returns
    -------
    Coordinates ``(n_genes, 2)`` in arbitrary units.

    Notes
    -----
    With fewer than eight distinct profiles the two leading components are returned whatever the
    method, because neighbour graphs and perplexities have no meaning there (our decision).
    """
    wide = np.pad(profiles, ((0, 0), (0, max(0, 2 - profiles.shape[1]))))
    if len(np.unique(wide.round(6), axis=0)) < MIN_DISTINCT:
        return wide[:, :2]
    wide = wide.astype(np.float32)
    if method in TSNE:
        found = _tsne(wide, seed, **TSNE[method])
    elif method == "umap":
        found = _umap(wide, seed)
    else:
        found = preserve_neighbors(wide, N_NEIGHBORS, seed, noise=0.1)
    return found.astype(np.float64)


def _tsne(profiles: np.ndarray, seed: int, *, perplexity: float, **settings: Any) -> np.ndarray:
    """Barnes-Hut t-SNE; small panels lower the perplexity to a third of the genes."""
    from sklearn.manifold import TSNE

    model = TSNE(
        metric="cosine",
        perplexity=min(perplexity, (len(profiles) - 1) / 3),
        init="pca",
        learning_rate="auto",
        random_state=seed,
        **settings,
    )
    return np.asarray(model.fit_transform(profiles))


def _umap(profiles: np.ndarray, seed: int) -> np.ndarray:
    with warnings.catch_warnings():
        # umap warns on import that its TensorFlow variant, which nobody asked for, is missing.
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP

    # The PCA start, unlike the spectral one, also works on graphs that fall into pieces.
    n_neighbors = min(N_NEIGHBORS, len(profiles) - 1)
    how = {"metric": "cosine", "init": "pca", "random_state": seed, "n_jobs": 1}
    return np.asarray(UMAP(n_neighbors=n_neighbors, **how).fit_transform(profiles))


def preserve_neighbors(
    points: Any,
    n_neighbors: int,
    seed: int,
    *,
    noise: float,
    constraint: Any = None,
    **options: Any,
) -> np.ndarray:
    """Embed points in two dimensions by minimum distortion, the same for the same seed.

    Parameters
    ----------
    points
        Coordinates, float32, ``(n, d)``.
    n_neighbors
        Neighbours that are to stay near; all others where there are fewer.
    seed
        Seed of whatever is random.
    noise
        How far the start is from the principal components. It parts equal points, whose distance
        would have no gradient.
    constraint
        Constraint of pymde, onto which the start is projected.
    **options
        Of ``pymde.preserve_neighbors``.

    Returns
    -------
    Coordinates, float32, ``(n, 2)``.

    Notes
    -----
    pymde's own spectral start comes from ARPACK, which takes no seed.

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
    """Return two leading principal components, unit spread together, float32 ``(n_genes, 2)``.

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
    """Seed every generator that pymde draws from, and give the caller's states back.

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
    """Return the angle in ``[0, π/2)`` of the rectangle of least area around the points.

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
    from scipy.stats import rankdata  # half a second, for fitting alone

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
    """Matrix that turns row vectors by ``-angle``."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _hull(points: np.ndarray) -> np.ndarray:
    """Corners of the convex hull; the two ends where the points have no area."""
    try:
        corners = ConvexHull(points).vertices
    except (QhullError, ValueError):  # fewer than three points, or all of them on one line
        centred = points - points.mean(axis=0)
        along = centred @ np.linalg.svd(centred, full_matrices=False)[2][0]
        corners = np.array([along.argmin(), along.argmax()])
    return np.asarray(points[corners])


def neighbors_kept(
    profiles: np.ndarray, pixel: np.ndarray, side: int, *, k: int = N_NEAREST
) -> float:
    """Return the share of the `k` nearest genes (cosine) that are also nearest on the image.

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
    positions = np.stack(np.divmod(pixel, side), axis=1)
    # Pixels are distinct, so the nearest one is the gene itself.
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
    """Return the smallest multiple of 8 whose square holds all genes."""
    side = math.isqrt(n_genes - 1) + 1
    return 8 * math.ceil(side / 8)


def random_pixels(n_genes: int, side: int, seed: int) -> np.ndarray:
    """Draw distinct pixels at random, int64 ``(n_genes,)``."""
    return np.random.default_rng(seed).permutation(side * side)[:n_genes]


def fit_pixels(x: Any, side: int, *, method: LayoutMethod, seed: int) -> tuple[np.ndarray, Report]:
    """Place the genes of an expression matrix ``(n_cells, n_genes)`` on a ``side × side`` grid.

    Genes without any expression have no profile. They take the pixels that the others leave free,
    from the rim inwards, in the order of the genes.

    Returns
    -------
    Row-major pixels ``(n_genes,)`` and the report.
    """
    check_choice("method", method, get_args(LayoutMethod))
    # One thread: sums over threads differ in the last bit with the number of cores, and an
    # embedding amplifies that to another picture for the same seed.
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
    """Order pixels by their distance to the edge of the image, then by index."""
    row, column = np.divmod(pixels, side)
    to_edge = np.minimum.reduce([row, column, side - 1 - row, side - 1 - column])
    return pixels[np.lexsort((pixels, to_edge))]
