"""Map labels and class probabilities of other tools to the nodes of a taxonomy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from hdeepinsight.annotation._anndata_io import check_same_cells
from hdeepinsight.taxonomy import Taxonomy, check_labels, check_nodes, nodes_of

Floats = NDArray[np.float64]

#: Labels of unlabelled cells in this package, CellTypist, popV and CELLxGENE.
_UNLABELED: Final = ("Unknown", "unknown", "Unassigned", "unassigned", "Heterogeneous")


def label_nodes(taxonomy: Taxonomy, labels: Iterable[Any]) -> NDArray[np.int64]:
    """Return the node of each label, 0 for unlabelled cells, shape ``(n_cells,)``.

    Warns
    -----
    LabelWarning
        If other words are interpreted as missing labels, or labels look alike.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> label_nodes(tree, ["CD4", "T", "Unassigned"])
    array([3, 1, 0])
    """
    column = labels if isinstance(labels, pd.Series) else pd.Series(list(labels), dtype=object)
    check_labels(column[~column.isin(taxonomy.labels)], "The labels", unlabeled=_UNLABELED)
    return taxonomy.encode(column)


def known_cells(
    taxonomy: Taxonomy, obs_names: pd.Index, **nodes: Any
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of the labelled cells, and their nodes.

    Parameters
    ----------
    taxonomy
        The tree.
    obs_names
        Names of the cells, shape ``(n_cells,)``.
    **nodes
        True node of each cell, 0 for unlabelled ones, by the name of the argument for messages.
    """
    (checked,) = check_nodes(taxonomy, len(obs_names), **nodes)
    for name, given in nodes.items():
        check_same_cells(obs_names, given, name)
    known = np.flatnonzero(checked > 0)
    if not known.size:
        hint = "Check the label column and its unlabelled category, or encode its labels"
        raise ValueError(f"No cell has a known label. {hint} with taxonomy.encode(labels).")
    return known, checked[known]


def class_nodes(taxonomy: Taxonomy, classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the node of each class, shape ``(n_classes,)``.

    If a node and its child have the same name, the class is the child, unless that is another
    class.

    Raises
    ------
    ValueError
        If a class is not in the taxonomy.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> class_nodes(tree, ["B", "T > CD8"])
    array([2, 4])
    """
    expected = "Classes must be names, synonyms or paths of the taxonomy, got classes that do not "
    expected += "lead to a node. Rename or omit them, or add synonyms."
    if not set(_UNLABELED).isdisjoint(classes):
        expected += " For a table with a class of unlabelled cells, use Annotation.from_labels("
        expected += "table.idxmax(axis=1), taxonomy, confidence=table.max(axis=1))."
    nodes = nodes_of(classes, taxonomy.resolve, expected)[:-1]
    given = set(nodes.tolist())
    for i, node in enumerate(nodes.tolist()):
        name, below = taxonomy.label(node), [node]
        while below and (below[0] == node or below[0] not in given):
            nodes[i] = below[0]
            children = taxonomy.children(below[0]).tolist()
            below = [child for child in children if taxonomy.label(child) == name]
    return nodes


def drop_ancestors(taxonomy: Taxonomy, nodes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which classes are not ancestors of others, bool, shape ``(n_classes,)``.

    The root counts as an ancestor.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> drop_ancestors(tree, np.array([1, 3, 2]))
    array([False,  True,  True])
    """
    above = {0, *(p for node in nodes.tolist() for p in taxonomy.ancestors(node)[:-1].tolist())}
    return np.array([node not in above for node in nodes.tolist()], dtype=bool)


def node_mass(taxonomy: Taxonomy, values: Floats, nodes: NDArray[np.int64]) -> Floats:
    """Sum the mass of classes at or below each node, shape ``(n_cells, n_nodes)``.

    Parameters
    ----------
    taxonomy
        The tree.
    values
        Mass of each class, shape ``(n_cells, n_classes)``.
    nodes
        Node of each class, shape ``(n_classes,)``.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> node_mass(tree, np.array([[0.5, 0.2, 0.3]]), np.array([3, 1, 2]))
    array([[1. , 0.7, 0.3, 0.5, 0. ]])
    """
    mass = np.zeros((len(values), taxonomy.n_nodes))
    for column, node in enumerate(nodes):
        mass[:, node] += values[:, column]
    return taxonomy.roll_up(mass)


def node_probabilities(taxonomy: Taxonomy, mass: Floats) -> Floats:
    """Split the probability of each node between its children by mass, ``(n_cells, n_nodes)``.

    Mass at an inner node itself is split in the same proportions, or equally if all children have
    zero mass.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> node_probabilities(tree, np.array([[1.0, 0.8, 0.2, 0.3, 0.1]])).round(2)
    array([[1. , 0.8, 0.2, 0.6, 0.2]])
    """
    probabilities = np.ones_like(mass)
    for parent, children in zip(taxonomy.inner_nodes, taxonomy.groups, strict=True):
        below = mass[:, children]
        total = below.sum(axis=1, keepdims=True)
        equal = np.full_like(below, 1.0 / len(children))
        share = np.divide(below, total, out=equal, where=total > 0)
        probabilities[:, children] = probabilities[:, [parent]] * share
    return probabilities


def next_above(threshold: float | None) -> float | None:
    """Return the next number above a threshold, which two equal probabilities cannot reach.

    Examples
    --------
    >>> next_above(0.5) > 0.5, next_above(None)
    (True, None)
    """
    return None if threshold is None else min(float(np.nextafter(threshold, 1.0)), 1.0)


def normalise_classes(
    values: Floats, nodes: NDArray[np.int64], taxonomy: Taxonomy
) -> tuple[Floats, NDArray[np.int64]]:
    """Normalise class probabilities to distributions; rows that are all zero stay zero.

    Parameters
    ----------
    values
        Probability of each class, shape ``(n_cells, n_classes)``. If rows do not sum to 1, classes
        that are ancestors of others are dropped.
    nodes
        Node of each class, shape ``(n_classes,)``.
    taxonomy
        The tree.

    Returns
    -------
    Probabilities and nodes of the remaining classes.

    Raises
    ------
    ValueError
        If values are negative or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> values, nodes = normalise_classes(np.array([[0.9, 0.6, 0.2]]), np.array([1, 3, 2]), tree)
    >>> values.round(2), nodes
    (array([[0.75, 0.25]]), array([3, 2]))
    """
    if not np.isfinite(values).all() or (values < 0).any():
        found = f"from {np.nanmin(values):.3g} to {np.nanmax(values):.3g}"
        hint = "Apply softmax to logits first."
        raise ValueError(f"Probabilities must be finite numbers >= 0, got values {found}. {hint}")
    total = values.sum(axis=1, keepdims=True)
    if np.abs(total - 1).max(initial=0) > 1e-3:
        # Sums above 1 occur in tables with parents and their children.
        keep = drop_ancestors(taxonomy, nodes)
        values, nodes = values[:, keep], nodes[keep]
        total = values.sum(axis=1, keepdims=True)
    return values / np.where(total > 0, total, 1.0), nodes


def label_probabilities(
    taxonomy: Taxonomy, labels: pd.Series, confidence: ArrayLike | None
) -> tuple[NDArray[np.int64], Floats]:
    """Return the node of each label, and node probabilities according to its confidence.

    Parameters
    ----------
    taxonomy
        The tree.
    labels
        One label per cell, indexed by cell.
    confidence
        Probability of each label, shape ``(n_cells,)``; 1 by default.
    """
    # A label refers to the end of a chain of single children: "B" is "B > B" if that exists.
    ends = np.arange(taxonomy.n_nodes)
    for node in np.flatnonzero(taxonomy.n_children == 1)[::-1]:  # children come after their parent
        ends[node] = ends[taxonomy.children(int(node))[0]] if node else 0
    nodes = ends[label_nodes(taxonomy, labels)]
    given = np.ones(len(labels)) if confidence is None else np.array(confidence, dtype=np.float64)
    if given.shape != (len(labels),) or not ((given >= 0) & (given <= 1)).all():
        raise ValueError(
            f"confidence must be one probability from 0 to 1 per label, got shape {given.shape}, "
            f"from {given.min(initial=np.inf):.3g} to {given.max(initial=-np.inf):.3g}, for "
            f"{len(labels)} labels. Divide counts of agreeing methods by the number of methods."
        )
    if confidence is not None:
        check_same_cells(labels.index, confidence, "confidence")
    inside = taxonomy.ancestor_matrix[:, nodes].T
    n_inside = inside.sum(axis=1)
    n_outside = np.maximum(taxonomy.n_leaves - n_inside, 1)
    given[n_inside == taxonomy.n_leaves] = 1.0  # no label, or no other types
    share = np.where(inside, (given / n_inside)[:, None], ((1 - given) / n_outside)[:, None])
    return nodes, share @ taxonomy.ancestor_matrix
