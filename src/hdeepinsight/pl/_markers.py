"""Markers of every label, and whether its cells express them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hdeepinsight._errors import check_integer
from hdeepinsight.pl._style import (
    INK,
    MARK,
    SEQUENTIAL,
    add_sizes,
    axes_or_new,
    plain,
    shortened,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hdeepinsight.tl import MarkerEvidence

#: Area of the dot of a gene in all cells, in square points, and side of its square, in inches.
_WHOLE: Final = 110.0
_SQUARE: Final = 0.235


def marker_evidence(
    evidence: MarkerEvidence,
    *,
    n_genes: int = 4,
    cmap: str = SEQUENTIAL,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the expression of the markers of every label in the cells of all labels.

    Parameters
    ----------
    evidence
        From :func:`hdeepinsight.tl.marker_evidence`.
    n_genes
        Measured markers of each label to draw, at most; the best known come first.
    cmap
        Name of the colour map.
    title
        Heading.
    ax
        Axes to draw on; by default those of a new figure that is large enough to read every name.

    Returns
    -------
    The axes. Rows are labels in the order of the tree with their numbers of cells; one that its
    own markers contradict is marked. Columns are genes under the label that they speak for. The
    size of a dot is the share of cells that express the gene, its colour their mean log expression
    as part of the highest mean of any label (of ten cells or more). The markers of a row itself
    have a dark rim.

    Raises
    ------
    ValueError
        If no marker of any label was measured, or `n_genes` is not positive.

    Examples
    --------
    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
    >>> evidence = hdi.tl.marker_evidence(model.annotate(query), query, model)
    >>> ax = hdi.pl.marker_evidence(evidence, n_genes=2)
    >>> [label.get_text() for label in ax.get_xticklabels()][:2]
    ['CD3D', 'CD3E']
    """
    check_integer("n_genes", n_genes, hint="Omit it to use 4.")
    labels, table = evidence.labels, evidence.table.dropna(subset=["mean"])
    table = table.groupby("path", sort=False).head(n_genes)
    if table.empty:
        raise ValueError(
            "No marker of any label was measured. At least one is needed. Pass evidence of a query "
            "that has them, or name further genes in the model."
        )
    rows = {path: i for i, path in enumerate(labels.index)}
    genes = table["gene"].tolist()
    mean, share = (part[genes].to_numpy().T for part in (evidence.means, evidence.shares))
    enough = (labels["verdict"] != "too few cells").to_numpy()
    highest = mean[:, enough if enough.any() else ~enough].max(axis=1, keepdims=True)
    color = np.minimum(mean / np.maximum(highest, 1e-12), 1.0)
    column, row = np.indices(mean.shape).reshape(2, -1)
    own = row == table["path"].map(rows).to_numpy()[column]
    ax = axes_or_new(ax, (_SQUARE * len(genes) + 3.4, _SQUARE * len(labels) + 2.3))
    look: dict[str, Any] = {"cmap": cmap, "vmin": 0.0, "vmax": 1.0, "zorder": 2}
    look |= {"linewidths": np.where(own, 1.1, 0.3), "edgecolors": np.where(own, INK, "#BBBBBB")}
    drawn = ax.scatter(column, row, _WHOLE * share.ravel(), color.ravel(), **look)
    ax.set_xticks(range(len(genes)), list(map(plain, genes)), rotation=90)
    ax.set_yticks(range(len(labels)), list(map(_row_title, labels.itertuples())))
    for text, path in zip(ax.get_yticklabels(), labels.index, strict=True):
        text.set_color(MARK if path in evidence.contradicted else INK)
    edges = np.flatnonzero(table["path"].to_numpy()[1:] != table["path"].to_numpy()[:-1]) + 0.5
    ax.vlines(edges, -0.7, len(labels) - 0.3, color="#DDDDDD", lw=0.8, zorder=1)
    for start, stop in zip([-0.5, *edges], [*edges, len(genes) - 0.5], strict=True):
        name = shortened(labels.loc[table["path"].iloc[int(start + 1)], "label"], 18)
        at = (start + stop) / 2
        ax.text(at, -0.8, name, rotation=45, ha="left", va="bottom", size=8, rotation_mode="anchor")
    ax.set(xlim=(-0.7, len(genes) - 0.3), ylim=(len(labels) - 0.3, -0.7))
    ax.set_title(title or "", fontsize=10)
    bar = ax.figure.colorbar(drawn, ax=ax, shrink=0.8, aspect=12, pad=0.02)
    bar.set_label("mean expression\n(part of the highest label)", fontsize=8)
    below = (0.0, -0.22 if len(labels) > 6 else -0.4)
    add_sizes(ax, _WHOLE, "cells that express the gene", bbox_to_anchor=below, ncols=3)
    return ax


def _row_title(row: Any) -> str:
    mark = "  contradicted" if row.verdict == "contradicted" else ""
    return f"{shortened(row.label)}  ({row.n_cells:,}){mark}"
