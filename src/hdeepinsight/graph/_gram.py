"""Linear operators of inner products between cells with missing entries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import LinearOperator, eigsh

from hdeepinsight._errors import check_choice, check_integer, examples, invalid

Estimator = Literal[
    "auto", "rank1", "rank1_published", "rank1_clip", "pairwise", "mean_fill", "zero_fill"
]
Floats: TypeAlias = NDArray[np.float64]
#: Function that returns the values as blocks of consecutive rows, in order.
Reader: TypeAlias = "Callable[[], Iterable[tuple[slice, Any]]]"

#: Maximum number of cells for a matrix of all pairs (3.2 GB).
DENSE_CELLS = 20_000
#: Relative tolerance of eigenvalues.
_TOLERANCE = 1e-6
_BY_RATES = "rank1", "rank1_published"


class MaskedRows(NamedTuple):
    """Observed values of cells of one group."""

    rows: NDArray[np.int64]
    group: int
    #: Observed values, dense or sparse, 0 for missing entries.
    values: Any
    #: Matrix to add to the group's background to get the observed entries, or ``None``.
    exceptions: Any


@dataclass(frozen=True, eq=False)
class EntryMask:
    """Mask of observed entries, as one row per group of cells and exceptions.

    Parameters
    ----------
    groups
        Group of each cell, starting from 0, shape ``(n_cells,)``.
    background
        Whether each gene is observed in the cells of a group, shape ``(n_groups, n_genes)``.
    exceptions
        Differences from the background, shape ``(n_cells, n_genes)``: 1 for an observed entry and
        -1 for a missing one.
    nonzeros_observed
        Whether all non-zero values are observed.
    names
        Names of the groups, for errors.

    Examples
    --------
    >>> import numpy as np
    >>> mask = EntryMask(np.array([0, 1]), np.array([[True, True], [True, False]]))
    >>> [part.values.tolist() for part in mask.parts(lambda: [(slice(0, 2), np.ones((2, 2)))])]
    [[[1.0, 1.0]], [[1.0, 0.0]]]
    """

    groups: NDArray[np.int64]
    background: NDArray[np.bool_]
    exceptions: Any = None
    nonzeros_observed: bool = False
    names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells and of genes."""
        return len(self.groups), self.background.shape[1]

    @property
    def is_panels(self) -> bool:
        """Whether all cells of a group have the same observed genes."""
        return self.exceptions is None and not self.nonzeros_observed

    def parts(self, read: Reader) -> Iterator[MaskedRows]:
        """Read values as float64 parts with cells of one group each; they are not modified.

        Raises
        ------
        ValueError
            If an observed value is not finite.
        """
        for rows, block in read():
            codes = self.groups[rows]
            present = np.unique(codes)
            for group in present.tolist():
                chosen = np.flatnonzero(codes == group)
                part = block if len(present) == 1 else block[chosen]
                yield self._masked(rows.start + chosen, group, part)

    def _masked(self, rows: NDArray[np.int64], group: int, block: Any) -> MaskedRows:
        sparse = sp.issparse(block)
        values: Any = sp.csr_matrix(block, dtype=np.float64, copy=True) if sparse else None
        if sparse:
            values.sum_duplicates()
        else:
            values = np.array(block, dtype=np.float64)
        stored = values.data if sparse else values
        odd = ~np.isfinite(stored)
        at = np.nonzero(odd)
        if sparse:
            at = np.repeat(np.arange(len(rows)), np.diff(values.indptr))[at], values.indices[at]
        stored[odd] = 0.0
        if sparse:
            values.eliminate_zeros()
        base, added = self.background[group].astype(np.float64), None
        if self.exceptions is not None:
            added = self.exceptions[rows].astype(np.float64)
            alike = sp.issparse(added) == sparse
            if not alike and (sparse or base.any()):
                added, values = _dense(added), _dense(values)
        elif self.nonzeros_observed:
            added = _scaled(values, 1.0 - base, of_nonzeros=True)
        if len(at[0]):
            seen = base[at[1]] + (0.0 if added is None else np.asarray(added[at]).ravel())
            if n_bad := int(seen.sum()):
                msg = f"Observed values must be finite, got {n_bad:,} NaN or infinite values. Mark"
                raise ValueError(f"{msg} them as missing, for example with mask=np.isfinite(Y).")
        if self.nonzeros_observed:
            observed = values
        elif added is None:
            observed = _scaled(values, base)
        elif base.any():
            observed = _scaled(values, base) + _product(added, values)
        else:
            observed = _product(added, values)
        return MaskedRows(rows, group, observed, added)


def _dense(block: Any) -> Floats:
    return np.asarray(block.toarray() if sp.issparse(block) else block, dtype=np.float64)


def _product(exceptions: Any, values: Any) -> Any:
    """Multiply element by element; the result is sparse if the exceptions are."""
    sparse = sp.issparse(exceptions)
    return sp.csr_matrix(exceptions.multiply(values)) if sparse else exceptions * values


def _scaled(block: Any, genes: Floats, of_nonzeros: bool = False) -> Any:
    """Multiply columns by numbers, or replace non-zero values by these numbers."""
    if (genes == 1).all() and not of_nonzeros:
        return block
    if not sp.issparse(block):
        return ((block != 0) if of_nonzeros else block) * genes
    data = genes[block.indices] * (1.0 if of_nonzeros else block.data)
    return sp.csr_matrix((data, block.indices, block.indptr), block.shape)


def _total(block: Any, axis: int) -> Any:
    if block is None:
        return 0.0
    return np.asarray(block.sum(axis=axis), dtype=np.float64).ravel()


class Rates(NamedTuple):
    """Observation rates."""

    #: Share of observed genes per cell, ``(n_cells,)``.
    cells: Floats
    #: Share of observed cells per gene, ``(n_genes,)``.
    genes: Floats
    #: Share of observed entries.
    overall: float


class CorrectedGram(LinearOperator):  # type: ignore[misc]
    r"""Estimate of the inner products between cells without missing entries.

    Symmetric `scipy.sparse.linalg.LinearOperator` of shape ``(n_cells, n_cells)``, scaled per gene,
    not positive semidefinite. Created by `hdeepinsight.pp.corrected_gram`.

    Parameters
    ----------
    read
        Function that returns the values, ``(n_cells, n_genes)``, as blocks of rows.
    mask
        Mask of observed entries.
    estimator
        See `hdeepinsight.pp.corrected_gram`.
    center
        Centre rows and columns.
    keep
        Keep the values in memory instead of reading them for each product.
    drop_empty
        Ignore genes without an observed entry instead of raising an error.
    obs_names, var_names
        Names for errors.

    Raises
    ------
    ValueError
        If a cell or a gene has no observed entry, an observed value is not finite, two panels
        share no gene, or there are too many cells for an estimator without an operator form.

    Notes
    -----
    With :math:`Z_{id} = M_{id}(Y_{id} - \mu_d)`, rates :math:`r_i` of cells and :math:`p_d` of
    genes, overall :math:`c`, and :math:`A_i = Z_i / r_i`, the estimate is
    :math:`G = kAA^\top + \mathrm{diag}(\delta)` with :math:`k = c^2 / \sum_d p_d^2` and
    :math:`\delta_i = c\lVert Z_i\rVert^2 / (r_i \sum_d p_d) - k\lVert A_i\rVert^2`.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.graph import CorrectedGram, EntryMask
    >>> all_observed = EntryMask(np.zeros(3, dtype=int), np.ones((1, 2), dtype=bool))
    >>> values = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    >>> CorrectedGram(lambda: [(slice(0, 3), values)], all_observed).todense()
    array([[ 0.5,  0. , -0.5],
           [ 0. ,  0. ,  0. ],
           [-0.5,  0. ,  0.5]])
    """

    def __init__(
        self,
        read: Reader,
        mask: EntryMask,
        *,
        estimator: Estimator = "auto",
        center: bool = False,
        keep: bool = True,
        drop_empty: bool = False,
        obs_names: Sequence[str] | None = None,
        var_names: Sequence[str] | None = None,
    ) -> None:
        check_choice("estimator", estimator, get_args(Estimator))
        if estimator == "auto":
            panels = mask.is_panels and len(mask.background) > 1
            estimator = "pairwise" if panels else "rank1"
        n_cells = mask.shape[0]
        super().__init__(np.dtype(np.float64), (n_cells, n_cells))
        self.estimator: Estimator = estimator
        self.center = center
        self.mask = mask
        held = list(mask.parts(read)) if keep else None
        self._read = read
        self.rates, self.means = self._measure(held, drop_empty, obs_names, var_names)
        self.n_genes = int((self.rates.genes > 0).sum())
        self._offsets = self._offset(mask.background)
        self._held = held and [self._centred(held.pop(0)) for _ in range(len(held))]
        self._dense: Floats | None = None  # of estimators without an operator form
        self._set_weights()

    def _measure(
        self,
        held: list[MaskedRows] | None,
        drop_empty: bool,
        obs_names: Sequence[str] | None,
        var_names: Sequence[str] | None,
    ) -> tuple[Rates, Floats]:
        """Compute observation rates, and the means of the genes over observed entries."""
        n_cells, n_genes = self.mask.shape
        cells, genes, total = np.zeros(n_cells), np.zeros(n_genes), np.zeros(n_genes)
        for rows, group, values, added in held or self.mask.parts(self._read):
            base = self.mask.background[group]
            cells[rows] = base.sum() + _total(added, 1)
            genes += len(rows) * base + _total(added, 0)
            total += _total(values, 0)
        for what, counts, names, hint in (
            ("cell", cells, obs_names, "Remove such cells."),
            ("gene", genes, var_names, "Remove such genes, or pass drop_empty=True."),
        ):
            empty = np.flatnonzero(counts == 0)
            if len(empty) and not (what == "gene" and drop_empty):
                listed = examples([str(i) if names is None else names[i] for i in empty.tolist()])
                raise ValueError(
                    f"Every {what} must have an observed entry, got {len(empty):,} {what}s "
                    f"without any: {listed}. {hint}"
                )
        n_used = max(int((genes > 0).sum()), 1)
        rates = Rates(cells / n_used, genes / n_cells, float(cells.sum() / (n_cells * n_used)))
        if self.estimator == "zero_fill":
            return rates, total / n_cells
        return rates, np.divide(total, genes, out=np.zeros(n_genes), where=genes > 0)

    def _offset(self, background: NDArray[np.bool_]) -> Floats:
        """Return the common offset of centred rows of each group, ``(n_groups, n_genes)``."""
        filled = self.estimator == "zero_fill"
        return -(self.means * (np.ones_like(background) if filled else background))

    def _centred(self, part: MaskedRows) -> MaskedRows:
        """Return values that give the masked deviations when the group's offset is added."""
        if part.exceptions is None or self.estimator == "zero_fill":
            return part._replace(exceptions=None)
        shift = _scaled(part.exceptions, self.means)
        return part._replace(values=part.values - shift, exceptions=None)

    def _parts(self) -> Iterable[MaskedRows]:
        if self._held is not None:
            return self._held
        return map(self._centred, self.mask.parts(self._read))

    def _set_weights(self) -> None:
        n_cells = self.shape[0]
        cells, genes, overall = self.rates
        squares = np.zeros(n_cells)
        for rows, group, values, _ in self._parts():
            offset = self._offsets[group]
            if sp.issparse(values):
                squares[rows] = _total(values.multiply(values), 1) + 2 * (values @ offset)
                squares[rows] += offset @ offset
            else:
                squares[rows] = ((values + offset) ** 2).sum(axis=1)
        self._weights, self.pairs = np.ones(n_cells), np.ones((1, 1)) / self.n_genes
        self.extra, self.squares = np.zeros(n_cells), squares
        self._diagonal = squares / self.n_genes
        if self.estimator in _BY_RATES:
            published = max(overall, float(cells.max() * genes.max()))
            rate = published if self.estimator == "rank1_published" else overall
            self._weights, self.pairs = 1 / cells, np.array([[rate**2 / (genes @ genes)]])
            self._diagonal = rate * squares / (cells * genes.sum())
            self.extra = self._diagonal - self.pairs[0, 0] * squares / cells**2
        elif self.estimator == "pairwise" and self.mask.is_panels:
            self.pairs = 1 / self._shared()
            own = np.diagonal(self.pairs)[self.mask.groups]
            self._diagonal = squares * own
        elif self.estimator in ("pairwise", "rank1_clip"):
            self._dense = self._all_pairs()
            self._diagonal = np.diagonal(self._dense).copy()
        if self.center:
            self.center = False
            means = self.matvec(np.ones(n_cells)) / n_cells
            self.center = True
            self._diagonal += means.mean() - 2 * means

    def _shared(self) -> Floats:
        """Count the genes that panels share, ``(n_groups, n_groups)``; 1 for unused panels."""
        panels = self.mask.background.astype(np.float64)
        unused = np.bincount(self.mask.groups, minlength=len(panels)) == 0
        counts = panels @ panels.T
        counts[unused], counts[:, unused] = 1.0, 1.0
        for first, second in np.argwhere(counts == 0).tolist():
            pair = [repr(self.mask.names[i]) if self.mask.names else i for i in (first, second)]
            raise ValueError(
                f"Every two panels must share a gene, got none for {pair[0]} and {pair[1]}. Remove "
                "one of them."
            )
        return np.asarray(counts)

    def _all_pairs(self) -> Floats:
        n_cells, n_genes = self.mask.shape
        if n_cells > DENSE_CELLS:
            raise ValueError(
                f"estimator={self.estimator!r} computes a matrix of all pairs of cells for this "
                f"mask and must have at most {DENSE_CELLS:,} cells, got {n_cells:,}. Use "
                "estimator='rank1', or a PanelMask with 'pairwise'."
            )
        deviations, observed = np.zeros((n_cells, n_genes)), np.zeros((n_cells, n_genes))
        for rows, group, values, _ in self._parts():
            deviations[rows] = _dense(values) + self._offsets[group]
        for part in self.mask.parts(self._read):
            observed[part.rows] = self.mask.background[part.group]
            observed[part.rows] += 0.0 if part.exceptions is None else _dense(part.exceptions)
        if self.estimator == "rank1_clip":
            rates = np.outer(self.rates.cells, self.rates.genes)
            observed = np.minimum(rates / self.rates.overall, 1.0)
        counts = observed @ observed.T
        np.fill_diagonal(counts, observed.sum(axis=1))
        if n_apart := int((counts == 0).sum()):
            first, second = np.argwhere(counts == 0)[0]
            raise ValueError(
                f"Every two cells must share an observed gene, got none for {n_apart // 2:,} pairs,"
                f" such as cells {first} and {second}. Use estimator='rank1'."
            )
        return np.asarray(deviations @ deviations.T / counts)

    def project(self, vectors: ArrayLike) -> Floats:
        """Multiply the weighted deviations by vectors of cells, ``(1 or n_groups, n_genes, n)``.

        Parameters
        ----------
        vectors
            Vectors, shape ``(n_cells, n)``.
        """
        given = np.asarray(vectors, dtype=np.float64)
        sums = np.zeros((len(self.pairs), self.mask.shape[1], given.shape[1]))
        for rows, group, values, _ in self._parts():
            part = self._weights[rows, None] * given[rows]
            where = group if len(sums) > 1 else 0
            sums[where] += values.T @ part + np.outer(self._offsets[group], part.sum(axis=0))
        return sums

    def _matmat(self, vectors: ArrayLike) -> Floats:
        given = np.asarray(vectors, dtype=np.float64).reshape(self.shape[1], -1)
        given = given - given.mean(axis=0) if self.center else given
        if self._dense is not None:
            out = self._dense @ given
        else:
            genes = np.tensordot(self.pairs, self.project(given), 1)
            out = self.extra[:, None] * given + self.weigh(genes)
        return np.asarray(out - out.mean(axis=0) if self.center else out)

    def _adjoint(self) -> CorrectedGram:
        return self

    def without_values(self) -> CorrectedGram:
        """Return a copy for `weigh`, without the values of the cells."""
        light = copy(self)
        light._held, light._read = None, tuple
        return light

    def weigh(
        self, genes: Floats, read: Reader | None = None, mask: EntryMask | None = None
    ) -> Floats:
        """Multiply the deviations of cells, divided by their rates, by gene weights.

        Parameters
        ----------
        genes
            Gene weights, shape ``(n, n_genes, n_comps)``, for all cells or one per group.
        read, mask
            Values and mask of new cells; by default these cells.

        Raises
        ------
        ValueError
            If a new cell has no observed entry.
        """
        offsets = self._offset((mask or self.mask).background)
        out = np.zeros((mask.shape[0] if mask else self.shape[0], genes.shape[2]))
        for part in self._parts() if mask is None or read is None else mask.parts(read):
            rows, group, values, _ = part if mask is None else self._centred(part)
            one = genes[group if len(genes) > 1 else 0]
            weights = self._weights[rows] if mask is None else np.ones(1)
            if mask is not None:
                seen = mask.background[group].sum(keepdims=True) + _total(part.exceptions, 1)
                if not seen.all():
                    msg = "Every cell must have an observed entry, got new cells without any."
                    raise ValueError(f"{msg} Remove such cells.")
                weights = self.n_genes / seen if self.estimator in _BY_RATES else weights
            out[rows] = weights[:, None] * (values @ one + offsets[group] @ one)
        return out

    def diagonal(self) -> Floats:
        """Return the diagonal, ``(n_cells,)``."""
        return self._diagonal

    def todense(self) -> Floats:
        """Return the matrix of all pairs of cells, for at most 20,000 cells."""
        if (n_cells := self.shape[0]) > DENSE_CELLS:
            hint = "Multiply by vectors instead."
            raise invalid("n_cells", n_cells, f"at most {DENSE_CELLS}", hint)
        return np.asarray(self @ np.eye(self.shape[0]))


@dataclass(frozen=True, eq=False)
class PanelScores:
    """Gene weights for the coordinates of cells of any panel, by ridge regression.

    Parameters
    ----------
    loadings
        Regression of the genes on coordinates, shape ``(n_comps, n_genes)``.
    penalty
        Noise of an entry divided by the covariance of the coordinates, ``(n_comps, n_comps)``.
    rotation
        Rotation from the regressed to principal coordinates, ``(n_comps, n_comps)``.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.graph import PanelScores
    >>> scores = PanelScores(np.array([[1.0, 1.0]]), np.zeros((1, 1)), np.eye(1))
    >>> scores.weights(np.array([[True, True], [True, False]]))[:, :, 0].tolist()
    [[0.5, 0.5], [1.0, 0.0]]
    """

    loadings: Floats
    penalty: Floats
    rotation: Floats

    def weights(self, panels: NDArray[np.bool_]) -> Floats:
        """Compute the weights for panels, ``(n_panels, n_genes, n_comps)``."""
        return np.stack([self._weights(panel) @ self.rotation for panel in panels])

    def _weights(self, panel: NDArray[np.bool_]) -> Floats:
        seen = self.loadings * panel
        return np.asarray(np.linalg.lstsq(seen @ seen.T + self.penalty, seen)[0].T)


def regress_panels(gram: CorrectedGram, points: Floats) -> tuple[Floats, Floats, PanelScores]:
    """Refine coordinates by regressions of genes on cells, and of cells on their panel's genes.

    Parameters
    ----------
    gram
        Pairwise inner products of cells in panels.
    points
        Coordinates of the cells, shape ``(n_cells, n_comps)``.

    Returns
    -------
    Principal component scores, loadings of unit length, ``(n_genes, n_comps)``, and the gene
    weights for new cells. Without missing entries these are the principal components.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.graph import CorrectedGram, EntryMask, leading_eigenpairs, regress_panels
    >>> mask = EntryMask(np.array([0, 0, 1]), np.array([[True, True], [True, False]]))
    >>> values = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    >>> gram = CorrectedGram(lambda: [(slice(0, 3), values)], mask)
    >>> regress_panels(gram, leading_eigenpairs(gram, 1)[1])[0].shape
    (3, 1)
    """
    groups, panels = gram.mask.groups, gram.mask.background
    sums = gram.project(points)
    moments = np.stack([points[groups == s].T @ points[groups == s] for s in range(len(panels))])
    loadings = np.zeros(sums.shape[:0:-1])
    patterns, genes = np.unique(panels, axis=1, return_inverse=True)
    for pattern, panel in enumerate(patterns.T):
        chosen = genes.ravel() == pattern
        products = sums[:, chosen].sum(axis=0).T
        loadings[:, chosen] = np.linalg.lstsq(moments[panel].sum(axis=0), products)[0]
    seen = loadings * panels[:, None]
    explained = 2 * (loadings * sums.sum(axis=0).T).sum()
    explained -= (moments * (seen @ seen.transpose(0, 2, 1))).sum()
    n_entries = gram.rates.overall * gram.n_genes * len(groups)
    noise = max(gram.squares.sum() - explained, 0.0) / n_entries
    penalty = noise * np.linalg.pinv(points.T @ points / len(points))
    # Without missing genes, the result equals principal components, without shrinkage.
    inner = loadings @ loadings.T
    scores = PanelScores(loadings, penalty, np.linalg.pinv(inner) @ (inner + penalty))
    weighed = gram.weigh(scores.weights(panels))
    basis, triangle = np.linalg.qr(weighed)
    u, lengths, directions = np.linalg.svd(triangle @ loadings, full_matrices=False)
    rotation = np.linalg.pinv(triangle) @ u * lengths
    flip = np.sign((basis @ u)[np.abs(basis @ u).argmax(axis=0), np.arange(len(lengths))])
    scores = replace(scores, rotation=scores.rotation @ rotation * flip)
    return weighed @ rotation * flip, directions.T * flip, scores


def leading_eigenpairs(
    operator: CorrectedGram, n: int, *, random_state: int = 0
) -> tuple[Floats, Floats]:
    """Compute the largest eigenvalues in decreasing order, and eigenvectors with fixed signs.

    Parameters
    ----------
    operator
        Symmetric operator.
    n
        Number of eigenvalues, limited by the number of cells.
    random_state
        Seed of the starting vector.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.graph import CorrectedGram, EntryMask
    >>> all_observed = EntryMask(np.zeros(3, dtype=int), np.ones((1, 2), dtype=bool))
    >>> values = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    >>> gram = CorrectedGram(lambda: [(slice(0, 3), values)], all_observed)
    >>> leading_eigenpairs(gram, 1)[0].round(6).tolist()
    [1.0]
    """
    check_integer("n", n)
    n_cells = operator.shape[0]
    n = min(n, n_cells)
    if n_cells <= max(500, 5 * n):
        values, vectors = np.linalg.eigh(operator.todense())
    else:
        start = np.random.default_rng(random_state).standard_normal(n_cells)
        values, vectors = eigsh(operator, n, which="LA", v0=start, tol=_TOLERANCE)
    order = np.argsort(-values)[:n]
    values, vectors = values[order], vectors[:, order]
    largest = np.abs(vectors).argmax(axis=0)
    return values, vectors * np.sign(vectors[largest, np.arange(n)])
