"""Anchors: pairs of cells that are mutual nearest neighbours, and how far each can be trusted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from hdeepinsight.graph import Exact, nearest_neighbors
from hdeepinsight.pp._stacas._config import RunSettings
from hdeepinsight.pp._stacas._embedding import (
    Components,
    Floats,
    PairSpaces,
    Values,
    fit_components,
    reciprocal_embeddings,
)
from hdeepinsight.taxonomy import Taxonomy, find_unlabeled

Ints = NDArray[np.int64]

_EPSILON = 1e-6
_ANCHORS_AT_ONCE = 50_000
#: Quantile of the distances at which closeness is one half, and how steeply closeness falls, in
#: standard deviations of the distances; those of STACAS 2.3.0.
_HALFWAY, _STEEPNESS = 0.5, 2.0


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
    One row an anchor: ``dataset_1``, ``cell_1``, ``dataset_2``, ``cell_2`` (numbers), ``distance``,
    ``overlap``, ``neighborhood_score``, ``score`` and ``consistent``; the score is 0 where labels
    rule the anchor out.
    """
    pairs = [(against, one) for one in datasets] if against else list(combinations(datasets, 2))
    if not (tables := [_anchors_of_pair(first, second) for first, second in pairs]):
        return pd.DataFrame({name: np.zeros(0, kind) for name, kind in _COLUMNS.items()})
    settings = datasets[0].settings
    tables = [pd.concat(tables, ignore_index=True)] if settings.config.as_published else tables
    return pd.concat([_scored(table, settings) for table in tables], ignore_index=True)


_COLUMNS = {
    "dataset_1": np.int64,
    "cell_1": np.int64,
    "dataset_2": np.int64,
    "cell_2": np.int64,
    "distance": np.float64,
    "overlap": np.int64,
    "neighborhood_score": np.float64,
    "consistent": np.bool_,
    "score": np.float64,
}


def _anchors_of_pair(first: Dataset, second: Dataset) -> pd.DataFrame:
    settings = first.settings
    config, both = settings.config, (first.components, second.components)
    spaces = reciprocal_embeddings(first.values, second.values, both, center=config.center)
    found = mutual_neighbors(
        spaces, config.k_anchor, config.k_score, exact=settings.exact, seed=settings.seed
    )
    overlap, agreement = score_anchors(found, first.own_neighbors, second.own_neighbors)
    table = pd.DataFrame(
        {
            "dataset_1": np.full(len(overlap), first.key),
            "cell_1": first.cells[found.first],
            "dataset_2": np.full(len(overlap), second.key),
            "cell_2": second.cells[found.second],
            "distance": found.distance,
            "overlap": overlap,
            "neighborhood_score": agreement,
            "consistent": consistent_labels(
                first.labels[found.first], second.labels[found.second], settings.taxonomy
            ),
            "score": 1.0,
        }
    )
    # Cells at the origin are as far from everything: that two of them meet means nothing.
    return table[first.expressed[found.first] & second.expressed[found.second]]


def _scored(table: pd.DataFrame, settings: RunSettings) -> pd.DataFrame:
    config = settings.config
    scores = weigh_anchors(
        table["distance"].to_numpy(), table["neighborhood_score"].to_numpy(), alpha=config.alpha
    )
    kept = filter_by_labels(
        scores,
        table["consistent"].to_numpy(),
        label_confidence=config.label_confidence,
        sample=config.as_published,
        seed=settings.seed,
    )
    return table.assign(score=kept)


@dataclass(frozen=True, eq=False)
class MutualNeighbors:
    """Anchors between two datasets, sorted by first and then second cell.

    Parameters
    ----------
    first, second
        Cells of each anchor, shape ``(n_anchors,)``.
    distance
        Mean of the distances in both spaces, in [0, 2], shape ``(n_anchors,)``.
    cross_first
        Nearest cells of the second dataset for every cell of the first, shape ``(n_first, k)``.
    cross_second
        Nearest cells of the first dataset for every cell of the second, shape ``(n_second, k)``.
    """

    first: Ints
    second: Ints
    distance: Floats
    cross_first: Ints
    cross_second: Ints


def mutual_neighbors(
    spaces: PairSpaces, k_anchor: int, k_score: int, *, exact: Exact = "auto", seed: int = 0
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
    >>> pairs = mutual_neighbors(PairSpaces((circle, circle), (circle, circle)), 1, 3)
    >>> pairs.first.tolist(), pairs.second.tolist()
    ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    """
    (x_first, y_first), (x_second, y_second) = spaces
    n_first, n_second = len(x_first), len(y_first)
    k = max(k_anchor, k_score)
    to_second, d_first = nearest_neighbors(
        x_first, y_first, k=min(k, n_second), exact=exact, seed=seed
    )
    to_first, d_second = nearest_neighbors(
        y_second, x_second, k=min(k, n_first), exact=exact, seed=seed
    )
    forward = np.arange(n_first)[:, None] * n_second + to_second[:, :k_anchor]
    backward = to_first[:, :k_anchor] * n_second + np.arange(n_second)[:, None]
    pairs, here, there = np.intersect1d(forward, backward, assume_unique=True, return_indices=True)
    distance = (d_first[:, :k_anchor].ravel()[here] + d_second[:, :k_anchor].ravel()[there]) / 2
    return MutualNeighbors(
        first=pairs // n_second,
        second=pairs % n_second,
        distance=distance,
        cross_first=to_second[:, :k_score],
        cross_second=to_first[:, :k_score],
    )


def score_anchors(
    anchors: MutualNeighbors, own_first: Ints, own_second: Ints
) -> tuple[Ints, Floats]:
    """Count the neighbours that the two cells of each anchor share.

    Parameters
    ----------
    anchors
        Anchors with the neighbours of their cells in the other dataset.
    own_first, own_second
        Nearest cells within the dataset, the cell itself first, shape ``(n_cells, k_score)``.

    Returns
    -------
    overlap, score
        Shared neighbours, int64, and the same on a scale from the 0.01 to the 0.9 quantile of
        these anchors, clipped to [0, 1]; 1 for all where both quantiles are equal. Shapes
        ``(n_anchors,)``.

    Notes
    -----
    The score of Stuart et al. {cite:p}`stuart2019`, as a product of sparse indicator matrices; no
    matrix of all pairs of cells is formed.
    """
    n_first, n_second = len(anchors.cross_first), len(anchors.cross_second)
    own_x, cross_y = _indicator(own_first, n_first), _indicator(anchors.cross_second, n_first)
    cross_x, own_y = _indicator(anchors.cross_first, n_second), _indicator(own_second, n_second)
    overlap = np.zeros(len(anchors.first), dtype=np.int64)
    for start in range(0, len(overlap), _ANCHORS_AT_ONCE):
        some = slice(start, start + _ANCHORS_AT_ONCE)
        x, y = anchors.first[some], anchors.second[some]
        shared = own_x[x].multiply(cross_y[y]).sum(axis=1)
        shared = shared + cross_x[x].multiply(own_y[y]).sum(axis=1)
        overlap[some] = np.asarray(shared).ravel()
    return overlap, _between_quantiles(overlap)


def _indicator(neighbors: Ints, n_targets: int) -> sp.csr_matrix:
    n_rows, k = neighbors.shape
    indptr = np.arange(0, n_rows * k + 1, k)
    ones = np.ones(n_rows * k, dtype=np.int32)
    return sp.csr_matrix((ones, neighbors.ravel(), indptr), shape=(n_rows, n_targets))


def _between_quantiles(overlap: Ints) -> Floats:
    if not len(overlap):
        return np.zeros(0)
    low, high = np.quantile(overlap, [0.01, 0.9])
    if high == low:
        return np.ones(len(overlap))
    clipped: Floats = np.clip((overlap - low) / (high - low), 0.0, 1.0)
    return clipped


def weigh_anchors(distance: Floats, neighborhood_score: Floats, *, alpha: float = 0.8) -> Floats:
    r"""Join closeness and agreement of surroundings into one score.

    Parameters
    ----------
    distance
        Anchor distances, shape ``(n_anchors,)``.
    neighborhood_score
        Agreement of the surroundings, in [0, 1], shape ``(n_anchors,)``.
    alpha
        Share of closeness.

    Returns
    -------
    Scores in [0, 1], shape ``(n_anchors,)``.

    Notes
    -----
    With :math:`c` the median and :math:`\sigma = \mathrm{sd}(\delta) / 2`, closeness is
    :math:`f = 1 / (1 + e^{(\delta - c)/\sigma})` and the score
    :math:`(f + \epsilon)^\alpha (\kappa + \epsilon)^{1-\alpha} - \epsilon`
    {cite:p}`andreatta2021`. Where all distances are equal, closeness is one half.

    Examples
    --------
    >>> import numpy as np
    >>> weigh_anchors(np.array([0.1, 0.2, 0.3]), np.ones(3), alpha=1.0).round(3).tolist()
    [0.881, 0.5, 0.119]
    """
    if not len(distance):
        return np.zeros(0)
    center = np.quantile(distance, _HALFWAY)
    width = distance.std(ddof=1) / _STEEPNESS if len(distance) > 1 else 0.0
    close = np.full(len(distance), 0.5)
    if width > 0:
        close = 0.5 * (1 - np.tanh((distance - center) / (2 * width)))  # cannot overflow
    logs = alpha * np.log(close + _EPSILON) + (1 - alpha) * np.log(neighborhood_score + _EPSILON)
    return np.clip(np.exp(logs) - _EPSILON, 0.0, 1.0)


#: What means "no label" in the published method, beside the words that do so everywhere.
UNLABELED = ("Unknown", "multi")


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
    values: Values
    cells: Ints
    labels: Ints
    settings: RunSettings

    @cached_property
    def components(self) -> Components:
        """Principal components of this dataset."""
        config, seed = self.settings.config, self.settings.seed
        return fit_components(self.values, config.n_dims, center=config.center, seed=seed)

    @cached_property
    def own_neighbors(self) -> Ints:
        """Nearest cells within the dataset, each cell first, shape ``(n_cells, k)``."""
        own, settings = np.arange(len(self.cells))[:, None], self.settings
        k = min(settings.config.k_score, len(self.cells)) - 1
        if k < 1:
            return own
        places = self.components.project(self.values)
        found, _ = nearest_neighbors(places, k=k, exact=settings.exact, seed=settings.seed)
        return np.concatenate([own, found], axis=1)

    @cached_property
    def expressed(self) -> NDArray[np.bool_]:
        """Cells with any value in the anchor features, shape ``(n_cells,)``."""
        return np.asarray(abs(self.values).sum(axis=1)).ravel() > 0


def encode_labels(
    columns: list[pd.Series | None], n_cells: list[int], taxonomy: Taxonomy | None = None
) -> list[Ints]:
    """Encode the labels of several datasets in one numbering.

    Parameters
    ----------
    columns
        Labels of each dataset, ``None`` where it has none. Missing values, ``"multi"`` and the
        words of `hdeepinsight.taxonomy.MISSING_LABELS` mean not labelled.
    n_cells
        Cells of each dataset.
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
    given = [
        pd.Series([None] * n, dtype=object) if column is None else column.astype(object)
        for column, n in zip(columns, n_cells, strict=True)
    ]
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


def filter_by_labels(
    scores: Floats,
    consistent: NDArray[np.bool_],
    *,
    label_confidence: float = 1.0,
    sample: bool = False,
    seed: int = 0,
) -> Floats:
    """Lower the score of anchors whose labels disagree; those at 0 are to be dropped.

    Parameters
    ----------
    scores
        Scores of the anchors, in [0, 1], shape ``(n_anchors,)``.
    consistent
        Whether their labels agree, shape ``(n_anchors,)``.
    label_confidence
        Trust in the labels: 0 changes nothing, 1 drops every anchor whose labels disagree.
    sample
        Instead of multiplying scores by one minus the trust, keep an anchor with that probability,
        if its score exceeds the lowest.
    seed
        Of the draws.

    Returns
    -------
    New scores, shape ``(n_anchors,)``.

    Notes
    -----
    The published rule {cite:p}`andreatta2024` draws for both directions of a pair; here a pair
    has one draw.

    Examples
    --------
    >>> import numpy as np
    >>> agree = np.array([True, False])
    >>> filter_by_labels(np.array([0.8, 0.8]), agree, label_confidence=0.75).round(3).tolist()
    [0.8, 0.2]
    """
    if not sample:
        return np.where(consistent, scores, (1.0 - label_confidence) * scores)
    drawn = np.random.default_rng(seed).random(len(scores)) < 1.0 - label_confidence
    kept = consistent | (drawn & (scores > scores.min(initial=np.inf)))
    return np.where(kept, scores, 0.0)
