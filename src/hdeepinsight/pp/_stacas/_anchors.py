"""Anchors: pairs of cells that are mutual nearest neighbours, and their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.preprocessing import normalize
from sklearn.utils import gen_batches

from hdeepinsight._errors import check_integer
from hdeepinsight.data import InputError
from hdeepinsight.graph import Exact, nearest_neighbors
from hdeepinsight.taxonomy import Taxonomy, find_unlabeled, shared_depth

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_RANK = 1e-5
_EPSILON = 1e-6
_ANCHORS_AT_ONCE = 50_000
#: Weight of closeness in the score of an anchor, and slope of closeness in standard deviations of
#: the distances, as in STACAS 2.3.0.
_ALPHA, _STEEPNESS = 0.8, 2.0
#: Labels of unlabelled cells in the published method, in addition to the general ones.
UNLABELED = ("Unknown", "multi")


@dataclass(frozen=True, kw_only=True)
class StacasConfig:
    """Numbers of dimensions and neighbours in `stacas`.

    Parameters
    ----------
    n_dims
        Number of dimensions of the embeddings.
    k_anchor
        Two cells are an anchor if each is among this many nearest neighbours of the other.
    k_score
        Number of neighbours whose overlap scores an anchor.
    k_weight
        Number of anchor cells from which the correction of a cell is computed.

    Raises
    ------
    ValueError
        If a value is out of range.

    Notes
    -----
    Defaults are those of STACAS 2.3.0 {cite:p}`andreatta2021,andreatta2024`.

    Examples
    --------
    >>> from hdeepinsight.pp import StacasConfig
    >>> StacasConfig().k_anchor, StacasConfig.schdeepinsight().k_anchor
    (5, 40)
    """

    n_dims: int = 30
    k_anchor: int = 5
    k_score: int = 30
    k_weight: int = 100

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check_integer(name, value, hint="Omit it to use the default.")

    @classmethod
    def schdeepinsight(cls) -> StacasConfig:
        """Return the values of the published scHDeepInsight pipeline.

        It used all shared genes as anchor features: pass them as ``features``.

        Examples
        --------
        >>> from hdeepinsight.pp import StacasConfig
        >>> StacasConfig.schdeepinsight().n_dims
        20
        """
        return cls(n_dims=20, k_anchor=40, k_score=60, k_weight=30)


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run."""

    config: StacasConfig
    exact: Exact = "auto"
    seed: int = 0
    taxonomy: Taxonomy | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Cells of one dataset, or of several that were merged.

    Parameters
    ----------
    key
        Index of the dataset.
    values
        Log values of the anchor features, shape ``(n_cells, n_features)``.
    cells
        Indices of its cells among all cells, shape ``(n_cells,)``.
    labels
        Label codes of the cells, 0 for unlabelled, shape ``(n_cells,)``.
    settings
        Settings of the run.
    """

    key: int
    values: sp.csr_matrix
    cells: Ints
    labels: Ints
    settings: RunSettings

    @cached_property
    def axes(self) -> Floats:
        """Uncentred axes of this dataset; see `principal_axes`.

        Raises
        ------
        InputError
            If all cells have the same expression.
        """
        if self.values.nnz and not (self.values.max(axis=0) != self.values.min(axis=0)).nnz:
            raise InputError(
                f"All {len(self.cells):,} cells of dataset {self.key} have the same expression.",
                "Anchors require differences between cells.",
                "Leave it out, or pass other features.",
            )
        return principal_axes(self.values, self.settings.config.n_dims, seed=self.settings.seed)

    @cached_property
    def own_neighbors(self) -> Ints:
        """Each cell and its nearest neighbours within the dataset, shape ``(n_cells, k)``."""
        own, settings = np.arange(len(self.cells))[:, None], self.settings
        if (k := min(settings.config.k_score, len(self.cells)) - 1) < 1:
            return own
        points = self.values @ self.axes
        found, _ = nearest_neighbors(points, k=k, exact=settings.exact, seed=settings.seed)
        return np.concatenate([own, found], axis=1)


def is_expressed(values: sp.csr_matrix) -> NDArray[np.bool_]:
    """Return whether each cell has any non-zero value, shape ``(n_cells,)``."""
    return np.asarray(abs(values).sum(axis=1)).ravel() > 0


def principal_axes(
    values: sp.csr_matrix, n_dims: int, *, center: bool = False, seed: int = 0
) -> Floats:
    """Compute the leading right singular vectors of log values.

    Parameters
    ----------
    values
        Log-normalised expression, shape ``(n_cells, n_features)``.
    n_dims
        Maximum number of axes; axes without variation are left out.
    center
        Subtract the mean of each gene, to compute principal components. Anchors are found without
        centring, as published: with centring, differences in composition resemble batch effects.
    seed
        Seed of the starting vector.

    Returns
    -------
    Orthonormal columns, shape ``(n_features, n_dims)``.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> line = csr_matrix(np.outer([1.0, 2.0, 3.0], [3.0, 4.0]))
    >>> abs(line @ principal_axes(line, 2)).round(6).ravel().tolist()
    [5.0, 10.0, 15.0]
    """
    if n_dims >= min(values.shape) or not values.nnz:  # beyond what arpack supports
        dense = values.toarray()
        dense -= dense.mean(axis=0) if center else 0.0
        _, singular, right = np.linalg.svd(dense, full_matrices=False)
    else:
        solver: Any = {"svd_solver" if center else "algorithm": "arpack", "random_state": seed}
        fitted = (PCA if center else TruncatedSVD)(n_dims, **solver).fit(values)
        singular, right = fitted.singular_values_, fitted.components_
    kept = singular[:n_dims] > _RANK * singular.max()
    kept[0] = True  # keep one axis if all cells are equal
    return np.asarray(right[:n_dims][kept].T, dtype=np.float64)


def reciprocal_embeddings(
    first: sp.csr_matrix, second: sp.csr_matrix, axes_first: Floats, axes_second: Floats
) -> list[tuple[Floats, Floats]]:
    """Project two datasets onto the axes of each, scaled for cosine distances.

    Parameters
    ----------
    first, second
        Log-normalised expression, shapes ``(n_first, n_features)`` and ``(n_second, n_features)``.
    axes_first, axes_second
        Axes of each dataset; see `principal_axes`.

    Returns
    -------
    Coordinates of both datasets in the space of the first, and in that of the second. Each
    dimension is divided by its standard deviation over all cells, and each cell is scaled to length
    1, so that distances are in [0, 2]; cells at the origin stay there.

    Notes
    -----
    Reciprocal PCA of Stuart et al. {cite:p}`stuart2019`.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> x = csr_matrix(np.random.default_rng(0).random((50, 6)))
    >>> spaces = reciprocal_embeddings(x, x, principal_axes(x, 3), principal_axes(x, 3))
    >>> bool(np.allclose(np.linalg.norm(spaces[0][1], axis=1), 1))
    True
    """
    spaces = []
    for axes in (axes_first, axes_second):
        points = np.concatenate([first @ axes, second @ axes])
        deviation = points.std(axis=0, ddof=1)
        points = normalize(points / np.where(deviation > 0, deviation, 1.0))
        spaces.append((points[: first.shape[0]], points[first.shape[0] :]))
    return spaces


_COLUMNS: dict[str, Any] = {
    **dict.fromkeys(("dataset_1", "cell_1", "dataset_2", "cell_2"), np.int64),
    **dict.fromkeys(("distance", "neighborhood_score", "score"), np.float64),
    "consistent": bool,
}


def find_anchors(datasets: list[Dataset], against: Dataset | None = None) -> pd.DataFrame:
    """Find and score anchors between all pairs of datasets, or between each and another one.

    Parameters
    ----------
    datasets
        Datasets.
    against
        Dataset to compare all of them with; by default they are compared with each other.

    Returns
    -------
    One row per anchor: ``dataset_1``, ``cell_1``, ``dataset_2``, ``cell_2`` (indices),
    ``distance``, ``neighborhood_score``, ``score``, which is 0 if the labels disagree, and
    ``consistent``.
    """
    pairs = [(against, one) for one in datasets] if against else combinations(datasets, 2)
    tables = [pd.DataFrame(columns=list(_COLUMNS)).astype(_COLUMNS)]
    for one, two in pairs:
        config, how = one.settings.config, (one.settings.exact, one.settings.seed)
        spaces = reciprocal_embeddings(one.values, two.values, one.axes, two.axes)
        found = mutual_neighbors(spaces, config.k_anchor, config.k_score, *how)
        labels = one.labels[found.first], two.labels[found.second]
        table = pd.DataFrame(
            {
                "dataset_1": np.full(len(found.first), one.key),
                "cell_1": one.cells[found.first],
                "dataset_2": np.full(len(found.first), two.key),
                "cell_2": two.cells[found.second],
                "distance": found.distance,
                "neighborhood_score": score_anchors(found, one.own_neighbors, two.own_neighbors),
                "consistent": consistent_labels(*labels, one.settings.taxonomy),
            }
        )
        # Cells at the origin have equal distances to all cells, and are no informative anchors.
        is_used = is_expressed(one.values)[found.first] & is_expressed(two.values)[found.second]
        table = table[is_used]
        scores = weigh_anchors(*table[["distance", "neighborhood_score"]].to_numpy().T)
        tables.append(table.assign(score=np.where(table["consistent"], scores, 0.0)))
    return pd.concat(tables, ignore_index=True)


class MutualNeighbors(NamedTuple):
    """Anchors between two datasets, sorted by first and then second cell.

    ``first`` and ``second`` are the cells of each anchor and ``distance`` the mean of their
    distances in both spaces, in [0, 2], all of shape ``(n_anchors,)``; ``cross_first`` and
    ``cross_second`` are the nearest cells in the other dataset for each cell of the first and of
    the second, shapes ``(n_first, k)`` and ``(n_second, k)``.
    """

    first: Ints
    second: Ints
    distance: Floats
    cross_first: Ints
    cross_second: Ints


def mutual_neighbors(
    spaces: Sequence[tuple[Floats, Floats]],
    k_anchor: int,
    k_score: int,
    exact: Exact = "auto",
    seed: int = 0,
) -> MutualNeighbors:
    """Find anchors: pairs of cells that are mutual nearest neighbours.

    Parameters
    ----------
    spaces
        Both datasets in both spaces; see `reciprocal_embeddings`. Neighbours of cells of the first
        dataset are searched in the space of the first, and vice versa.
    k_anchor
        Number of neighbours for anchors.
    k_score
        Number of neighbours for `score_anchors`.
    exact, seed
        As in `hdeepinsight.graph.nearest_neighbors`.

    Returns
    -------
    Anchors. Numbers of neighbours are limited by the number of cells.

    Notes
    -----
    Mutual nearest neighbours of Haghverdi et al. {cite:p}`haghverdi2018`.

    Examples
    --------
    >>> import numpy as np
    >>> turn = np.linspace(0, 1, 5)
    >>> circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    >>> pairs = mutual_neighbors([(circle, circle), (circle, circle)], 1, 3)
    >>> pairs.first.tolist(), pairs.second.tolist()
    ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    """
    (x_first, y_first), (x_second, y_second) = spaces
    n_first, n_second = len(x_first), len(y_first)
    k, search = max(k_anchor, k_score), partial(nearest_neighbors, exact=exact, seed=seed)
    to_second, d_first = search(x_first, y_first, k=min(k, n_second))
    to_first, d_second = search(y_second, x_second, k=min(k, n_first))
    forward = np.arange(n_first)[:, None] * n_second + to_second[:, :k_anchor]
    backward = to_first[:, :k_anchor] * n_second + np.arange(n_second)[:, None]
    pairs, here, there = np.intersect1d(forward, backward, assume_unique=True, return_indices=True)
    distance = (d_first[:, :k_anchor].ravel()[here] + d_second[:, :k_anchor].ravel()[there]) / 2
    first, second = np.divmod(pairs, n_second)
    return MutualNeighbors(first, second, distance, to_second[:, :k_score], to_first[:, :k_score])


def score_anchors(anchors: MutualNeighbors, own_first: Ints, own_second: Ints) -> Floats:
    """Score anchors by the number of neighbours that their two cells share.

    Parameters
    ----------
    anchors
        Anchors with the neighbours of their cells in the other dataset.
    own_first, own_second
        Each cell and its nearest neighbours within the dataset, shape ``(n_cells, k_score)``.

    Returns
    -------
    Numbers of shared neighbours, scaled from the 0.01 and 0.9 quantiles to [0, 1] and clipped; 1
    if both quantiles are equal. Shape ``(n_anchors,)``.

    Notes
    -----
    Score of Stuart et al. {cite:p}`stuart2019`, computed from sparse indicator matrices without a
    matrix of all pairs of cells.
    """
    n_first, n_second = len(anchors.cross_first), len(anchors.cross_second)

    def indicator(in_first: Ints, in_second: Ints) -> sp.csr_matrix:
        """Mark the neighbours of each cell among the cells of both datasets."""
        columns = np.hstack([in_first, n_first + in_second])
        rows = np.arange(len(columns) + 1) * columns.shape[1]
        values = np.ones(columns.size, dtype=np.int32), columns.ravel(), rows
        return sp.csr_matrix(values, shape=(len(columns), n_first + n_second))

    of_first = indicator(own_first, anchors.cross_first)
    of_second = indicator(anchors.cross_second, own_second)
    overlap = np.zeros(len(anchors.first), dtype=np.int64)
    for some in gen_batches(len(overlap), _ANCHORS_AT_ONCE):
        both = of_first[anchors.first[some]].multiply(of_second[anchors.second[some]])
        overlap[some] = np.ravel(both.sum(axis=1))
    low, high = np.quantile(overlap, [0.01, 0.9]) if len(overlap) else (0.0, 0.0)
    if high == low:
        return np.ones(len(overlap))
    return np.clip((overlap - low) / (high - low), 0.0, 1.0)


def weigh_anchors(distance: Floats, neighborhood_score: Floats) -> Floats:
    r"""Combine distance and neighbourhood score of anchors.

    Parameters
    ----------
    distance
        Anchor distances, shape ``(n_anchors,)``.
    neighborhood_score
        Neighbourhood scores, in [0, 1], shape ``(n_anchors,)``.

    Returns
    -------
    Scores in [0, 1], shape ``(n_anchors,)``.

    Notes
    -----
    With :math:`c` the median and :math:`\sigma = \mathrm{sd}(\delta) / 2`, closeness is
    :math:`f = 1 / (1 + e^{(\delta - c)/\sigma})` and the score
    :math:`(f + \epsilon)^{0.8} (\kappa + \epsilon)^{0.2} - \epsilon`
    {cite:p}`andreatta2021`. If all distances are equal, closeness is one half.

    Examples
    --------
    >>> import numpy as np
    >>> weigh_anchors(np.array([0.1, 0.2, 0.3]), np.ones(3)).round(3).tolist()
    [0.903, 0.574, 0.182]
    """
    if not len(distance):
        return np.zeros(0)
    width = distance.std(ddof=1) / _STEEPNESS if len(distance) > 1 else 0.0
    close = expit((np.median(distance) - distance) / (width or np.inf))
    logs = _ALPHA * np.log(close + _EPSILON) + (1 - _ALPHA) * np.log(neighborhood_score + _EPSILON)
    return np.asarray(np.clip(np.exp(logs) - _EPSILON, 0.0, 1.0))


def encode_labels(columns: list[pd.Series], taxonomy: Taxonomy | None = None) -> list[Ints]:
    """Encode the labels of several datasets with common codes.

    Parameters
    ----------
    columns
        Labels of each dataset. Missing values, ``"multi"`` and the words of
        `hdeepinsight.taxonomy.MISSING_LABELS` stand for unlabelled cells.
    taxonomy
        Taxonomy that contains the labels; without it, labels are compared as text.

    Returns
    -------
    Codes (nodes of the taxonomy) for each dataset, int64, shape ``(n_cells,)``; 0 for unlabelled.

    Raises
    ------
    ValueError
        If a label is not in the taxonomy.
    """
    given = [column.astype(object) for column in columns]
    if taxonomy is not None:
        return [taxonomy.encode(column, unlabeled=UNLABELED) for column in given]
    texts = [column.astype(str).mask(find_unlabeled(column, UNLABELED)) for column in given]
    names = pd.Index(sorted({name for column in texts for name in column.dropna()}))
    return [(names.get_indexer(column) + 1).astype(np.int64) for column in texts]


def consistent_labels(
    first: Ints, second: Ints, taxonomy: Taxonomy | None = None
) -> NDArray[np.bool_]:
    """Return which anchors connect cells with consistent labels.

    Parameters
    ----------
    first, second
        Label codes, shape ``(n_anchors,)``; 0, for unlabelled cells, is consistent with all.
    taxonomy
        Taxonomy in which labels are also consistent with their ancestors and descendants.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight import Taxonomy
    >>> tree = Taxonomy.from_nested({"B": ["naive", "memory"], "T": []})
    >>> first, second = tree.encode(["B", "naive", "T"]), tree.encode(["naive", "memory", None])
    >>> consistent_labels(first, second, tree).tolist()
    [True, False, True]
    """
    if taxonomy is None:
        return np.asarray((first == second) | (first == 0) | (second == 0))
    shared, depth = shared_depth(taxonomy, first, second), taxonomy.depth
    return np.asarray(shared == np.minimum(depth[first], depth[second]))
