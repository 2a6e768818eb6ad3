"""What the correction did to every cell and every dataset."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

__all__ = ["StacasReport"]


@dataclass(frozen=True, eq=False)
class StacasReport:
    """Tables that say where the correction rests on much, and where on little.

    Parameters
    ----------
    cells
        One row a cell that could move, indexed by cell: ``dataset``; ``n_anchors`` that it is part
        of; ``nearest_anchor``, the distance to the nearest anchor cell; ``effective_anchors``, the
        inverse of the sum of squared weights; ``shift``, the Euclidean length of the correction
        over all corrected genes; ``flag``, why it was left as it is: ``"too few cells"``,
        ``"no anchors"`` (of its dataset), ``"no weight"`` (near it), ``"empty"`` (no value in any
        anchor feature), or empty text.
    datasets
        One row a dataset: ``n_cells``, ``n_genes``, ``genes_lost`` (not in all datasets),
        ``n_anchors`` (used), ``share_anchored`` (cells in one), ``share_inconsistent`` (anchors
        found whose labels disagree), ``flag``.

    Examples
    --------
    >>> import anndata as ad
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> import pandas as pd
    >>> rng = np.random.default_rng(0)
    >>> var = pd.DataFrame(index=[f"GENE{i}" for i in range(40)])
    >>> ref, query = (ad.AnnData(rng.poisson(2.0, (150, 40)) * 1.0, var=var) for _ in range(2))
    >>> report = hdi.pp.stacas(ref, query).report
    >>> report.datasets["n_cells"].tolist(), report.cells.shape
    ([150, 150], (150, 6))
    """

    cells: pd.DataFrame
    datasets: pd.DataFrame

    def __str__(self) -> str:
        lines = [
            f"{name}: {row.n_cells:,} cells, {row.n_anchors:,} anchors in "
            f"{row.share_anchored:.0%} of them, {row.share_inconsistent:.1%} of those found with "
            f"labels that disagree, {row.genes_lost:,} of {row.n_genes:,} genes not shared"
            + (f"; left as it is: {row.flag}" if row.flag else "")
            for name, row in self.datasets.iterrows()
        ]
        return "\n".join(lines)
