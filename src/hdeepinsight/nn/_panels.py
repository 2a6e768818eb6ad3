"""Gene panels of the cells of a reference: the genes that were measured in each cell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, diags, vstack

COVERAGE_STEPS = 30


@dataclass(frozen=True, eq=False)
class GenePanels:
    r"""Genes that were measured in each cell of a reference with one or several gene panels.

    Parameters
    ----------
    codes
        Panel of each cell, shape ``(n_cells,)``.
    measured
        Whether each panel has each gene, bool, shape ``(n_panels, n_genes)``.

    Examples
    --------
    The second panel lacks the last gene, which is 0 in its cells:

    >>> import numpy as np
    >>> from hdeepinsight.nn import GenePanels
    >>> from scipy.sparse import csr_matrix
    >>> counts = csr_matrix([[6.0, 2.0, 8.0], [2.0, 6.0, 8.0], [1.0, 1.0, 0.0]])
    >>> panels = GenePanels.find(counts, np.array([0, 0, 1]))
    >>> panels.measured.tolist()
    [[True, True, True], [True, True, False]]
    >>> panels.mean(counts).tolist()
    [3.0, 3.0, 8.0]

    Half of the counts are in its genes:

    >>> panels.coverage(counts).round(2).tolist()
    [1.0, 0.5]

    Notes
    -----
    With the mean shares :math:`s_p` of the genes in the counts of panel :math:`p`, which sum to 1
    over its genes, coverage :math:`c_p` and mean shares :math:`\mu` in all genes are the solution
    of

    .. math::
        \mu_g = \frac{\sum_p n_{pg} c_p s_{pg}}{\sum_p n_{pg}}, \qquad
        c_p = \frac{\sum_g m_{pg} \mu_g}{\sum_g \mu_g},

    where :math:`m_{pg}` is 1 for measured genes and :math:`n_{pg}` is :math:`m_{pg}` times the
    number of cells. It is found by iteration.
    """

    codes: np.ndarray
    measured: np.ndarray

    @classmethod
    def one(cls, n_cells: int, n_genes: int) -> GenePanels:
        """Return a single panel, in which all genes were measured.

        Examples
        --------
        >>> from hdeepinsight.nn import GenePanels
        >>> GenePanels.one(2, 3).measured
        array([[ True,  True,  True]])
        """
        return cls(np.zeros(n_cells, dtype=np.int64), np.ones((1, n_genes), dtype=bool))

    @classmethod
    def find(cls, counts: csr_matrix, codes: np.ndarray) -> GenePanels:
        """Return the panels of raw counts: a gene without a count in a panel was not measured.

        Parameters
        ----------
        counts
            Raw counts, shape ``(n_cells, n_genes)``.
        codes
            Panel of each cell, shape ``(n_cells,)``.
        """
        n_panels = int(codes.max(initial=-1)) + 1
        measured = np.zeros((n_panels, counts.shape[1]), dtype=bool)
        panel = np.repeat(codes, np.diff(counts.indptr))
        measured[panel[counts.data > 0], counts.indices[counts.data > 0]] = True
        return cls(codes, measured)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: np.ndarray) -> GenePanels:
        """Return the panels of some of the cells."""
        return GenePanels(self.codes[rows], self.measured)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the positions of the cells of each panel, and whether it has each gene."""
        for panel, measured in enumerate(self.measured):
            if len(rows := np.flatnonzero(self.codes == panel)):
                yield rows, measured

    @property
    def of_cells(self) -> np.ndarray:
        """Whether each gene was measured in each cell, bool, shape ``(n_cells, n_genes)``."""
        return np.asarray(self.measured[self.codes])

    @property
    def n_measured(self) -> np.ndarray:
        """Number of cells in which each gene was measured, shape ``(n_genes,)``."""
        n_cells = np.bincount(self.codes, minlength=len(self.measured))
        return np.asarray(n_cells @ self.measured)

    def hide(self, counts: csr_matrix) -> csr_matrix:
        """Return a copy of counts without those of genes that were not measured, and zeros."""
        counts = counts.copy()
        if not self.measured.all():
            panel = np.repeat(self.codes, np.diff(counts.indptr))
            counts.data *= self.measured[panel, counts.indices]
        counts.eliminate_zeros()
        return counts

    def mean(self, values: csr_matrix, scale: np.ndarray | None = None) -> np.ndarray:
        """Compute the mean of each gene over the cells in which it was measured.

        Parameters
        ----------
        values
            Values, shape ``(n_cells, n_genes)``; 0 for genes that were not measured.
        scale
            Factor of the values of each panel, shape ``(n_panels,)``; 1 by default.

        Returns
        -------
        Means, float32, shape ``(n_genes,)``; NaN for genes that were measured in no cell.
        """
        scale = np.ones(len(self.measured)) if scale is None else scale
        mean, n_measured = np.zeros(values.shape[1], dtype=np.float32), self.n_measured
        for rows, measured in self:
            own = np.asarray(values[rows].mean(axis=0), dtype=np.float32).ravel()
            weight = len(rows) * measured / np.maximum(n_measured, 1)
            mean += own * (weight * scale[self.codes[rows[0]]]).astype(np.float32)
        return np.where(n_measured > 0, mean, np.float32(np.nan))

    def coverage(self, counts: csr_matrix, included: np.ndarray | None = None) -> np.ndarray:
        """Compute the expected share of the counts of a cell that are in the genes of each panel.

        Parameters
        ----------
        counts
            Raw counts, shape ``(n_cells, n_genes)``; 0 for genes that were not measured.
        included
            1 for genes that are counted, shape ``(n_genes,)``; all by default.

        Returns
        -------
        Shares, shape ``(n_panels,)``, relative to all genes.
        """
        found = np.ones(len(self.measured))
        if len(found) == 1:
            return found
        included = np.ones(counts.shape[1]) if included is None else included
        shares, n_cells = np.zeros(self.measured.shape), np.zeros(self.measured.shape)
        for rows, measured in self:
            own = counts[rows]
            per_count = 1.0 / np.maximum(own @ included, 1.0)
            panel = self.codes[rows[0]]
            shares[panel] = (per_count @ own) * included / len(rows)
            n_cells[panel] = len(rows) * measured
        n_measured = np.maximum(n_cells.sum(axis=0), 1)
        for _ in range(COVERAGE_STEPS):
            mean = (n_cells * found[:, None] * shares).sum(axis=0) / n_measured
            found = self.measured @ mean / max(mean.sum(), 1e-12)
        return np.maximum(found, 1e-6)

    def mean_shares(self, counts: csr_matrix, groups: np.ndarray, n_groups: int) -> np.ndarray:
        """Compute the mean over the cells of each group of the share of each gene in their counts.

        Parameters
        ----------
        counts
            Raw counts, shape ``(n_cells, n_genes)``; 0 for genes that were not measured.
        groups
            Group of each cell, -1 for none, shape ``(n_cells,)``.
        n_groups
            Number of groups.

        Returns
        -------
        Shares, float32, shape ``(n_groups, n_genes)``. A gene that was measured in no cell of a
        group has the mean of the other groups; groups without cells are 0.
        """
        totals = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
        shares = csr_matrix(diags(1.0 / np.maximum(totals, 1.0)) @ counts)
        coverage, found = self.coverage(counts), np.zeros((n_groups, counts.shape[1]), np.float32)
        filled = np.unique(groups[groups >= 0])
        for group in filled:
            cells = np.flatnonzero(groups == group)
            found[group] = self[cells].mean(shares[cells], coverage)
        is_known = ~np.isnan(found[filled])
        usual = np.nan_to_num(found[filled]).sum(axis=0) / np.maximum(is_known.sum(axis=0), 1)
        return np.where(np.isnan(found), usual, found).astype(np.float32)

    def complete(
        self, counts: csr_matrix, shares: np.ndarray, groups: np.ndarray, seed: int
    ) -> csr_matrix:
        """Add counts of the genes that were not measured, drawn from the profile of the group.

        Parameters
        ----------
        counts
            Raw counts, shape ``(n_cells, n_genes)``.
        shares
            Output of :meth:`mean_shares`, shape ``(n_groups, n_genes)``.
        groups
            Group of each cell, shape ``(n_cells,)``; the mean of all groups is used for -1.
        seed
            Random seed.
        """
        rng, usual, parts = np.random.default_rng(seed), shares.mean(axis=0), []
        for rows, measured in self:
            own = counts[rows]
            if not measured.all():
                expected = np.where((groups[rows] >= 0)[:, None], shares[groups[rows]], usual)
                seen = np.maximum(expected[:, measured].sum(axis=1), 1e-6)
                depth = np.asarray(own.sum(axis=1)).ravel() / seen
                drawn = rng.poisson(expected * ~measured * depth[:, None])
                own = own + csr_matrix(drawn.astype(own.dtype))
            parts.append(own)
        if len(parts) <= 1:
            return parts[0] if parts else counts
        order = np.concatenate([rows for rows, _ in self])
        return csr_matrix(vstack(parts, format="csr")[np.argsort(order)])
