"""What the model is compared with: logistic regression on the same genes and cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from hdeepinsight.annotation import Annotation

if TYPE_CHECKING:
    from anndata import AnnData

    from hdeepinsight.taxonomy import Taxonomy

__all__ = ["log_cp10k", "logistic_regression"]


def logistic_regression(
    reference: AnnData, query: AnnData, taxonomy: Taxonomy, *, labels_key: str
) -> Annotation:
    """Annotate a query by multinomial logistic regression over the leaves.

    Parameters
    ----------
    reference, query
        Raw counts with the same genes in the same order.
    taxonomy
        The tree; the probability of an inner node is the sum over its leaves.
    labels_key
        Column of the reference with leaves of the taxonomy.

    Returns
    -------
    The annotation, to be scored as any other.
    """
    classifier = LogisticRegression(max_iter=1000)
    classifier.fit(log_cp10k(reference), reference.obs[labels_key].astype(str))
    per_class = classifier.predict_proba(log_cp10k(query))
    leaves = taxonomy.encode(classifier.classes_)
    per_leaf = np.zeros((query.n_obs, taxonomy.n_leaves))
    per_leaf[:, np.searchsorted(taxonomy.leaves, leaves)] = per_class
    return Annotation(
        taxonomy=taxonomy,
        obs_names=query.obs_names,
        node_probabilities=per_leaf @ taxonomy.ancestor_matrix,
        recipe={"method": "logistic regression"},
    )


def log_cp10k(adata: AnnData) -> sparse.csr_matrix:
    """Natural log1p of counts per ten thousand, ``(n_cells, n_genes)``."""
    counts = sparse.csr_matrix(adata.X, dtype=np.float64, copy=True)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    per_cell = 1e4 / np.maximum(totals, 1.0)
    counts.data = np.log1p(counts.data * np.repeat(per_cell, np.diff(counts.indptr)))
    return counts
