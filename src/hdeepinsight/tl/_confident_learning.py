"""Confident learning along a taxonomy: which labels the out-of-fold probabilities contradict."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight.annotation import drop_ancestors
from hdeepinsight.data import CountSource, align_genes, log_normalize, select_genes
from hdeepinsight.taxonomy import Taxonomy

#: Share of a class's cells in which the classifier has to see the class before it may deny it.
LEAST_RECOGNISED = 0.5
#: A label and a batch whose overlap (Jaccard) reaches this are taken for the same cells.
_SAME_CELLS = 0.95
#: Features of the classifier, and its settings.
_N_GENES, _N_COMPONENTS = 2000, 50
_CLIP, _LEAST_SPREAD = 10.0, 1e-3
_INVERSE_PENALTY, _MAX_ITER = 0.1, 300
#: Folds follow the batches only for classes of which at least this share is then still trained on.
_LEAST_TRAINED = 0.5


def expression_features(source: CountSource, *, seed: int) -> np.ndarray:
    """Compute principal components of scaled log-normalised counts, ``(n_cells, n_components)``.

    The first component has variance 1, the others less: the penalty of the classifier then falls
    on the directions in which cells differ little.
    """
    genes = select_genes(source, _N_GENES)
    chunks = [chunk for _, chunk in source.chunks(align_genes(source.var_names, genes))]
    values = log_normalize(sparse.vstack(chunks, format="csr")).toarray()
    values -= values.mean(axis=0)
    values /= np.maximum(values.std(axis=0), _LEAST_SPREAD)
    np.clip(values, -_CLIP, _CLIP, out=values)
    n_components = min(_N_COMPONENTS, min(values.shape) - 1)
    if n_components < 1:
        return np.zeros((len(values), 1))
    components = PCA(n_components, svd_solver="randomized", random_state=seed).fit_transform(values)
    return np.asarray(components / max(components[:, 0].std(), _LEAST_SPREAD))


def assign_folds(
    nodes: np.ndarray, batches: np.ndarray | None, n_folds: int, rng: np.random.Generator
) -> np.ndarray:
    """Assign a fold to every cell, shape ``(n_cells,)``.

    Parameters
    ----------
    nodes
        Node of every cell's label, shape ``(n_cells,)``.
    batches
        Batch of every cell, shape ``(n_cells,)``, or ``None``.
    n_folds
        Number of folds.
    rng
        Source of randomness.

    Notes
    -----
    Without batches the cells of every label are dealt to the folds in turn. With batches whole
    batches share a fold, except for labels of which some fold would then hold more than half of the
    cells (those of few batches): these are dealt by cell.
    """
    folds, by_batch = np.empty(len(nodes), dtype=np.int64), None
    if batches is not None:  # the largest batches first into the emptiest fold
        names, codes, sizes = np.unique(batches, return_inverse=True, return_counts=True)
        order = rng.permutation(len(names))
        fold_of, filled = np.empty(len(names), dtype=np.int64), np.zeros(n_folds)
        for batch in order[np.argsort(-sizes[order], kind="stable")]:
            fold_of[batch] = filled.argmin()
            filled[fold_of[batch]] += sizes[batch]
        by_batch = fold_of[codes]
    for node in np.unique(nodes):
        cells = rng.permutation(np.flatnonzero(nodes == node))
        folds[cells] = (np.arange(len(cells)) + rng.integers(n_folds)) % n_folds
        most = (1 - _LEAST_TRAINED) * len(cells)
        if by_batch is not None and np.bincount(by_batch[cells]).max() <= most:
            folds[cells] = by_batch[cells]
    return folds


def out_of_fold_probabilities(
    features: np.ndarray, taxonomy: Taxonomy, nodes: np.ndarray, folds: np.ndarray
) -> np.ndarray:
    """Predict every node of every cell by a classifier that has not seen the cell.

    Parameters
    ----------
    features
        Shape ``(n_cells, n_features)``.
    taxonomy
        The tree.
    nodes
        Node of every cell's label, shape ``(n_cells,)``; cells with 0 get probabilities, but train
        nothing, and so do cells labelled above another label.
    folds
        Fold of every cell, shape ``(n_cells,)``.

    Returns
    -------
    Shape ``(n_cells, n_nodes)``: the root is 1, a node is the sum of the classes at or under it.

    Notes
    -----
    Multinomial logistic regression. Classes are not balanced: a wrong label is a large share of a
    rare class, and with equal weights such a class then claims the cells of large ones.
    """
    used = np.unique(nodes[nodes > 0])
    classes = used[drop_ancestors(taxonomy, used)]
    trains = np.isin(nodes, classes)
    under = taxonomy.roll_up(np.eye(taxonomy.n_nodes)[classes])
    probabilities = np.zeros((len(nodes), taxonomy.n_nodes))
    for fold in np.unique(folds):
        held_out, rows = np.flatnonzero(folds == fold), np.flatnonzero(trains & (folds != fold))
        present = np.unique(nodes[rows])
        columns = under[np.isin(classes, present)]
        if len(present) < 2:  # one class alone is certain, and none says nothing
            probabilities[held_out] = columns.sum(axis=0)
            continue
        model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=_MAX_ITER)
        model.fit(features[rows], nodes[rows])
        probabilities[held_out] = model.predict_proba(features[held_out]) @ columns
    probabilities[:, 0] = 1.0
    return probabilities


class Contradictions(NamedTuple):
    """What the walk down the tree found.

    Per cell, ``(n_cells,)``: ``rival`` is the contradicting sibling, -1 where there is none;
    ``margin`` the smallest lead of the given node over its siblings on the levels that were judged,
    NaN where none was; ``weight`` the ratio of the probabilities of the given node and its rival.
    Per node, ``(n_nodes,)``: ``noise`` is the share of wrong labels on the way to it, and
    ``recognised`` the least share of cells that are seen to be of a node on that way.
    ``transitions`` is the confident joint in long form.
    """

    rival: np.ndarray
    margin: np.ndarray
    weight: np.ndarray
    noise: np.ndarray
    recognised: np.ndarray
    transitions: pd.DataFrame


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
    a cell counts for the most probable child that reaches its threshold. A label without any
    confident cell is taken to be right. These thresholds do not take part in single contradictions:
    where types are far apart they exceed 0.9, and would excuse the clearest errors.
    """
    rival, margin = np.full(len(nodes), -1), np.full(len(nodes), np.nan)
    weight, (right, recognised) = np.ones(len(nodes)), np.ones((2, taxonomy.n_nodes))
    path, names = taxonomy.node_at_level[nodes], np.array(class_names(taxonomy), dtype=object)
    transitions = []
    # Breadth-first: the lineages of a cell are judged before the types within them.
    for parent in taxonomy.inner_nodes.tolist():
        given = path[:, taxonomy.depth[parent]]
        here = judged & (rival < 0) & np.isin(given, taxonomy.children(parent))
        cells = np.flatnonzero(here)
        children, codes = np.unique(given[cells], return_inverse=True)
        if (n := len(children)) < 2:
            continue
        values, rows = probabilities[np.ix_(cells, children)], np.arange(len(cells))
        seen = np.bincount(codes[values.argmax(axis=1) == codes], minlength=n) / np.bincount(codes)
        thresholds = np.array([values[codes == child, child].mean() for child in range(n)])
        reached = np.where(values >= thresholds, values, -1.0)
        sure = reached.max(axis=1) >= 0
        counts = np.zeros((n, n), dtype=np.int64)
        np.add.at(counts, (codes[sure], reached.argmax(axis=1)[sure]), 1)
        totals = counts.sum(axis=1, keepdims=True)
        rates = np.where(totals > 0, counts / np.maximum(totals, 1), np.eye(n))
        right[children], recognised[children] = np.diag(rates), seen
        joint = {
            "level": taxonomy.level_names[taxonomy.depth[parent]],
            "given": np.repeat(names[children], n),
            "likely": np.tile(names[children], n),
            "n_confident": counts.ravel(),
            "rate": rates.ravel(),
        }
        transitions.append(pd.DataFrame(joint))
        own = values[rows, codes]
        values[rows, codes] = -np.inf
        best = values.argmax(axis=1)
        lead = values[rows, best] - own
        margin[cells] = np.fmin(margin[cells], -lead)
        wrong = (lead >= least_margin) & (lead > 0) & (seen >= LEAST_RECOGNISED)[codes]
        rival[cells[wrong]] = children[best[wrong]]
        weight[cells[wrong]] = (own / np.maximum(values[rows, best], 1e-12))[wrong]
    for node, above in enumerate(taxonomy.parent[1:].tolist(), start=1):
        right[node] *= right[above]
        recognised[node] = min(recognised[node], recognised[above])
    columns = ["level", "given", "likely", "n_confident", "rate"]
    table = pd.concat(transitions or [pd.DataFrame(columns=columns)], ignore_index=True)
    return Contradictions(rival, margin, weight, 1.0 - right, recognised, table)


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
    rank = pd.Series(np.where(flagged, margin, np.nan)).groupby(nodes).rank(method="first")
    return np.asarray(rank <= np.floor(max_share * np.bincount(nodes)[nodes]))


def class_table(
    taxonomy: Taxonomy,
    nodes: np.ndarray,
    probabilities: np.ndarray,
    judged: np.ndarray,
    suspicious: np.ndarray,
    found: Contradictions,
    batches: np.ndarray | None,
) -> pd.DataFrame:
    """Tabulate noise, purity and confounding of every node with cells at or under it."""

    def count(cells: np.ndarray) -> np.ndarray:
        return taxonomy.roll_up(np.bincount(nodes[cells], minlength=taxonomy.n_nodes))

    greedy = most_probable_below(taxonomy, probabilities, np.zeros(len(nodes), dtype=np.int64))
    n_cells, n_judged = count(nodes >= 0), count(judged)
    agreeing, own = np.zeros((2, taxonomy.n_nodes))
    for given, likely in zip(*(taxonomy.node_at_level[x].T for x in (nodes, greedy)), strict=True):
        part = judged & (given > 0)
        np.add.at(agreeing, given[part & (given == likely)], 1)
        np.add.at(own, given[part], probabilities[part, given[part]])
    with np.errstate(invalid="ignore"):
        columns = {
            "n_cells": n_cells,
            "n_judged": n_judged,
            "n_suspicious": count(suspicious),
            "estimated_noise": np.where(n_judged > 0, found.noise, np.nan),
            "recognised": np.where(n_judged > 0, found.recognised, np.nan),
            "purity": agreeing / n_judged,
            "probability": own / n_judged,
        }
    rows = np.flatnonzero(n_cells[1:] > 0) + 1
    table = pd.DataFrame(columns).iloc[rows].reset_index(drop=True)
    if batches is not None:
        names, codes, sizes = np.unique(batches, return_inverse=True, return_counts=True)
        counts = np.zeros((len(names), taxonomy.n_nodes), dtype=np.int64)
        np.add.at(counts, (codes, nodes), 1)
        counts, total = taxonomy.roll_up(counts).T[rows], n_cells[rows]
        table["n_batches"] = (counts > 0).sum(axis=1)
        table["largest_batch"] = names[counts.argmax(axis=1)]
        table["largest_batch_share"] = counts.max(axis=1) / total
        overlap = (counts / (total[:, None] + sizes - counts)).max(axis=1)
        alone = np.where((table["n_batches"] == 1) & (total > 1), "in one batch only", "")
        table["batch_overlap"] = overlap
        table["confounding"] = np.where(overlap >= _SAME_CELLS, "same as a batch", alone)
    levels = np.array(taxonomy.level_names, dtype=object)[taxonomy.depth[rows] - 1]
    index = [levels, np.array(class_names(taxonomy), dtype=object)[rows]]
    return table.set_axis(pd.MultiIndex.from_arrays(index, names=["level", "class"]), axis=0)


def class_names(taxonomy: Taxonomy) -> list[str]:
    """Name every node: by its label, or by its path where the label means several branches.

    A chain such as B > B > B is one branch, and its nodes share the name.
    """
    first: dict[str, int] = {}
    shared = {LABEL_COLUMNS.ROOT}
    nodes = list(enumerate(taxonomy.labels))[1:]
    for node, label in nodes:  # breadth-first: the highest node of a name comes first
        if first.setdefault(label, node) not in taxonomy.ancestors(node):
            shared.add(label)
    names = [taxonomy.path_name(node) if label in shared else label for node, label in nodes]
    return [LABEL_COLUMNS.ROOT, *names]
