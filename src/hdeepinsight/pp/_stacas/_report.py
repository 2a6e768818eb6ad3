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
