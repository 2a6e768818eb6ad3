"""Which reference cells are held out, by donor or study where there is such a column."""

from __future__ import annotations

import numpy as np

from hdeepinsight.models.schdeepinsight._batches import Split

MIN_HELD_OUT = 5


def split_cells(nodes: np.ndarray, fraction: float, rng: np.random.Generator) -> Split:
    """Hold out a share of the cells of every label.

    Parameters
    ----------
    nodes
        Node of every cell's label, shape ``(n_cells,)``; unlabelled cells (0) all train.
    fraction
        Share to hold out. A label that would give fewer than 5 cells gives none, so that rare
        types keep all their cells for training.
    rng
        Source of randomness.
    """
    held_out = np.zeros(len(nodes), dtype=bool)
    for node in np.unique(nodes[nodes > 0]):
        cells = rng.permutation(np.flatnonzero(nodes == node))
        n_held_out = int(len(cells) * fraction)
        if n_held_out >= MIN_HELD_OUT:
            held_out[cells[:n_held_out]] = True
    return Split(np.flatnonzero(~held_out), np.flatnonzero(held_out))


def split_groups(
    nodes: np.ndarray, groups: np.ndarray, fraction: float, rng: np.random.Generator
) -> Split:
    """Hold out whole donors, studies or batches.

    Parameters
    ----------
    nodes
        Node of every cell's label, shape ``(n_cells,)``.
    groups
        Group of every cell, shape ``(n_cells,)``.
    fraction
        Share of cells to hold out; groups are added in random order until it is reached. A group
        that alone has cells of some label is never held out.
    rng
        Source of randomness.

    Raises
    ------
    ValueError
        If no group can be held out.
    """
    names = np.unique(groups)
    held_out = np.zeros(len(nodes), dtype=bool)
    for name in rng.permutation(names):
        candidate = held_out | (groups == name)
        if np.isin(nodes[candidate], nodes[~candidate]).all():
            held_out = candidate
        if held_out.sum() >= fraction * len(nodes):
            break
    if not held_out.any():
        msg = (
            f"None of the {len(names)} groups of the split column can be held out: each has cells "
            "of a label that no other group has. Split by cell instead (split_key=None)."
        )
        raise ValueError(msg)
    return Split(np.flatnonzero(~held_out), np.flatnonzero(held_out))
