"""Corrections as sparse linear maps of the values of anchor cells, and the order they come in.

A run either moves every query onto a fixed reference, or joins all datasets along a guide tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform
from sklearn.preprocessing import normalize

from hdeepinsight.data import InputError
from hdeepinsight.graph import nearest_neighbors
from hdeepinsight.pp._stacas._anchors import (
    Dataset,
    Floats,
    Ints,
    RunSettings,
    find_anchors,
    principal_axes,
)

_KERNEL_WIDTH = 4.0
#: Datasets with fewer cells are left as they are.
_MIN_CELLS = 100


class CellWeights(NamedTuple):
    """Weights of the anchor cells for some cells.

    ``shift`` times the values of all cells is what is added: the weights of reference anchor cells,
    minus those of query anchor cells, shape ``(n_cells, n_all)``. Either sum to 1 per cell, or to
    0 for cells without weight. ``nearest`` is each cell's distance to the nearest anchor cell and
    ``n_effective`` the inverse of its sum of squared weights, both of shape ``(n_cells,)``.
    """

    shift: sp.csr_matrix
    nearest: Floats
    n_effective: Floats


class AnchorWeights(NamedTuple):
    r"""Everything that gives any cell of a batch its weights: a space, and the anchors in it.

    Parameters
    ----------
    axes
        Axes of the space in which cells are compared, shape ``(n_features, n_dims)``.
    places
        Distinct anchor cells of the query side there, shape ``(n_query_anchor_cells, n_dims)``.
    query, reference
        Cells of each anchor, numbered through all datasets and sorted by ``query``, shape
        ``(n_anchors,)``.
    scores
        Scores of the anchors, shape ``(n_anchors,)``.
    settings
        Of the run.

    Notes
    -----
    For the :math:`j`-th nearest anchor cell at distance :math:`D_j`, an anchor of score :math:`w`
    has :math:`h = 1 - \exp(-(1 - D_j / D_k)\, w / 4)`, divided by the sum over all anchors of the
    cell {cite:p}`stuart2019`. The farthest has no weight, so that a cell with a
    single anchor cell in reach is left as it is.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from hdeepinsight.pp import StacasConfig
    >>> places = np.array([[0.0], [1.0], [4.0]])
    >>> query, reference = np.array([3, 4, 5]), np.array([0, 1, 2])
    >>> settings = RunSettings(StacasConfig())
    >>> weights = AnchorWeights(np.eye(1), places, query, reference, np.ones(3), settings)
    >>> weights.weigh(csr_matrix([[1.0]])).shift.toarray().round(2).tolist()
    [[0.41, 0.59, 0.0, -0.41, -0.59, 0.0]]
    """

    axes: Floats
    places: Floats
    query: Ints
    reference: Ints
    scores: Floats
    settings: RunSettings

    @property
    def cells(self) -> Ints:
        """Distinct anchor cells of both sides, sorted."""
        return np.union1d(self.query, self.reference)

    def weigh(self, values: sp.csr_matrix) -> CellWeights:
        """Weigh the anchors near cells with these log values, shape ``(n_cells, n_features)``.

        Cells without any value, of which nothing is known, get no weight.
        """
        settings, n_anchors = self.settings, len(self.scores)
        k = min(settings.config.k_weight, len(self.places))
        found, distance = nearest_neighbors(
            values @ self.axes, self.places, k=k, exact=settings.exact, seed=settings.seed
        )
        known = np.asarray(abs(values).sum(axis=1)).ravel() > 0
        last = distance[:, -1:]
        proximity = np.where(last > 0, 1 - distance / np.where(last > 0, last, 1.0), 1.0)
        proximity[~known] = 0.0
        rows, anchors = np.arange(len(found) + 1) * k, np.arange(n_anchors)
        near = sp.csr_matrix(
            (proximity.ravel(), found.ravel(), rows), (len(found), len(self.places))
        )
        place = np.unique(self.query, return_inverse=True)[1]
        of_place = sp.csr_matrix(
            (np.ones(n_anchors), (place, anchors)), (len(self.places), n_anchors)
        )
        weights = sp.csr_matrix(near @ of_place)
        weights.data = -np.expm1(-weights.data * self.scores[weights.indices] / _KERNEL_WIDTH)
        weights = normalize(weights, "l1")
        squares = np.ravel(weights.power(2).sum(axis=1))
        effective = np.divide(1.0, squares, out=np.zeros(len(found)), where=squares > 0)
        # Towards the reference cells of the anchors, and away from their query cells.
        ends = np.concatenate([self.reference, self.query])
        signs = np.repeat([1.0, -1.0], n_anchors), (np.tile(anchors, 2), ends)
        shift = weights @ sp.csr_matrix(signs, (n_anchors, ends.max() + 1))
        return CellWeights(shift, np.where(known, distance[:, 0], np.nan), effective)


@dataclass(frozen=True, eq=False)
class Correction:
    """One side moved onto another.

    ``cells``, numbered through all datasets, move by ``weights``; ``anchors`` give further cells of
    that side theirs.
    """

    cells: Ints
    anchors: AnchorWeights
    weights: CellWeights


def correct_query(query: Dataset, anchors: pd.DataFrame) -> Correction:
    """Weigh anchors for every cell of the query side.

    Parameters
    ----------
    query
        The side that moves, with the values that it has now.
    anchors
        Anchors between it and the side that stays, in either direction, with positive scores.
    """
    settings = query.settings
    swapped = np.isin(anchors["cell_1"], query.cells)
    moving = np.where(swapped, anchors["cell_1"], anchors["cell_2"])
    staying = np.where(swapped, anchors["cell_2"], anchors["cell_1"])
    order = np.lexsort((staying, moving))
    axes = principal_axes(query.values, settings.config.n_dims, center=True, seed=settings.seed)
    places = query.values[np.searchsorted(query.cells, np.unique(moving))] @ axes
    scores = anchors["score"].to_numpy()[order]
    found = AnchorWeights(axes, places, moving[order], staying[order], scores, settings)
    return Correction(query.cells, found, found.weigh(query.values))


def composed_shift(corrections: Sequence[Correction], cells: Ints, n_all: int) -> sp.csr_matrix:
    """Compose the corrections of some cells to combinations of the original values of all cells.

    Parameters
    ----------
    corrections
        In the order in which they were made; each one uses the values that those
        before it left.
    cells
        Cells asked for, shape ``(n_cells,)``.
    n_all
        Cells of all datasets.

    Returns
    -------
    Matrix ``D`` of shape ``(n_cells, n_all)``: corrected values are ``Y[cells] + D @ Y``.

    Notes
    -----
    The corrections are unrolled from the last to the first, so that only weights are multiplied
    and no corrected value is ever kept.
    """
    shape = (len(cells), n_all)
    start = sp.csr_matrix((np.ones(len(cells)), (np.arange(len(cells)), cells)), shape=shape)
    shift = sp.csr_matrix(shape)
    for one in reversed(corrections):
        change = (start + shift)[:, one.cells] @ one.weights.shift
        change.resize(shape)  # it knows no cells that came later
        shift = shift + change
    shift.sort_indices()
    return shift


class Merge(NamedTuple):
    """One join: the datasets of the side that stays, and those of the side that moves."""

    reference: tuple[int, ...]
    query: tuple[int, ...]


class GuideTree(NamedTuple):
    """Order of joins: ``merges``, and the dataset that never moves, ``base``."""

    merges: tuple[Merge, ...]
    base: int


def guide_tree(similarity: Floats, strengths: Floats, keys: list[int] | None = None) -> GuideTree:
    r"""Join the most similar datasets first; the stronger side stays.

    Parameters
    ----------
    similarity
        Sum of anchor scores over the smaller number of cells, for each pair of datasets,
        symmetric, shape ``(n_datasets, n_datasets)``.
    strengths
        Sum of the scores of all anchors of each dataset, shape ``(n_datasets,)``.
    keys
        Numbers of the datasets; from 0 by default.

    Returns
    -------
    The order of joins.

    Notes
    -----
    Distances are :math:`1 - s / \max s`, in [0, 1], where the published :math:`1 - s` may be
    negative; for single linkage, which is used, only their order matters. A joined side inherits
    the larger strength of its datasets.

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
        stays, moves = sorted((int(left), int(right)), key=lambda i: (-strength[i], i))
        merges.append(Merge(members[stays], members[moves]))
        members.append(tuple(sorted(members[stays] + members[moves])))
        strength.append(strength[stays])
    return GuideTree(tuple(merges), base=keys[int(np.argmax(strengths))])


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run did.

    ``anchors`` holds all that were found, those ruled out by labels with score 0; ``corrections``
    says which side moved how; ``tree`` is the order of joins; ``correction_of`` gives the
    correction of each query of a projection, ``skipped`` the reason for each dataset that was left
    as it is, and ``datasets`` the datasets with the values that they have now.
    """

    anchors: pd.DataFrame
    corrections: tuple[Correction, ...]
    tree: GuideTree | None
    correction_of: dict[int, int]
    skipped: dict[int, str]
    datasets: tuple[Dataset, ...] = ()


def project(references: list[Dataset], queries: list[Dataset]) -> Outcome:
    """Move each query onto the references, which are first joined if there are several."""
    before = integrate(references)
    skipped = _too_small(queries)
    found = find_anchors([one for one in queries if one.key not in skipped], _side(before.datasets))
    corrections, correction_of = list(before.corrections), {}
    for query in queries:
        used = found[(found["dataset_2"] == query.key) & (found["score"] > 0)]
        if len(used):
            correction_of[query.key] = len(corrections)
            corrections.append(correct_query(query, used))
        else:
            skipped.setdefault(query.key, "no anchors")
    anchors = pd.concat([before.anchors, found], ignore_index=True)
    return Outcome(anchors, tuple(corrections), before.tree, correction_of, skipped)


def integrate(datasets: list[Dataset]) -> Outcome:
    """Join all datasets along a guide tree; all but its base move.

    Raises
    ------
    InputError
        If two sides of a join share no anchor.
    """
    skipped = _too_small(datasets)
    used = [dataset for dataset in datasets if dataset.key not in skipped]
    found = find_anchors(used)
    if len(used) < 2:
        return Outcome(found, (), None, {}, skipped, tuple(datasets))
    keys = [dataset.key for dataset in used]
    total = np.zeros((len(keys), len(keys)))
    for (first, second), table in found.groupby(["dataset_1", "dataset_2"]):
        total[keys.index(first), keys.index(second)] = table["score"].sum()
    total += total.T
    sizes = np.array([len(dataset.cells) for dataset in used])
    tree = guide_tree(total / np.minimum.outer(sizes, sizes), total.sum(axis=1), keys)
    now, corrections = {dataset.key: dataset for dataset in datasets}, []
    for merge in tree.merges:
        query = _side([now[key] for key in merge.query])
        ends = found[["dataset_1", "dataset_2"]]
        across = ends.isin(merge.reference).any(axis=1) & ends.isin(merge.query).any(axis=1)
        anchors = found[across & (found["score"] > 0)]
        if not len(anchors):
            raise InputError(
                f"No anchor joins datasets {list(merge.reference)} and {list(merge.query)}.",
                "They must share cell types, with labels that do not rule all anchors out.",
                "Leave one side out, check its labels, or raise k_anchor.",
            )
        corrections.append(made := correct_query(query, anchors))
        both = _side([now[key] for key in (*merge.reference, *merge.query)])
        there = np.searchsorted(both.cells, made.anchors.cells)
        moved = query.values + made.weights.shift[:, made.anchors.cells] @ both.values[there]
        for key in merge.query:
            own = np.searchsorted(query.cells, now[key].cells)
            now[key] = replace(now[key], values=moved[own])
    return Outcome(found, tuple(corrections), tree, {}, skipped, tuple(now.values()))


def _too_small(datasets: Sequence[Dataset]) -> dict[int, str]:
    return {one.key: "too few cells" for one in datasets if len(one.cells) < _MIN_CELLS}


def _side(datasets: Sequence[Dataset]) -> Dataset:
    """Join several datasets to one side; their cells are in increasing order."""
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
