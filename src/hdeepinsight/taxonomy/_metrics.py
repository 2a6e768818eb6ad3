"""Compute scores that compare predicted with true nodes, given as arrays of node indices."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hdeepinsight.taxonomy._taxonomy import Taxonomy

Nodes = NDArray[np.int64]
_COLUMNS = ("n_cells", "n_classes", "accuracy", "macro_f1", "balanced_accuracy")


@dataclass(frozen=True)
class HierarchicalScores:
    """Precision, recall and F1 of ancestor sets; see `hierarchical_scores`.

    Examples
    --------
    One of the two nodes on the path "T", "CD8" is correct:

    >>> import hdeepinsight as hdi
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> hdi.metrics.hierarchical_scores(tree, tree.encode(["CD4"]), tree.encode(["CD8"]))
    HierarchicalScores(precision=0.5, recall=0.5, f1=0.5, n_cells=1)
    """

    #: Fraction of the predicted nodes (including ancestors) that are true.
    precision: float
    #: Fraction of the true nodes (including ancestors) that are predicted.
    recall: float
    #: Harmonic mean of precision and recall.
    f1: float
    #: Number of labelled cells.
    n_cells: int


def level_scores(taxonomy: Taxonomy, y_true: ArrayLike, y_pred: ArrayLike) -> pd.DataFrame:
    """Compute accuracy, macro F1 and balanced accuracy at each level.

    A level is scored on the cells with a true label at or below it. A prediction above the level is
    counted as wrong; a prediction below it is replaced by its ancestor at the level.

    Parameters
    ----------
    taxonomy
        Taxonomy that defines the nodes.
    y_true, y_pred
        Node indices, shape ``(n_cells,)``.

    Returns
    -------
    pandas.DataFrame
        One row per level (index: level names) with the columns ``n_cells``, ``n_classes`` (classes
        among the true labels), ``accuracy``, ``macro_f1`` (mean F1 over these classes) and
        ``balanced_accuracy`` (mean recall over them). NaN if no true label reaches the level.

    Raises
    ------
    ValueError
        If the arrays differ in length, or contain values that are not nodes of the taxonomy.

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
    from sklearn.metrics import precision_recall_fscore_support  # imports for half a second

    true, pred = check_nodes(taxonomy, y_true=y_true, y_pred=y_pred)
    table = taxonomy.node_at_level
    rows = []
    for level in range(taxonomy.max_depth):
        reached = table[true, level] >= 0
        here, found = table[true[reached], level], table[pred[reached], level]
        classes = np.unique(here)  # without -1, the value of predictions above the level
        means = [np.nan] * 3
        if len(classes):
            scores = precision_recall_fscore_support(here, found, labels=classes, zero_division=0)
            means = [np.mean(here == found), scores[2].mean(), scores[1].mean()]
        rows.append((len(here), len(classes), *means))
    return pd.DataFrame(rows, pd.Index(taxonomy.level_names, name="level"), columns=_COLUMNS)


def hierarchical_scores(
    taxonomy: Taxonomy, y_true: ArrayLike, y_pred: ArrayLike
) -> HierarchicalScores:
    """Compute hierarchical precision, recall and F1.

    Each label is replaced by the set of its ancestors, including itself but not the root. Precision
    is the number of shared nodes divided by the number of predicted nodes, recall divides it by the
    number of true nodes. Numbers are summed over cells first (micro-average).

    Parameters
    ----------
    taxonomy
        Taxonomy that defines the nodes.
    y_true, y_pred
        Node indices, shape ``(n_cells,)``. Cells whose true node is the root are unlabelled and
        ignored.

    Returns
    -------
    HierarchicalScores
        Scores in [0, 1]. If nothing is predicted below the root, precision is 0; if no cell is
        labelled, all scores are NaN.

    Raises
    ------
    ValueError
        If the arrays differ in length, or contain values that are not nodes of the taxonomy.

    Notes
    -----
    Kiritchenko, Matwin, Nock, Famili 2006, doi:10.1007/11766247_34. As published, a prediction
    below a true inner node lowers precision although it may be correct.

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
    shared = int(shared_depth(taxonomy, true, pred).sum())
    precision, f1 = shared / n_pred if n_pred else 0.0, 2 * shared / (n_true + n_pred)
    return HierarchicalScores(precision, shared / n_true, f1, n_cells=len(true))


def path_distance(taxonomy: Taxonomy, y_true: ArrayLike, y_pred: ArrayLike) -> NDArray[np.int64]:
    """Compute the number of edges between each true node and the predicted one.

    Parameters
    ----------
    taxonomy
        Taxonomy that defines the nodes.
    y_true, y_pred
        Node indices, shape ``(n_cells,)``.

    Returns
    -------
    numpy.ndarray
        int64, shape ``(n_cells,)``; 0 if both nodes are the same.

    Raises
    ------
    ValueError
        If the arrays differ in length, or contain values that are not nodes of the taxonomy.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy, path_distance
    >>> tax = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> path_distance(tax, tax.encode(["CD4", "CD4", "CD4"]), tax.encode(["T", "CD8", "B"]))
    array([1, 2, 3])
    """
    true, pred = check_nodes(taxonomy, y_true=y_true, y_pred=y_pred)
    depth = taxonomy.depth
    return depth[true] + depth[pred] - 2 * shared_depth(taxonomy, true, pred)


def shared_depth(taxonomy: Taxonomy, true: Nodes, pred: Nodes) -> NDArray[np.int64]:
    """Return the depth of the lowest common ancestor of each pair, shape ``(n_cells,)``.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> shared_depth(tree, np.array([3, 3, 3]), np.array([3, 4, 2]))
    array([2, 1, 0])
    """
    shared = np.zeros(len(true), dtype=np.int64)
    for here in taxonomy.node_at_level.T:  # level by level, to save memory
        shared += (here[true] >= 0) & (here[true] == here[pred])
    return shared


def check_nodes(
    taxonomy: Taxonomy, n_cells: int | None = None, **given: ArrayLike
) -> tuple[Nodes, ...]:
    """Validate arrays of nodes, passed by argument name, and return them as int64.

    Parameters
    ----------
    taxonomy
        Taxonomy that defines the nodes.
    n_cells
        Required length; by default that of the first array.
    given
        Arrays by the names of the arguments.

    Raises
    ------
    ValueError
        If an array is not one node of the taxonomy per cell, shape ``(n_cells,)``, or two Series
        have different indices.

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
            found = f"type {nodes.dtype} and shape {nodes.shape} with values {nodes.ravel()[:3]}"
            raise ValueError(
                f"{name} must be node indices from 0 to {taxonomy.n_nodes - 1}, one for each of "
                f"{n_cells} cells, got {found}. Use `taxonomy.encode` to convert labels to nodes."
            )
    indices = [values.index for values in given.values() if isinstance(values, pd.Series)]
    if not all(index.equals(indices[0]) for index in indices):
        found = f"{' and '.join(given)} must have the same index, got cells in different order"
        raise ValueError(f"{found}. Pass one of them by .loc with the index of the other.")
    return tuple(np.asarray(values).astype(np.int64) for values in given.values())
