"""Tables of a result, with names instead of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hdeepinsight.pp._stacas._datasets import Dataset

if TYPE_CHECKING:
    from hdeepinsight.pp._stacas._result import StacasResult

__all__ = ["anchor_table", "cell_table", "dataset_table"]

Ints = NDArray[np.int64]


def anchor_table(anchors: pd.DataFrame, datasets: Sequence[Dataset], starts: Ints) -> pd.DataFrame:
    """Anchors in use, one row each; see `StacasResult.anchors`."""
    used = anchors[anchors["score"] > 0].reset_index(drop=True)
    names = np.concatenate([one.obs_names.to_numpy(dtype=object) for one in datasets])
    called = np.array([one.name for one in datasets], dtype=object)
    columns: dict[str, object] = {}
    for side in ("1", "2"):
        cells = used[f"cell_{side}"].to_numpy()
        columns[f"dataset_{side}"] = called[np.searchsorted(starts, cells, side="right") - 1]
        columns[f"cell_{side}"] = names[cells]
    for name in ("distance", "neighborhood_score", "score", "consistent"):
        columns[name] = used[name].to_numpy()
    return pd.DataFrame(columns)


def cell_table(result: StacasResult, index: int, lengths: NDArray[np.float64]) -> pd.DataFrame:
    """List what was done to the cells of one dataset; see `StacasReport`."""
    one, outcome = result.datasets[index], result.outcome
    cells = np.arange(result.starts[index], result.starts[index + 1])
    nearest, effective = np.full((2, len(cells)), np.nan)
    for step in outcome.steps:
        here, there = np.isin(cells, step.cells), np.isin(step.cells, cells)
        nearest[here] = step.operator.nearest[there]
        effective[here] = step.operator.n_effective[there]
    flag = np.full(len(cells), outcome.left.get(index, ""), dtype=object)
    flag[(effective == 0) & (flag == "")] = "no weight"
    flag[(effective == 0) & np.isnan(nearest)] = "empty"
    return pd.DataFrame(
        {
            "dataset": one.name,
            "n_anchors": _uses(outcome.anchors, cells),
            "nearest_anchor": nearest,
            "effective_anchors": effective,
            "shift": lengths,
            "flag": flag,
        },
        index=one.obs_names,
    )


def _uses(anchors: pd.DataFrame, cells: Ints) -> Ints:
    """Anchors in use that each of some consecutive cells is part of."""
    used = anchors[anchors["score"] > 0]
    ends = np.concatenate([used["cell_1"].to_numpy(), used["cell_2"].to_numpy()])
    own = ends[np.isin(ends, cells)] - (cells[0] if len(cells) else 0)
    return np.bincount(own.astype(np.int64), minlength=len(cells))


def dataset_table(result: StacasResult) -> pd.DataFrame:
    """One row a dataset; see `StacasReport`."""
    anchors = result.outcome.anchors
    rows = []
    for index, one in enumerate(result.datasets):
        cells = np.arange(result.starts[index], result.starts[index + 1])
        found = anchors[(anchors["dataset_1"] == index) | (anchors["dataset_2"] == index)]
        n_genes = int(one.alignment.measured.sum())
        rows.append(
            {
                "n_cells": one.n_obs,
                "n_genes": n_genes,
                "genes_lost": n_genes - result.n_shared,
                "n_anchors": int((found["score"] > 0).sum()),
                "share_anchored": float((_uses(anchors, cells) > 0).mean()) if len(cells) else 0.0,
                "share_inconsistent": float((~found["consistent"]).mean()) if len(found) else 0.0,
                "flag": result.outcome.left.get(index, ""),
            }
        )
    return pd.DataFrame(rows, index=pd.Index([one.name for one in result.datasets]))
