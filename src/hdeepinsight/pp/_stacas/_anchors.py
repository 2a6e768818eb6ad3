"""Anchors: pairs of cells that are mutual nearest neighbours, and how far each can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.decomposition import PCA, TruncatedSVD

from hdeepinsight._errors import check_integer
from hdeepinsight.graph import Exact, nearest_neighbors
from hdeepinsight.taxonomy import Taxonomy, find_unlabeled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_RANK = 1e-5
_EPSILON = 1e-6
_ANCHORS_AT_ONCE = 50_000
#: Share of closeness in the score of an anchor, and how steeply closeness falls, in standard
#: deviations of the distances; those of STACAS 2.3.0.
_ALPHA, _STEEPNESS = 0.8, 2.0
#: What means "no label" in the published method, beside the words that do so everywhere.
UNLABELED = ("Unknown", "multi")


@dataclass(frozen=True, kw_only=True)
class StacasConfig:
    """How many dimensions and neighbours `stacas` works with.

    Parameters
    ----------
    n_dims
        Dimensions of the embeddings.
    k_anchor
        Two cells are an anchor when each is among this many nearest of the other.
    k_score
        Neighbours whose overlap says how well the surroundings of an anchor agree.
    k_weight
        Anchor cells that a cell takes its correction from.

    Raises
    ------
    ValueError
        If a value is out of its range.

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
        """Return the values of the published scHDeepInsight query step.

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
    """What every part of one correction needs to know."""

    config: StacasConfig
    exact: Exact = "auto"
    seed: int = 0
    taxonomy: Taxonomy | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Cells that are compared as one dataset.

    Parameters
    ----------
    key
        Number of the dataset.
    values
        Log values of the anchor features, shape ``(n_cells, n_features)``.
    cells
        Numbers of its cells among all, shape ``(n_cells,)``.
    labels
        Codes of their labels, 0 for not labelled, shape ``(n_cells,)``.
    settings
        Of the run.
    """

    key: int
    values: sp.csr_matrix
    cells: Ints
    labels: Ints
    settings: RunSettings

    @cached_property
    def axes(self) -> Floats:
        """Axes of this dataset, not centred; see `principal_axes`."""
        return principal_axes(self.values, self.settings.config.n_dims, seed=self.settings.seed)

    @cached_property
    def own_neighbors(self) -> Ints:
        """Nearest cells within the dataset, each cell first, shape ``(n_cells, k)``."""
        own, settings = np.arange(len(self.cells))[:, None], self.settings
        if (k := min(settings.config.k_score, len(self.cells)) - 1) < 1:
            return own
        places = self.values @ self.axes
        found, _ = nearest_neighbors(places, k=k, exact=settings.exact, seed=settings.seed)
        return np.concatenate([own, found], axis=1)

    @cached_property
    def expressed(self) -> NDArray[np.bool_]:
        """Cells with any value in the anchor features, shape ``(n_cells,)``."""
        return np.asarray(abs(self.values).sum(axis=1)).ravel() > 0


def principal_axes(
    values: sp.csr_matrix, n_dims: int, *, center: bool = False, seed: int = 0
) -> Floats:
    """Return the directions in which cells vary most, right singular vectors of their values.

    Parameters
    ----------
    values
        Log-normalised expression, shape ``(n_cells, n_features)``.
    n_dims
        Most directions; those without any variation are left out.
    center
        Subtract the mean of every gene, which makes them principal components. Anchors are found
        without, as published: with it, differences in composition look like batch effects.
    seed
        Start of the iteration.

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
    if n_dims >= min(values.shape) or not values.nnz:  # nothing to iterate on
        dense = values.toarray()
        dense -= dense.mean(axis=0) if center else 0.0
        _, singular, right = np.linalg.svd(dense, full_matrices=False)
        singular, right = singular[:n_dims], right[:n_dims]
    else:
        if center:
            fitted = PCA(n_dims, svd_solver="arpack", random_state=seed).fit(values)
        else:
            fitted = TruncatedSVD(n_dims, algorithm="arpack", random_state=seed).fit(values)
        singular, right = fitted.singular_values_, fitted.components_
    kept = singular > _RANK * singular.max()
    kept[0] = True  # equal cells have no direction, but still a place
    return np.asarray(right[kept].T, dtype=np.float64)


def reciprocal_embeddings(
    first: sp.csr_matrix, second: sp.csr_matrix, axes_first: Floats, axes_second: Floats
) -> list[tuple[Floats, Floats]]:
    """Put two datasets into the space of each, ready for cosine distances.

    Parameters
    ----------
    first, second
        Log-normalised expression, shapes ``(n_first, n_features)`` and ``(n_second, n_features)``.
    axes_first, axes_second
        Axes of each; see `principal_axes`.

    Returns
    -------
    In the space of the first and in that of the second, the coordinates of both datasets. Every
    dimension is divided by its standard deviation over all cells and every cell has length 1, so
    that distances lie in [0, 2]; a cell without any coordinate stays at 0.

    Notes
    -----
    Reciprocal principal components of Stuart et al. {cite:p}`stuart2019`.

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
        places = np.concatenate([first @ axes, second @ axes])
        deviation = places.std(axis=0, ddof=1)
        places /= np.where(deviation > 0, deviation, 1.0)
        lengths = np.linalg.norm(places, axis=1, keepdims=True)
        places /= np.where(lengths > 0, lengths, 1.0)
        spaces.append((places[: first.shape[0]], places[first.shape[0] :]))
    return spaces


_NO_ANCHORS = pd.DataFrame(
    {
        **dict.fromkeys(("dataset_1", "cell_1", "dataset_2", "cell_2"), np.zeros(0, np.int64)),
        **dict.fromkeys(("distance", "neighborhood_score"), np.zeros(0)),
        "consistent": np.zeros(0, bool),
        "score": np.zeros(0),
    }
)


def find_anchors(datasets: list[Dataset], against: Dataset | None = None) -> pd.DataFrame:
    """Find and score anchors between all pairs of datasets, or between each and one other.

    Parameters
    ----------
    datasets
        The datasets.
    against
        Dataset that all of them are compared with; by default they are compared with each other.

    Returns
    -------
    One row per anchor: ``dataset_1``, ``cell_1``, ``dataset_2``, ``cell_2`` (numbers),
    ``distance``, ``neighborhood_score``, ``consistent`` and ``score``, which is 0 where labels
    rule the anchor out.
    """
    pairs = [(against, one) for one in datasets] if against else combinations(datasets, 2)
    tables = [_NO_ANCHORS]
    for one, two in pairs:
        settings = one.settings
        found = mutual_neighbors(
            reciprocal_embeddings(one.values, two.values, one.axes, two.axes),
            settings.config.k_anchor,
            settings.config.k_score,
            exact=settings.exact,
            seed=settings.seed,
        )
        labels = one.labels[found.first], two.labels[found.second]
        table = pd.DataFrame(
            {
                "dataset_1": np.full(len(found.first), one.key),
                "cell_1": one.cells[found.first],
                "dataset_2": np.full(len(found.first), two.key),
                "cell_2": two.cells[found.second],
                "distance": found.distance,
                "neighborhood_score": score_anchors(found, one.own_neighbors, two.own_neighbors),
                "consistent": consistent_labels(*labels, settings.taxonomy),
            }
        )
        # Cells at the origin are as far from everything: that two of them meet means nothing.
        table = table[one.expressed[found.first] & two.expressed[found.second]]
        scores = weigh_anchors(*table[["distance", "neighborhood_score"]].to_numpy().T)
        tables.append(table.assign(score=np.where(table["consistent"], scores, 0.0)))
    return pd.concat(tables, ignore_index=True)


class MutualNeighbors(NamedTuple):
    """Anchors between two datasets, sorted by first and then second cell.

    ``first`` and ``second`` are the cells of each anchor and ``distance`` the mean of their
    distances in both spaces, in [0, 2], all of shape ``(n_anchors,)``; ``cross_first`` and
    ``cross_second`` are the nearest cells of the other dataset for every cell of the first and of
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
    *,
    exact: Exact = "auto",
    seed: int = 0,
) -> MutualNeighbors:
    """Find anchors: pairs of cells that are among each other's nearest.

    Parameters
    ----------
    spaces
        Both datasets in both spaces; see `reciprocal_embeddings`. Neighbours of a cell of the
        first dataset are searched in the space of the first, and the other way round.
    k_anchor
        Neighbours that make an anchor.
    k_score
        Neighbours to return for `score_anchors`.
    exact, seed
        As in `hdeepinsight.graph.nearest_neighbors`.

    Returns
    -------
    The anchors. Numbers of neighbours are lowered to the number of cells there are.

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
        Nearest cells within the dataset, the cell itself first, shape ``(n_cells, k_score)``.

    Returns
    -------
    Shared neighbours on a scale from the 0.01 to the 0.9 quantile of these anchors, clipped to
    [0, 1]; 1 for all where both quantiles are equal. Shape ``(n_anchors,)``.

    Notes
    -----
    The score of Stuart et al. {cite:p}`stuart2019`, as a product of sparse indicator matrices; no
    matrix of all pairs of cells is formed.
    """
    n_first, n_second = len(anchors.cross_first), len(anchors.cross_second)

    def indicator(neighbors: Ints, n_targets: int) -> sp.csr_matrix:
        rows = np.arange(len(neighbors) + 1) * neighbors.shape[1]
        ones = np.ones(neighbors.size, dtype=np.int32)
        return sp.csr_matrix((ones, neighbors.ravel(), rows), shape=(len(neighbors), n_targets))

    own_x, cross_y = indicator(own_first, n_first), indicator(anchors.cross_second, n_first)
    cross_x, own_y = indicator(anchors.cross_first, n_second), indicator(own_second, n_second)
    overlap = np.zeros(len(anchors.first), dtype=np.int64)
    for start in range(0, len(overlap), _ANCHORS_AT_ONCE):
        some = slice(start, start + _ANCHORS_AT_ONCE)
        x, y = anchors.first[some], anchors.second[some]
        both = own_x[x].multiply(cross_y[y]), cross_x[x].multiply(own_y[y])
        overlap[some] = np.ravel(both[0].sum(axis=1) + both[1].sum(axis=1))
    low, high = np.quantile(overlap, [0.01, 0.9]) if len(overlap) else (0.0, 0.0)
    if high == low:
        return np.ones(len(overlap))
    return np.clip((overlap - low) / (high - low), 0.0, 1.0)


def weigh_anchors(distance: Floats, neighborhood_score: Floats) -> Floats:
    r"""Join closeness and agreement of surroundings into one score.

    Parameters
    ----------
    distance
        Anchor distances, shape ``(n_anchors,)``.
    neighborhood_score
        Agreement of the surroundings, in [0, 1], shape ``(n_anchors,)``.

    Returns
    -------
    Scores in [0, 1], shape ``(n_anchors,)``.

    Notes
    -----
    With :math:`c` the median and :math:`\sigma = \mathrm{sd}(\delta) / 2`, closeness is
    :math:`f = 1 / (1 + e^{(\delta - c)/\sigma})` and the score
    :math:`(f + \epsilon)^{0.8} (\kappa + \epsilon)^{0.2} - \epsilon`
    {cite:p}`andreatta2021`. Where all distances are equal, closeness is one half.

    Examples
    --------
    >>> import numpy as np
    >>> weigh_anchors(np.array([0.1, 0.2, 0.3]), np.ones(3)).round(3).tolist()
    [0.903, 0.574, 0.182]
    """
    if not len(distance):
        return np.zeros(0)
    width = distance.std(ddof=1) / _STEEPNESS if len(distance) > 1 else 0.0
    close = np.full(len(distance), 0.5)
    if width > 0:
        close = 0.5 * (1 - np.tanh((distance - np.median(distance)) / (2 * width)))
    logs = _ALPHA * np.log(close + _EPSILON) + (1 - _ALPHA) * np.log(neighborhood_score + _EPSILON)
    return np.clip(np.exp(logs) - _EPSILON, 0.0, 1.0)


def encode_labels(columns: list[pd.Series], taxonomy: Taxonomy | None = None) -> list[Ints]:
    """Encode the labels of several datasets in one numbering.

    Parameters
    ----------
    columns
        Labels of each dataset. Missing values, ``"multi"`` and the words of
        `hdeepinsight.taxonomy.MISSING_LABELS` mean not labelled.
    taxonomy
        Tree whose nodes the labels name; without it, labels are equal or not.

    Returns
    -------
    Per dataset the codes (nodes of the taxonomy), int64, shape ``(n_cells,)``; 0 for not labelled.

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
    """Tell which anchors join cells whose labels do not contradict each other.

    Parameters
    ----------
    first, second
        Codes of the labels, shape ``(n_anchors,)``; 0 means not labelled, which contradicts
        nothing.
    taxonomy
        With it, a label also agrees with those above and below it on its path.

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
    pairs, inverse = np.unique(np.stack([first, second], axis=1), axis=0, return_inverse=True)
    agree = [taxonomy.lca(a, b) in (a, b) for a, b in pairs.tolist()]
    return np.asarray(agree, dtype=bool)[inverse.reshape(-1)]
