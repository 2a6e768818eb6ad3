"""Corrections as sparse linear maps of the values of anchor cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from hdeepinsight.graph import Exact, nearest_neighbors
from hdeepinsight.pp._stacas._anchors import Dataset
from hdeepinsight.pp._stacas._config import RunSettings
from hdeepinsight.pp._stacas._datasets import OpenedDataset
from hdeepinsight.pp._stacas._embedding import (
    Components,
    Floats,
    Values,
    fit_components,
    stack_rows,
)

Ints = NDArray[np.int64]

_CELLS = 2000
_KERNEL_WIDTH = 4.0


class CorrectionOperator(NamedTuple):
    """Weights of the anchors, summed over anchors of one cell.

    ``query`` has shape ``(n_cells, n_query_anchor_cells)`` and ``reference`` shape
    ``(n_cells, n_reference_anchor_cells)``; the rows of both sum to 1 (or to less where the
    correction is attenuated, and to 0 for cells without weight). ``nearest`` is each cell's
    distance to the nearest anchor cell and ``n_effective`` the inverse of its sum of squared
    weights, both of shape ``(n_cells,)``.
    """

    query: sp.csr_matrix
    reference: sp.csr_matrix
    nearest: Floats
    n_effective: Floats


def correction_operator(
    coordinates: Floats,
    anchor_coordinates: Floats,
    query_cell: Ints,
    reference_cell: Ints,
    scores: Floats,
    *,
    k_weight: int = 100,
    truncate: bool = False,
    attenuate: bool = False,
    exact: Exact = "auto",
    seed: int = 0,
) -> CorrectionOperator:
    r"""Weigh the anchors near each cell.

    Parameters
    ----------
    coordinates
        Cells to correct, shape ``(n_cells, n_dims)``.
    anchor_coordinates
        Anchor cells of the query side, in the same space, shape ``(n_query_anchor_cells, n_dims)``.
    query_cell, reference_cell
        Cells of each anchor, as positions among the anchor cells of their side, shape
        ``(n_anchors,)``.
    scores
        Scores of the anchors, shape ``(n_anchors,)``.
    k_weight
        Anchor cells that a cell is corrected by; lowered to the number there are.
    truncate
        Stop after ``k_weight`` anchors instead of anchor cells.
    attenuate
        Lower the weights of cells farther from every anchor cell than anchor cells are from each
        other.
    exact, seed
        As in `hdeepinsight.graph.nearest_neighbors`.

    Returns
    -------
    The operators :math:`M_q, M_r`, with which corrected values are :math:`Y - M_q Y_q + M_r Y_r`.

    Notes
    -----
    For the :math:`j`-th nearest anchor cell at distance :math:`D_j`, an anchor of score :math:`w`
    has :math:`h = 1 - \exp(-(1 - D_j / D_k)\, w / 4)`, divided by the sum over all anchors of the
    cell {cite:p}`stuart2019`. The farthest has no weight, so that a cell with a
    single anchor cell in reach is left as it is.

    Examples
    --------
    >>> import numpy as np
    >>> spots = np.array([[0.0], [1.0], [4.0]])
    >>> cells = np.arange(3)
    >>> weights = correction_operator(np.array([[1.0]]), spots, cells, cells, np.ones(3))
    >>> weights.query.toarray().round(2).tolist()
    [[0.41, 0.59, 0.0]]
    """
    k = min(k_weight, len(anchor_coordinates))
    found, distance = nearest_neighbors(
        coordinates, anchor_coordinates, k=k, exact=exact, seed=seed
    )
    last = distance[:, -1:]
    proximity = np.where(last > 0, 1 - distance / np.where(last > 0, last, 1.0), 1.0)
    strength = _strength(anchor_coordinates, distance[:, 0], exact, seed) if attenuate else None
    order = np.argsort(query_cell, kind="stable")
    starts = np.searchsorted(query_cell[order], np.arange(len(anchor_coordinates) + 1))
    anchors = _Anchors(query_cell[order], reference_cell[order], scores[order], starts)
    blocks = (slice(i, i + _CELLS) for i in range(0, len(coordinates), _CELLS))
    most = k_weight if truncate else None
    parts = [_block(anchors, found[rows], proximity[rows], most) for rows in blocks]
    query, reference, effective = zip(*parts, strict=True)
    m_q, m_r = sp.vstack(query, format="csr"), sp.vstack(reference, format="csr")
    if strength is not None:
        m_q, m_r = (sp.diags(strength) @ m_q).tocsr(), (sp.diags(strength) @ m_r).tocsr()
    return CorrectionOperator(m_q, m_r, distance[:, 0].copy(), np.concatenate(effective))


class _Anchors(NamedTuple):
    """Anchors sorted by query cell, with the start of each cell's."""

    query: Ints
    reference: Ints
    scores: Floats
    start: Ints


def _block(
    anchors: _Anchors, found: Ints, proximity: Floats, most: int | None
) -> tuple[sp.csr_matrix, sp.csr_matrix, Floats]:
    """Return both operators and the effective number of anchors for some cells."""
    n_cells, k = found.shape
    near = found.ravel()
    n_anchors = np.diff(anchors.start)[near]
    cell = np.repeat(np.repeat(np.arange(n_cells), k), n_anchors)
    ends = np.cumsum(n_anchors)
    anchor = np.arange(len(cell)) - np.repeat(ends - n_anchors - anchors.start[near], n_anchors)
    closeness = np.repeat(proximity.ravel(), n_anchors)
    weight = -np.expm1(-closeness * anchors.scores[anchor] / _KERNEL_WIDTH)
    if most is not None:
        first = np.concatenate([[0], ends[k - 1 :: k]])[:-1]
        weight[np.arange(len(cell)) - first[cell] >= most] = 0.0
    total = np.bincount(cell, weight, n_cells)
    weight /= np.where(total > 0, total, 1.0)[cell]
    squares = np.bincount(cell, weight**2, n_cells)
    effective = np.divide(1.0, squares, out=np.zeros(n_cells), where=squares > 0)
    n_query, n_reference = len(anchors.start) - 1, int(anchors.reference.max(initial=-1)) + 1
    return (
        sp.csr_matrix((weight, (cell, anchors.query[anchor])), shape=(n_cells, n_query)),
        sp.csr_matrix((weight, (cell, anchors.reference[anchor])), shape=(n_cells, n_reference)),
        effective,
    )


def _strength(anchor_coordinates: Floats, nearest: Floats, exact: Exact, seed: int) -> Floats:
    """Return a factor in (0, 1], lower where a cell is farther off than anchor cells lie apart."""
    if len(anchor_coordinates) < 2:
        return np.ones(len(nearest))
    _, apart = nearest_neighbors(anchor_coordinates, k=1, exact=exact, seed=seed)
    reach = np.quantile(apart, 0.95)
    far = nearest > reach
    return np.where(far, reach / np.where(far, nearest, 1.0), 1.0)


@dataclass(frozen=True, eq=False)
class AnchorWeights:
    """Everything that gives any cell of a batch its weights: a space, and the anchors in it.

    Parameters
    ----------
    components
        Map from anchor features to the space in which cells and anchor cells are compared.
    anchor_coordinates
        Anchor cells of the query side there, shape ``(n_query_anchor_cells, n_dims)``.
    query_cell, reference_cell, scores
        The anchors, as in `correction_operator`.
    settings
        Of the run.
    """

    components: Components
    anchor_coordinates: Floats
    query_cell: Ints
    reference_cell: Ints
    scores: Floats
    settings: RunSettings

    def __call__(self, values: Values) -> CorrectionOperator:
        """Weigh the anchors for cells with these log values, shape ``(n_cells, n_features)``.

        Cells without any value, of which nothing is known, get no weight.
        """
        config = self.settings.config
        found = correction_operator(
            self.components.project(values),
            self.anchor_coordinates,
            self.query_cell,
            self.reference_cell,
            self.scores,
            k_weight=config.k_weight,
            truncate=config.as_published,
            attenuate=config.attenuate,
            exact=self.settings.exact,
            seed=self.settings.seed,
        )
        empty = np.asarray(abs(values).sum(axis=1)).ravel() == 0
        if not empty.any():
            return found
        keep = sp.diags(1.0 * ~empty)
        return CorrectionOperator(
            (keep @ found.query).tocsr(),
            (keep @ found.reference).tocsr(),
            np.where(empty, np.nan, found.nearest),
            np.where(empty, 0.0, found.n_effective),
        )


def correct_query(reference: Dataset, query: Dataset, anchors: pd.DataFrame) -> Correction:
    """Weigh anchors for every cell of the query side.

    Parameters
    ----------
    reference, query
        The side that stays and the side that moves, with the values that they have now.
    anchors
        Anchors between them, in either direction, with positive scores.
    """
    settings = query.settings
    swapped = np.isin(anchors["cell_1"], query.cells)
    moving = np.where(swapped, anchors["cell_1"], anchors["cell_2"])
    staying = np.where(swapped, anchors["cell_2"], anchors["cell_1"])
    order = np.lexsort((staying, moving))
    query_anchors, query_cell = np.unique(moving[order], return_inverse=True)
    reference_anchors, reference_cell = np.unique(staying[order], return_inverse=True)
    published = settings.config.as_published
    components = fit_components(
        stack_rows([reference.values, query.values]) if published else query.values,
        settings.config.n_dims,
        center=True,
        scale=published,
        seed=settings.seed,
    )
    rows = np.searchsorted(query.cells, query_anchors)
    anchor_weights = AnchorWeights(
        components=components,
        anchor_coordinates=components.project(query.values)[rows],
        query_cell=query_cell,
        reference_cell=reference_cell,
        scores=anchors["score"].to_numpy()[order],
        settings=settings,
    )
    operator = anchor_weights(query.values)
    return Correction(query.cells, query_anchors, reference_anchors, operator, anchor_weights)


@dataclass(frozen=True, eq=False)
class Correction:
    """One side moved onto another; cells are numbered through all datasets.

    Parameters
    ----------
    cells
        Cells that move, shape ``(n_cells,)``.
    query_anchors, reference_anchors
        Distinct anchor cells of the side that moves and of the one that stays, sorted.
    operator
        Weights of these anchor cells for every cell that moves.
    anchor_weights
        How further cells of that side would get theirs.
    """

    cells: Ints
    query_anchors: Ints
    reference_anchors: Ints
    operator: CorrectionOperator
    anchor_weights: AnchorWeights

    def change(self, moved: sp.csr_matrix, n_all: int) -> sp.csr_matrix:
        """Return the change of combinations of the cells that move, in terms of all cells.

        With ``moved`` of shape ``(n, n_cells)`` this is ``moved @ (M_r - M_q)``.
        """
        added = _renamed(moved @ self.operator.reference, self.reference_anchors, n_all)
        return added - _renamed(moved @ self.operator.query, self.query_anchors, n_all)


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
    start = sp.csr_matrix(
        (np.ones(len(cells)), (np.arange(len(cells)), cells)), shape=(len(cells), n_all)
    )
    shift = sp.csr_matrix((len(cells), n_all))
    for correction in reversed(corrections):
        moved = (start + shift)[:, correction.cells]
        if moved.nnz:
            shift = (shift + correction.change(moved, n_all)).tocsr()
    shift.sort_indices()
    return shift


def _renamed(matrix: sp.csr_matrix, columns: Ints, n_all: int) -> sp.csr_matrix:
    stored = (matrix.data, columns[matrix.indices], matrix.indptr)
    return sp.csr_matrix(stored, shape=(matrix.shape[0], n_all))


@dataclass(frozen=True, eq=False)
class AnchorValues:
    """Anchor cells, which all corrections are made of.

    ``cells`` are their numbers among all cells, sorted; ``values`` their log values of the genes to
    correct, CSR, shape ``(n_anchor_cells, n_genes)``.
    """

    cells: Ints
    values: sp.csr_matrix

    def combine(self, shift: sp.csr_matrix) -> NDArray[np.float64]:
        """Sum anchor cells by weights, ``(n_cells, n_all_cells)``; ``(n_cells, n_genes)``.

        What is added and what is taken away are summed apart, so that equal values cancel to 0.
        """
        columns = np.searchsorted(self.cells, shift.indices)
        shape = (shift.shape[0], len(self.cells))
        total = np.zeros((shift.shape[0], self.values.shape[1]))
        for sign in (1.0, -1.0):
            part = np.maximum(sign * shift.data, 0.0)
            weights = sp.csr_matrix((part, columns, shift.indptr), shape=shape)
            total += sign * (weights @ self.values).toarray()
        return total


def read_anchor_values(
    datasets: Sequence[OpenedDataset],
    corrections: Sequence[Correction],
    genes: Sequence[str],
    chunk_size: int,
) -> AnchorValues:
    """Read the anchor cells of all corrections."""
    used = [cells for one in corrections for cells in (one.query_anchors, one.reference_anchors)]
    cells = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *used]))
    parts, start = [], 0
    for one in datasets:
        own = cells[(cells >= start) & (cells < start + one.n_obs)] - start
        if len(own):
            parts.append(one.gather(genes, own, chunk_size))
        start += one.n_obs
    empty = sp.csr_matrix((0, len(genes)), dtype=np.float32)
    return AnchorValues(cells, sp.vstack([empty, *parts], format="csr").astype(np.float64))
