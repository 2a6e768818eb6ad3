"""Bare names and parents out of nested objects, edges, paths and label tables."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from hdeepinsight.taxonomy._labels import factorize
from hdeepinsight.taxonomy._names import ROOT_NAME, Path, clipped, quoted, split_path
from hdeepinsight.taxonomy._structure import MAX_NODES

Tree = tuple[list[str], list[int]]
"""Bare name and parent of every node, node 0 the root, in any order."""


def tree_from_paths(paths: Iterable[Sequence[str]]) -> Tree:
    """Tree that holds these paths; parents that are not listed themselves are added."""
    labels, parents = [ROOT_NAME], [-1]
    known: dict[tuple[int, str], int] = {}
    for path in paths:
        node = 0
        for name in split_path(path) if isinstance(path, str) else path:
            child = known.setdefault((node, name), len(labels))
            if child == len(labels):
                labels.append(name)
                parents.append(node)
            node = child
    return labels, parents


def tree_from_nested(nested: Any) -> Tree:
    """Tree of dicts (name to children) and lists (names, or dicts of names with children)."""
    labels, parents = [ROOT_NAME], [-1]
    open_objects: set[int] = set()
    stack: list[tuple[Any, int, bool]] = [(nested, 0, False)]
    while stack:
        item, parent, done = stack.pop()
        if done:
            open_objects.discard(id(item))
            continue
        pairs = _nested_pairs(item, labels[parent])
        if id(item) in open_objects:
            raise ValueError(
                f"Found a cycle: the object under {clipped(labels[parent])} contains itself. A "
                "nested tree is finite. Build it from new dicts and lists."
            )
        if len(labels) + len(pairs) > MAX_NODES:
            raise ValueError(
                f"Found more than {MAX_NODES:,} nodes. Fewer are valid. Check that no dict is "
                "repeated inside itself many times."
            )
        open_objects.add(id(item))
        stack.append((item, parent, True))
        first = len(labels)
        labels.extend(name for name, _ in pairs)
        parents.extend([parent] * len(pairs))
        below = [(kids, first + i, False) for i, (_, kids) in enumerate(pairs) if kids]
        stack.extend(reversed(below))
    return labels, parents


def _nested_pairs(item: Any, owner: str) -> list[tuple[Any, Any]]:
    if isinstance(item, Mapping):
        return list(item.items())
    if not isinstance(item, (list, tuple)):
        raise TypeError(
            f"Found {clipped(item)} of type {type(item).__name__} under {clipped(owner)}. Valid "
            "are a dict (name to children), a list of names, or None for a leaf. Put a single "
            "child into a list."
        )
    pairs: list[tuple[Any, Any]] = []
    for entry in item:
        pairs.extend(entry.items() if isinstance(entry, Mapping) else [(entry, None)])
    return pairs


def tree_from_edges(edges: Iterable[tuple[str, str]], root: str | None) -> tuple[Tree, str | None]:
    """Tree of (parent, child) pairs, and the name of its root if it has one.

    A name, or a text path, identifies a node.
    """
    index: dict[str, int] = {}
    parents: list[int] = []
    for parent, child in dict.fromkeys(_checked_edge(edge) for edge in edges):
        for name in (parent, child):
            if name not in index:
                index[name] = len(parents)
                parents.append(-1)
        if parents[index[child]] != -1:
            first = list(index)[parents[index[child]]]
            raise ValueError(
                f"Found two parents of {clipped(child)}: {clipped(first)} and {clipped(parent)}. "
                "In a tree every node has one. If these are two types of one name, write them as "
                f"paths ('{first} > {child}' and '{parent} > {child}')."
            )
        _check_path_edge(parent, child)
        parents[index[child]] = index[parent]
    names = list(index)
    tops = [name for name, parent in zip(names, parents, strict=True) if parent == -1]
    if root is not None and tops != [root] and tops:
        raise ValueError(
            f"Found the nodes {quoted(tops)} without a parent, where root={root!r} was asked for. "
            "Valid is that root alone. Add the missing edges, or leave `root` out to put all of "
            "them under a root of their own."
        )
    labels = [split_path(name)[-1] if split_path(name) else ROOT_NAME for name in names]
    if len(tops) > 1:
        above = [0 if parent == -1 else parent + 1 for parent in parents]
        return ([ROOT_NAME, *labels], [-1, *above]), None
    return (labels, parents), (tops[0] if tops else None)


def _checked_edge(edge: Any) -> tuple[str, str]:
    pair = () if isinstance(edge, str) else tuple(edge)
    if len(pair) != 2 or not all(isinstance(name, str) for name in pair):
        raise TypeError(
            f"Found the edge {clipped(edge)}. Valid is a pair of names, parent and child, both "
            "text. Leave out a pair whose parent is missing: what has no parent is the root."
        )
    return pair


def _check_path_edge(parent: str, child: str) -> None:
    path = split_path(child)
    if len(path) > 1 and path[:-1] != split_path(parent):
        raise ValueError(
            f"Found the edge from {clipped(parent)} to {clipped(child)}. A child that is written "
            "as a path goes on from its parent's path. Correct the path, or use bare names."
        )


def paths_from_obs(
    data: Any, keys: Sequence[str], unlabeled: str | Collection[str] | None
) -> list[Path]:
    """Distinct label paths in columns from coarse to fine; a path ends where labels are missing."""
    frame = _label_frame(data, keys)
    columns = [factorize(frame[key], unlabeled) for key in keys]
    codes = np.stack([column for column, _ in columns], axis=1)
    rows, counts = np.unique(codes, axis=0, return_counts=True)
    _check_gaps(rows, counts, keys)
    _check_direction(rows, keys)
    paths = [
        tuple(columns[level][1][code] for level, code in enumerate(row) if code >= 0)
        for row in rows.tolist()
    ]
    if not any(paths):
        raise ValueError(
            f"Found no label in {list(keys)}: all {len(frame):,} cells are missing or unlabelled. "
            "At least one labelled cell is needed. Check the column names and `unlabeled`."
        )
    return paths


def _label_frame(data: Any, keys: Sequence[str]) -> pd.DataFrame:
    frame = getattr(data, "obs", data)
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(
            f"Found {type(data).__name__}. Valid are a DataFrame, or an object with one as `.obs`. "
            "Pass the AnnData that holds the labels."
        )
    if not keys or len(set(keys)) < len(keys):
        raise ValueError(
            f"Found the keys {list(keys)}. Valid are one or more distinct columns, coarse to fine. "
            "Name each column once."
        )
    for key in keys:
        if key not in frame.columns:
            near = difflib.get_close_matches(str(key), map(str, frame.columns))
            raise ValueError(
                f"Found no column {clipped(key)}. Valid are {quoted(map(str, frame.columns), 30)}. "
                + (f"Did you mean {quoted(near)}?" if near else "Use one of these.")
            )
    return frame


def _check_gaps(rows: np.ndarray, counts: np.ndarray, keys: Sequence[str]) -> None:
    gap = ((rows[:, :-1] < 0) & (rows[:, 1:] >= 0)).any(axis=1)
    if gap.any():
        raise ValueError(
            f"Found {int(counts[gap].sum()):,} cells with a finer label but no coarser one in "
            f"{list(keys)}. A label needs all labels above it. Fill in the coarser columns, order "
            "the keys from coarse to fine, or set the finer labels to missing."
        )


def _check_direction(rows: np.ndarray, keys: Sequence[str]) -> None:
    for level, (coarse, fine) in enumerate(pairwise(keys)):
        pairs = rows[(rows[:, level] >= 0) & (rows[:, level + 1] >= 0), level : level + 2]
        n_coarse, n_fine = (len(np.unique(codes)) for codes in pairs.T)
        if len(np.unique(pairs, axis=0)) == n_coarse > n_fine:
            raise ValueError(
                f"Found that each of the {n_coarse} labels in {clipped(coarse)} lies in one of the "
                f"{n_fine} labels in {clipped(fine)}: {clipped(coarse)} is the finer column. Keys "
                "go from coarse to fine. Reverse their order."
            )
