"""The two ways through a run: a fixed reference, or a guide tree."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.sparse as sp

from hdeepinsight.data import InputError
from hdeepinsight.pp._stacas._embedding import Values
from hdeepinsight.pp._stacas._parts import Part, find_anchors, move, stack
from hdeepinsight.pp._stacas._steps import Step
from hdeepinsight.pp._stacas._tree import GuideTree, Merge, guide_tree

__all__ = ["Outcome", "integrate", "project"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run did.

    ``anchors`` holds all that were found, those ruled out by labels with score 0; ``steps`` says
    which side moved how; ``tree`` is the order of joins; ``step_of`` gives the step of each query
    of a projection, ``left`` the reason for each dataset that was left as it is, and ``parts`` the
    datasets with the values that they have now.
    """

    anchors: pd.DataFrame
    steps: tuple[Step, ...]
    tree: GuideTree | None
    step_of: dict[int, int]
    left: dict[int, str]
    parts: tuple[Part, ...] = ()


def project(references: list[Part], queries: list[Part]) -> Outcome:
    """Move each query onto the references, which are first joined if there are several."""
    before = integrate(references)
    reference = _side(list(before.parts))
    left = {query.key: "too few cells" for query in queries if _is_small(query)}
    found = find_anchors([query for query in queries if query.key not in left], reference)
    steps, step_of = list(before.steps), {}
    for query in queries:
        used = found[(found["dataset_2"] == query.key) & (found["score"] > 0)]
        if len(used):
            step_of[query.key] = len(steps)
            steps.append(move(reference, query, used))
        else:
            left.setdefault(query.key, "no anchors")
    anchors = pd.concat([before.anchors, found], ignore_index=True)
    return Outcome(anchors, tuple(steps), before.tree, step_of, left)


def integrate(parts: list[Part]) -> Outcome:
    """Join all datasets along a guide tree; all but its base move.

    Raises
    ------
    InputError
        If two sides of a join share no anchor.
    """
    config = parts[0].settings.config
    left = {part.key: "too few cells" for part in parts if _is_small(part)}
    used = [part for part in parts if part.key not in left]
    if len(used) < 2:
        return Outcome(_none(), (), None, {}, left, tuple(parts))
    found = find_anchors(used)
    by_size = sorted(used, key=lambda part: (-len(part.cells), part.key))
    seeds = sorted(by_size[: config.max_seed_datasets], key=lambda part: part.key)
    tree = _tree(seeds, found)
    late = by_size[config.max_seed_datasets :]
    joined = tuple(sorted(part.key for part in seeds))
    for part in late:
        merge = Merge(joined, (part.key,), float("nan"))
        tree = replace(tree, merges=(*tree.merges, merge))
        joined = (*joined, part.key)
    steps, moved = _climb(tree, used, found)
    return Outcome(found, steps, tree, {}, left, tuple(moved.get(p.key, p) for p in parts))


def _is_small(part: Part) -> bool:
    return len(part.cells) < part.settings.config.min_cells


def _none() -> pd.DataFrame:
    return find_anchors([])


def _tree(seeds: list[Part], found: pd.DataFrame) -> GuideTree:
    """Guide tree of the seeds, in the numbers of the datasets."""
    total = np.zeros((len(seeds), len(seeds)))
    place = {part.key: i for i, part in enumerate(seeds)}
    for (first, second), table in found.groupby(["dataset_1", "dataset_2"]):
        if first in place and second in place:
            total[place[first], place[second]] = table["score"].sum()
    total += total.T
    sizes = np.array([len(part.cells) for part in seeds])
    tree = guide_tree(
        total / np.minimum.outer(sizes, sizes),
        total.sum(axis=1),
        seeds[0].settings.config.linkage,
    )
    keys = [part.key for part in seeds]
    merges = tuple(
        Merge(tuple(keys[i] for i in m.reference), tuple(keys[i] for i in m.query), m.height)
        for m in tree.merges
    )
    return replace(tree, merges=merges, base=keys[tree.base])


def _climb(
    tree: GuideTree, parts: list[Part], found: pd.DataFrame
) -> tuple[tuple[Step, ...], dict[int, Part]]:
    """Make all joins, and give the datasets with the values that they leave."""
    now = {part.key: part for part in parts}
    steps = []
    for merge in tree.merges:
        reference, query = (_side([now[k] for k in m]) for m in (merge.reference, merge.query))
        used = _between(found, merge)
        if not len(used):
            raise InputError(
                f"No anchor joins datasets {list(merge.reference)} and {list(merge.query)}.",
                "Valid are datasets that share cell types, with labels that do not rule all out.",
                "Leave one side out, check its labels, or raise k_anchor.",
            )
        step = move(reference, query, used)
        steps.append(step)
        moved = _apply(step, reference, query)
        start = 0
        for key in merge.query:
            stop = start + len(now[key].cells)
            now[key] = replace(now[key], values=moved[start:stop])
            start = stop
    return tuple(steps), now


def _between(found: pd.DataFrame, merge: Merge) -> pd.DataFrame:
    one, two = found["dataset_1"], found["dataset_2"]
    forward = one.isin(merge.reference) & two.isin(merge.query)
    backward = one.isin(merge.query) & two.isin(merge.reference)
    return found[(forward | backward) & (found["score"] > 0)]


def _side(parts: list[Part]) -> Part:
    """Several datasets as one side; their cells are in increasing order."""
    parts = sorted(parts, key=lambda part: part.key)
    if len(parts) == 1:
        return parts[0]
    return Part(
        parts[0].key,
        stack([part.values for part in parts]),
        np.concatenate([part.cells for part in parts]),
        np.concatenate([part.labels for part in parts]),
        parts[0].settings,
    )


def _apply(step: Step, reference: Part, query: Part) -> Values:
    """Values of the side that moved, dense, shape ``(n_cells, n_features)``."""
    here = query.values[np.searchsorted(query.cells, step.query_anchors)]
    there = reference.values[np.searchsorted(reference.cells, step.reference_anchors)]
    change = step.operator.reference @ there - step.operator.query @ here
    total = query.values + change
    return np.asarray(total.toarray() if sp.issparse(total) else total, dtype=np.float64)
