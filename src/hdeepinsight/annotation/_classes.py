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
    """Depth of a level below the root, of which every cell has the same label."""
    depth = taxonomy.level_depth(level)
    if depth == 0:
        msg = (
            f"level={level!r} is the root; valid are {list(taxonomy.level_names)} or a depth from "
            f"1 to {taxonomy.max_depth}. Choose one of these."
        )
        raise ValueError(msg)
    return depth


def label_nodes(taxonomy: Taxonomy, labels: Iterable[Any]) -> NDArray[np.int64]:
    """Node of every label of any tool, 0 for none, shape ``(n_cells,)``."""
    own = set(taxonomy.labels)
    return taxonomy.encode(labels, unlabeled=[word for word in NO_LABEL if word not in own])


def node_names(taxonomy: Taxonomy, root: str = LABEL_COLUMNS.ROOT) -> list[str]:
    """Bare name of every node, with a word for "no label" at the root."""
    return [root, *taxonomy.labels[1:]]


def node_categories(names: Sequence[str], nodes: NDArray[np.int64]) -> pd.Categorical:
    """Name of each cell's node, as categories in the order of the tree that occur.

    Parameters
    ----------
    names
        Name of every node, shape ``(n_nodes,)``.
    nodes
        Node of every cell, shape ``(n_cells,)``.
    """
    occurring = {names[node] for node in np.unique(nodes).tolist()}
    categories = [name for name in dict.fromkeys(names) if name in occurring]
    code_of = {name: code for code, name in enumerate(categories)}
    codes = np.array([code_of.get(name, -1) for name in names])
    return pd.Categorical.from_codes(codes[nodes], categories)


def class_nodes(taxonomy: Taxonomy, classes: Sequence[str]) -> NDArray[np.int64]:
    """Node of every class, shape ``(n_classes,)``.

    A class that carries the name of both a node and its child means the child, unless the child
    is among the classes by itself: classifiers name what they can tell apart.
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


def finest(taxonomy: Taxonomy, nodes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Classes with no other class below their node, shape ``(n_classes,)``."""
    above = {
        int(parent) for node in nodes for parent in taxonomy.ancestors(int(node)) if parent != node
    }
    return np.array([node not in above and node > 0 for node in nodes.tolist()], dtype=bool)


def node_mass(taxonomy: Taxonomy, values: Floats, nodes: NDArray[np.int64]) -> Floats:
    """Mass at or below every node, ``(n_cells, n_nodes)``, from that of classes."""
    mass = np.zeros((len(values), taxonomy.n_nodes))
    for column, node in enumerate(nodes):
        mass[:, node] += values[:, column]
    return taxonomy.roll_up(mass)


def node_probabilities(taxonomy: Taxonomy, mass: Floats) -> Floats:
    """Share each node's probability among its children by their mass, ``(n_cells, n_nodes)``.

    Mass that stays at an inner node speaks for no child, so it is shared as the rest is; equally,
    where no child has any.
    """
    probabilities = np.ones_like(mass)
    for parent, children in zip(taxonomy.inner_nodes, taxonomy.groups, strict=True):
        below = mass[:, children]
        total = below.sum(axis=1, keepdims=True)
        equal = np.full_like(below, 1.0 / len(children))
        share = np.divide(below, total, out=equal, where=total > 0)
        probabilities[:, children] = probabilities[:, [parent]] * share
    return probabilities


def above(threshold: float | None) -> float | None:
    """Next number above a threshold, so that two children with equal shares do not pass it."""
    return None if threshold is None else min(float(np.nextafter(threshold, 1.0)), 1.0)


def exclusive(
    values: Floats, nodes: NDArray[np.int64], taxonomy: Taxonomy
) -> tuple[Floats, NDArray[np.int64]]:
    """Distributions over classes that exclude each other; rows without any mass stay 0."""
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(
            f"Found probabilities from {np.nanmin(values):.3g} to {np.nanmax(values):.3g}. Valid "
            "are finite numbers from 0. Take the softmax of logits first."
        )
    total = values.sum(axis=1, keepdims=True)
    if np.abs(total - 1).max(initial=0) > 1e-3:
        # Sums beyond 1 come from tables that give a parent beside its children.
        keep = finest(taxonomy, nodes)
        values, nodes = values[:, keep], nodes[keep]
        total = values.sum(axis=1, keepdims=True)
    return values / np.where(total > 0, total, 1.0), nodes
