"""Mass on the nodes of a taxonomy, from classes at any depth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hdeepinsight._keys import LABEL_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hdeepinsight.taxonomy import Taxonomy

Floats = NDArray[np.float64]

#: What tools write for "no label": ours, CellTypist's, popV's and CELLxGENE's words.
NO_LABEL = ("Unknown", "unknown", "Unassigned", "unassigned", "Heterogeneous")


def depth_of_level(taxonomy: Taxonomy, level: int | str) -> int:
    """Return the depth of a level below the root.

    Raises
    ------
    ValueError
        If there is no such level, or it is the root, where every cell has the same label.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> depth_of_level(tree, "level_2"), depth_of_level(tree, 1)
    (2, 1)
    """
    depth = taxonomy.level_depth(level)
    if depth == 0:
        msg = (
            f"level={level!r} is the root; valid are {list(taxonomy.level_names)} or a depth from "
            f"1 to {taxonomy.max_depth}. Choose one of these."
        )
        raise ValueError(msg)
    return depth


def label_nodes(taxonomy: Taxonomy, labels: Iterable[Any]) -> NDArray[np.int64]:
    """Return the node of every label of any tool, 0 for none, shape ``(n_cells,)``.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> label_nodes(tree, ["CD4", "T", "Unassigned"])
    array([3, 1, 0])
    """
    own = set(taxonomy.labels)
    return taxonomy.encode(labels, unlabeled=[word for word in NO_LABEL if word not in own])


def node_names(taxonomy: Taxonomy, root: str = LABEL_COLUMNS.ROOT) -> list[str]:
    """Return the bare name of every node, with a word for "no label" at the root.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> node_names(tree)
    ['Unknown', 'T', 'B', 'CD4', 'CD8']
    """
    return [root, *taxonomy.labels[1:]]


def node_categories(names: Sequence[str], nodes: NDArray[np.int64]) -> pd.Categorical:
    """Return the name of each cell's node, as categories in the order of the tree that occur.

    Parameters
    ----------
    names
        Name of every node, shape ``(n_nodes,)``.
    nodes
        Node of every cell, shape ``(n_cells,)``.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> node_categories(node_names(tree), np.array([3, 0, 3])).categories.tolist()
    ['Unknown', 'CD4']
    """
    occurring = {names[node] for node in np.unique(nodes).tolist()}
    categories = [name for name in dict.fromkeys(names) if name in occurring]
    code_of = {name: code for code, name in enumerate(categories)}
    codes = np.array([code_of.get(name, -1) for name in names])
    return pd.Categorical.from_codes(codes[nodes], categories)


def class_nodes(taxonomy: Taxonomy, classes: Sequence[str]) -> NDArray[np.int64]:
    """Return the node of every class, shape ``(n_classes,)``.

    A class that carries the name of both a node and its child means the child, unless the child
    is among the classes by itself: classifiers name what they can tell apart.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> class_nodes(tree, ["B", "T > CD8"])
    array([2, 4])
    """
    nodes = taxonomy.encode(classes, unlabeled=None)
    given = set(nodes.tolist())
    for i, node in enumerate(nodes):
        name = taxonomy.label(int(node))
        while (child := _namesake(taxonomy, int(nodes[i]), name)) and child not in given:
            nodes[i] = child
    return nodes


def _namesake(taxonomy: Taxonomy, node: int, name: str) -> int:
    return next(
        (int(child) for child in taxonomy.children(node) if taxonomy.label(int(child)) == name), 0
    )


def drop_ancestors(taxonomy: Taxonomy, nodes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Tell which classes stay when those above others are dropped, shape ``(n_classes,)``.

    Classes at the root are dropped too.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> drop_ancestors(tree, np.array([1, 3, 2]))
    array([False,  True,  True])
    """
    above = {
        int(parent) for node in nodes for parent in taxonomy.ancestors(int(node)) if parent != node
    }
    return np.array([node not in above and node > 0 for node in nodes.tolist()], dtype=bool)


def node_mass(taxonomy: Taxonomy, values: Floats, nodes: NDArray[np.int64]) -> Floats:
    """Add up the mass at or below every node, ``(n_cells, n_nodes)``, from that of classes.

    Parameters
    ----------
    taxonomy
        The tree.
    values
        Mass of every class, shape ``(n_cells, n_classes)``.
    nodes
        Node of every class, shape ``(n_classes,)``.

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
    """Share each node's probability among its children by their mass, ``(n_cells, n_nodes)``.

    Mass that stays at an inner node speaks for no child, so it is shared as the rest is; equally,
    where no child has any.

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
    """Return the next number above a threshold, which two children with equal shares do not reach.

    Examples
    --------
    >>> next_above(0.5) > 0.5, next_above(None)
    (True, None)
    """
    return None if threshold is None else min(float(np.nextafter(threshold, 1.0)), 1.0)


def normalise_classes(
    values: Floats, nodes: NDArray[np.int64], taxonomy: Taxonomy
) -> tuple[Floats, NDArray[np.int64]]:
    """Make distributions over classes that exclude each other; rows without any mass stay 0.

    Parameters
    ----------
    values
        Probability of every class, shape ``(n_cells, n_classes)``. Where rows do not sum to 1,
        classes above others are dropped.
    nodes
        Node of every class, shape ``(n_classes,)``.
    taxonomy
        The tree.

    Returns
    -------
    Probabilities and nodes of the classes that stay.

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
        raise ValueError(
            f"Found probabilities from {np.nanmin(values):.3g} to {np.nanmax(values):.3g}. Valid "
            "are finite numbers from 0. Take the softmax of logits first."
        )
    total = values.sum(axis=1, keepdims=True)
    if np.abs(total - 1).max(initial=0) > 1e-3:
        # Sums beyond 1 come from tables that give a parent beside its children.
        keep = drop_ancestors(taxonomy, nodes)
        values, nodes = values[:, keep], nodes[keep]
        total = values.sum(axis=1, keepdims=True)
    return values / np.where(total > 0, total, 1.0), nodes
