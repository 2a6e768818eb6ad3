"""Corrections as sparse linear combinations of anchor cells, and the order of the corrections.

A run either projects each query onto a fixed reference, or merges all datasets along a guide tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from sklearn.preprocessing import normalize

from hdeepinsight.data import InputError
from hdeepinsight.graph import nearest_neighbors
from hdeepinsight.pp._stacas import _anchors as anchor
from hdeepinsight.pp._stacas._anchors import Dataset, Floats, Ints, RunSettings

_KERNEL_WIDTH = 4.0
#: Minimum number of cells of a dataset that is corrected.
_MIN_CELLS = 100


class CellWeights(NamedTuple):
    """Weights of the anchor cells for some cells.

    ``shift`` times the values of all cells is the correction: the weights of reference anchor
    cells, minus those of query anchor cells, shape ``(n_cells, n_all)``. Each set sums to 1 per
    cell, or to 0 for cells without weights. ``nearest`` is each cell's distance to the nearest
    anchor cell and ``n_effective`` the inverse of its sum of squared weights, shape ``(n_cells,)``.
    """

    shift: sp.csr_matrix
    nearest: Floats
    n_effective: Floats


class AnchorWeights(NamedTuple):
    r"""Anchors of a query, from which weights for its cells are computed.

    Parameters
    ----------
    axes
        Axes of the space in which cells are compared, shape ``(n_features, n_dims)``.
    points
        Coordinates of the distinct anchor cells of the query in this space, shape
        ``(n_query_anchor_cells, n_dims)``.
    query, reference
        Cells of each anchor as indices among all cells, sorted by ``query``, shape
        ``(n_anchors,)``.
    scores
        Scores of the anchors, shape ``(n_anchors,)``.
    settings
        Settings of the run.

    Notes
    -----
    For the :math:`j`-th nearest anchor cell at distance :math:`D_j`, an anchor of score :math:`w`
    has the weight :math:`h = 1 - \exp(-(1 - D_j / D_k)\, w / 4)`, divided by the sum over all
    anchors of the cell {cite:p}`stuart2019`. The farthest anchor cell has no weight, so that cells
    with a single anchor cell are not corrected.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from hdeepinsight.pp import StacasConfig
    >>> points = np.array([[0.0], [1.0], [4.0]])
    >>> query, reference = np.array([3, 4, 5]), np.array([0, 1, 2])
    >>> settings = RunSettings(StacasConfig())
    >>> weights = AnchorWeights(np.eye(1), points, query, reference, np.ones(3), settings)
    >>> weights.weigh(csr_matrix([[1.0]])).shift.toarray().round(2).tolist()
    [[0.41, 0.59, 0.0, -0.41, -0.59, 0.0]]
    """

    axes: Floats
    points: Floats
    query: Ints
    reference: Ints
    scores: Floats
    settings: RunSettings

    @property
    def cells(self) -> Ints:
        """Distinct anchor cells of both sides, sorted."""
        return np.union1d(self.query, self.reference)

    def weigh(self, values: sp.csr_matrix) -> CellWeights:
        """Compute the weights of anchors for cells with these log values.

        Cells without values, ``(n_cells, n_features)``, get no weights.
        """
        settings, n_anchors, n_points = self.settings, len(self.scores), len(self.points)
        k = min(settings.config.k_weight, n_points)
        how: Any = {"k": k, "exact": settings.exact, "seed": settings.seed}
        found, distance = nearest_neighbors(values @ self.axes, self.points, **how)
        is_expressed, last = anchor.is_expressed(values), distance[:, -1:]
        proximity = np.where(last > 0, 1 - distance / np.where(last > 0, last, 1.0), 1.0)
        proximity[~is_expressed] = 0.0
        rows, anchors = np.arange(len(found) + 1) * k, np.arange(n_anchors)
        near = sp.csr_matrix((proximity.ravel(), found.ravel(), rows), (len(found), n_points))
        point = np.unique(self.query, return_inverse=True)[1]
        of_point = sp.csr_matrix((np.ones(n_anchors), (point, anchors)), (n_points, n_anchors))
        weights = sp.csr_matrix(near @ of_point)
        weights.data = -np.expm1(-weights.data * self.scores[weights.indices] / _KERNEL_WIDTH)
        weights = normalize(weights, "l1")
        squares = np.ravel(weights.power(2).sum(axis=1))
        effective = np.divide(1.0, squares, out=np.zeros(len(found)), where=squares > 0)
        # Add the reference cells of the anchors, and subtract their query cells.
        ends = np.concatenate([self.reference, self.query])
        signs = np.repeat([1.0, -1.0], n_anchors), (np.tile(anchors, 2), ends)
        shift = weights @ sp.csr_matrix(signs, (n_anchors, ends.max() + 1))
        return CellWeights(shift, np.where(is_expressed, distance[:, 0], np.nan), effective)


@dataclass(frozen=True, eq=False)
class Correction:
    """Correction of one side of a merge.

    ``cells``, as indices among all cells, are corrected with ``weights``; ``anchors`` computes
    weights for further cells; ``query`` is the key of a projected query.
    """

    cells: Ints
    anchors: AnchorWeights
    weights: CellWeights
    query: int | None = None


def correct_query(query: Dataset, anchors: pd.DataFrame) -> Correction:
    """Compute the correction of a query.

    Parameters
    ----------
    query
        Query with its present values.
    anchors
        Anchors between query and reference, in either direction, with positive scores.
    """
    settings = query.settings
    ends = anchors[["cell_1", "cell_2"]].to_numpy().T
    fixed, moving = np.where(np.isin(ends[0], query.cells), ends[::-1], ends)
    order = np.lexsort((fixed, moving))
    how: Any = {"center": True, "seed": settings.seed}
    axes = anchor.principal_axes(query.values, settings.config.n_dims, **how)
    points = query.values[np.searchsorted(query.cells, np.unique(moving))] @ axes
    scores = anchors["score"].to_numpy()[order]
    found = AnchorWeights(axes, points, moving[order], fixed[order], scores, settings)
    return Correction(query.cells, found, found.weigh(query.values))


def composed_shift(corrections: Sequence[Correction], cells: Ints, n_all: int) -> sp.csr_matrix:
    """Express the corrections of some cells as linear combinations of the original values.

    Parameters
    ----------
    corrections
        Corrections in order; each one uses the values that the previous ones have corrected.
    cells
        Indices of the cells, shape ``(n_cells,)``.
    n_all
        Number of cells in all datasets.

    Returns
    -------
    Matrix ``D`` of shape ``(n_cells, n_all)``: corrected values are ``Y[cells] + D @ Y``.

    Notes
    -----
    The corrections are composed from the last to the first, so that only weights are multiplied
    and no corrected values are stored.
    """
    shape = (len(cells), n_all)
    start = sp.csr_matrix((np.ones(len(cells)), (np.arange(len(cells)), cells)), shape=shape)
    shift = sp.csr_matrix(shape)
    for one in reversed(corrections):
        change = (start + shift)[:, one.cells] @ one.weights.shift
        change.resize(shape)  # add columns of cells that were added later
        shift = shift + change
    shift.sort_indices()
    return shift


class Merge(NamedTuple):
    """Merge of two sides: the datasets of the fixed side, and those of the corrected side."""

    reference: tuple[int, ...]
    query: tuple[int, ...]


class GuideTree(NamedTuple):
    """Order of the ``merges``, and the dataset that is never corrected, ``base``."""

    merges: tuple[Merge, ...]
    base: int


def guide_tree(similarity: Floats, strengths: Floats, keys: list[int] | None = None) -> GuideTree:
    r"""Compute the order of merges: most similar datasets first; the stronger side is fixed.

    Parameters
    ----------
    similarity
        Sum of anchor scores divided by the smaller number of cells, for each pair of datasets,
        symmetric, shape ``(n_datasets, n_datasets)``.
    strengths
        Sum of the scores of all anchors of each dataset, shape ``(n_datasets,)``.
    keys
        Indices of the datasets; from 0 by default.

    Returns
    -------
    The guide tree.

    Notes
    -----
    Distances are :math:`1 - s / \max s`, in [0, 1], because the published :math:`1 - s` may be
    negative; only their order matters for single linkage. The strength of a merged side is the
    larger strength of its parts.

    Examples
    --------
    >>> import numpy as np
    >>> s = np.array([[0, 0.9, 0.1], [0.9, 0, 0.2], [0.1, 0.2, 0]])
    >>> tree = guide_tree(s, np.array([5.0, 7.0, 3.0]))
    >>> [(merge.reference, merge.query) for merge in tree.merges], tree.base
    ([((1,), (0,)), ((0, 1), (2,))], 1)
    """
    keys = keys or list(range(len(strengths)))
    top = float(similarity[~np.eye(len(keys), dtype=bool)].max(initial=0.0)) or 1.0
    distance = 1.0 - similarity / top
    np.fill_diagonal(distance, 0.0)
    members: list[tuple[int, ...]] = [(key,) for key in keys]
    strength = list(map(float, strengths))
    merges = []
    for left, right, *_ in linkage(squareform(distance, checks=False), method="single"):
        fixed, moving = sorted((int(left), int(right)), key=lambda i: (-strength[i], i))
        merges.append(Merge(members[fixed], members[moving]))
        members.append(tuple(sorted(members[fixed] + members[moving])))
        strength.append(strength[fixed])
    return GuideTree(tuple(merges), base=keys[int(np.argmax(strengths))])


@dataclass(frozen=True, eq=False)
class Outcome:
    """Result of a run.

    ``anchors`` holds all anchors, those with inconsistent labels with score 0; ``corrections`` the
    corrections in order; ``tree`` the order of merges; ``skipped`` the reason for each dataset that
    was not corrected; and ``datasets`` the datasets with their corrected values.
    """

    anchors: pd.DataFrame
    corrections: tuple[Correction, ...]
    tree: GuideTree | None
    skipped: dict[int, str]
    datasets: tuple[Dataset, ...] = ()


def project(references: list[Dataset], queries: list[Dataset]) -> Outcome:
    """Correct each query towards the references, which are integrated first if several."""
    before = integrate(references)
    skipped = _too_small(queries)
    used = [query for query in queries if query.key not in skipped]
    found = anchor.find_anchors(used, _merged(before.datasets))
    corrections = list(before.corrections)
    for query in queries:
        anchors = found[(found["dataset_2"] == query.key) & (found["score"] > 0)]
        if len(anchors):
            corrections.append(replace(correct_query(query, anchors), query=query.key))
        else:
            skipped.setdefault(query.key, "no anchors")
    anchors = pd.concat([before.anchors, found], ignore_index=True)
    return Outcome(anchors, tuple(corrections), before.tree, skipped)


def integrate(datasets: list[Dataset]) -> Outcome:
    """Merge all datasets along a guide tree, whose base is not corrected.

    Raises
    ------
    InputError
        If there are no anchors between two sides of a merge.
    """
    skipped = _too_small(datasets)
    used = [dataset for dataset in datasets if dataset.key not in skipped]
    found = anchor.find_anchors(used)
    if len(used) < 2:
        return Outcome(found, (), None, skipped, tuple(datasets))
    keys = [dataset.key for dataset in used]
    total = np.zeros((len(keys), len(keys)))
    for (first, second), table in found.groupby(["dataset_1", "dataset_2"]):
        total[keys.index(first), keys.index(second)] = table["score"].sum()
    total += total.T
    sizes = np.array([len(dataset.cells) for dataset in used])
    tree = guide_tree(total / np.minimum.outer(sizes, sizes), total.sum(axis=1), keys)
    now, corrections = {dataset.key: dataset for dataset in datasets}, []
    for merge in tree.merges:
        query = _merged([now[key] for key in merge.query])
        ends = found[["dataset_1", "dataset_2"]]
        across = ends.isin(merge.reference).any(axis=1) & ends.isin(merge.query).any(axis=1)
        anchors = found[across & (found["score"] > 0)]
        if not len(anchors):
            raise InputError(
                f"No anchors between datasets {list(merge.reference)} and {list(merge.query)}.",
                "They must share cell types with consistent labels.",
                "Leave one side out, check its labels, or increase k_anchor.",
            )
        corrections.append(made := correct_query(query, anchors))
        both = _merged([now[key] for key in (*merge.reference, *merge.query)])
        rows = np.searchsorted(both.cells, made.anchors.cells)
        moved = query.values + made.weights.shift[:, made.anchors.cells] @ both.values[rows]
        for key in merge.query:
            own = np.searchsorted(query.cells, now[key].cells)
            now[key] = replace(now[key], values=moved[own])
    return Outcome(found, tuple(corrections), tree, skipped, tuple(now.values()))


def _too_small(datasets: Sequence[Dataset]) -> dict[int, str]:
    return {one.key: "too few cells" for one in datasets if len(one.cells) < _MIN_CELLS}


def _merged(datasets: Sequence[Dataset]) -> Dataset:
    """Concatenate datasets, with cells in increasing order."""
    datasets = sorted(datasets, key=lambda dataset: dataset.key)
    if len(datasets) == 1:
        return datasets[0]
    return Dataset(
        datasets[0].key,
        sp.vstack([dataset.values for dataset in datasets], format="csr"),
        np.concatenate([dataset.cells for dataset in datasets]),
        np.concatenate([dataset.labels for dataset in datasets]),
        datasets[0].settings,
    )
