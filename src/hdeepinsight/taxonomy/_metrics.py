"""How well predicted nodes agree with true ones. All functions take arrays of node indices."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hdeepinsight.taxonomy._taxonomy import Taxonomy

_SCORES = ("accuracy", "macro_f1", "balanced_accuracy")


@dataclass(frozen=True)
class HierarchicalScores:
    """Agreement of ancestor sets over all labelled cells; see `hierarchical_scores`.

    Examples
    --------
    The path "T", "CD8" holds one right node of two:

    >>> import hdeepinsight as hdi
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> hdi.metrics.hierarchical_scores(tree, tree.encode(["CD4"]), tree.encode(["CD8"]))
    HierarchicalScores(precision=0.5, recall=0.5, f1=0.5, n_cells=1)
    """

    #: Share of the predicted nodes (with their ancestors) that are true.
    precision: float
    #: Share of the true nodes (with their ancestors) that are predicted.
    recall: float
    #: Harmonic mean of precision and recall.
    f1: float
    #: Number of labelled cells.
    n_cells: int


def level_scores(taxonomy: Taxonomy, y_true: ArrayLike, y_pred: ArrayLike) -> pd.DataFrame:
    """Compute accuracy and macro-averaged scores at every level.

    A level is scored on the cells whose true label reaches it. A prediction that stops above the
    level is wrong there; a longer one counts by its ancestor at the level.

    Parameters
    ----------
    taxonomy
        The tree.
    y_true, y_pred
        Node indices, shape ``(n_cells,)``.

    Returns
    -------
    pandas.DataFrame
        One row per level (index: level names) with the columns ``n_cells``, ``n_classes`` (classes
        among the true labels), ``accuracy``, ``macro_f1`` (mean F1 over these classes) and
        ``balanced_accuracy`` (mean recall over them). NaN where no cell reaches the level.

    Raises
    ------
    ValueError
        When the arrays differ in length, or hold no nodes of this taxonomy.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy, level_scores
    >>> tax = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> level_scores(tax, tax.encode(["CD4", "CD8", "B"]), tax.encode(["CD4", "T", "B"]))
             n_cells  n_classes  accuracy  macro_f1  balanced_accuracy
    level
    level_1        3          2       1.0       1.0                1.0
    level_2        2          2       0.5       0.5                0.5
    """
    from sklearn.metrics import precision_recall_fscore_support  # half a second, for scoring alone

    true, pred = check_nodes(taxonomy, y_true=y_true, y_pred=y_pred)
    table = taxonomy.node_at_level
    rows = []
    for level in range(taxonomy.max_depth):
        reached = table[true, level] >= 0
        here, found = table[true[reached], level], table[pred[reached], level]
        classes = np.unique(here)  # -1, of a prediction that stops above, is none of them
        row = {"n_cells": len(here), "n_classes": len(classes)} | dict.fromkeys(_SCORES, np.nan)
        if len(classes):
            _, recall, f1, _ = precision_recall_fscore_support(
                here, found, labels=classes, zero_division=0
            )
            means = np.mean(here == found), f1.mean(), recall.mean()
            row |= dict(zip(_SCORES, map(float, means), strict=True))
        rows.append(row)
    return pd.DataFrame(rows, index=pd.Index(taxonomy.level_names, name="level"))


def hierarchical_scores(
    taxonomy: Taxonomy, y_true: ArrayLike, y_pred: ArrayLike
) -> HierarchicalScores:
    """Compute hierarchical precision, recall and F1.

    Each label stands for its set of ancestors, itself included and the root left out. Precision is
    the number of shared nodes over the number of predicted ones, recall over the number of true
    ones, each summed over the cells first (micro-average).

    Parameters
    ----------
    taxonomy
        The tree.
    y_true, y_pred
        Node indices, shape ``(n_cells,)``. Cells whose true node is the root are unlabelled and
        left out.

    Returns
    -------
    HierarchicalScores
        All in [0, 1]. With nothing predicted below the root, precision is 0; with no labelled cell
        all are NaN.

    Raises
    ------
    ValueError
        When the arrays differ in length, or hold no nodes of this taxonomy.

    Notes
    -----
    Kiritchenko, Matwin, Nock, Famili 2006, doi:10.1007/11766247_34. A prediction below a true
    inner node costs precision, as published, although it may be right.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy, hierarchical_scores
    >>> tax = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> hierarchical_scores(tax, tax.encode(["CD4", "CD8"]), tax.encode(["CD8", "T"]))
    HierarchicalScores(precision=0.666..., recall=0.5, f1=0.571..., n_cells=2)
    """
    true, pred = check_nodes(taxonomy, y_true=y_true, y_pred=y_pred)
    true, pred = true[true > 0], pred[true > 0]
    n_true, n_pred = int(taxonomy.depth[true].sum()), int(taxonomy.depth[pred].sum())
    if n_true == 0:
        return HierarchicalScores(np.nan, np.nan, np.nan, n_cells=0)
    shared = int(_shared_depth(taxonomy, true, pred).sum())
    precision, f1 = shared / n_pred if n_pred else 0.0, 2 * shared / (n_true + n_pred)
    return HierarchicalScores(precision, shared / n_true, f1, n_cells=len(true))


def path_distance(taxonomy: Taxonomy, y_true: ArrayLike, y_pred: ArrayLike) -> NDArray[np.int64]:
    """Count the edges on the way through the tree from each true node to the predicted one.

    Parameters
    ----------
    taxonomy
        The tree.
    y_true, y_pred
        Node indices, shape ``(n_cells,)``.

    Returns
    -------
    numpy.ndarray
        int64, shape ``(n_cells,)``; 0 where both agree.

    Raises
    ------
    ValueError
        When the arrays differ in length, or hold no nodes of this taxonomy.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy, path_distance
    >>> tax = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> path_distance(tax, tax.encode(["CD4", "CD4", "CD4"]), tax.encode(["T", "CD8", "B"]))
    array([1, 2, 3])
    """
    true, pred = check_nodes(taxonomy, y_true=y_true, y_pred=y_pred)
    depth = taxonomy.depth
    return depth[true] + depth[pred] - 2 * _shared_depth(taxonomy, true, pred)


def _shared_depth(
    taxonomy: Taxonomy, true: NDArray[np.int64], pred: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Depth of the lowest common ancestor of each pair, shape ``(n_cells,)``."""
    shared = np.zeros(len(true), dtype=np.int64)
    for here in taxonomy.node_at_level.T:  # a level at a time keeps memory at one row of cells
        shared += (here[true] >= 0) & (here[true] == here[pred])
    return shared


def check_nodes(
    taxonomy: Taxonomy, n_cells: int | None = None, **given: ArrayLike
) -> tuple[NDArray[np.int64], ...]:
    """Return nodes, which came as arguments of some names, as int64 ``(n_cells,)`` each.

    Raises
    ------
    ValueError
        When there is not one node of this taxonomy for each of the cells, by default as many as
        come first.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy, check_nodes
    >>> check_nodes(Taxonomy.from_nested(["T", "B"]), y_true=[1, 2], y_pred=[2, 2])
    (array([1, 2]), array([2, 2]))
    """
    for name, values in given.items():
        nodes = np.asarray(values)
        n_cells = nodes.size if n_cells is None else n_cells
        fits = nodes.shape == (n_cells,) and (nodes.dtype.kind in "iu" or not n_cells)
        if not fits or nodes.min(initial=0) < 0 or nodes.max(initial=0) >= taxonomy.n_nodes:
            seen = f"type {nodes.dtype} and shape {nodes.shape} with values as {nodes.ravel()[:3]}"
            raise ValueError(
                f"{name} must be node indices from 0 to {taxonomy.n_nodes - 1}, one for each of "
                f"{n_cells} cells, got {seen}. Use `taxonomy.encode` to turn labels into nodes."
            )
    return tuple(np.asarray(values).astype(np.int64) for values in given.values())
