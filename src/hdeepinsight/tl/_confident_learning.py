"""Confident learning along a taxonomy: which labels the out-of-fold probabilities contradict."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import normalized_mutual_info_score

from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight.taxonomy import Taxonomy

#: Share of a class's cells in which the classifier has to see the class before it may deny it.
LEAST_RECOGNISED = 0.5
#: A label and a batch whose overlap (Jaccard) reaches this are taken for the same cells.
_SAME_CELLS = 0.95


class SiblingJoint(NamedTuple):
    """Confident joint of one sibling group.

    ``counts[i, j]`` is the number of cells labelled with child ``i`` that are confidently of child
    ``j``; ``recognised[i]`` the share of the cells labelled ``i`` for which it is the most probable
    child.
    """

    children: np.ndarray
    counts: np.ndarray
    recognised: np.ndarray


class Contradictions(NamedTuple):
    """What the walk down the tree found.

    ``rival`` is the contradicting sibling, -1 where there is none; ``margin`` the smallest lead of
    the given node over its siblings on the levels that were judged, NaN where none was; ``weight``
    the ratio of the probabilities of the given node and its rival. All have shape ``(n_cells,)``.
    """

    rival: np.ndarray
    margin: np.ndarray
    weight: np.ndarray
    joints: list[SiblingJoint]


def find_contradictions(
    taxonomy: Taxonomy,
    nodes: np.ndarray,
    probabilities: np.ndarray,
    judged: np.ndarray,
    *,
    least_margin: float,
) -> Contradictions:
    r"""Walk down the tree and stop where a cell's label is contradicted.

    Parameters
    ----------
    taxonomy
        The tree.
    nodes
        Node of every cell's label, shape ``(n_cells,)``.
    probabilities
        Out-of-fold probability of every node, shape ``(n_cells, n_nodes)``.
    judged
        Cells that take part, shape ``(n_cells,)``.
    least_margin
        A rival's lead over the given node that makes a contradiction.

    Notes
    -----
    A label is contradicted where a sibling of its node is more probable by ``least_margin``;
    nothing below is judged then. A child that is the most probable one for less than half of the
    cells labelled so is never contradicted: the classifier does not see what defines it, so its
    denial says nothing.

    In the confident joint, which estimates the noise of whole classes, child :math:`j` has the
    threshold :math:`t_j`, the mean probability of :math:`j` over the cells labelled :math:`j`, and
    a cell counts for the most probable child that reaches its threshold. These thresholds do not
    take part in single contradictions: where types are far apart they exceed 0.9, and would excuse
    the clearest errors.
    """
    n_cells = len(nodes)
    rival, margin = np.full(n_cells, -1, dtype=np.int64), np.full(n_cells, np.nan)
    found = Contradictions(rival, margin, weight=np.ones(n_cells), joints=[])
    path = taxonomy.node_at_level[nodes]
    # Breadth-first: the lineages of a cell are judged before the types within them.
    for parent in taxonomy.inner_nodes:
        given = path[:, taxonomy.depth[parent]]
        here = judged & (found.rival < 0) & np.isin(given, taxonomy.children(int(parent)))
        cells = np.flatnonzero(here)
        children, codes = np.unique(given[cells], return_inverse=True)
        if len(children) > 1:
            _judge_group(found, cells, codes, children, probabilities, least_margin)
    return found


def _judge_group(
    found: Contradictions,
    cells: np.ndarray,
    codes: np.ndarray,
    children: np.ndarray,
    probabilities: np.ndarray,
    least_margin: float,
) -> None:
    """Write into ``found`` what one sibling group says about its cells."""
    values = probabilities[np.ix_(cells, children)]
    rows = np.arange(len(cells))
    likely, recognised = confident_classes(values, codes), recognised_shares(values, codes)
    counts = np.zeros((len(children), len(children)), dtype=np.int64)
    np.add.at(counts, (codes[likely >= 0], likely[likely >= 0]), 1)
    found.joints.append(SiblingJoint(children, counts, recognised))
    own = values[rows, codes]
    values[rows, codes] = -np.inf
    rival = values.argmax(axis=1)
    lead = values[rows, rival] - own
    found.margin[cells] = np.fmin(found.margin[cells], -lead)
    wrong = (lead >= least_margin) & (lead > 0) & (recognised >= LEAST_RECOGNISED)[codes]
    found.rival[cells[wrong]] = children[rival[wrong]]
    found.weight[cells[wrong]] = (own / np.maximum(values[rows, rival], 1e-12))[wrong]


def confident_classes(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Find the most probable class that reaches its threshold, -1 where none does; ``(n_cells,)``.

    Parameters
    ----------
    values
        Probabilities, shape ``(n_cells, n_classes)``.
    codes
        Class that labels each cell, shape ``(n_cells,)``; every class labels some.
    """
    columns = np.arange(values.shape[1])
    thresholds = np.array([values[codes == column, column].mean() for column in columns])
    reached = np.where(values >= thresholds, values, -1.0)
    return np.where(reached.max(axis=1) >= 0, reached.argmax(axis=1), -1)


def recognised_shares(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Return the share of each class's cells whose most probable class it is, ``(n_classes,)``."""
    hits = np.bincount(codes[values.argmax(axis=1) == codes], minlength=values.shape[1])
    return np.asarray(hits / np.bincount(codes))


def transition_rates(joint: SiblingJoint) -> np.ndarray:
    """Return the share of each label's cells that are of each child, ``(n_children, n_children)``.

    Rows sum to 1. A label without any confident cell is taken to be right.
    """
    totals = joint.counts.sum(axis=1, keepdims=True)
    rates = joint.counts / np.maximum(totals, 1)
    return np.where(totals > 0, rates, np.eye(len(rates)))


def most_probable_below(
    taxonomy: Taxonomy, probabilities: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """Walk from the start nodes to the likeliest children as far as there are some; ``(n_cells,)``.

    It stops at a node none of whose children has any probability, such as one that no finer label
    was learnt for.
    """
    node = starts.copy()
    for children in taxonomy.groups:
        here = np.flatnonzero(node == taxonomy.parent[children[0]])
        values = probabilities[np.ix_(here, children)]
        node[here] = np.where(values.max(axis=1) > 0, children[values.argmax(axis=1)], node[here])
    return node


def within_share(
    margin: np.ndarray, nodes: np.ndarray, flagged: np.ndarray, max_share: float
) -> np.ndarray:
    """Keep, of each label, the most contradicted cells up to a share; ``(n_cells,)`` of bool."""
    kept = flagged.copy()
    for node in np.unique(nodes[flagged]):
        cells = np.flatnonzero(flagged & (nodes == node))
        n_most = int(max_share * np.count_nonzero(nodes == node))
        kept[cells[np.argsort(margin[cells], kind="stable")[n_most:]]] = False
    return kept


def transition_table(taxonomy: Taxonomy, joints: list[SiblingJoint]) -> pd.DataFrame:
    """Lay out the confident joint of all sibling groups in long form."""
    names = np.array(class_names(taxonomy), dtype=object)
    parts = []
    for joint in joints:
        n_children = len(joint.children)
        given, likely = np.repeat(joint.children, n_children), np.tile(joint.children, n_children)
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
    """Tabulate noise, purity and confounding of every node with cells at or under it."""
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
    index = [_levels(taxonomy, rows), np.array(class_names(taxonomy), dtype=object)[rows]]
    return table.set_axis(pd.MultiIndex.from_arrays(index, names=["level", "class"]), axis=0)


def _levels(taxonomy: Taxonomy, nodes: np.ndarray) -> np.ndarray:
    names = np.array(["", *taxonomy.level_names], dtype=object)
    return np.asarray(names[taxonomy.depth[nodes]])


def _count(taxonomy: Taxonomy, nodes: np.ndarray) -> np.ndarray:
    """Count the cells at or under every node; the root's are all."""
    return taxonomy.roll_up(np.bincount(nodes, minlength=taxonomy.n_nodes))


def _along_paths(taxonomy: Taxonomy, joints: list[SiblingJoint]) -> tuple[np.ndarray, np.ndarray]:
    """Return the share of wrong labels on the way to every node, and the least recognised share.

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
    """Name every node: by its label, or by its path where the label means several branches.

    A chain such as B > B > B is one branch, and its nodes share the name.
    """
    first: dict[str, int] = {}
    shared = {LABEL_COLUMNS.ROOT}
    # Breadth-first: the highest node of a name comes first.
    for node, label in enumerate(taxonomy.labels[1:], start=1):
        if first.setdefault(label, node) not in taxonomy.ancestors(node):
            shared.add(label)
    nodes = enumerate(taxonomy.labels[1:], start=1)
    names = [taxonomy.path_name(node) if label in shared else label for node, label in nodes]
    return [LABEL_COLUMNS.ROOT, *names]


def class_batches(
    taxonomy: Taxonomy, nodes: np.ndarray, rows: np.ndarray, batches: np.ndarray
) -> pd.DataFrame:
    """Tabulate where the cells of each class come from, one row per class.

    Parameters
    ----------
    taxonomy
        The tree.
    nodes
        Node of every cell's label, shape ``(n_cells,)``.
    rows
        The classes to describe, shape ``(n_rows,)``; a class has the cells labelled at or under it.
    batches
        Batch of every cell, shape ``(n_cells,)``.

    Returns
    -------
    Table with ``n_batches``, ``largest_batch``, ``largest_batch_share`` (of the class's cells),
    ``batch_overlap`` (largest Jaccard index of the class and a batch) and ``confounding``:
    ``"same as a batch"``, ``"in one batch only"`` or ``""``.
    """
    names, codes, sizes = np.unique(batches, return_inverse=True, return_counts=True)
    counts = np.zeros((taxonomy.n_nodes, len(names)), dtype=np.int64)
    np.add.at(counts, (nodes, codes), 1)
    counts = taxonomy.roll_up(counts.T).T[rows]
    own = counts.sum(axis=1, keepdims=True)
    overlap = (counts / (own + sizes - counts)).max(axis=1)
    n_batches = (counts > 0).sum(axis=1)
    alone = np.where((n_batches == 1) & (own.ravel() > 1), "in one batch only", "")
    return pd.DataFrame(
        {
            "n_batches": n_batches,
            "largest_batch": names[counts.argmax(axis=1)],
            "largest_batch_share": counts.max(axis=1) / own.ravel(),
            "batch_overlap": overlap,
            "confounding": np.where(overlap >= _SAME_CELLS, "same as a batch", alone),
        }
    )


def batch_information(
    taxonomy: Taxonomy, nodes: np.ndarray, batches: np.ndarray | None
) -> pd.Series[float]:
    """Compute the normalised mutual information of labels and batches, shape ``(n_levels,)``.

    0 says that labels tell nothing about batches, 1 that they are the same partition. NaN without
    batches.
    """
    values = []
    for level in range(taxonomy.max_depth):
        at_level = taxonomy.node_at_level[nodes, level]
        known = (nodes > 0) & (at_level > 0)
        if batches is None or not known.any():
            values.append(np.nan)
        else:
            values.append(normalized_mutual_info_score(at_level[known], batches[known]))
    return pd.Series(values, index=list(taxonomy.level_names), name="batch_nmi", dtype=float)
