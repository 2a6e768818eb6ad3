"""Out-of-fold probabilities of every node of a taxonomy, from a fast linear classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from hdeepinsight.annotation import drop_ancestors
from hdeepinsight.data import align_genes, log_normalize, open_counts, select_genes

if TYPE_CHECKING:
    from anndata import AnnData

    from hdeepinsight.taxonomy import Taxonomy

N_GENES = 2000
N_COMPONENTS = 50
CLIP = 10.0
LEAST_SPREAD = 1e-3
INVERSE_PENALTY = 0.1
MAX_ITER = 300
#: Folds follow the batches only for classes of which at least this share is then still trained on.
LEAST_TRAINED = 0.5


def expression_features(adata: AnnData, *, layer: str | None, seed: int) -> np.ndarray:
    """Principal components of scaled log-normalised counts, shape ``(n_cells, n_components)``.

    The first component has variance 1, the others less: the penalty of the classifier then falls
    on the directions in which cells differ little.
    """
    from sklearn.decomposition import PCA

    source = open_counts(adata, layer=layer)
    genes = select_genes(source, N_GENES)
    chunks = [chunk for _, chunk in source.chunks(align_genes(source.var_names, genes))]
    values = log_normalize(sparse.vstack(chunks, format="csr")).toarray()
    values -= values.mean(axis=0)
    values /= np.maximum(values.std(axis=0), LEAST_SPREAD)
    np.clip(values, -CLIP, CLIP, out=values)
    n_components = min(N_COMPONENTS, min(values.shape) - 1)
    if n_components < 1:
        return np.zeros((len(values), 1))
    pca = PCA(n_components, svd_solver="randomized", random_state=seed)
    components = pca.fit_transform(values)
    return np.asarray(components / max(components[:, 0].std(), LEAST_SPREAD))


def assign_folds(
    nodes: np.ndarray, batches: np.ndarray | None, n_folds: int, rng: np.random.Generator
) -> np.ndarray:
    """Fold of every cell, shape ``(n_cells,)``.

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
    folds = np.empty(len(nodes), dtype=np.int64)
    by_batch = None if batches is None else _folds_of_batches(batches, n_folds, rng)
    for node in np.unique(nodes):
        cells = rng.permutation(np.flatnonzero(nodes == node))
        folds[cells] = (np.arange(len(cells)) + rng.integers(n_folds)) % n_folds
        if by_batch is not None:
            largest = np.bincount(by_batch[cells]).max()
            if largest <= (1 - LEAST_TRAINED) * len(cells):
                folds[cells] = by_batch[cells]
    return folds


def _folds_of_batches(batches: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold of every cell, the largest batches first into the emptiest fold."""
    names, codes, sizes = np.unique(batches, return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    fold_of, filled = np.empty(len(names), dtype=np.int64), np.zeros(n_folds)
    for batch in order[np.argsort(-sizes[order], kind="stable")]:
        fold_of[batch] = filled.argmin()
        filled[fold_of[batch]] += sizes[batch]
    return fold_of[codes]


def out_of_fold_probabilities(
    features: np.ndarray, taxonomy: Taxonomy, nodes: np.ndarray, folds: np.ndarray
) -> np.ndarray:
    """Probability of every node from a classifier that has not seen the cell.

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
    from sklearn.linear_model import LogisticRegression

    classes = finest_labels(taxonomy, nodes)
    trains = np.isin(nodes, classes)
    under = np.stack([_path_indicator(taxonomy, int(node)) for node in classes])
    probabilities = np.zeros((len(nodes), taxonomy.n_nodes))
    for fold in np.unique(folds):
        held_out, rows = np.flatnonzero(folds == fold), np.flatnonzero(trains & (folds != fold))
        present = np.unique(nodes[rows])
        columns = under[np.isin(classes, present)]
        if len(present) < 2:  # one class alone is certain, and none says nothing
            probabilities[held_out] = columns.sum(axis=0)
            continue
        model = LogisticRegression(C=INVERSE_PENALTY, max_iter=MAX_ITER)
        model.fit(features[rows], nodes[rows])
        probabilities[held_out] = model.predict_proba(features[held_out]) @ columns
    probabilities[:, 0] = 1.0
    return probabilities


def finest_labels(taxonomy: Taxonomy, nodes: np.ndarray) -> np.ndarray:
    """Nodes that label cells and have no labelled node under them, in order."""
    used = np.unique(nodes[nodes > 0])
    return np.asarray(used[drop_ancestors(taxonomy, used)])


def _path_indicator(taxonomy: Taxonomy, node: int) -> np.ndarray:
    """1 for the root, the node and what lies between, shape ``(n_nodes,)``."""
    row = np.zeros(taxonomy.n_nodes)
    row[[0, *taxonomy.ancestors(node)]] = 1.0
    return row
