"""Which cells are drawn, and which are held out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from hdeepinsight._errors import check_number

MIN_HELD_OUT = 5


def draw_evenly(
    groups: np.ndarray, n_most: int, rng: np.random.Generator, first: np.ndarray | None = None
) -> np.ndarray:
    """Draw at most ``n_most`` cells, of every group as equally many as there are.

    Parameters
    ----------
    groups
        Label or batch per cell, shape ``(n_cells,)``.
    n_most
        Largest number of cells to draw.
    rng
        Source of randomness.
    first
        Whether a cell is drawn before others of its group, shape ``(n_cells,)``.

    Returns
    -------
    Positions of the cells, ascending.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.data import draw_evenly
    >>> rows = draw_evenly(np.repeat([0, 1], [90, 10]), 20, np.random.default_rng(0))
    >>> int((rows < 90).sum()), int((rows >= 90).sum())
    (10, 10)
    """
    if len(groups) <= n_most:
        return np.arange(len(groups))
    order = rng.permutation(len(groups))
    if first is not None:
        order = order[np.argsort(~first[order], kind="stable")]
    turn = pd.Series(order).groupby(groups[order]).cumcount().to_numpy()
    return np.sort(order[np.argsort(turn, kind="stable")[:n_most]])


def hold_out_cells(
    nodes: np.ndarray, fraction: float, rng: np.random.Generator, *, shuffle: bool = True
) -> np.ndarray:
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
    shuffle
        Draw the cells; otherwise the first ones of every label are held out.

    Returns
    -------
    Whether each cell is held out, shape ``(n_cells,)``.

    Examples
    --------
    >>> import numpy as np
    >>> nodes = np.repeat([0, 1, 2, 3], [50, 100, 60, 49])
    >>> held_out = hold_out_cells(nodes, 0.1, np.random.default_rng(0))
    >>> np.bincount(nodes[held_out], minlength=4).tolist()
    [0, 10, 6, 0]
    """
    held_out = np.zeros(len(nodes), dtype=bool)
    for node in np.unique(nodes[nodes > 0]):
        cells = np.flatnonzero(nodes == node)
        n_held_out = int(len(cells) * fraction)
        if n_held_out >= MIN_HELD_OUT:
            held_out[(rng.permutation(cells) if shuffle else cells)[:n_held_out]] = True
    return held_out


def deal_out(
    nodes: np.ndarray, n_members: int, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Deal cells out to the members of a network that must not learn from them.

    Parameters
    ----------
    nodes
        Node of every cell's label, shape ``(n_cells,)``; unlabelled cells (0) are not dealt out.
    n_members
        Number of members.
    share
        Share of the cells of a type that each member lacks, as near as whole cells come to it.
    rng
        Source of randomness.

    Returns
    -------
    Member that must not see each cell, shape ``(n_cells,)``; -1 for none.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.data import deal_out
    >>> member = deal_out(np.repeat([0, 1], [3, 20]), 3, 0.1, np.random.default_rng(0))
    >>> np.bincount(member[:3] + 1).tolist(), np.bincount(member[3:] + 1).tolist()
    ([3], [14, 2, 2, 2])
    """
    member, n_parts = np.full(len(nodes), -1), max(n_members, round(1 / share))
    for node in np.unique(nodes[nodes > 0]):
        cells = rng.permutation(np.flatnonzero(nodes == node))
        if len(cells) > 1:
            member[cells] = rng.permutation(n_parts)[np.arange(len(cells)) % n_parts]
    member[member >= n_members] = -1
    return member


def split_three(
    nodes: np.ndarray,
    train_size: float | None,
    validation_size: float | None,
    rng: np.random.Generator,
    *,
    groups: np.ndarray | None = None,
    shuffle: bool = True,
) -> list[np.ndarray]:
    """Split cells into those that train, those that are held out, and the rest.

    Parameters
    ----------
    nodes
        Node of every cell's label, shape ``(n_cells,)``.
    train_size
        Share of cells to train on; by default all that are not held out.
    validation_size
        Share of cells to hold out; by default what ``train_size`` leaves, or 0.1.
    rng
        Source of randomness.
    groups
        Groups that are held out whole, as by `hold_out_groups`; otherwise cells are held out
        within every label, as by `hold_out_cells`.
    shuffle
        Draw the cells; otherwise the first ones are taken.

    Returns
    -------
    Positions of the three kinds of cells, each ascending.

    Raises
    ------
    ValueError
        If a share is out of its range, or no cell is left to train on.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.data import split_three
    >>> parts = split_three(np.ones(100), 0.5, 0.2, np.random.default_rng(0))
    >>> [len(part) for part in parts]
    [50, 20, 30]
    """
    if validation_size is None:
        if train_size is not None:
            check_number("train_size", train_size, 0, 1, hint="Omit it for the default.")
        validation_size = 0.1 if train_size is None else round(1 - train_size, 12)
    check_number("validation_size", validation_size, 0, 1, hint="Pass 0 to hold out none.")
    rest_size = round(1 - validation_size, 12)
    train_size = rest_size if train_size is None else train_size
    check_number("train_size", train_size, 0, rest_size, hint="Omit it for the rest.")
    if groups is None:
        held_out = hold_out_cells(nodes, validation_size, rng, shuffle=shuffle)
    else:
        held_out = hold_out_groups(nodes, groups, validation_size, rng)
    rest = np.flatnonzero(~held_out)
    n_train = len(rest) if np.isclose(train_size, rest_size) else int(train_size * len(held_out))
    if not n_train:
        hint = "Lower validation_size, or raise train_size."
        raise ValueError(f"No cell is left to train on. {hint}")
    order = rng.permutation(rest) if shuffle and n_train < len(rest) else rest
    train = np.sort(order[:n_train])
    return [train, np.flatnonzero(held_out), np.setdiff1d(rest, train)]


def given_split(parts: Any, n_cells: int) -> list[np.ndarray]:
    """Check a split that was made elsewhere; cells that it does not name are test cells.

    Parameters
    ----------
    parts
        Positions of the cells that train, of those that are held out, and of test cells; the last
        two may be missing, or None.
    n_cells
        Number of all cells.

    Returns
    -------
    Positions of the three kinds of cells, as :func:`split_three` does.

    Raises
    ------
    ValueError
        If a position is not one, or a cell is named twice.

    Examples
    --------
    >>> from hdeepinsight.data import given_split
    >>> [part.tolist() for part in given_split([[0, 3], [1]], 5)]
    [[0, 3], [1], [2, 4]]
    """
    arrays = [np.asarray([] if part is None else part) for part in parts]
    cells = np.concatenate([*arrays, []])
    valid = np.isin(cells, np.arange(n_cells)).all() and np.unique(cells).size == cells.size
    if not valid or not 1 <= len(arrays) <= 3 or not arrays[0].size:
        raise ValueError(
            "external_indexing must be a list of the positions of the cells that train, that are "
            f"held out, and that test, each from 0 to {n_cells - 1:,} and in one of them only. "
            "Correct it; masks become positions by numpy.flatnonzero."
        )
    train, held_out = [*arrays, np.zeros(0)][:2]
    rest = np.setdiff1d(np.arange(n_cells), np.concatenate([train, held_out]))
    return [part.astype(np.int64) for part in (train, held_out, rest)]


def hold_out_groups(
    nodes: np.ndarray, groups: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
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

    Returns
    -------
    Whether each cell is held out, shape ``(n_cells,)``.

    Raises
    ------
    ValueError
        If no group can be held out.

    Examples
    --------
    >>> import numpy as np
    >>> nodes, groups = np.array([1, 2, 1, 2, 1, 3]), np.array(list("aabbcc"))
    >>> hold_out_groups(nodes, groups, 0.3, np.random.default_rng(0)).tolist()[4:]
    [False, False]
    """
    names, held_out = np.unique(groups), np.zeros(len(nodes), dtype=bool)
    for name in rng.permutation(names):
        candidate = held_out | (groups == name)
        if np.isin(nodes[candidate], nodes[~candidate]).all():
            held_out = candidate
        if held_out.sum() >= fraction * len(nodes):
            break
    if not held_out.any():
        raise ValueError(
            f"None of the {len(names)} groups of the split column can be held out: each has cells "
            "of a label that no other group has. Split by cell instead (split_key=None)."
        )
    return held_out
