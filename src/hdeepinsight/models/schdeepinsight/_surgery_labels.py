"""Columns of a query: its batches, and the labels of those cells that have one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hdeepinsight.taxonomy import Taxonomy


def one_column(obs: pd.DataFrame, key: str) -> pd.Series:
    """Column of ``obs``; raises ``KeyError`` with those that there are."""
    if key not in obs:
        there = ", ".join(map(repr, obs.columns[:8])) or "none"
        msg = f"There is no column {key!r} in obs. Valid are its columns: {there}. Name one."
        raise KeyError(msg)
    return obs[key]


def known_nodes(
    obs: pd.DataFrame,
    taxonomy: Taxonomy,
    keys: str | Sequence[str] | None,
    *,
    unlabeled: str,
) -> np.ndarray:
    """Node of every cell's label; 0 where there is none, or none that the taxonomy knows.

    Parameters
    ----------
    obs
        Cells.
    taxonomy
        The tree.
    keys
        Column, or columns from coarse to fine: the deepest label that is known wins.
    unlabeled
        Label that means "not known".
    """
    nodes = np.zeros(len(obs), dtype=np.int64)
    for key in [keys] if isinstance(keys, str) else keys or ():
        labels = one_column(obs, key).astype(object)
        level = key if key in taxonomy.level_names else None
        known = {label: _node(taxonomy, label, level, unlabeled) for label in labels.unique()}
        found = labels.map(known).to_numpy(dtype=np.int64)
        nodes = np.where(found > 0, found, nodes)
    return nodes


def _node(taxonomy: Taxonomy, label: object, level: str | None, unlabeled: str) -> int:
    for at in dict.fromkeys((level, None)):
        try:
            return int(taxonomy.encode([label], at, unlabeled=unlabeled)[0])
        except (ValueError, TypeError):
            continue
    return 0
