"""Find labels contradicted by out-of-fold probabilities (confident learning on a taxonomy)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from hdeepinsight._keys import LABEL_COLUMNS
from hdeepinsight.annotation import drop_ancestors
from hdeepinsight.data import CountSource, align_genes, log_normalize, select_genes
from hdeepinsight.taxonomy import Taxonomy

#: Labels of a class may be contradicted only if the classifier recognises this fraction of it.
LEAST_RECOGNISED = 0.5
#: Jaccard index from which a label and a batch are regarded as the same cells.
_SAME_CELLS = 0.95
#: Features and settings of the classifier.
_N_GENES, _N_COMPONENTS = 2000, 50
_CLIP, _LEAST_SPREAD = 10.0, 1e-3
_INVERSE_PENALTY, _MAX_ITER = 0.1, 300
#: Folds consist of whole batches only for classes of which this fraction remains for training.
_LEAST_TRAINED = 0.5


def expression_features(source: CountSource, *, seed: int) -> np.ndarray:
    """Compute principal components of scaled log-normalised counts, ``(n_cells, n_components)``.

    All components are divided by the standard deviation of the first one, so that the penalty of
    the classifier mainly affects directions of low variance.
    """
    genes = select_genes(source, _N_GENES)
    values = log_normalize(source.read(align_genes(source.var_names, genes))).toarray()
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
    """Assign each cell to a fold, shape ``(n_cells,)``.

    Parameters
    ----------
    nodes
        Node of each cell's label, shape ``(n_cells,)``.
    batches
        Batch of each cell, shape ``(n_cells,)``, or ``None``.
    n_folds
        Number of folds.
    rng
        Random number generator.

    Notes
    -----
    Without batches, the cells of each label are distributed evenly over the folds. With batches,
    the cells of a batch share a fold, except for labels of which a fold would then contain more
    than half of the cells (labels of few batches).
    """
    folds, by_batch = np.empty(len(nodes), dtype=np.int64), None
    if batches is not None:  # put the largest batches first, each into the smallest fold
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
    """Predict node probabilities of each cell by a classifier trained on the other folds.

    Parameters
    ----------
    features
        Features of the cells, shape ``(n_cells, n_features)``.
    taxonomy
        Taxonomy of the labels.
    nodes
        Node of each cell's label, shape ``(n_cells,)``. Unlabelled cells (0), and cells labelled
        above another label, are predicted but not used for training.
    folds
        Fold of each cell, shape ``(n_cells,)``.

    Returns
    -------
    numpy.ndarray
        Probabilities, shape ``(n_cells, n_nodes)``: 1 for the root, otherwise the sum over the
        classes at or below the node.

    Notes
    -----
    Multinomial logistic regression without class weights. Wrong labels make up a large fraction of
    a rare class, and with balanced weights such a class would attract cells of large classes.
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
        if len(present) < 2:  # a single class has probability 1; without classes, all are 0
            probabilities[held_out] = columns.sum(axis=0)
            continue
        model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=_MAX_ITER)
        model.fit(features[rows], nodes[rows])
        probabilities[held_out] = model.predict_proba(features[held_out]) @ columns
    probabilities[:, 0] = 1.0
    return probabilities


def find_contradictions(
    taxonomy: Taxonomy,
    nodes: np.ndarray,
    probabilities: np.ndarray,
    judged: np.ndarray,
    least_margin: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Compare each label with its siblings from the root down, until it is contradicted.

    Parameters
    ----------
    taxonomy
        Taxonomy of the labels.
    nodes
        Node of each cell's label, shape ``(n_cells,)``.
    probabilities
        Out-of-fold node probabilities, shape ``(n_cells, n_nodes)``.
    judged
        Cells to audit, bool, shape ``(n_cells,)``.
    least_margin
        Smallest lead of a rival over the label's node that is a contradiction.

    Returns
    -------
    Per cell, shape ``(n_cells,)``: the contradicting sibling, -1 for none; the smallest lead of a
    node of the label over its siblings, NaN for cells not audited; the ratio of the probabilities
    of the label's node and of its rival. Per node, shape ``(n_nodes,)``: the smallest fraction of
    cells recognised on its path.

    Notes
    -----
    A label is contradicted if a sibling of its node is more probable by ``least_margin``; levels
    below are then not compared. Labels of a class are never contradicted if the class is the most
    probable one for less than half of its cells, because the classifier cannot recognise it.
    The mean probability of a class over its own cells, the threshold of flat confident learning, is
    not used: for well separated types it exceeds 0.9 and would miss the clearest errors.
    """
    rival, margin = np.full(len(nodes), -1), np.full(len(nodes), np.nan)
    weight, recognised = np.ones(len(nodes)), np.ones(taxonomy.n_nodes)
    path = taxonomy.node_at_level[nodes]
    # In breadth-first order, lineages are compared before the types within them.
    for parent in taxonomy.inner_nodes.tolist():
        given = path[:, taxonomy.depth[parent]]
        here = judged & (rival < 0) & np.isin(given, taxonomy.children(parent))
        cells = np.flatnonzero(here)
        children, codes = np.unique(given[cells], return_inverse=True)
        if len(children) < 2:
            continue
        values, rows = probabilities[np.ix_(cells, children)], np.arange(len(cells))
        own_best = codes[values.argmax(axis=1) == codes]
        seen = np.bincount(own_best, minlength=len(children)) / np.bincount(codes)
        recognised[children] = seen
        own = values[rows, codes]
        values[rows, codes] = -np.inf
        best = values.argmax(axis=1)
        lead = values[rows, best] - own
        margin[cells] = np.fmin(margin[cells], -lead)
        wrong = (lead >= least_margin) & (lead > 0) & (seen >= LEAST_RECOGNISED)[codes]
        rival[cells[wrong]] = children[best[wrong]]
        weight[cells[wrong]] = (own / np.maximum(values[rows, best], 1e-12))[wrong]
    for node, above in enumerate(taxonomy.parent[1:].tolist(), start=1):
        recognised[node] = min(recognised[node], recognised[above])
    return rival, margin, weight, recognised


def most_probable_below(taxonomy: Taxonomy, p: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Descend from the start nodes to the most probable child, repeatedly; ``(n_cells,)``.

    The descent ends at a node whose children all have probability 0, such as a node without finer
    labels in the training data.
    """
    node = starts.copy()
    for children in taxonomy.groups:
        here = np.flatnonzero(node == taxonomy.parent[children[0]])
        values = p[np.ix_(here, children)]
        node[here] = np.where(values.max(axis=1) > 0, children[values.argmax(axis=1)], node[here])
    return node


def within_share(
    margin: np.ndarray, nodes: np.ndarray, flagged: np.ndarray, max_share: float
) -> np.ndarray:
    """Select the cells with the smallest margins, at most ``max_share`` of each label; bool."""
    rank = pd.Series(np.where(flagged, margin, np.nan)).groupby(nodes).rank(method="first")
    return np.asarray(rank <= np.floor(max_share * np.bincount(nodes)[nodes]))


def class_table(
    taxonomy: Taxonomy,
    nodes: np.ndarray,
    judged: np.ndarray,
    suspicious: np.ndarray,
    recognised: np.ndarray,
    batches: np.ndarray | None,
) -> pd.DataFrame:
    """Tabulate suspicious cells and confounding of each node with cells at or below it."""

    def count(cells: np.ndarray) -> np.ndarray:
        return taxonomy.roll_up(np.bincount(nodes[cells], minlength=taxonomy.n_nodes))

    n_cells, n_judged = count(nodes >= 0), count(judged)
    columns = {
        "n_cells": n_cells,
        "n_judged": n_judged,
        "n_suspicious": count(suspicious),
        "recognised": np.where(n_judged > 0, recognised, np.nan),
    }
    rows = np.flatnonzero(n_cells[1:] > 0) + 1
    table = pd.DataFrame(columns).iloc[rows].reset_index(drop=True)
    if batches is not None:
        names, codes, sizes = np.unique(batches, return_inverse=True, return_counts=True)
        counts = np.zeros((len(names), taxonomy.n_nodes), dtype=np.int64)
        np.add.at(counts, (codes, nodes), 1)
        counts, total = taxonomy.roll_up(counts).T[rows], n_cells[rows]
        table["largest_batch"] = names[counts.argmax(axis=1)]
        # Largest Jaccard index with a batch.
        overlap = (counts / (total[:, None] + sizes - counts)).max(axis=1)
        alone = np.where((counts.max(axis=1) == total) & (total > 1), "in one batch only", "")
        table["confounding"] = np.where(overlap >= _SAME_CELLS, "same as a batch", alone)
    levels = np.array(taxonomy.level_names, dtype=object)[taxonomy.depth[rows] - 1]
    index = [levels, np.array(class_names(taxonomy), dtype=object)[rows]]
    return table.set_axis(pd.MultiIndex.from_arrays(index, names=["level", "class"]), axis=0)


def class_names(taxonomy: Taxonomy) -> list[str]:
    """Return a name per node: its label, or its path if the label occurs on several branches.

    The nodes of a chain such as B > B > B are on the same branch and share the name.
    """
    first: dict[str, int] = {}
    shared = {LABEL_COLUMNS.ROOT}
    nodes = list(enumerate(taxonomy.labels))[1:]
    for node, label in nodes:  # in breadth-first order, the highest node of a name comes first
        if first.setdefault(label, node) not in taxonomy.ancestors(node):
            shared.add(label)
    names = [taxonomy.path_name(node) if label in shared else label for node, label in nodes]
    return [LABEL_COLUMNS.ROOT, *names]
