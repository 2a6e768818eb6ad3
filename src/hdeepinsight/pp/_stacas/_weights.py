"""How much each anchor counts for each cell, as two sparse operators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from hdeepinsight.graph import Exact, nearest_neighbors
from hdeepinsight.pp._stacas._embedding import Components, Floats, Values

__all__ = ["CorrectionOperator", "Weigher", "correction_operator"]

Ints = NDArray[np.int64]

_CELLS = 2000


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
    sd_weight: float = 1.0,
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
    sd_weight
        Width of the kernel.
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
    has :math:`h = 1 - \exp(-(1 - D_j / D_k)\, w / (2 / \mathrm{sd})^2)`, divided by the sum over
    all anchors of the cell {cite:p}`stuart2019`. The farthest has no weight, so that a cell with a
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
    anchors = _Anchors(
        query_cell[order],
        reference_cell[order],
        scores[order],
        np.searchsorted(query_cell[order], np.arange(len(anchor_coordinates) + 1)),
    )
    parts = [
        _block(
            anchors,
            found[start : start + _CELLS],
            proximity[start : start + _CELLS],
            (2 / sd_weight) ** 2,
            k_weight if truncate else None,
        )
        for start in range(0, len(coordinates), _CELLS)
    ]
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
    anchors: _Anchors, found: Ints, proximity: Floats, width: float, most: int | None
) -> tuple[sp.csr_matrix, sp.csr_matrix, Floats]:
    """Both operators and the effective number of anchors for some cells."""
    n_cells, k = found.shape
    near = found.ravel()
    n_anchors = np.diff(anchors.start)[near]
    cell = np.repeat(np.repeat(np.arange(n_cells), k), n_anchors)
    ends = np.cumsum(n_anchors)
    anchor = np.arange(len(cell)) - np.repeat(ends - n_anchors - anchors.start[near], n_anchors)
    weight = -np.expm1(-np.repeat(proximity.ravel(), n_anchors) * anchors.scores[anchor] / width)
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
    """Factor in (0, 1] that falls where a cell is farther away than anchor cells lie apart."""
    if len(anchor_coordinates) < 2:
        return np.ones(len(nearest))
    _, apart = nearest_neighbors(anchor_coordinates, k=1, exact=exact, seed=seed)
    reach = np.quantile(apart, 0.95)
    return np.minimum(
        1.0,
        reach / np.where(nearest > 0, nearest, np.inf),
        where=nearest > 0,
        out=np.ones(len(nearest)),
    )


@dataclass(frozen=True, eq=False)
class Weigher:
    """Everything that gives any cell of a batch its weights: a space, and the anchors in it.

    Parameters
    ----------
    components
        Map from anchor features to the space in which cells and anchor cells are compared.
    anchor_coordinates
        Anchor cells of the query side there, shape ``(n_query_anchor_cells, n_dims)``.
    query_cell, reference_cell, scores
        The anchors, as in `correction_operator`.
    options
        Its further arguments.
    """

    components: Components
    anchor_coordinates: Floats
    query_cell: Ints
    reference_cell: Ints
    scores: Floats
    options: dict[str, object]

    def __call__(self, values: Values) -> CorrectionOperator:
        """Weights for cells with these log values, shape ``(n_cells, n_features)``."""
        found = correction_operator(
            self.components.project(values),
            self.anchor_coordinates,
            self.query_cell,
            self.reference_cell,
            self.scores,
            **self.options,  # type: ignore[arg-type]
        )
        return _without(found, np.asarray(abs(values).sum(axis=1)).ravel() == 0)


def _without(found: CorrectionOperator, empty: NDArray[np.bool_]) -> CorrectionOperator:
    """Take the weights away from cells that nothing is known of."""
    if not empty.any():
        return found
    keep = sp.diags(1.0 * ~empty)
    return CorrectionOperator(
        (keep @ found.query).tocsr(),
        (keep @ found.reference).tocsr(),
        np.where(empty, np.nan, found.nearest),
        np.where(empty, 0.0, found.n_effective),
    )
