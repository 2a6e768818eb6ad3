"""Sides of a comparison, the anchors between them, and the move of one onto the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from hdeepinsight.graph import Exact, nearest_neighbors
from hdeepinsight.pp._stacas._anchors import mutual_neighbors, score_anchors, weigh_anchors
from hdeepinsight.pp._stacas._config import StacasConfig
from hdeepinsight.pp._stacas._embedding import (
    Components,
    Values,
    fit_components,
    reciprocal_embeddings,
)
from hdeepinsight.pp._stacas._labels import consistent_labels, filter_by_labels
from hdeepinsight.pp._stacas._steps import Step
from hdeepinsight.pp._stacas._weights import Weigher

if TYPE_CHECKING:
    from hdeepinsight.taxonomy import Taxonomy

__all__ = ["NeighborSearch", "Part", "Settings", "find_anchors", "move", "stack"]

Ints = NDArray[np.int64]
NeighborSearch = Literal["auto", "exact", "approximate"]

_EXACT: dict[NeighborSearch, Exact] = {"auto": "auto", "exact": True, "approximate": False}


@dataclass(frozen=True)
class Settings:
    """What every step of a run needs to know."""

    config: StacasConfig
    neighbors: NeighborSearch = "auto"
    seed: int = 0
    taxonomy: Taxonomy | None = None

    @property
    def exact(self) -> Exact:
        """The search as `hdeepinsight.graph` calls it."""
        return _EXACT[self.neighbors]


@dataclass(frozen=True, eq=False)
class Part:
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
    settings: Settings

    @cached_property
    def components(self) -> Components:
        """Principal components of this dataset."""
        config = self.settings.config
        return fit_components(
            self.values,
            config.n_dims,
            center=config.center,
            scale=config.scale,
            seed=self.settings.seed,
        )

    @cached_property
    def own_neighbors(self) -> Ints:
        """Nearest cells within the dataset, each cell first, shape ``(n_cells, k)``."""
        own = np.arange(len(self.cells))[:, None]
        k = min(self.settings.config.k_score, len(self.cells)) - 1
        if k < 1:
            return own
        found, _ = nearest_neighbors(
            self.components.project(self.values),
            k=k,
            exact=self.settings.exact,
            seed=self.settings.seed,
        )
        return np.concatenate([own, found], axis=1)

    @cached_property
    def expressed(self) -> NDArray[np.bool_]:
        """Cells with any value in the anchor features, shape ``(n_cells,)``."""
        return np.asarray(abs(self.values).sum(axis=1)).ravel() > 0


def find_anchors(parts: list[Part], against: Part | None = None) -> pd.DataFrame:
    """Find and score anchors between all pairs of datasets, or between each and one other.

    Parameters
    ----------
    parts
        The datasets.
    against
        Dataset that all of them are compared with; by default they are compared with each other.

    Returns
    -------
    One row an anchor: ``dataset_1``, ``cell_1``, ``dataset_2``, ``cell_2`` (numbers), ``distance``,
    ``overlap``, ``neighborhood_score``, ``score`` and ``consistent``; the score is 0 where labels
    rule the anchor out.
    """
    pairs = [(against, part) for part in parts] if against else list(combinations(parts, 2))
    tables = [_pair(first, second) for first, second in pairs]
    if not tables:
        return pd.DataFrame({name: np.zeros(0, kind) for name, kind in _COLUMNS.items()})
    config = parts[0].settings.config
    tables = [pd.concat(tables, ignore_index=True)] if config.pool_anchors else tables
    weighed = [_weighed(table, config, parts[0].settings.seed) for table in tables]
    return pd.concat(weighed, ignore_index=True)


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


def _pair(first: Part, second: Part) -> pd.DataFrame:
    settings = first.settings
    config = settings.config
    spaces = reciprocal_embeddings(
        first.values,
        second.values,
        (first.components, second.components),
        center=config.center,
    )
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


def _weighed(table: pd.DataFrame, config: StacasConfig, seed: int) -> pd.DataFrame:
    scores = weigh_anchors(
        table["distance"].to_numpy(),
        table["neighborhood_score"].to_numpy(),
        alpha=config.alpha,
        anchor_coverage=config.anchor_coverage,
        correction_scale=config.correction_scale,
    )
    kept = filter_by_labels(
        scores,
        table["consistent"].to_numpy(),
        label_confidence=config.label_confidence,
        label_mode=config.label_mode,
        seed=seed,
    )
    return table.assign(score=kept)


def stack(values: list[Values]) -> Values:
    """Rows of several datasets as one matrix, sparse where all of them are."""
    if len(values) == 1:
        return values[0]
    if all(sp.issparse(one) for one in values):
        return sp.vstack(values, format="csr")
    dense = [np.asarray(one.toarray() if sp.issparse(one) else one) for one in values]  # type: ignore[union-attr]
    return np.concatenate(dense)


def move(reference: Part, query: Part, anchors: pd.DataFrame) -> Step:
    """Weigh anchors for every cell of the query side.

    Parameters
    ----------
    reference, query
        The side that stays and the side that moves, with the values that they have now.
    anchors
        Anchors between them, in either direction, with positive scores.
    """
    config, settings = query.settings.config, query.settings
    swapped = np.isin(anchors["cell_1"], query.cells)
    moving = np.where(swapped, anchors["cell_1"], anchors["cell_2"])
    staying = np.where(swapped, anchors["cell_2"], anchors["cell_1"])
    order = np.lexsort((staying, moving))
    query_anchors, query_cell = np.unique(moving[order], return_inverse=True)
    reference_anchors, reference_cell = np.unique(staying[order], return_inverse=True)
    components = _weight_space(reference, query)
    rows = np.searchsorted(query.cells, query_anchors)
    weigher = Weigher(
        components=components,
        anchor_coordinates=components.project(query.values)[rows],
        query_cell=query_cell,
        reference_cell=reference_cell,
        scores=anchors["score"].to_numpy()[order],
        options={
            "k_weight": config.k_weight,
            "sd_weight": config.sd_weight,
            "truncate": config.truncate_anchors,
            "attenuate": config.attenuate,
            "exact": settings.exact,
            "seed": settings.seed,
        },
    )
    operator = weigher(query.values)
    return Step(query.cells, query_anchors, reference_anchors, operator, weigher)


def _weight_space(reference: Part, query: Part) -> Components:
    config = query.settings.config
    merged = config.weight_space == "merged"
    values = stack([reference.values, query.values]) if merged else query.values
    return fit_components(
        values, config.n_dims, center=True, scale=merged, seed=query.settings.seed
    )
