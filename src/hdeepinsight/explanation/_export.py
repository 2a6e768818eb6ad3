"""How an explanation leaves: for enrichment, as tables, as an AnnData, or for shap."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    import shap
    from anndata import AnnData

    from hdeepinsight.explanation._explanation import CellChoice, Explanation


class ExportMixin:
    """Methods of an explanation that hand it to other tools."""

    def ranked_list(self, node: str | None = None, *, cells: CellChoice = "own") -> pd.Series:
        """Mean attribution of every gene, highest first, as pre-ranked enrichment takes it.

        Parameters
        ----------
        node, cells
            As in :meth:`ranking`.

        Returns
        -------
        Series over genes; those without any attribution are left out, since ties at 0 have no
        order.

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
        own = cast("Explanation", self)
        means = own.ranking(node, cells=cells)["mean"]
        return means[means != 0]

    def to_gene_sets(self, n_genes: int = 50, *, present: bool = True) -> dict[str, list[str]]:
        """Genes that speak most for each node, for over-representation tests.

        Parameters
        ----------
        n_genes
            Most genes a node.
        present
            Only genes that the node's cells express more than the background does. Without, genes
            whose absence speaks for the node are among them.

        Returns
        -------
        Genes by node, best first; only those with a positive mean, and nodes that have cells.

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
        if n_genes < 1:
            msg = f"n_genes={n_genes}; valid is one gene a node or more. Use 50."
            raise ValueError(msg)
        own = cast("Explanation", self)
        sets = {}
        for node, n_cells in zip(own.nodes, own.totals["own"].n_cells, strict=True):
            if n_cells:
                table = own.ranking(node)
                keep = table["mean"] > 0
                if present:
                    keep &= table["expression"] > table["background"]
                sets[node] = table.index[keep][:n_genes].tolist()
        return sets

    def to_frame(self, node: str | None = None) -> pd.DataFrame:
        """Attributions of one node, cells × genes.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query[:10]
        >>> hdi.hub.pull("pbmc").explain(query, "B").to_frame().shape
        (10, 2048)
        """
        own = cast("Explanation", self)
        rows = own.rows_of(node)
        names = own.obs_names[own.cell[rows]]
        return pd.DataFrame(own._values()[rows], index=names, columns=own.genes)

    def to_anndata(self, node: str | None = None) -> AnnData:
        """Return a new AnnData of one node's cells and of the model's genes.

        Parameters
        ----------
        node
            As in :meth:`ranking`.

        Returns
        -------
        Attributions in ``X``, scaled expression in ``layers["expression"]``, the columns of
        :attr:`rows` in ``obs``, the ranking of the same cells in ``var``.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query[:10]
        >>> cells = hdi.hub.pull("pbmc").explain(query, "B").to_anndata()
        >>> cells.shape, cells.layers["expression"].shape
        ((10, 2048), (10, 2048))
        """
        import anndata

        own = cast("Explanation", self)
        rows = own.rows_of(node)
        frame = own.to_frame(node)
        obs = own.rows.iloc[rows].set_index(frame.index).drop(columns="cell")
        cells = np.isin(np.arange(len(own.obs_names)), own.cell[rows])
        var = own.ranking(node, cells=cells).loc[own.genes]
        layers = {"expression": own._expression()[own.cell[rows]]}
        return anndata.AnnData(frame.to_numpy(), obs=obs, var=var, layers=layers)

    def to_shap(self, node: str | None = None) -> shap.Explanation:
        """Give one node to the plots of shap.

        Parameters
        ----------
        node
            As in :meth:`ranking`.

        Returns
        -------
        Values, base values, scaled expression and gene names.

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

        own = cast("Explanation", self)
        rows = own.rows_of(node)
        return shap.Explanation(
            values=own._values()[rows],
            base_values=own.base_values[own.question[rows]],
            data=own._expression()[own.cell[rows]].toarray(),
            feature_names=list(own.genes),
        )
