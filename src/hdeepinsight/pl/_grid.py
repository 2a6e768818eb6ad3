"""Labels or topics against labels, clusters or genes, as a grid of squares or dots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from hdeepinsight._errors import check_integer, counted, invalid
from hdeepinsight.annotation import Annotation, depth_of_level
from hdeepinsight.pl import _style
from hdeepinsight.pl._style import INK
from hdeepinsight.taxonomy import Taxonomy, check_nodes

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    from hdeepinsight.tl import MarkerEvidence

#: Beyond this many columns the squares of a confusion are too small for numbers.
_MAX_NUMBERED: Final = 22
#: Side of the square of a dot, in inches.
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
    """Draw which types are taken for which, as shares of each true type.

    Parameters
    ----------
    taxonomy
        The tree that both refer to.
    y_true, y_pred
        Nodes ``(n_cells,)``.
    level
        Level at which to compare, by depth or name. Cells whose true label ends above it are left
        out; predictions that end above it are counted in a column of their own. By default, nodes
        are compared as they are.
    title
        Heading; by default the level and the accuracy.
    ax
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    The axes. Rows are the true types with their numbers of cells, in the order of the tree; columns
    are the same types, then further ones that were predicted. Squares hold percent of the row.

    Raises
    ------
    ValueError
        If the arrays differ in length or hold no nodes of this taxonomy, there is no such level,
        or no cell has a true label at it.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> tax = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> truth, predicted = tax.encode(["CD4", "CD8", "B"]), tax.encode(["CD4", "CD4", "B"])
    >>> ax = hdi.pl.confusion(tax, truth, predicted, level=2)
    >>> ax.get_title()
    'level_2: 1 of 2 cells right (50.0%)'
    """
    truth, predicted = check_nodes(taxonomy, y_true=y_true, y_pred=y_pred)
    where = ""
    if level is not None:
        depth = depth_of_level(taxonomy, level)
        at_level, where = taxonomy.node_at_level[:, depth - 1], taxonomy.level_names[depth - 1]
        truth, predicted, where = at_level[truth], at_level[predicted], f"{where}: "
    truth, predicted = truth[truth >= 0], predicted[truth >= 0]
    if not len(truth):
        raise ValueError(
            "No cell has a true label at this level. At least one is needed. "
            "Choose a level nearer to the root, or check the labels."
        )
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
    by_default = f"{where}{right:,} of {n} right ({right / len(truth):.1%})"
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
    """Draw which labels the cells of each cluster got: size is their share, colour confidence.

    Parameters
    ----------
    result
        The annotation.
    groups
        A cluster or given label per cell, ``(n_cells,)``; missing ones are a row of their own.
    level
        Level of the labels, by depth or name, and the probability there; by default the labels
        where cells stop, and their confidence. Leaves above the level stand for themselves.
    cmap
        Name of the colour map; the scale goes from 0 to 1.
    title
        Heading.
    ax
        Axes to draw on; by default those of a new figure that is large enough to read every name.

    Returns
    -------
    The axes. Rows are clusters with their numbers of cells; columns are labels in the order of the
    tree, ``"Unknown"`` last. Shares of a row add up to one.

    Raises
    ------
    ValueError
        If there is no cell, not one group per cell, or no such level.

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
    genes, speaks_for = table["gene"].tolist(), labels.index.get_indexer(table["path"])
    mean, share = (part[genes].to_numpy().T for part in (evidence.means, evidence.shares))
    enough = (labels["verdict"] != "too few cells").to_numpy()
    highest = mean[:, enough if enough.any() else ~enough].max(axis=1, keepdims=True)
    values = np.minimum(mean / np.maximum(highest, 1e-12), 1.0)
    column, row = np.indices(mean.shape).reshape(2, -1)
    dots = pd.DataFrame({"column": column, "row": row, "share": share.ravel()})
    dots["value"], own = values.ravel(), row == speaks_for[column]
    against = (labels["verdict"] == "contradicted").tolist()
    titles = [
        f"{_style.shortened(row.label)}  ({row.n_cells:,}){'  contradicted' * contradicted}"
        for row, contradicted in zip(labels.itertuples(), against, strict=True)
    ]
    rims = {"linewidths": np.where(own, 1.3, 0.3), "edgecolors": np.where(own, INK, "#BBBBBB")}
    texts = title, "cells that express it", "mean expression\n(part of the highest label)"
    names = list(map(_style.plain, genes))
    ax = _draw_dots(ax, dots, names, titles, texts, cmap, rotation=90, **rims)
    for text, contradicted in zip(ax.get_yticklabels(), against, strict=True):
        text.set_color(_style.MARK if contradicted else INK)
    edges = np.flatnonzero(np.diff(speaks_for)) + 0.5
    ax.vlines(edges, -0.7, len(labels) - 0.3, color="#DDDDDD", lw=0.8, zorder=1)
    for start, stop in zip([-0.5, *edges], [*edges, len(genes) - 0.5], strict=True):
        name, at = labels["label"].iloc[speaks_for[int(start + 0.5)]], (start + stop) / 2
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
    """Draw the topics of every group of cells, with the top genes of each topic.

    Parameters
    ----------
    proportions
        Share of every topic in every cell, as from ``SCE2TM.get_topic_proportions``.
    loadings
        Weight of every gene in every topic, as from ``SCE2TM.get_topic_gene``.
    groups
        A cluster or label per cell, ``(n_cells,)``; missing ones are a row of their own.
    n_topics
        Topics to draw for every group: those with the largest mean share in it.
    n_genes
        Top genes to name for every topic.
    cmap
        Name of the colour map; the scale goes from 0 to 1.
    title
        Heading.
    ax
        Axes to draw on; by default those of a new figure that is large enough to read every name.

    Returns
    -------
    The axes. Rows are groups with their numbers of cells, columns topics in the order of the groups
    that they are largest in. The size of a dot is the share of cells whose largest topic it is, its
    colour the mean share of the topic.

    Raises
    ------
    ValueError
        If there is not one group per cell, or a topic has no loadings.

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
    if missing := proportions.columns.difference(loadings.index).tolist():
        found = f"loadings of {len(loadings):,} topics without {missing[0]!r}"
        raise invalid("loadings", found, "a table of all topics", "Pass both of one model.")
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
    """Draw a dot per row and column: the area is a ``share``, the colour a ``value`` from 0 to 1.

    Parameters
    ----------
    ax
        Axes to draw on; ``None`` for those of a new figure.
    dots
        Table of ``column``, ``row``, ``share`` and ``value``.
    columns, rows
        Names.
    texts
        Heading, what a share is, and what a value is.
    cmap
        Name of the colour map.
    rotation
        Of the names of columns.
    **look
        Further options of the dots.
    """
    from matplotlib.lines import Line2D

    size = _SQUARE * len(columns) + 3.6, max(_SQUARE * len(rows), 1.8) + 1.6
    title, a_share, a_value = texts
    ax, widest = _style.axes_or_new(ax, size, "box", title), 48 * _SQUARE  # 2/3 of it, in points
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
