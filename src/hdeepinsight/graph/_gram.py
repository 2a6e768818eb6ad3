"""Inner products between cells whose entries are partly missing, as operators without a matrix."""

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

Estimator = Literal["auto", "rank1", "rank1_published", "pairwise", "mean_fill", "zero_fill"]
Floats: TypeAlias = NDArray[np.float64]
#: Gives the values as blocks of consecutive rows, from the first on, whenever it is called.
Reader: TypeAlias = "Callable[[], Iterable[tuple[slice, Any]]]"

#: Most cells of which the matrix of all pairs is shown: 3.2 GB.
DENSE_CELLS = 20_000
#: Relative tolerance of eigenvalues.
_TOLERANCE = 1e-6
_BY_RATES = "rank1", "rank1_published"


class MaskedRows(NamedTuple):
    """Some cells of one group, without what is missing."""

    rows: NDArray[np.int64]
    group: int
    values: Any
    """The observed values, dense or sparse, 0 where missing."""
    exceptions: Any
    """What is to be added to the group's background to say what is observed, or ``None``."""


@dataclass(frozen=True, eq=False)
class EntryMask:
    """Which entries of cells by genes are observed: a row per group of cells, and exceptions.

    Parameters
    ----------
    groups
        Group of every cell, from 0 on, shape ``(n_cells,)``.
    background
        Whether the genes are observed in the cells of a group, shape ``(n_groups, n_genes)``.
    exceptions
        What is to be added to the background, shape ``(n_cells, n_genes)``: 1 for an observed
        entry and -1 for a missing one.
    nonzeros_observed
        Whether every value other than 0 is observed.
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
        """Whether all cells of a group have the same entries."""
        return self.exceptions is None and not self.nonzeros_observed

    def parts(self, read: Reader) -> Iterator[MaskedRows]:
        """Read values, never changed, as float64 parts of which each has cells of one group.

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
        form = sp.csr_matrix if sparse else np.array
        values: Any = form(block, dtype=np.float64, copy=True)
        if sparse:
            values.sum_duplicates()
        stored, broken = values.data if sparse else values, None
        if not (finite := np.isfinite(stored)).all():
            broken = values.copy()
            (broken.data if sparse else broken)[:] = ~finite
            stored[~finite] = 0.0
        base, added = self.background[group].astype(np.float64), None
        if self.exceptions is not None:
            added = self.exceptions[rows].astype(np.float64)
            if sp.issparse(added) != sparse:
                added, values = _dense(added), _dense(values)
        elif self.nonzeros_observed:
            added = _scaled((values != 0).astype(np.float64), 1.0 - base)

        def observed(block: Any) -> Any:
            seen = _scaled(block, base)
            if added is None:
                return seen
            return seen + (added.multiply(block) if sp.issparse(added) else added * block)

        if broken is not None and (n_bad := int(observed(broken).sum())):
            raise ValueError(
                f"Observed values must be finite, got {n_bad:,} NaN or infinite values that the "
                "mask calls observed. Mark them as missing, for example with mask=np.isfinite(Y)."
            )
        return MaskedRows(rows, group, observed(values), added)


def _dense(block: Any) -> Floats:
    return np.asarray(block.toarray() if sp.issparse(block) else block, dtype=np.float64)


def _scaled(block: Any, genes: Floats) -> Any:
    """Multiply columns by numbers."""
    if (genes == 1).all():
        return block
    if not sp.issparse(block):
        return block * genes
    return sp.csr_matrix(
        (genes[block.indices] * block.data, block.indices, block.indptr), block.shape
    )


def _total(block: Any, axis: int) -> Any:
    if block is None:
        return 0.0
    return np.asarray(block.sum(axis=axis), dtype=np.float64).ravel()


class Rates(NamedTuple):
    """Shares of observed entries."""

    cells: Floats
    """Of every cell, ``(n_cells,)``."""
    genes: Floats
    """Of every gene, ``(n_genes,)``."""
    overall: float


def _shared_genes(mask: EntryMask) -> Floats:
    """Count the genes that panels share, ``(n_groups, n_groups)``; 1 for unused panels."""
    panels = mask.background.astype(np.float64)
    unused = np.bincount(mask.groups, minlength=len(panels)) == 0
    counts = panels @ panels.T
    counts[unused], counts[:, unused] = 1.0, 1.0
    for pair in np.argwhere(counts == 0).tolist():
        first, second = (repr(mask.names[i]) if mask.names else i for i in pair)
        raise ValueError(
            f"Every two panels must share a gene, got none for {first} and {second}. Leave one of "
            "them out."
        )
    return np.asarray(counts)


class CorrectedGram(LinearOperator):  # type: ignore[misc]
    r"""Estimate of the inner products that cells would have if nothing were missing.

    A symmetric `scipy.sparse.linalg.LinearOperator` of shape ``(n_cells, n_cells)`` on a scale per
    gene, not positive semidefinite. Made by `hdeepinsight.pp.corrected_gram`.

    Parameters
    ----------
    read
        Gives the values, ``(n_cells, n_genes)``, as blocks of rows whenever it is called.
    mask
        What is observed.
    estimator
        See `hdeepinsight.pp.corrected_gram`.
    keep
        Hold the values in memory instead of reading them for every product.
    drop_empty
        Leave genes without an observed entry out of the computation instead of refusing them.
    names
        Names of cells and of genes, for errors.

    Raises
    ------
    ValueError
        If a cell or a gene has no observed entry, an observed value is not finite, two panels
        share no gene, or pairs are asked of a mask of single entries.

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
        keep: bool = True,
        drop_empty: bool = False,
        names: tuple[Sequence[object], Sequence[object]] | None = None,
    ) -> None:
        check_choice("estimator", estimator, get_args(Estimator))
        if estimator == "auto":
            panels = mask.is_panels and len(mask.background) > 1
            estimator = "pairwise" if panels else "rank1"
        if estimator == "pairwise" and not mask.is_panels:
            raise ValueError(
                "estimator='pairwise' must have a mask of panels, got one of single entries. Use "
                "'rank1', or a PanelMask."
            )
        n_cells = mask.shape[0]
        super().__init__(np.dtype(np.float64), (n_cells, n_cells))
        self.estimator: Estimator = estimator
        self.mask, self._read = mask, read
        self._held = list(mask.parts(read)) if keep else None
        self.rates, self.means = self._measure(names or tuple(map(range, mask.shape)), drop_empty)
        self.n_genes = int((self.rates.genes > 0).sum())
        self._offsets = self._offset(mask.background)
        if held := self._held:  # one by one, so that values are not held twice
            self._held = [self._centred(held.pop(0)) for _ in range(len(held))]
        cells, genes, rate = self.rates
        self.squares, self.extra = np.zeros((2, n_cells))
        for rows, group, values, _ in self._parts():
            offset = self._offsets[group]
            if sp.issparse(values):
                self.squares[rows] = _total(values.multiply(values), 1) + 2 * (values @ offset)
                self.squares[rows] += offset @ offset
            else:
                self.squares[rows] = ((values + offset) ** 2).sum(axis=1)
        self._weights, self.pairs = np.ones(n_cells), np.ones((1, 1)) / self.n_genes
        if estimator in _BY_RATES:
            if estimator == "rank1_published":
                rate = max(rate, float(cells.max() * genes.max()))
            self._weights, self.pairs = 1 / cells, np.array([[rate**2 / (genes @ genes)]])
            self.extra = rate * self.squares / (cells * genes.sum())
            self.extra -= self.pairs[0, 0] * self.squares / cells**2
        elif estimator == "pairwise":
            self.pairs = 1 / _shared_genes(mask)

    def _measure(self, names: Sequence[Sequence[object]], drop_empty: bool) -> tuple[Rates, Floats]:
        """Count observed entries, and compute the means of the genes over them."""
        n_cells, n_genes = self.mask.shape
        cells, genes, total = np.zeros(n_cells), np.zeros(n_genes), np.zeros(n_genes)
        for rows, group, values, added in self._held or self.mask.parts(self._read):
            base = self.mask.background[group]
            cells[rows] = base.sum() + _total(added, 1)
            genes += len(rows) * base + _total(added, 0)
            total += _total(values, 0)
        for what, counts, named, hint in (
            ("cell", cells, names[0], "Leave out such cells."),
            ("gene", genes, names[1], "Leave out such genes, or pass drop_empty=True."),
        ):
            empty = np.flatnonzero(counts == 0).tolist()
            if empty and not (what == "gene" and drop_empty):
                raise ValueError(
                    f"Every {what} must have an observed entry, got {len(empty):,} {what}s "
                    f"without any: {examples(str(named[i]) for i in empty)}. {hint}"
                )
        n_used = max(int((genes > 0).sum()), 1)
        rates = Rates(cells / n_used, genes / n_cells, float(cells.sum() / (n_cells * n_used)))
        if self.estimator == "zero_fill":
            return rates, total / n_cells
        return rates, np.divide(total, genes, out=np.zeros(n_genes), where=genes > 0)

    def _offset(self, background: NDArray[np.bool_]) -> Floats:
        """Return what rows of the groups have in common once centred, ``(n_groups, n_genes)``."""
        filled = self.estimator == "zero_fill"
        return -(self.means * (np.ones_like(background) if filled else background))

    def _centred(self, part: MaskedRows) -> MaskedRows:
        """Return values that become the masked deviations by adding the group's offset."""
        if part.exceptions is None or self.estimator == "zero_fill":
            return part._replace(exceptions=None)
        shift = _scaled(part.exceptions, self.means)
        return part._replace(values=part.values - shift, exceptions=None)

    def _parts(self) -> Iterable[MaskedRows]:
        if self._held is not None:
            return self._held
        return map(self._centred, self.mask.parts(self._read))

    def project(self, vectors: ArrayLike) -> Floats:
        """Sum the weighted deviations of cells by vectors, ``(1 or n_groups, n_genes, n)``.

        Parameters
        ----------
        vectors
            Shape ``(n_cells, n)``.
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
        genes = np.tensordot(self.pairs, self.project(given), 1)
        return np.asarray(self.extra[:, None] * given + self.weigh(genes))

    def _adjoint(self) -> CorrectedGram:
        return self

    def without_values(self) -> CorrectedGram:
        """Return what `weigh` needs, without the values of the cells."""
        light = copy(self)
        light._held, light._read = None, tuple
        return light

    def weigh(
        self, genes: Floats, read: Reader | None = None, mask: EntryMask | None = None
    ) -> Floats:
        """Multiply the deviations of cells, over their rates, by weights of genes.

        Parameters
        ----------
        genes
            Shape ``(n, n_genes, n_comps)`` with one entry for all cells, or one per group.
        read, mask
            Values of new cells, and what of them is observed; by default these cells.

        Raises
        ------
        ValueError
            If a new cell has no observed entry.
        """
        offsets = self._offset((mask or self.mask).background)
        out = np.zeros((mask.shape[0] if mask else self.shape[0], genes.shape[2]))
        for part in mask.parts(read) if mask and read else self._parts():
            rows, group, values, _ = self._centred(part)
            weights = np.ones(1) if mask else self._weights[rows]
            if mask:
                seen = mask.background[group].sum(keepdims=True) + _total(part.exceptions, 1)
                if not seen.all():
                    raise ValueError(
                        "Every cell must have an observed entry, got new cells without any. Leave "
                        "out such cells."
                    )
                weights = self.n_genes / seen if self.estimator in _BY_RATES else weights
            one = genes[group if len(genes) > 1 else 0]
            out[rows] = weights[:, None] * (values @ one + offsets[group] @ one)
        return out

    def diagonal(self) -> Floats:
        """Return the diagonal, ``(n_cells,)``."""
        own = np.diagonal(self.pairs)[self.mask.groups if len(self.pairs) > 1 else 0]
        return np.asarray(self.extra + own * self._weights**2 * self.squares)

    def todense(self) -> Floats:
        """Return the matrix of all pairs of cells, for 20,000 cells at most."""
        if self.shape[0] > DENSE_CELLS:
            raise invalid(
                "n_cells", self.shape[0], f"at most {DENSE_CELLS}", "Multiply by vectors instead."
            )
        return np.asarray(self @ np.eye(self.shape[0]))


@dataclass(frozen=True, eq=False)
class PanelScores:
    """Weights of genes that give cells of any panel their places, by ridge regression.

    Parameters
    ----------
    loadings
        Regression of the genes on coordinates, shape ``(n_comps, n_genes)``.
    penalty
        Noise of an entry, over the covariance of the coordinates, ``(n_comps, n_comps)``.
    rotation
        From the regressed coordinates to principal ones, ``(n_comps, n_comps)``.

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
        seen = [self.loadings * panel for panel in panels]
        solved = [np.linalg.lstsq(own @ own.T + self.penalty, own)[0] for own in seen]
        return np.stack([each.T @ self.rotation for each in solved])


def regress_panels(gram: CorrectedGram, points: Floats) -> tuple[Floats, Floats, PanelScores]:
    """Improve coordinates by what each panel says: genes on cells, then cells on their genes.

    Parameters
    ----------
    gram
        Products of pairs, of panels.
    points
        Coordinates of the cells, shape ``(n_cells, n_comps)``.

    Returns
    -------
    Principal coordinates on the scale of scores, loadings of unit length, ``(n_genes, n_comps)``,
    and what places new cells. Without missing entries these are the principal components.

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
    # So that a panel of all genes gives principal components and shrinks nothing.
    inner = loadings @ loadings.T
    scores = PanelScores(loadings, penalty, np.linalg.pinv(inner) @ (inner + penalty))
    places = gram.weigh(scores.weights(panels))
    basis, triangle = np.linalg.qr(places)
    u, lengths, directions = np.linalg.svd(triangle @ loadings, full_matrices=False)
    turn = np.linalg.pinv(triangle) @ u * lengths
    flip = np.sign((basis @ u)[np.abs(basis @ u).argmax(axis=0), np.arange(len(lengths))])
    scores = replace(scores, rotation=scores.rotation @ turn * flip)
    return places @ turn * flip, directions.T * flip, scores


def leading_eigenpairs(
    operator: CorrectedGram, n: int, *, random_state: int = 0
) -> tuple[Floats, Floats]:
    """Compute the largest eigenvalues, descending, and their vectors, each with its sign fixed.

    Parameters
    ----------
    operator
        A symmetric operator.
    n
        How many; as many as there are cells where these are fewer.
    random_state
        Seed of the first vector.

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
