"""Plot training history, neighbour graphs, privacy-utility trade-offs and gene attributions."""

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
#: Prefix of the keys of each metric that is logged per level, and title of its panel.
_PER_LEVEL: Final = {
    "accuracy_": "accuracy",
    "macro_f1_": "macro-F1",
    "ece_": "calibration error",
    "level_weight_": "weight in the loss",
}
#: Number of bins in which dots are spread, and maximum number of dots per gene.
_BINS, _MOST_DOTS = 80, 400
_UNITS: Final = {
    "conditional": "attribution to the log-probability among siblings",
    "joint": "attribution to the log-probability",
    "logit": "attribution to the logit",
}


def training_history(history: Mapping[str, Any], *, title: str | None = None) -> Figure:
    """Plot losses, and the accuracy, macro F1, calibration error and weight of each level.

    Parameters
    ----------
    history
        ``model.history``: a mapping from names to single-column tables or Series with values by
        epoch, or a DataFrame with one column per name. Metrics that were not logged are omitted.
    title
        Title of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, with one axes for the losses and one for each logged metric (weights of levels
        only if they change). A level has the same colour and line style in all axes. A dotted line
        marks the epoch with the lowest log loss of held-out cells.

    Raises
    ------
    ValueError
        If the history contains neither a loss nor a metric per level.

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
        # Constant weights are not plotted.
        changes = prefix != "level_weight_" or any(v.nunique() > 1 for v in logged.values())
        panels[heading] = logged if changes else {}
    panels = {heading: curves for heading, curves in panels.items() if curves}
    if not panels:
        expected = "a loss or a metric per level, such as 'train_loss' or 'accuracy_<level>'"
        found = f"only {list(series)[:10]}. Train the model, and pass model.history."
        raise ValueError(f"history must contain {expected}, got {found}")
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
    """Plot the in-degree distribution of one or more neighbour graphs.

    Parameters
    ----------
    choices
        Neighbours of each cell, shape ``(n_cells, k)``, -1 for none, by name of the graph:
        ``model.neighbor_choices()`` of :class:`~hdeepinsight.models.SCAGC`, or the output of
        :func:`hdeepinsight.graph.nearest_neighbors`.
    title
        Title.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Fraction of cells with at least a given in-degree. A long tail indicates hubs. The legend
        contains the standard deviation of the in-degree.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> nearest, _ = hdi.graph.nearest_neighbors(rng.normal(size=(50, 20)), k=5)
    >>> hdi.pl.in_degrees({"nearest": nearest}).get_xlabel()
    'times chosen as a neighbour'
    """
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
    """Plot scores of private methods against epsilon, and controls without a privacy budget.

    Parameters
    ----------
    scores
        Score per epsilon (index, numbers > 0) and method (columns). Rows with the same epsilon,
        such as seeds, are summarised by their mean and range. Missing values are ignored.
    controls
        Scores of methods without a budget, such as a random projection (epsilon 0) or a non-private
        method, drawn as dashed lines with their names.
    score
        Name of the score.
    title
        Title.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, with epsilon on a logarithmic axis.

    Examples
    --------
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> scores = pd.DataFrame({"dp_pca": [0.43, 0.46, 0.51]}, index=[1, 2, 4])
    >>> ax = hdi.pl.privacy_utility(scores, {"random projection": 0.35})
    >>> ax.get_xlabel()
    'epsilon per cell'
    """
    epsilon = scores.index.to_numpy(dtype=np.float64)
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
    """Plot the top genes of a node with their attributions per cell.

    Parameters
    ----------
    result
        Output of :meth:`~hdeepinsight.models.SCHDeepInsight.explain`.
    node
        Explained node; not required if there is only one.
    n_genes
        Number of genes.
    by, cells
        As in :meth:`~hdeepinsight.explanation.Explanation.ranking`.
    title
        Title; by default the node and the number of cells.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        One row per gene, the top gene first, with one dot per cell (at most 400 evenly spaced
        cells), coloured by scaled expression, and mean ± standard deviation as a tick and a line.
        Without attributions of individual cells, only ticks and lines.

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
    """Plot the genes that support a node and those that support the alternative.

    Parameters
    ----------
    result
        Output of :meth:`~hdeepinsight.models.SCHDeepInsight.explain` with ``against=``. Otherwise,
        the alternative is the siblings of the node, or all other nodes.
    node
        Explained node; not required if there is only one.
    n_genes
        Maximum number of genes on each side.
    title
        Title; by default both nodes.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Bars of mean attributions with their standard errors. On the right are positive attributions
        in cells of the node; on the left negative attributions in all other explained cells, or, if
        there are none, in cells of the node. Explain cells of both nodes to see both sides. Bars
        are filled if these cells express the gene more than the background, and hollow if less,
        when the absence of the gene is informative.

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
    """Return offsets within ±0.36 that spread the dots of each bin according to their number."""
    bins = np.floor(values / width).astype(np.int64)
    rank = pd.Series(bins).groupby(bins).cumcount().to_numpy()
    side = np.where(rank % 2, 1.0, -1.0) * ((rank + 1) // 2)
    return np.asarray(side * 0.36 / max(6.0, float(np.abs(side).max(initial=0.0))))


def _heading(result: Explanation, node: str | None) -> str:
    """Return the name of the node and, if any, of its alternative."""
    paths = result.nodes[result.position_of(node)], result.against
    return " against ".join(path.rsplit(" > ", 1)[-1] for path in paths if path is not None)


def _rows_of_genes(
    ax: Axes | None, result: Explanation, table: pd.DataFrame, heading: str
) -> tuple[Axes, np.ndarray]:
    """Return axes with one row per gene, the first on top, and the positions of the rows."""
    ax = axes_or_new(ax, (6.0, 0.26 * len(table) + 1.5), "rows", heading)
    places = np.arange(len(table))[::-1]
    ax.axvline(0.0, color=FAINT, lw=0.8, zorder=1)
    ax.set_yticks(places, list(table.index))
    contrasted = result.against is not None
    unit = "attribution to the log-odds" if contrasted else _UNITS[result.targets.kind]
    ax.set(xlabel=unit, ylim=(-0.7, len(table) - 0.3))
    return ax, places
