"""The two ways through a run: onto a fixed reference, or along a guide tree."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from hdeepinsight.data import InputError
from hdeepinsight.pp._stacas._anchors import Dataset, find_anchors
from hdeepinsight.pp._stacas._correction import Correction, correct_query
from hdeepinsight.pp._stacas._embedding import Floats, Values, stack_rows


@dataclass(frozen=True)
class Merge:
    """One join: the datasets of the side that stays, those of the side that moves, its height."""

    reference: tuple[int, ...]
    query: tuple[int, ...]
    height: float


@dataclass(frozen=True)
class GuideTree:
    """Order of joins.

    Parameters
    ----------
    merges
        Joins, in order.
    base
        Dataset that never moves.
    strengths
        Sum of the scores of each dataset's anchors.
    """

    merges: tuple[Merge, ...]
    base: int
    strengths: tuple[float, ...]


def guide_tree(similarity: Floats, strengths: Floats) -> GuideTree:
    r"""Join the most similar datasets first; the stronger side stays.

    Parameters
    ----------
    similarity
        Sum of anchor scores over the smaller number of cells, for each pair of datasets,
        symmetric, shape ``(n_datasets, n_datasets)``.
    strengths
        Sum of the scores of all anchors of each dataset, shape ``(n_datasets,)``.

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
    n_datasets = len(strengths)
    top = float(similarity[~np.eye(n_datasets, dtype=bool)].max(initial=0.0)) or 1.0
    distance = 1.0 - similarity / top
    np.fill_diagonal(distance, 0.0)
    members: dict[int, tuple[int, ...]] = {i: (i,) for i in range(n_datasets)}
    given = np.asarray(strengths, dtype=float).tolist()
    strength = dict(enumerate(given))
    merges = []
    rows = linkage(squareform(distance, checks=False), method="single")
    for step, (left, right, height, _) in enumerate(rows):
        stays, moves = sorted((int(left), int(right)), key=lambda i: (-strength[i], i))
        merges.append(Merge(members[stays], members[moves], float(height)))
        members[n_datasets + step] = tuple(sorted(members[stays] + members[moves]))
        strength[n_datasets + step] = strength[stays]
    return GuideTree(tuple(merges), base=int(np.argmax(strengths)), strengths=tuple(given))


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
    reference = _side(list(before.datasets))
    skipped = {query.key: "too few cells" for query in queries if _is_small(query)}
    found = find_anchors([query for query in queries if query.key not in skipped], reference)
    corrections, correction_of = list(before.corrections), {}
    for query in queries:
        used = found[(found["dataset_2"] == query.key) & (found["score"] > 0)]
        if len(used):
            correction_of[query.key] = len(corrections)
            corrections.append(correct_query(reference, query, used))
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
    config = datasets[0].settings.config
    skipped = {dataset.key: "too few cells" for dataset in datasets if _is_small(dataset)}
    used = [dataset for dataset in datasets if dataset.key not in skipped]
    if len(used) < 2:
        return Outcome(find_anchors([]), (), None, {}, skipped, tuple(datasets))
    found = find_anchors(used)
    by_size = sorted(used, key=lambda dataset: (-len(dataset.cells), dataset.key))
    seeds = sorted(by_size[: config.max_seed_datasets], key=lambda dataset: dataset.key)
    tree = _tree(seeds, found)
    late = by_size[config.max_seed_datasets :]
    joined = tuple(sorted(dataset.key for dataset in seeds))
    for dataset in late:
        tree = replace(tree, merges=(*tree.merges, Merge(joined, (dataset.key,), float("nan"))))
        joined = (*joined, dataset.key)
    corrections, moved = merge_along_tree(tree, used, found)
    now = tuple(moved.get(dataset.key, dataset) for dataset in datasets)
    return Outcome(found, corrections, tree, {}, skipped, now)


def _is_small(dataset: Dataset) -> bool:
    return len(dataset.cells) < dataset.settings.config.min_cells


def _tree(seeds: list[Dataset], found: pd.DataFrame) -> GuideTree:
    """Return the guide tree of the seeds, in the numbers of the datasets."""
    total = np.zeros((len(seeds), len(seeds)))
    place = {dataset.key: i for i, dataset in enumerate(seeds)}
    for (first, second), table in found.groupby(["dataset_1", "dataset_2"]):
        if first in place and second in place:
            total[place[first], place[second]] = table["score"].sum()
    total += total.T
    sizes = np.array([len(dataset.cells) for dataset in seeds])
    tree = guide_tree(total / np.minimum.outer(sizes, sizes), total.sum(axis=1))
    keys = [dataset.key for dataset in seeds]
    merges = tuple(
        Merge(tuple(keys[i] for i in m.reference), tuple(keys[i] for i in m.query), m.height)
        for m in tree.merges
    )
    return replace(tree, merges=merges, base=keys[tree.base])


def merge_along_tree(
    tree: GuideTree, datasets: list[Dataset], found: pd.DataFrame
) -> tuple[tuple[Correction, ...], dict[int, Dataset]]:
    """Make all joins; return the corrections, and the datasets with the values that they leave."""
    now = {dataset.key: dataset for dataset in datasets}
    corrections = []
    for merge in tree.merges:
        reference, query = (_side([now[k] for k in m]) for m in (merge.reference, merge.query))
        one, two = found["dataset_1"], found["dataset_2"]
        forward = one.isin(merge.reference) & two.isin(merge.query)
        backward = one.isin(merge.query) & two.isin(merge.reference)
        used = found[(forward | backward) & (found["score"] > 0)]
        if not len(used):
            raise InputError(
                f"No anchor joins datasets {list(merge.reference)} and {list(merge.query)}.",
                "Valid are datasets that share cell types, with labels that do not rule all out.",
                "Leave one side out, check its labels, or raise k_anchor.",
            )
        correction = correct_query(reference, query, used)
        corrections.append(correction)
        moved = _apply(correction, reference, query)
        start = 0
        for key in merge.query:
            stop = start + len(now[key].cells)
            now[key] = replace(now[key], values=moved[start:stop])
            start = stop
    return tuple(corrections), now


def _side(datasets: list[Dataset]) -> Dataset:
    """Join several datasets to one side; their cells are in increasing order."""
    datasets = sorted(datasets, key=lambda dataset: dataset.key)
    if len(datasets) == 1:
        return datasets[0]
    return Dataset(
        datasets[0].key,
        stack_rows([dataset.values for dataset in datasets]),
        np.concatenate([dataset.cells for dataset in datasets]),
        np.concatenate([dataset.labels for dataset in datasets]),
        datasets[0].settings,
    )


def _apply(correction: Correction, reference: Dataset, query: Dataset) -> Values:
    """Return the values of the side that moved, dense, shape ``(n_cells, n_features)``."""
    here = query.values[np.searchsorted(query.cells, correction.query_anchors)]
    there = reference.values[np.searchsorted(reference.cells, correction.reference_anchors)]
    change = correction.operator.reference @ there - correction.operator.query @ here
    total = query.values + change
    return np.asarray(total.toarray() if sp.issparse(total) else total, dtype=np.float64)
