"""Mean and spread of attributions over cells, without keeping the cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class GeneTotals:
    """Attributions of every gene over the cells of every question.

    Parameters
    ----------
    n_cells
        Cells, shape ``(n_questions,)``.
    mean, mean_abs, std
        Mean, mean absolute value and standard deviation over cells (0 for a single one), each of
        shape ``(n_questions, n_genes)``; NaN without cells.
    expression
        Mean scaled expression of the same cells, shape ``(n_questions, n_genes)``.
    """

    n_cells: np.ndarray
    mean: np.ndarray
    mean_abs: np.ndarray
    std: np.ndarray
    expression: np.ndarray


class RunningTotals:
    """Sums that become a `GeneTotals`.

    Parameters
    ----------
    n_questions, n_genes
        What is summed up.

    Examples
    --------
    >>> import numpy as np
    >>> sums = RunningTotals(1, 2)
    >>> sums.add(0, np.array([[1.0, -1.0], [3.0, 1.0]]), np.zeros((2, 2)))
    >>> totals = sums.finish()
    >>> totals.mean, totals.mean_abs, totals.std
    (array([[2., 0.]]), array([[2., 1.]]), array([[1.41421356, 1.41421356]]))
    """

    def __init__(self, n_questions: int, n_genes: int) -> None:
        self.n_cells = np.zeros(n_questions, dtype=np.int64)
        self.sums = np.zeros((4, n_questions, n_genes))

    def add(self, question: int, values: np.ndarray, expression: np.ndarray) -> None:
        """Add cells to one question; both of shape ``(n_cells, n_genes)``."""
        values = values.astype(np.float64)
        self.n_cells[question] += len(values)
        parts = (values, np.abs(values), values**2, expression.astype(np.float64))
        for total, part in zip(self.sums, parts, strict=True):
            total[question] += part.sum(axis=0)

    def finish(self) -> GeneTotals:
        """Turn sums into means and spread."""
        n = self.n_cells[:, None]
        with np.errstate(invalid="ignore"):
            mean, mean_abs, square, expression = self.sums / n
        variance = (square - mean**2).clip(min=0) * n / np.maximum(n - 1, 1)
        std = np.sqrt(np.where(n == 1, 0.0, variance))
        return GeneTotals(self.n_cells.copy(), mean, mean_abs, std, expression)
