"""What a model learned: its training, its graphs, its genes, and what privacy costs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from hdeepinsight._palette import PALETTE
from hdeepinsight.pl._style import FAINT, INK, SEQUENTIAL, axes_or_new, line_look, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hdeepinsight.explanation import CellChoice, Explanation, Statistic

_LOSSES: Final = {
    "train_loss": "training",
    "validation_loss": "held out",
    "log_loss": "held out, log loss",
}
#: Beginning of the keys of what is logged for every level, and heading of its panel.
_PER_LEVEL: Final = {
    "accuracy_": "accuracy",
    "macro_f1_": "macro-F1",
    "ece_": "calibration error",
    "level_weight_": "weight in the loss",
}
#: Bins of the values in which dots are spread, and most dots of a gene.
_BINS, _MOST_DOTS = 80, 400
_UNITS: Final = {
    "conditional": "attribution to the log-probability among siblings",
    "joint": "attribution to the log-probability",
    "logit": "attribution to the logit",
}


def training_history(history: Mapping[str, Any], *, title: str | None = None) -> Figure:
    """Draw losses, and accuracy, macro-F1, calibration error and weight of every level.

    Parameters
    ----------
    history
        ``model.history``: for each name a table with one column, or a Series, of values by epoch;
        or one DataFrame with a column a name. What was not logged is left out.
    title
        Heading of the figure.

    Returns
    -------
    The figure, with one axes for the losses and one for each measure that was logged (weights of
    levels only where they change). A level has the same colour and line in all of them; a dotted
    line marks the epoch of the lowest held-out log loss.

    Raises
    ------
    ValueError
        If nothing in the history is a loss or a measure of a level.

    Examples
    --------
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> history = pd.DataFrame(
    ...     {"train_loss": [1.2, 0.7], "accuracy_lineage": [0.8, 0.9], "accuracy_type": [0.5, 0.7]}
    ... )
    >>> figure = hdi.pl.training_history(history)
    >>> [ax.get_title() for ax in figure.axes]
    ['loss', 'accuracy']
    """
    import matplotlib.pyplot as plt

    series = {}
    for key, values in history.items():
        column = values.iloc[:, 0] if isinstance(values, pd.DataFrame) else pd.Series(values)
        series[str(key)] = pd.to_numeric(column, errors="coerce").dropna().astype(float)
    panels = {"loss": {name: series[key] for key, name in _LOSSES.items() if key in series}}
    for prefix, heading in _PER_LEVEL.items():
        logged = {k.removeprefix(prefix): v for k, v in series.items() if k.startswith(prefix)}
        # Weights that never change say nothing by epoch.
        changes = prefix != "level_weight_" or any(v.nunique() > 1 for v in logged.values())
        panels[heading] = logged if changes else {}
    panels = {heading: curves for heading, curves in panels.items() if curves}
    if not panels:
        raise ValueError(
            f"The history holds {list(series)[:10]}, none of which is a loss or a measure of a "
            "level, such as 'train_loss' or 'accuracy_<level>'. "
            "Train the model, and pass model.history."
        )
    size = 2.9 * len(panels), 2.9
    figure, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
    levels = list(dict.fromkeys(n for name, p in panels.items() if name != "loss" for n in p))
    best = series.get("log_loss", pd.Series(dtype=float))
    for ax, (heading, curves) in zip(axes.flat, panels.items(), strict=True):
        axes_or_new(ax, size, title=heading)
        order = list(_LOSSES.values()) if heading == "loss" else levels
        for name, values in curves.items():
            dot, look = "." if len(values) == 1 else "", line_look(order.index(name))
            ax.plot(values.index, values, marker=dot, label=plain(name), **look)
        if heading != "loss":
            ax.set_ylim(0.0, 1.02 if heading != "calibration error" else None)
        if len(best):
            ax.axvline(best.idxmin(), color=FAINT, lw=0.8, ls=":", zorder=0)
        ax.set_xlabel("epoch")
        ax.legend(frameon=False, fontsize=8)
    figure.suptitle(title or "")
    return figure


def in_degrees(
    choices: Mapping[str, np.ndarray], *, title: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw how many cells are chosen as a neighbour how often, in one graph or several.

    Parameters
    ----------
    choices
        Name of a graph, and the cells that each cell chose in it, shape ``(n_cells, k)``, -1 for
        none: ``model.neighbor_choices()`` of :class:`~hdeepinsight.models.SCAGC`, or what
        :func:`hdeepinsight.graph.nearest_neighbors` found.
    title
        Heading.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The axes, with the share of cells that are chosen at least so often; a long tail is one of hubs.
    The legend has the standard deviation of each graph.

    Raises
    ------
    ValueError
        If there is no graph.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> nearest, _ = hdi.graph.nearest_neighbors(rng.normal(size=(50, 20)), k=5)
    >>> hdi.pl.in_degrees({"nearest": nearest}).get_xlabel()
    'times chosen as a neighbour'
    """
    if not choices:
        raise ValueError("choices must name a graph at least, got none. Pass {'graph': neighbors}.")
    ax = axes_or_new(ax, (4.2, 3.2), title=title)
    for rank, (name, chosen) in enumerate(choices.items()):
        cells = np.asarray(chosen)
        times = np.bincount(cells[cells >= 0], minlength=len(cells))
        at_least = 1 - np.concatenate([[0], np.bincount(times).cumsum()[:-1]]) / len(times)
        label, look = f"{plain(name)}: sd {times.std():.1f}", line_look(rank)
        ax.step(np.arange(len(at_least)), at_least, where="mid", label=label, **look)
    ax.set(yscale="log", xlabel="times chosen as a neighbour", ylabel="share of cells, at least")
    ax.legend(frameon=False, fontsize=8)
    return ax


def privacy_utility(
    scores: pd.DataFrame,
    controls: Mapping[str, float] | None = None,
    *,
    score: str = "adjusted Rand index",
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw scores of private methods against epsilon, beside controls that have no epsilon.

    Parameters
    ----------
    scores
        A score per epsilon (index, numbers > 0) and method (columns). Rows of one epsilon, such as
        seeds, become a mean with a bar from the lowest to the highest; missing values are left out.
    controls
        Scores of methods without a budget, such as a random projection (epsilon is 0) or no
        privacy, each as a dashed line with its name.
    score
        What the scores are.
    title
        Heading.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The axes: epsilon on a logarithmic axis, more privacy to the left.

    Raises
    ------
    ValueError
        If there is no score, or an epsilon is not a number > 0.

    Examples
    --------
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> scores = pd.DataFrame({"dp_pca": [0.43, 0.46, 0.51]}, index=[1, 2, 4])
    >>> ax = hdi.pl.privacy_utility(scores, {"random projection": 0.35})
    >>> ax.get_xlabel()
    'epsilon per cell'
    """
    epsilon = pd.to_numeric(pd.Series(scores.index), errors="coerce").to_numpy(dtype=np.float64)
    if not scores.size or not (epsilon > 0).all():
        raise ValueError(
            "scores must have a row per epsilon > 0 and a column per method, got "
            f"{scores.shape[0]} rows named {list(scores.index)[:5]}. Pass methods without a budget "
            "as controls."
        )
    ax = axes_or_new(ax, (4.8, 3.6), title=title)
    for rank, (name, values) in enumerate(scores.items()):
        by = pd.Series(values.to_numpy(dtype=np.float64)).groupby(epsilon).agg
        found = pd.DataFrame({"mean": by("mean"), "low": by("min"), "high": by("max")}).dropna()
        color = PALETTE[rank % len(PALETTE)]
        ax.vlines(found.index, found["low"], found["high"], color=color, lw=1.2, alpha=0.6)
        ax.plot(found.index, found["mean"], "o-", color=color, ms=4.5, label=plain(name))
    ax.set_xscale("log")
    ticks = np.unique(epsilon)
    ax.set_xticks(ticks, [f"{value:g}" for value in ticks])
    ax.minorticks_off()
    for name, value in (controls or {}).items():
        ax.axhline(value, color=FAINT, lw=1, ls="--", zorder=0)
        at = ax.get_yaxis_transform()
        ax.text(1.01, value, plain(name), va="center", size=8, c=FAINT, transform=at)
    ax.set(xlabel="epsilon per cell", ylabel=score)
    ax.legend(frameon=False, fontsize=8)
    return ax


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
    The axes: one row per gene, best on top, with a dot per cell (at most 400, evenly chosen)
    coloured by its scaled expression, and mean ± standard deviation as a tick and a line. Without
    the values of single cells, the ticks and lines alone.

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
    rows, heading = result.rows_of(node, cells), _heading(result, node)
    if result.values is not None:
        heading += f" ({len(rows):,} cells)"
    ax, places = _rows_of_genes(ax, result, table, heading if title is None else title)
    if result.values is not None and result.expression is not None:
        rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST_DOTS)).astype(int)]
        columns = result.genes.get_indexer(table.index)
        values = result.values[np.ix_(rows, columns)]
        expression = result.expression[result.cell[rows]][:, columns].toarray()
        width = max(float(np.ptp(values)), 1e-12) / _BINS
        dots: dict[str, Any] = {"s": 7, "cmap": SEQUENTIAL, "vmin": 0.0, "vmax": 1.0, "lw": 0}
        for value, level, place in zip(values.T, expression.T, places, strict=True):
            order = np.argsort(level, kind="stable")
            height = place + _offsets(value[order], width)
            drawn = ax.scatter(value[order], height, c=level[order], zorder=2, **dots)
        ax.figure.colorbar(drawn, ax=ax, label="scaled expression", shrink=0.7, aspect=25)
    mean, std = table["mean"], table["std"]
    ax.hlines(places, mean - std, mean + std, color=INK, lw=1.0, zorder=3)
    ax.plot(mean, places, "|", color=INK, ms=10, mew=2.0, zorder=4)
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
    from matplotlib.patches import Patch

    ahead = behind = result.ranking(node)
    rest = np.setdiff1d(result.rows_of(node), result.rows_of(node, "own"))
    if result.values is not None and len(rest):
        others = np.isin(np.arange(len(result.obs_names)), result.cell[rest])
        behind = result.ranking(node, cells=others)
    table = pd.concat([ahead[ahead["mean"] > 0][:n_genes], behind[behind["mean"] < 0][-n_genes:]])
    heading = _heading(result, node)
    ax, places = _rows_of_genes(ax, result, table, heading if title is None else title)
    sides = np.where(table["mean"] > 0, PALETTE[0], PALETTE[3])
    faces = np.where(table["expression"] > table["background"], sides, "white")
    ax.barh(places, table["mean"], color=faces, edgecolor=sides, height=0.72, lw=1.0)
    ax.errorbar(table["mean"], places, xerr=table["sem"], fmt="none", ecolor=INK, elinewidth=1.0)
    name, _, rival = heading.partition(" against ")
    handles = [
        Patch(color=PALETTE[0], label=f"for {name}"),
        Patch(color=PALETTE[3], label=f"for {rival}" if rival else "against it"),
        Patch(facecolor=FAINT, edgecolor=FAINT, label="more than the background"),
        Patch(facecolor="white", edgecolor=FAINT, label="less than the background"),
    ]
    ax.legend(handles=handles, fontsize=7.5, frameon=False, loc="lower right")
    return ax


def _offsets(values: np.ndarray, width: float) -> np.ndarray:
    """Offsets within ±0.36 that spread dots of one bin, wider where there are more of them."""
    bins = np.floor(values / width).astype(np.int64)
    rank = pd.Series(bins).groupby(bins).cumcount().to_numpy()
    side = np.where(rank % 2, 1.0, -1.0) * ((rank + 1) // 2)
    return np.asarray(side * 0.36 / max(6.0, float(np.abs(side).max(initial=0.0))))


def _heading(result: Explanation, node: str | None) -> str:
    """Name the node, and what it stands against."""
    paths = result.nodes[result.position_of(node)], result.against
    return " against ".join(path.rsplit(" > ", 1)[-1] for path in paths if path is not None)


def _rows_of_genes(
    ax: Axes | None, result: Explanation, table: pd.DataFrame, heading: str
) -> tuple[Axes, np.ndarray]:
    """Return axes with a row per gene, the first on top, and the heights of the rows."""
    ax = axes_or_new(ax, (6.0, 0.26 * len(table) + 1.5), "rows", heading)
    places = np.arange(len(table))[::-1]
    ax.axvline(0.0, color=FAINT, lw=0.8, zorder=1)
    ax.set_yticks(places, list(table.index))
    contrasted = result.against is not None
    unit = "attribution to the log-odds" if contrasted else _UNITS[result.targets.kind]
    ax.set(xlabel=unit, ylim=(-0.7, len(table) - 0.3))
    return ax, places
