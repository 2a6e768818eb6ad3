"""Results of gene attribution: rankings, signatures, gene sets and conversions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix

from hdeepinsight._errors import check_choice, check_integer, invalid
from hdeepinsight.explanation._targets import Targets

if TYPE_CHECKING:
    import shap

Scope = Literal["own", "all"]
Statistic = Literal["mean", "mean_abs"]
CellChoice: TypeAlias = Scope | ArrayLike


class GeneTotals:
    """Running statistics of attributions over the cells of each target.

    Parameters
    ----------
    n_targets, n_genes
        Number of targets and of genes.

    Attributes
    ----------
    n_cells
        Number of added cells, shape ``(n_targets,)``.

    Examples
    --------
    >>> import numpy as np
    >>> totals = GeneTotals(1, 2)
    >>> totals.add(0, np.array([[1.0, -1.0], [3.0, 1.0]]), np.zeros((2, 2)))
    >>> found = totals.statistics(0)
    >>> found["mean"], found["mean_abs"], found["std"]
    (array([2., 0.]), array([2., 1.]), array([1.41421356, 1.41421356]))
    """

    def __init__(self, n_targets: int, n_genes: int) -> None:
        self.n_cells = np.zeros(n_targets, dtype=np.int64)
        self._sums = np.zeros((4, n_targets, n_genes))

    def add(self, target: int, values: np.ndarray, expression: np.ndarray) -> None:
        """Add cells to a target; both arrays have the shape ``(n_cells, n_genes)``."""
        self.n_cells[target] += len(values)
        values = values.astype(np.float64)
        parts = values, np.abs(values), values**2, expression
        self._sums[:, target] += [part.sum(axis=0, dtype=np.float64) for part in parts]

    def statistics(self, target: int) -> dict[str, np.ndarray]:
        """Compute statistics over the cells of a target, shape ``(n_genes,)`` each.

        These are the mean, mean absolute value, standard deviation (0 for a single cell) and
        standard error of the attributions, and the mean scaled expression. NaN without cells.
        """
        n = self.n_cells[target]
        with np.errstate(invalid="ignore"):
            mean, mean_abs, mean_square, expression = self._sums[:, target] / n
        variance = (mean_square - mean**2).clip(min=0) * n / max(n - 1, 1) * (n != 1)
        std, sem = np.sqrt(variance), np.sqrt(variance / (n or np.nan))
        names = "mean", "mean_abs", "std", "sem", "expression"
        return dict(zip(names, (mean, mean_abs, std, sem, expression), strict=True))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Explanation:
    """Attributions of genes to nodes of the taxonomy, per cell.

    A *row* is a pair of a cell and a target. ``values[row].sum()`` is the difference between the
    model's output for the cell and its mean output for the background, up to
    :attr:`additivity_error`.

    Parameters
    ----------
    targets
        Explained nodes, their alternative, and the kind of output.
    obs_names
        Names of the cells, shape ``(n_cells,)``.
    genes
        Names of the genes, shape ``(n_genes,)``.
    cell, target
        Cell and target of each row, int64, shape ``(n_rows,)``. Cells without counts have no rows.
    own
        Whether the predicted leaf of the cell is at or below the node of the target, shape
        ``(n_rows,)``.
    outputs
        Explained output (log-probability, log-odds or logit) of each row.
    sums
        Sum of the attributions of each row.
    base_values
        Mean output for the background, by the same network as the output of the row, shape
        ``(n_rows,)``.
    totals
        Statistics over all cells (``"all"``), and over the cells of the node (``"own"``).
    background_expression
        Mean scaled expression of the background, shape ``(n_genes,)``.
    values
        Attributions, float32, shape ``(n_rows, n_genes)``; ``None`` if they were not stored.
    expression
        Scaled expression in [0, 1], CSR, shape ``(n_cells, n_genes)``; ``None`` if ``values`` is.
    background
        Description of the background.
    note
        Further remarks: the explained network, and omitted cells.

    Examples
    --------
    The demo cells have few of the model's genes, which raises a warning:

    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> query = hdi.datasets.demo().query[:10]
    >>> found = hdi.hub.pull("pbmc").explain(query, ["T", "B"])
    >>> found.values.shape, found.nodes
    ((20, 2048), ('T', 'B'))

    Notes
    -----
    Attributions describe the model, not biology, and depend on the background. Of correlated genes,
    the model may use only one. A gene may support a type by its presence or by its *absence*, which
    ``expression`` and ``background`` in :meth:`ranking` distinguish.
    """

    targets: Targets
    obs_names: pd.Index
    genes: pd.Index
    cell: np.ndarray
    target: np.ndarray
    own: np.ndarray
    outputs: np.ndarray
    sums: np.ndarray
    base_values: np.ndarray
    totals: dict[Scope, GeneTotals] = field(repr=False)
    background_expression: np.ndarray
    values: np.ndarray | None = None
    expression: csr_matrix | None = None
    background: str = ""
    note: str = ""

    @property
    def nodes(self) -> tuple[str, ...]:
        """Path of the node of each target."""
        return self.targets.names

    @property
    def against(self) -> str | None:
        """Path of the alternative node of all targets, if any."""
        rival = self.targets.against
        return None if rival is None else self.targets.taxonomy.path_name(rival)

    @property
    def additivity_error(self) -> np.ndarray:
        """Sum of attributions minus the explained difference of outputs, shape ``(n_rows,)``."""
        return np.asarray(self.sums - (self.outputs - self.base_values))

    @property
    def rows(self) -> pd.DataFrame:
        """Table of rows with cell, node, output, base value, sum of attributions and its error."""
        return pd.DataFrame(
            {
                "cell": self.obs_names.to_numpy()[self.cell],
                "node": np.array(self.nodes, dtype=object)[self.target],
                "own": self.own,
                "output": self.outputs,
                "base_value": self.base_values,
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
            Name of an explained node; not required if there is only one.
        cells
            ``"own"``: cells predicted at or below the node. ``"all"``: all cells explained for the
            node. Or a mask of cells, ``(n_cells,)``, if values were stored.
        by
            ``"mean"``: genes that support the node come first, genes against it last.
            ``"mean_abs"``: genes with the largest effect in either direction come first.

        Returns
        -------
        pandas.DataFrame
            All genes, sorted: ``mean`` attribution, ``mean_abs`` (mean absolute attribution),
            ``std`` (over cells), ``sem`` (standard error), mean scaled ``expression`` in these
            cells and in the ``background``, and ``rank`` from 1.

        Raises
        ------
        ValueError
            If the node was not explained, there are no such cells, or a choice is invalid.

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
        check_choice("by", by, get_args(Statistic))
        at = position = self.position_of(node)
        rows = self.rows_of(node, cells)
        if isinstance(cells, str):
            totals = self.totals[cast("Scope", cells)]
        else:
            totals, at = GeneTotals(1, len(self.genes)), 0
            expression = self._kept(self.expression)[self.cell[rows]].toarray()
            totals.add(0, self._kept(self.values)[rows], expression)
        if not totals.n_cells[at]:
            asked = repr(cells) if isinstance(cells, str) else "a mask"
            found = f"none of {len(self.obs_names):,} cells (cells={asked})"
            hint = "Pass cells='all', or explain cells of this type."
            name = self.nodes[position]
            raise ValueError(f"There must be cells predicted as {name!r}, got {found}. {hint}")
        columns = totals.statistics(at) | {"background": self.background_expression}
        table = pd.DataFrame(columns, index=self.genes)
        table = table.sort_values(by, ascending=False, kind="stable")
        return table.assign(rank=np.arange(1, len(table) + 1))

    def signatures(self, *, by: Statistic = "mean", cells: Scope = "own") -> pd.DataFrame:
        """Compute the mean attribution of each gene per node.

        Parameters
        ----------
        by
            ``"mean"`` or ``"mean_abs"``.
        cells
            ``"own"`` or ``"all"``, as in :meth:`ranking`.

        Returns
        -------
        pandas.DataFrame
            Nodes × genes, without nodes that have no cells; an input of tools that score gene sets
            in samples, such as decoupler.

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
        check_choice("by", by, get_args(Statistic))
        check_choice("cells", cells, get_args(Scope))
        totals = self.totals[cells]
        targets = np.flatnonzero(totals.n_cells).tolist()
        values = [totals.statistics(target)[by] for target in targets]
        names = [self.nodes[target] for target in targets]
        return pd.DataFrame(values, index=names, columns=self.genes)

    def ranked_list(self, node: str | None = None, *, cells: CellChoice = "own") -> pd.Series:
        """Return the mean attribution of each gene, highest first, for pre-ranked enrichment.

        Parameters
        ----------
        node, cells
            As in :meth:`ranking`.

        Returns
        -------
        pandas.Series
            Mean attributions of genes. Genes with a mean of 0 are excluded, because the order of
            ties is arbitrary.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query[:10]
        >>> genes = hdi.hub.pull("pbmc").explain(query, "B").ranked_list()
        >>> genes.is_monotonic_decreasing
        True
        """
        means = self.ranking(node, cells=cells)["mean"]
        return means[means != 0]

    def to_gene_sets(self, n_genes: int = 50, *, present: bool = True) -> dict[str, list[str]]:
        """Return the top genes of each node, for over-representation tests.

        Parameters
        ----------
        n_genes
            Maximum number of genes per node.
        present
            Only include genes with a higher expression in the cells of the node than in the
            background. Otherwise, genes that support the node by their absence are included.

        Returns
        -------
        dict of str to list of str
            Genes with a positive mean attribution by node, best first, for nodes with cells.

        Raises
        ------
        ValueError
            If ``n_genes`` is below 1.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query[:10]
        >>> sets = hdi.hub.pull("pbmc").explain(query, "B").to_gene_sets(20)
        >>> sorted({"CD79A", "CD79B", "MS4A1"} & set(sets["B"]))
        ['CD79A', 'CD79B']
        """
        check_integer("n_genes", n_genes, hint="Use 50.")
        sets = {}
        for node, n_cells in zip(self.nodes, self.totals["own"].n_cells, strict=True):
            if n_cells:
                table = self.ranking(node)
                keep = table["mean"] > 0
                if present:
                    keep &= table["expression"] > table["background"]
                sets[node] = table.index[keep][:n_genes].tolist()
        return sets

    def to_frame(self, node: str | None = None) -> pd.DataFrame:
        """Return the attributions of a node as a table of cells × genes.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query[:10]
        >>> hdi.hub.pull("pbmc").explain(query, "B").to_frame().shape
        (10, 2048)
        """
        rows = self.rows_of(node)
        names = self.obs_names[self.cell[rows]]
        return pd.DataFrame(self._kept(self.values)[rows], index=names, columns=self.genes)

    def to_shap(self, node: str | None = None) -> shap.Explanation:
        """Return the attributions of a node for the plots of shap.

        Parameters
        ----------
        node
            As in :meth:`ranking`.

        Returns
        -------
        shap.Explanation
            Attributions, base values, scaled expression and gene names.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query[:10]
        >>> hdi.hub.pull("pbmc").explain(query, "B").to_shap().shape
        (10, 2048)
        """
        import shap

        rows = self.rows_of(node)
        return shap.Explanation(
            values=self._kept(self.values)[rows],
            base_values=self.base_values[rows],
            data=self._kept(self.expression)[self.cell[rows]].toarray(),
            feature_names=list(self.genes),
        )

    def __len__(self) -> int:
        return len(self.cell)

    def __repr__(self) -> str:
        asked = f"{len(self.nodes)} nodes" if len(self.nodes) > 3 else ", ".join(self.nodes)
        rival = "" if self.against is None else f" against {self.against}"
        kind = "log-odds" if rival else f"{self.targets.kind} target"
        text = (
            f"Explanation of {asked}{rival} ({kind}): {len(np.unique(self.cell)):,} cells × "
            f"{len(self.genes):,} genes by expected gradients, background {self.background}"
        )
        if len(self):
            explained = np.median(np.abs(self.outputs - self.base_values))
            error = np.median(np.abs(self.additivity_error))
            text += f"; median additivity error {error:.3g} of {explained:.3g}"
        return f"{text}. {self.note}" if self.note else text

    def position_of(self, node: str | None = None) -> int:
        """Return the position of a node among the targets; ``ValueError`` if there is none."""
        if node is None and len(self.targets) == 1:
            return 0
        wanted = None if node is None else self.targets.taxonomy.resolve(node)
        found = np.flatnonzero(self.targets.nodes == wanted)
        if not len(found):
            shown = ", ".join(map(repr, self.nodes[:10]))
            raise invalid("node", node, f"an explained node, one of {shown}", "Pass one of them.")
        return int(found[0])

    def rows_of(self, node: str | None = None, cells: CellChoice = "all") -> np.ndarray:
        """Return the rows of a node and of cells, selected as in :meth:`ranking`."""
        chosen = self.target == self.position_of(node)
        if isinstance(cells, str):
            check_choice("cells", cells, get_args(Scope))
            return np.flatnonzero(chosen & (self.own | (cells == "all")))
        # Positions and names are refused, since they would be read as a mask of True values.
        given: Any = cells if hasattr(cells, "dtype") else np.asarray(cells)
        if not pd.api.types.is_bool_dtype(given) or given.shape != self.obs_names.shape:
            expected = f"'own', 'all' or a mask of booleans, ({len(self.obs_names)},)"
            found = f"{given.dtype} of shape {given.shape}"
            hint = "Convert names by result.obs_names.isin(names)."
            raise ValueError(f"cells must be {expected}, got {found}. {hint}")
        return np.flatnonzero(chosen & np.asarray(given, dtype=bool)[self.cell])

    def _kept(self, what: Any) -> Any:
        """Return values or expression; ``ValueError`` if they were not stored."""
        if what is None:
            hint = "Explain with keep_values=True."
            raise ValueError(f"Attributions of individual cells are required, got none. {hint}")
        return what
