"""Put the explanations of mini-batches together."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from hdeepinsight.explanation._explanation import Explanation, Scope
from hdeepinsight.explanation._totals import RunningTotals

if TYPE_CHECKING:
    import pandas as pd

    from hdeepinsight.explanation._questions import Questions


class Part(NamedTuple):
    """Rows of a mini-batch: one question each, and one of its cells.

    Parameters
    ----------
    question, cell
        Question, and cell within the mini-batch, of every row, shape ``(n_rows,)``.
    own
        Whether the cell is at or under the node, shape ``(n_rows,)``.
    values
        Attributions, shape ``(n_rows, n_genes)``.
    outputs
        Explained output, shape ``(n_rows,)``.
    expression
        Scaled expression of the cells, shape ``(n_cells, n_genes)``.
    """

    question: np.ndarray
    cell: np.ndarray
    own: np.ndarray
    values: np.ndarray
    outputs: np.ndarray
    expression: np.ndarray


class Collector:
    """Totals and, if wanted, attributions of all cells.

    Parameters
    ----------
    questions
        What was asked.
    obs_names, genes
        Names.
    every
        Whether every cell gets every question; one question each otherwise.
    keep_values
        Keep the attributions of single cells.
    """

    def __init__(
        self,
        questions: Questions,
        obs_names: pd.Index,
        genes: pd.Index,
        *,
        every: bool,
        keep_values: bool,
    ) -> None:
        self.questions, self.obs_names, self.genes, self.every = questions, obs_names, genes, every
        n_rows = len(obs_names) * (len(questions) if every else 1)
        self.cell, self.question = np.zeros((2, n_rows), dtype=np.int64)
        self.outputs, self.sums = np.zeros((2, n_rows))
        self.own = np.zeros(n_rows, dtype=bool)
        self.values = np.zeros((n_rows, len(genes)), np.float32) if keep_values else None
        self.expression: list[sparse.csr_matrix] = []
        scopes: tuple[Scope, ...] = ("own", "all")
        self.totals = {scope: RunningTotals(len(questions), len(genes)) for scope in scopes}

    def add(self, start: int, part: Part) -> None:
        """Add a mini-batch whose first cell is cell ``start``."""
        cell = start + part.cell
        rows = cell + part.question * len(self.obs_names) if self.every else cell
        self.cell[rows], self.question[rows], self.own[rows] = cell, part.question, part.own
        self.outputs[rows] = part.outputs
        self.sums[rows] = part.values.sum(axis=1, dtype=np.float64)
        if self.values is not None:
            self.values[rows] = part.values
            self.expression.append(sparse.csr_matrix(part.expression))
        for question in np.unique(part.question):
            for scope, totals in self.totals.items():
                chosen = (part.question == question) & (part.own | (scope == "all"))
                cells = part.cell[chosen]
                totals.add(int(question), part.values[chosen], part.expression[cells])

    def finish(
        self,
        *,
        base_values: np.ndarray,
        background_expression: np.ndarray,
        background: str,
        method: str,
    ) -> Explanation:
        """Make the result."""
        empty = sparse.csr_matrix((0, len(self.genes)), dtype=np.float32)
        kept = self.values is not None
        return Explanation(
            questions=self.questions,
            obs_names=self.obs_names,
            genes=self.genes,
            cell=self.cell,
            question=self.question,
            own=self.own,
            outputs=self.outputs,
            sums=self.sums,
            base_values=base_values,
            totals={scope: totals.finish() for scope, totals in self.totals.items()},
            background_expression=background_expression,
            values=self.values,
            expression=sparse.vstack([empty, *self.expression], "csr") if kept else None,
            background=background,
            method=method,
        )
