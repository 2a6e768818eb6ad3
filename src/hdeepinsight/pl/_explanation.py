"""Which genes speak for a type, and which for another one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hdeepinsight.pl._style import FAINT, INK, PALETTE, SEQUENTIAL, axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hdeepinsight.explanation import CellChoice, Explanation, Statistic

_BINS = 80
_MOST_DOTS = 400


def explanation(
    result: Explanation,
    node: str | None = None,
    *,
    n_genes: int = 15,
    by: Statistic = "mean",
    cells: CellChoice = "own",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the leading genes of a node with their spread over cells.

    Parameters
    ----------
    result
        From :meth:`~hdeepinsight.models.SCHDeepInsight.explain`.
    node
        An explained node; not needed where there is one.
    n_genes
        Genes to draw.
    by, cells
        As in :meth:`~hdeepinsight.explanation.Explanation.ranking`.
    title
        Heading; by default the node and the number of cells.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The axes: one row a gene, best on top, with a dot a cell (at most 400, evenly chosen) coloured
    by its scaled expression, and mean ± standard deviation as a tick and a line. Without the values
    of single cells, the ticks and lines alone.

    Examples
    --------
    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> query = hdi.datasets.demo().query[:10]
    >>> found = hdi.hub.pull("pbmc").explain(query, "B")
    >>> ax = hdi.pl.explanation(found, n_genes=10)
    >>> len(ax.get_yticks())
    10
    """
    table = result.ranking(node, cells=cells, by=by).iloc[:n_genes]
    ax = axes_or_new(ax, (6.0, 0.26 * len(table) + 1.4))
    places = np.arange(len(table))[::-1]
    n_cells = _draw_cells(ax, result, node, cells, table.index, places)
    mean, std = table["mean"], table["std"]
    ax.hlines(places, mean - std, mean + std, color=INK, lw=1.0, zorder=3)
    ax.plot(mean, places, "|", color=INK, ms=10, mew=2.0, zorder=4)
    ax.axvline(0.0, color=FAINT, lw=0.8, zorder=1)
    ax.set_yticks(places, list(table.index))
    ax.set(xlabel=_unit(result), ylim=(-0.7, len(table) - 0.3))
    shown = "" if n_cells is None else f" ({n_cells:,} cells)"
    heading = f"{_heading(result, node)}{shown}"
    _finish(ax, heading if title is None else title)
    return ax


def contrast(
    result: Explanation,
    node: str | None = None,
    *,
    n_genes: int = 12,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw what speaks for a node and what speaks for the node that it stands against.

    Parameters
    ----------
    result
        From :meth:`~hdeepinsight.models.SCHDeepInsight.explain` with ``against=``; without, the
        other side is the siblings of the node, or everything else.
    node
        An explained node; not needed where there is one.
    n_genes
        Genes on each side, at most.
    title
        Heading; by default both nodes.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The axes: bars of the mean attribution with its standard error. To the right stands what speaks
    for the node in its own cells; to the left what speaks against it in all other cells that were
    explained, or in its own where there are none. Explain cells of both nodes to see both sides.
    Bars are filled where those cells express the gene more than the background does, and hollow
    where they express it less: there its absence speaks.

    Examples
    --------
    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> query = hdi.datasets.demo().query[:10]
    >>> found = hdi.hub.pull("pbmc").explain(query, "B", against="Myeloid")
    >>> ax = hdi.pl.contrast(found, n_genes=8)
    >>> len(ax.get_yticks())
    16
    """
    ahead = result.ranking(node)
    behind = _of_others(result, node, ahead)
    table = pd.concat([ahead[ahead["mean"] > 0][:n_genes], behind[behind["mean"] < 0][-n_genes:]])
    ax = axes_or_new(ax, (6.0, 0.25 * len(table) + 1.6))
    places = np.arange(len(table))[::-1]
    sides = np.where(table["mean"] > 0, PALETTE[0], PALETTE[3])
    present = (table["expression"] > table["background"]).to_numpy()
    faces = [side if there else "white" for side, there in zip(sides, present, strict=True)]
    ax.barh(places, table["mean"], color=faces, edgecolor=list(sides), height=0.72, lw=1.0)
    ax.errorbar(table["mean"], places, xerr=table["sem"], fmt="none", ecolor=INK, elinewidth=1.0)
    ax.axvline(0.0, color=FAINT, lw=0.8)
    ax.set_yticks(places, list(table.index))
    ax.set(xlabel=_unit(result), ylim=(-0.7, len(table) - 0.3))
    _legend(ax, _last(result.nodes[result.position_of(node)]), result)
    _finish(ax, _heading(result, node) if title is None else title)
    return ax


def _of_others(result: Explanation, node: str | None, own: pd.DataFrame) -> pd.DataFrame:
    """Ranking over the cells that are not the node's, or over its own where there are no others."""
    rows = np.setdiff1d(result.rows_of(node), result.rows_of(node, "own"))
    if result.values is None or not len(rows):
        return own
    return result.ranking(node, cells=np.isin(np.arange(len(result.obs_names)), result.cell[rows]))


def _draw_cells(
    ax: Axes,
    result: Explanation,
    node: str | None,
    cells: CellChoice,
    genes: pd.Index,
    places: np.ndarray,
) -> int | None:
    """Draw a dot a cell and gene; return how many cells there are, where they were kept."""
    if result.values is None or result.expression is None:
        return None
    rows = result.rows_of(node, cells)
    columns = result.genes.get_indexer(genes)
    shown = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST_DOTS)).astype(int)]
    values = result.values[np.ix_(shown, columns)]
    expression = result.expression[result.cell[shown]][:, columns].toarray()
    width = max(float(np.ptp(values)), 1e-12) / _BINS
    dots: dict[str, Any] = {"s": 7, "cmap": SEQUENTIAL, "vmin": 0.0, "vmax": 1.0, "lw": 0}
    for value, level, place in zip(values.T, expression.T, places, strict=True):
        order = np.argsort(level, kind="stable")
        height = place + _offsets(value[order], width)
        drawn = ax.scatter(value[order], height, c=level[order], zorder=2, **dots)
    ax.figure.colorbar(drawn, ax=ax, label="scaled expression", shrink=0.7, aspect=25)
    return len(rows)


def _offsets(values: np.ndarray, width: float) -> np.ndarray:
    """Offsets within ±0.36 that spread dots of one bin, wider where there are more of them."""
    bins = np.floor(values / width).astype(np.int64)
    rank = pd.Series(bins).groupby(bins).cumcount().to_numpy()
    side = np.where(rank % 2, 1.0, -1.0) * ((rank + 1) // 2)
    return np.asarray(side * 0.36 / max(6.0, float(np.abs(side).max(initial=0.0))))


def _legend(ax: Axes, name: str, result: Explanation) -> None:
    from matplotlib.patches import Patch

    rival = "against it" if result.against is None else f"for {_last(result.against)}"
    handles = [
        Patch(color=PALETTE[0], label=f"for {name}"),
        Patch(color=PALETTE[3], label=rival),
        Patch(facecolor=FAINT, edgecolor=FAINT, label="more than the background"),
        Patch(facecolor="white", edgecolor=FAINT, label="less than the background"),
    ]
    ax.legend(handles=handles, fontsize=7.5, frameon=False, loc="lower right")


def _heading(result: Explanation, node: str | None) -> str:
    """Name the node, and what it stands against."""
    name = _last(result.nodes[result.position_of(node)])
    return name if result.against is None else f"{name} against {_last(result.against)}"


def _last(path: str) -> str:
    return path.rsplit(" > ", 1)[-1]


def _unit(result: Explanation) -> str:
    if result.against is not None:
        return "attribution to the log-odds"
    names = {
        "conditional": "attribution to the log-probability among siblings",
        "joint": "attribution to the log-probability",
        "logit": "attribution to the logit",
    }
    return names[result.targets.kind]


def _finish(ax: Axes, heading: str) -> None:
    ax.set_title(heading, fontsize=10)
    ax.tick_params(axis="y", length=0, labelsize=8.5)
    ax.spines[["top", "right", "left"]].set_visible(False)
