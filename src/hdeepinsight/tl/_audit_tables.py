"""Tables of an audit: one row a class, and one row a pair of siblings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight.tl._audit_batches import class_batches
from hdeepinsight.tl._audit_joint import SiblingJoint, most_probable_below, transition_rates

if TYPE_CHECKING:
    from hdeepinsight.taxonomy import Taxonomy


def transition_table(taxonomy: Taxonomy, joints: list[SiblingJoint]) -> pd.DataFrame:
    """Lay out the confident joint of all sibling groups in long form."""
    names = np.array(class_names(taxonomy), dtype=object)
    parts = []
    for joint in joints:
        given, likely = (
            part.ravel() for part in np.meshgrid(joint.children, joint.children, indexing="ij")
        )
        parts.append(
            pd.DataFrame(
                {
                    "level": _levels(taxonomy, given),
                    "given": names[given],
                    "likely": names[likely],
                    "n_confident": joint.counts.ravel(),
                    "rate": transition_rates(joint).ravel(),
                }
            )
        )
    columns = ["level", "given", "likely", "n_confident", "rate"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def class_table(
    taxonomy: Taxonomy,
    nodes: np.ndarray,
    probabilities: np.ndarray,
    judged: np.ndarray,
    suspicious: np.ndarray,
    joints: list[SiblingJoint],
    batches: np.ndarray | None,
) -> pd.DataFrame:
    """Noise, purity and confounding, a row for every node with cells at or under it."""
    greedy = most_probable_below(taxonomy, probabilities, np.zeros(len(nodes), dtype=np.int64))
    n_cells = _count(taxonomy, nodes)
    n_judged = _count(taxonomy, nodes[judged])
    rows = np.flatnonzero(n_cells[1:] > 0) + 1
    agreeing, own = np.zeros(len(n_cells)), np.zeros(len(n_cells))
    for level in range(taxonomy.max_depth):
        given = taxonomy.node_at_level[nodes, level]
        part = judged & (given > 0)
        agrees = part & (given == taxonomy.node_at_level[greedy, level])
        np.add.at(agreeing, given[agrees], 1)
        np.add.at(own, given[part], probabilities[part, given[part]])
    noise, recognised = _along_paths(taxonomy, joints)
    with np.errstate(invalid="ignore"):
        purity, probability = agreeing / n_judged, own / n_judged
    table = pd.DataFrame(
        {
            "n_cells": n_cells[rows],
            "n_judged": n_judged[rows],
            "n_suspicious": _count(taxonomy, nodes[suspicious])[rows],
            "estimated_noise": np.where(n_judged > 0, noise, np.nan)[rows],
            "recognised": np.where(n_judged > 0, recognised, np.nan)[rows],
            "purity": purity[rows],
            "probability": probability[rows],
        }
    )
    if batches is not None:
        table = table.join(class_batches(taxonomy, nodes, rows, batches))
    names = np.array(class_names(taxonomy), dtype=object)
    index = [_levels(taxonomy, rows), names[rows]]
    return table.set_axis(pd.MultiIndex.from_arrays(index, names=["level", "class"]), axis=0)


def _levels(taxonomy: Taxonomy, nodes: np.ndarray) -> np.ndarray:
    names = np.array(["", *taxonomy.level_names], dtype=object)
    return np.asarray(names[taxonomy.depth[nodes]])


def _count(taxonomy: Taxonomy, nodes: np.ndarray) -> np.ndarray:
    """Cells at or under every node; the root's are all."""
    return taxonomy.roll_up(np.bincount(nodes, minlength=taxonomy.n_nodes))


def _along_paths(taxonomy: Taxonomy, joints: list[SiblingJoint]) -> tuple[np.ndarray, np.ndarray]:
    """Share of wrong labels on the way to every node, and the smallest recognised share.

    Both of shape ``(n_nodes,)``.
    """
    right, recognised = np.ones(taxonomy.n_nodes), np.ones(taxonomy.n_nodes)
    for joint in joints:
        right[joint.children] = np.diag(transition_rates(joint))
        recognised[joint.children] = joint.recognised
    for node in range(1, taxonomy.n_nodes):  # breadth-first: what is above is done already
        right[node] *= right[taxonomy.parent[node]]
        recognised[node] = min(recognised[node], recognised[taxonomy.parent[node]])
    return 1.0 - right, recognised


def class_names(taxonomy: Taxonomy) -> list[str]:
    """Name of every node: its label, or its path where the label means several branches.

    A chain such as B > B > B is one branch, and its nodes share the name.
    """
    first: dict[str, int] = {}
    shared = {LABEL_COLUMNS.ROOT}
    for node in range(1, taxonomy.n_nodes):  # breadth-first: the highest node of a name comes first
        label = taxonomy.label(node)
        if first.setdefault(label, node) not in taxonomy.ancestors(node):
            shared.add(label)
    names = [
        taxonomy.path_name(node) if taxonomy.label(node) in shared else taxonomy.label(node)
        for node in range(1, taxonomy.n_nodes)
    ]
    return [LABEL_COLUMNS.ROOT, *names]
