"""Confident learning along a taxonomy: which labels the out-of-fold probabilities contradict."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hdeepinsight.taxonomy import Taxonomy

#: Share of a class's cells in which the classifier has to see the class before it may deny it.
LEAST_RECOGNISED = 0.5


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
    found = Contradictions(
        rival=np.full(n_cells, -1, dtype=np.int64),
        margin=np.full(n_cells, np.nan),
        weight=np.ones(n_cells),
        joints=[],
    )
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
    """Most probable class that reaches its threshold, -1 where none does; ``(n_cells,)``.

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
    """Share of each class's cells for which it is the most probable one, shape ``(n_classes,)``."""
    hits = np.bincount(codes[values.argmax(axis=1) == codes], minlength=values.shape[1])
    return np.asarray(hits / np.bincount(codes))


def transition_rates(joint: SiblingJoint) -> np.ndarray:
    """Share of each label's cells that are of each child, shape ``(n_children, n_children)``.

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
    for node, cells in _cells_of_labels(nodes, flagged):
        n_most = int(max_share * np.count_nonzero(nodes == node))
        kept[cells[np.argsort(margin[cells], kind="stable")[n_most:]]] = False
    return kept


def _cells_of_labels(nodes: np.ndarray, chosen: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for node in np.unique(nodes[chosen]):
        yield int(node), np.flatnonzero(chosen & (nodes == node))
