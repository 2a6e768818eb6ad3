"""The result of an explanation: attributions of genes, and what follows from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd

from hdeepinsight.explanation._export import ExportMixin
from hdeepinsight.explanation._questions import Questions
from hdeepinsight.explanation._totals import GeneTotals, RunningTotals

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from scipy.sparse import csr_matrix

Scope = Literal["own", "all"]
Statistic = Literal["mean", "mean_abs"]
CellChoice: TypeAlias = "Scope | ArrayLike"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Explanation(ExportMixin):
    """How much every gene speaks for a node of the taxonomy, cell by cell.

    A *row* is one cell and one question. ``values[row].sum()`` is the difference between the
    model's output for the cell and its mean output for the background, up to
    :attr:`additivity_error`.

    Parameters
    ----------
    questions
        What was asked: nodes, what they are contrasted with, and the target.
    obs_names
        Names of the cells, shape ``(n_cells,)``.
    genes
        Names of the genes, shape ``(n_genes,)``.
    cell, question
        Cell and question of every row, int64, shape ``(n_rows,)``.
    own
        Whether the model puts the cell at or under the node of the question, shape ``(n_rows,)``.
    outputs
        The explained output (log-probability, log-odds or logit) of every row.
    sums
        Sum of the attributions of every row.
    base_values
        Mean output for the background, shape ``(n_questions,)``.
    totals
        Mean and spread over all cells (``"all"``), and over those of the node (``"own"``).
    background_expression
        Mean scaled expression of the background, shape ``(n_genes,)``.
    values
        Attributions, float32, shape ``(n_rows, n_genes)``; ``None`` where they were not kept.
    expression
        Scaled expression in [0, 1], CSR, shape ``(n_cells, n_genes)``; ``None`` with ``values``.
    background
        What the cells were compared with, in words.
    method
        How attributions were computed.

    Examples
    --------
    The demo cells were measured at few of the model's genes, which is warned of:

    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> query = hdi.datasets.demo().query[:10]
    >>> found = hdi.hub.pull("pbmc").explain(query, ["T", "B"])
    >>> found.values.shape, found.nodes
    ((20, 2048), ('T', 'B'))

    Notes
    -----
    Attributions describe the model, not biology: of genes that go together it may use one and
    leave the others, and they refer to the background. A gene may speak for a type because it is
    there or because it is *not*; ``expression`` and ``background`` in :meth:`ranking` tell which.
    """

    questions: Questions
    obs_names: pd.Index
    genes: pd.Index
    cell: np.ndarray
    question: np.ndarray
    own: np.ndarray
    outputs: np.ndarray
    sums: np.ndarray
    base_values: np.ndarray
    totals: dict[Scope, GeneTotals] = field(repr=False)
    background_expression: np.ndarray
    values: np.ndarray | None = None
    expression: csr_matrix | None = None
    background: str = ""
    method: str = "expected_gradients"

    @property
    def nodes(self) -> tuple[str, ...]:
        """Path of the node of every question."""
        return self.questions.names

    @property
    def against(self) -> str | None:
        """Path of the node that all questions are contrasted with."""
        rival = self.questions.against
        return None if rival is None else self.questions.taxonomy.path_name(rival)

    @property
    def additivity_error(self) -> np.ndarray:
        """Sum of attributions minus the difference that they explain, shape ``(n_rows,)``."""
        return self.sums - (self.outputs - self.base_values[self.question])

    @property
    def rows(self) -> pd.DataFrame:
        """Cell, node, output, base value, sum of attributions and its error; one row a row."""
        return pd.DataFrame(
            {
                "cell": self.obs_names.to_numpy()[self.cell],
                "node": np.array(self.nodes, dtype=object)[self.question],
                "own": self.own,
                "output": self.outputs,
                "base_value": self.base_values[self.question],
                "sum": self.sums,
                "additivity_error": self.additivity_error,
            }
        )

    def ranking(
        self, node: str | None = None, *, cells: CellChoice = "own", by: Statistic = "mean"
    ) -> pd.DataFrame:
        """Rank the genes of a node.

        Parameters
        ----------
        node
            Name of an explained node; not needed where there is one.
        cells
            ``"own"``: the cells that the model puts at or under the node. ``"all"``: all that it
            was explained for. Or a mask ``(n_cells,)``, where values were kept.
        by
            ``"mean"``: what speaks for the node comes first, what speaks against it last.
            ``"mean_abs"``: what matters most in either direction.

        Returns
        -------
        Table of all genes, best first: ``mean`` attribution, ``mean_abs``, the mean absolute one,
        ``std`` over cells, ``sem``, its standard error, mean scaled ``expression`` in these cells
        and in the ``background``, and ``rank`` from 1.

        Raises
        ------
        ValueError
            If the node was not explained, there are no such cells, or a choice is none of these.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query[:10]
        >>> found = hdi.hub.pull("pbmc").explain(query, ["T", "B"])
        >>> found.ranking("B").columns.tolist()
        ['mean', 'mean_abs', 'std', 'sem', 'expression', 'background', 'rank']
        """
        _check_choice("by", by, Statistic)
        at, totals = self._totals(node, cells)
        table = pd.DataFrame(
            {
                "mean": totals.mean[at],
                "mean_abs": totals.mean_abs[at],
                "std": totals.std[at],
                "sem": totals.std[at] / np.sqrt(totals.n_cells[at]),
                "expression": totals.expression[at],
                "background": self.background_expression,
            },
            index=self.genes,
        )
        table = table.sort_values(by, ascending=False, kind="stable")
        return table.assign(rank=np.arange(1, len(table) + 1))

    def signatures(self, *, by: Statistic = "mean", cells: Scope = "own") -> pd.DataFrame:
        """Mean attribution of every gene for every node, over the cells of that node.

        Parameters
        ----------
        by
            ``"mean"`` or ``"mean_abs"``.
        cells
            ``"own"`` or ``"all"``, as in :meth:`ranking`.

        Returns
        -------
        Table of nodes × genes, without nodes that have no cells: what tools that score gene sets
        in samples (such as decoupler) take.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query[:10]
        >>> table = hdi.hub.pull("pbmc").explain(query, ["T", "B"]).signatures()
        >>> table.index.tolist(), table.shape
        (['T', 'B'], (2, 2048))
        """
        _check_choice("by", by, Statistic)
        _check_choice("cells", cells, Scope)
        totals = self.totals[cells]
        there = totals.n_cells > 0
        names = [name for name, some in zip(self.nodes, there, strict=True) if some]
        return pd.DataFrame(getattr(totals, by)[there], index=names, columns=self.genes)

    def __len__(self) -> int:
        return len(self.cell)

    def __repr__(self) -> str:
        many = len(self.nodes) > 3
        asked = f"{len(self.nodes)} nodes" if many else ", ".join(self.nodes)
        rival = "" if self.against is None else f" against {self.against}"
        target = "log-odds" if rival else f"{self.questions.target} target"
        text = (
            f"Explanation of {asked}{rival} ({target}): {len(self.obs_names):,} cells × "
            f"{len(self.genes):,} genes by {self.method}, background {self.background}"
        )
        if not len(self):
            return text
        explained = np.median(np.abs(self.outputs - self.base_values[self.question]))
        error = np.median(np.abs(self.additivity_error))
        return f"{text}; median additivity error {error:.3g} of {explained:.3g}"

    def position_of(self, node: str | None = None) -> int:
        """Which question is about a node; raises ``ValueError`` where none is."""
        if node is None and len(self.questions) == 1:
            return 0
        wanted = None if node is None else self.questions.taxonomy.resolve(node)
        found = np.flatnonzero(self.questions.nodes == wanted)
        if not len(found):
            asked = "No node was named" if node is None else f"{node!r} was not explained"
            shown = ", ".join(map(repr, self.nodes[:10]))
            msg = f"{asked}. Valid are {shown}. Name one, or explain it."
            raise ValueError(msg)
        return int(found[0])

    def rows_of(self, node: str | None = None, cells: CellChoice = "all") -> np.ndarray:
        """Rows about a node and some cells, chosen as in :meth:`ranking`."""
        chosen = self.question == self.position_of(node)
        if not isinstance(cells, str):
            chosen &= self._mask(cells)[self.cell]
        else:
            _check_choice("cells", cells, Scope)
            chosen &= self.own | (cells == "all")
        return np.flatnonzero(chosen)

    def _totals(self, node: str | None, cells: CellChoice) -> tuple[int, GeneTotals]:
        """Totals, and where the node stands in them."""
        at = question = self.position_of(node)
        if isinstance(cells, str):
            _check_choice("cells", cells, Scope)
            totals = self.totals[cells]  # type: ignore[index]
        else:
            at, totals = 0, self._totals_of(self.rows_of(node, cells))
        if not totals.n_cells[at]:
            asked = repr(cells) if isinstance(cells, str) else "a mask"
            msg = (
                f"None of these {len(self.obs_names):,} cells is {self.nodes[question]!r} to the "
                f"model (cells={asked}). Valid are cells that were explained for it. Pass "
                "cells='all', or explain cells of this type."
            )
            raise ValueError(msg)
        return at, totals

    def _mask(self, cells: ArrayLike) -> np.ndarray:
        """Cells as a mask; positions and names would be taken for one that holds everywhere."""
        given: Any = cells if hasattr(cells, "dtype") else np.asarray(cells)
        if not pd.api.types.is_bool_dtype(given) or given.shape != self.obs_names.shape:
            msg = (
                f"cells has the type {given.dtype} and the shape {given.shape}. Valid are 'own', "
                f"'all' and a mask of booleans, ({len(self.obs_names)},). Turn names or positions "
                "into one, such as result.obs_names.isin(names)."
            )
            raise ValueError(msg)
        return np.asarray(given, dtype=bool)

    def _totals_of(self, rows: np.ndarray) -> GeneTotals:
        sums = RunningTotals(1, len(self.genes))
        sums.add(0, self._values()[rows], self._expression()[self.cell[rows]].toarray())
        return sums.finish()

    def _values(self) -> np.ndarray:
        return self._kept(self.values)

    def _expression(self) -> csr_matrix:
        return self._kept(self.expression)

    def _kept(self, what: Any) -> Any:
        if what is None:
            msg = (
                "Attributions of single cells were not kept. Valid are ranking, signatures, "
                "ranked_list and to_gene_sets. Explain with keep_values=True for the others."
            )
            raise ValueError(msg)
        return what


def _check_choice(name: str, value: object, choice: Any) -> None:
    """Raise ``ValueError`` unless a value is one of those of a `Literal`."""
    if value not in get_args(choice):
        valid = " and ".join(map(repr, get_args(choice)))
        msg = f"{name}={value!r}; valid are {valid}. Choose one."
        raise ValueError(msg)
