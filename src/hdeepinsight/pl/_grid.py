"""Plot confusion matrices and dot plots of labels, clusters, marker genes and topics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from hdeepinsight._errors import check_integer, counted
from hdeepinsight.annotation import Annotation, depth_of_level
from hdeepinsight.pl import _style
from hdeepinsight.pl._style import INK
from hdeepinsight.taxonomy import Taxonomy, check_nodes

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    from hdeepinsight.tl import MarkerEvidence

#: Maximum number of columns of a confusion matrix with numbers in its cells.
_MAX_NUMBERED: Final = 22
#: Side length of the cell of a dot plot, in inches.
_SQUARE: Final = 0.27


def confusion(
    taxonomy: Taxonomy,
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    *,
    level: int | str | None = None,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot a confusion matrix, normalised by true type.

    Parameters
    ----------
    taxonomy
        Taxonomy of both arrays.
    y_true, y_pred
        Nodes, ``(n_cells,)``.
    level
        Level at which to compare, by depth or name. Cells with a true label above it are ignored;
        predictions above it are counted in a separate column. By default, nodes are compared at
        their own levels.
    title
        Title; by default the level and the accuracy.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Rows are the true types with their numbers of cells, in the order of the taxonomy. Columns
        are the same types, followed by other predicted ones. Numbers are percentages of the row.

    Raises
    ------
    ValueError
        If the arrays differ in length or contain invalid nodes, there is no such level, or no cell
        has a true label at the level.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> tax = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> truth, predicted = tax.encode(["CD4", "CD8", "B"]), tax.encode(["CD4", "CD4", "B"])
    >>> ax = hdi.pl.confusion(tax, truth, predicted, level=2)
    >>> ax.get_title()
    'level_2: 1 of 2 cells correct (50.0%)'
    """
    truth, predicted = check_nodes(taxonomy, y_true=y_true, y_pred=y_pred)
    where = ""
    if level is not None:
        depth = depth_of_level(taxonomy, level)
        at_level, where = taxonomy.node_at_level[:, depth - 1], taxonomy.level_names[depth - 1]
        truth, predicted, where = at_level[truth], at_level[predicted], f"{where}: "
    truth, predicted = truth[truth >= 0], predicted[truth >= 0]
    if not len(truth):
        hint = "Choose a level closer to the root, or check the labels."
        raise ValueError(f"At least one cell must have a true label at this level. {hint}")
    rows = _style.in_tree_order(taxonomy, np.unique(truth).tolist())
    columns = rows + _style.in_tree_order(taxonomy, np.setdiff1d(predicted, rows).tolist())
    counts = pd.crosstab(truth, predicted).reindex(index=rows, columns=columns, fill_value=0)
    totals = counts.sum(axis=1)
    names = list(map(_style.shortened, _style.unique_names(taxonomy, columns)))
    ax = _style.axes_or_new(ax, (0.36 * len(columns) + 3.4, 0.34 * len(rows) + 2.0), "box")
    share = counts.div(totals, axis=0).to_numpy()
    drawn = ax.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    sized = [f"{name}  ({n:,})" for name, n in zip(names, totals, strict=False)]
    _style.name_sides(ax, names, sized)
    for (row, column), value in np.ndenumerate(share):
        if value >= 0.005 and len(columns) <= _MAX_NUMBERED:
            color = "white" if value > 0.55 else INK
            ax.text(column, row, f"{100 * value:.0f}", ha="center", va="center", c=color, size=7.5)
    ax.set(xlabel="predicted", ylabel="true (cells)")
    if len(columns) > len(rows):
        ax.axvline(len(rows) - 0.5, color=_style.FAINT, lw=1)
    ax.figure.colorbar(drawn, ax=ax, label="share of the true type", shrink=0.8)
    right, n = int((truth == predicted).sum()), counted(len(truth), "cell")
    by_default = f"{where}{right:,} of {n} correct ({right / len(truth):.1%})"
    ax.set_title(by_default if title is None else title, fontsize=10)
    return ax


def dotplot(
    result: Annotation,
    groups: Any,
    *,
    level: int | str | None = None,
    cmap: str = _style.SEQUENTIAL,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot the labels of each cluster: dot size is their fraction, colour the mean confidence.

    Parameters
    ----------
    result
        Annotation.
    groups
        Cluster or given label per cell, ``(n_cells,)``; missing ones form a separate row.
    level
        Level of the labels, by depth or name; the colour is then the probability at this level. By
        default, the deepest confident labels and their confidence. Leaves above the level are kept.
    cmap
        Name of the colour map, on a scale from 0 to 1.
    title
        Title.
    ax
        Axes to draw on; by default those of a new figure of sufficient size for all names.

    Returns
    -------
    matplotlib.axes.Axes
        Rows are clusters with their numbers of cells. Columns are labels in the order of the
        taxonomy, ``"Unknown"`` last. The fractions in a row sum to one.

    Raises
    ------
    ValueError
        If there are no cells, groups do not match the cells, or there is no such level.

    Examples
    --------
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> tax = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> p = np.array([[1, 0.9, 0.1, 0.8, 0.1], [1, 0.9, 0.1, 0.1, 0.8], [1, 0.1, 0.9, 0.1, 0]])
    >>> result = hdi.Annotation(taxonomy=tax, obs_names=["a", "b", "c"], node_probabilities=p)
    >>> ax = hdi.pl.dotplot(result, ["0", "0", "1"])
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['CD4', 'CD8', 'B']
    """
    rows = _style.groups_of(groups, result.obs_names)
    nodes, sure = result.stop_nodes, result.confidence.to_numpy()
    if level is not None:
        at_level = result.taxonomy.node_at_level[:, depth_of_level(result.taxonomy, level) - 1]
        nodes = np.where(at_level >= 0, at_level, np.arange(len(at_level)))[result.leaf_nodes]
        sure = result.node_probabilities[np.arange(len(nodes)), nodes]
    columns, _ = _style.node_groups(result.taxonomy, nodes)
    cells = pd.DataFrame({"row": rows.codes, "column": columns.codes, "value": sure})
    dots = cells.groupby(["row", "column"])["value"].agg(["size", "mean"]).reset_index()
    dots = dots.assign(share=dots["size"] / rows.sizes[dots["row"]], value=dots["mean"])
    names = list(map(_style.shortened, columns.names))
    texts = title, "share of cells", "mean confidence"
    ax = _draw_dots(ax, dots, names, rows.titles, texts, cmap, edgecolors=INK)
    ax.grid(color="#EEEEEE", lw=0.7)
    ax.set_xlabel("predicted")
    return ax


def marker_evidence(
    evidence: MarkerEvidence,
    *,
    n_genes: int = 4,
    cmap: str = _style.SEQUENTIAL,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot the expression of the marker genes of each label in the cells of all labels.

    Parameters
    ----------
    evidence
        Output of :func:`hdeepinsight.tl.marker_evidence`.
    n_genes
        Maximum number of measured markers per label, the best known first.
    cmap
        Name of the colour map.
    title
        Title.
    ax
        Axes to draw on; by default those of a new figure of sufficient size for all names.

    Returns
    -------
    matplotlib.axes.Axes
        Rows are labels in the order of the taxonomy with their numbers of cells; contradicted
        labels are marked. Columns are genes, grouped by the label that they mark. The size of a dot
        is the fraction of expressing cells, its colour the mean log expression relative to the
        highest mean of all labels with ten or more cells. Markers of the label of a row have a dark
        outline.

    Raises
    ------
    ValueError
        If no marker was measured, or `n_genes` is not positive.

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
        hint = "Pass evidence of a query with measured markers."
        raise ValueError(f"At least one marker must have been measured, got none. {hint}")
    genes, label_of = table["gene"].tolist(), labels.index.get_indexer(table["path"])
    mean, share = (part[genes].to_numpy().T for part in (evidence.means, evidence.shares))
    enough = (labels["verdict"] != "too few cells").to_numpy()
    highest = mean[:, enough if enough.any() else ~enough].max(axis=1, keepdims=True)
    values = np.minimum(mean / np.maximum(highest, 1e-12), 1.0)
    column, row = np.indices(mean.shape).reshape(2, -1)
    dots = pd.DataFrame({"column": column, "row": row, "share": share.ravel()})
    dots["value"], own = values.ravel(), row == label_of[column]
    contradicted = (labels["verdict"] == "contradicted").tolist()
    titles = [
        f"{_style.shortened(row.label)}  ({row.n_cells:,}){'  contradicted' * wrong}"
        for row, wrong in zip(labels.itertuples(), contradicted, strict=True)
    ]
    rims = {"linewidths": np.where(own, 1.3, 0.3), "edgecolors": np.where(own, INK, "#BBBBBB")}
    texts = title, "expressing cells", "mean expression\n(relative to the highest)"
    names = list(map(_style.plain, genes))
    ax = _draw_dots(ax, dots, names, titles, texts, cmap, rotation=90, **rims)
    for text, wrong in zip(ax.get_yticklabels(), contradicted, strict=True):
        text.set_color(_style.MARK if wrong else INK)
    edges = np.flatnonzero(np.diff(label_of)) + 0.5
    ax.vlines(edges, -0.7, len(labels) - 0.3, color="#DDDDDD", lw=0.8, zorder=1)
    for start, stop in zip([-0.5, *edges], [*edges, len(genes) - 0.5], strict=True):
        name, at = labels["label"].iloc[label_of[int(start + 0.5)]], (start + stop) / 2
        look: dict[str, Any] = {"rotation": 45, "va": "bottom", "rotation_mode": "anchor"}
        ax.text(at, -0.8, _style.shortened(name, 18), ha="left", size=8, **look)
    return ax


def topics(
    proportions: pd.DataFrame,
    loadings: pd.DataFrame,
    groups: Any,
    *,
    n_topics: int = 2,
    n_genes: int = 4,
    cmap: str = _style.SEQUENTIAL,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Plot the main topics of each group of cells, with the top genes of each topic.

    Parameters
    ----------
    proportions
        Topic proportions of cells, such as from ``SCE2TM.get_topic_proportions``.
    loadings
        Gene weights of topics, such as from ``SCE2TM.get_topic_gene``.
    groups
        Cluster or label per cell, ``(n_cells,)``; missing ones form a separate row.
    n_topics
        Number of topics per group, those with the largest mean proportions.
    n_genes
        Number of top genes per topic.
    cmap
        Name of the colour map, on a scale from 0 to 1.
    title
        Title.
    ax
        Axes to draw on; by default those of a new figure of sufficient size for all names.

    Returns
    -------
    matplotlib.axes.Axes
        Rows are groups with their numbers of cells, columns topics in the order of the groups. The
        size of a dot is the fraction of cells for which the topic is the largest, its colour the
        mean proportion of the topic.

    Raises
    ------
    ValueError
        If groups do not match the cells.

    Examples
    --------
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> names = ["topic_0", "topic_1"]
    >>> shares = pd.DataFrame([[0.9, 0.1], [0.2, 0.8]], index=["a", "b"], columns=names)
    >>> genes = pd.DataFrame([[5, 4, 0], [0, 1, 7]], index=names, columns=["CD3D", "CD3E", "CD19"])
    >>> ax = hdi.pl.topics(shares, genes, ["T", "B"], n_topics=1, n_genes=2)
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['topic_1: CD19, CD3E', 'topic_0: CD3D, CD3E']
    """
    check_integer("n_topics", n_topics)
    check_integer("n_genes", n_genes)
    rows = _style.groups_of(groups, proportions.index)
    means = proportions.groupby(rows.codes).mean()
    best = np.argsort(-means.to_numpy(), axis=1, kind="stable")[:, :n_topics]
    columns = list(dict.fromkeys(best.ravel().tolist()))
    largest = pd.crosstab(rows.codes, proportions.to_numpy().argmax(axis=1), normalize="index")
    largest = largest.reindex(index=means.index, columns=range(means.shape[1]), fill_value=0.0)
    column, row = (part.ravel() for part in np.meshgrid(range(len(columns)), range(len(means))))
    share, value = (t.to_numpy()[:, columns].ravel() for t in (largest, means))
    dots = pd.DataFrame({"column": column, "row": row, "share": share, "value": value})
    names = []
    for topic in means.columns[columns]:
        genes = loadings.loc[topic].nlargest(n_genes).index
        names.append(_style.plain(f"{topic}: {', '.join(map(str, genes))}"))
    texts = title, "cells with this\nas largest topic", "mean share of the topic"
    return _draw_dots(ax, dots, names, rows.titles, texts, cmap, rotation=90, edgecolors=INK)


def _draw_dots(
    ax: Axes | None,
    dots: pd.DataFrame,
    columns: list[str],
    rows: list[str],
    texts: tuple[str | None, str, str],
    cmap: str,
    *,
    rotation: int = 45,
    **look: Any,
) -> Axes:
    """Draw dots in a grid, with ``share`` as their area and ``value`` (0 to 1) as their colour.

    Parameters
    ----------
    ax
        Axes to draw on; ``None`` for those of a new figure.
    dots
        Table with ``column``, ``row``, ``share`` and ``value``.
    columns, rows
        Names of columns and rows.
    texts
        Title, and the legend titles of ``share`` and ``value``.
    cmap
        Name of the colour map.
    rotation
        Rotation of the names of columns.
    **look
        Further scatter options.
    """
    from matplotlib.lines import Line2D

    size = _SQUARE * len(columns) + 3.6, max(_SQUARE * len(rows), 1.8) + 1.6
    title, a_share, a_value = texts
    ax, widest = _style.axes_or_new(ax, size, "box", title), 48 * _SQUARE  # points in 2/3 of a cell
    look = {"linewidths": 0.5, "zorder": 2, **_style.color_scale(dots["value"], cmap), **look}
    drawn = ax.scatter(dots["column"], dots["row"], s=widest**2 * dots["share"], **look)
    _style.name_sides(ax, columns, rows, rotation=rotation)
    ax.set(xlim=(-0.7, len(columns) - 0.3), ylim=(len(rows) - 0.3, -0.7))
    ring: dict[str, Any] = {"ls": "", "marker": "o", "mfc": "white", "mec": INK, "mew": 0.5}
    handles = [
        Line2D([], [], ms=widest * np.sqrt(share), label=f"{share:.0%}", **ring)
        for share in (0.1, 0.5, 1.0)
    ]
    place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.02), "frameon": False}
    place |= {"fontsize": 8, "title_fontsize": 8, "alignment": "left", "labelspacing": 0.9}
    ax.legend(handles=handles, title=a_share, **place)
    below: dict[str, Any] = {"shrink": 0.55, "aspect": 10, "anchor": (0.0, 0.0)}
    ax.figure.colorbar(drawn, ax=ax, label=a_value, **below)
    return ax
