"""Find reference labels that the rest of the reference contradicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from hdeepinsight._errors import check_integer, check_number, missing_column
from hdeepinsight.annotation import PROBABILITY_TOLERANCE, drop_ancestors
from hdeepinsight.data import AlignedQuery, align_genes, log_normalize, open_counts, select_genes
from hdeepinsight.taxonomy import Taxonomy, check_labels
from hdeepinsight.tl import _confident_learning
from hdeepinsight.tl._inputs import batches_of
from hdeepinsight.tl._label_audit import LabelAudit

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike

#: Features of the classifier, and its settings.
_N_GENES, _N_COMPONENTS = 2000, 50
_CLIP, _LEAST_SPREAD = 10.0, 1e-3
_INVERSE_PENALTY, _MAX_ITER = 0.1, 300
#: Folds follow the batches only for classes of which at least this share is then still trained on.
_LEAST_TRAINED = 0.5


def audit_labels(
    adata: AnnData | AlignedQuery,
    *,
    taxonomy: Taxonomy | None = None,
    labels_key: str | None = None,
    labels_keys: Sequence[str] | None = None,
    layer: str | None = None,
    batch_key: str | None = None,
    unlabeled: str = "Unknown",
    n_folds: int = 5,
    probabilities: ArrayLike | None = None,
    least_margin: float = 0.7,
    max_share: float = 0.2,
    seed: int = 0,
) -> LabelAudit:
    r"""Find cells whose label the rest of the reference contradicts, and classes to look at.

    Nothing is written to ``adata``.

    Parameters
    ----------
    adata
        Labelled reference with raw counts, shape ``(n_obs, n_vars)``; may be opened already.
    taxonomy
        Tree of the cell types; by default the one that the label columns span.
    labels_key
        Column of ``obs`` with labels at any depth of the taxonomy.
    labels_keys
        Instead of ``labels_key``: one column per level, from coarse to fine.
    layer
        Layer with the counts; ``X`` by default.
    batch_key
        Column of ``obs`` with the batch (donor, study) of every cell. Folds then follow batches
        for labels that occur in enough of them, and the confounding of labels and batches is
        reported.
    unlabeled
        Label that means "not known"; missing values and the words of
        `hdeepinsight.taxonomy.MISSING_LABELS` mean the same. Such cells are not judged.
    n_folds
        Number of parts; each is judged by a classifier that was fitted to the others. Labels with
        fewer cells are left alone, and named in the result's notes.
    probabilities
        Your own out-of-fold probabilities of every node, shape ``(n_obs, n_nodes)``, such as
        ``Annotation.node_probabilities`` of models that have not seen the cells. ``adata.X`` is not
        read then.
    least_margin
        How far, as a probability, a sibling has to lead for a label to count as contradicted.
        Higher finds fewer, and more surely wrong, labels.
    max_share
        Largest share of a label's cells that is called suspicious.
    seed
        Seed of folds and projection.

    Returns
    -------
    Tables of cells, classes and transitions; see :class:`LabelAudit`.

    Raises
    ------
    KeyError
        If a column is not there.
    ValueError
        If not exactly one of ``labels_key`` and ``labels_keys`` is given, a setting is out of its
        range, the probabilities do not fit, or fewer than two labels have ``n_folds`` cells.

    Warns
    -----
    LabelWarning
        If words are taken for "not known", or labels look alike.

    Examples
    --------
    Fifty cells of each of two types, one of them under the wrong name:

    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> rates = np.repeat([[9, 9, 1, 1], [1, 1, 9, 9]], 50, axis=0)
    >>> reference = ad.AnnData(
    ...     np.random.default_rng(0).poisson(rates).astype("float32"),
    ...     obs=pd.DataFrame(
    ...         {"cell_type": ["B"] * 49 + ["T"] * 51}, index=np.arange(100).astype(str)
    ...     ),
    ...     var=pd.DataFrame(index=["CD79A", "MS4A1", "CD3D", "CD3E"]),
    ... )
    >>> audit = audit_labels(reference, labels_key="cell_type")
    >>> audit.summary()[["given", "suggested", "n_cells"]].to_numpy().tolist()
    [['T', 'B', 1]]

    Notes
    -----
    After confident learning (Northcutt, Jiang and Chuang 2021, doi:10.1613/jair.1.12125), on every
    sibling group from the root down: the confident joint estimates the noise of each class. Single
    labels are called wrong more cautiously: a sibling has to lead by ``least_margin``, the class
    has to be one that the classifier recognises in at least half of its cells, and a label is
    judged no deeper than where it is first contradicted. The classifier is multinomial logistic
    regression on 50 principal components of the 2,000 most variable genes, its classes not
    balanced, rolled up along the tree.
    """
    keys = [labels_key] if labels_key is not None else list(labels_keys or ())
    if not keys or (labels_key is not None and labels_keys is not None):
        given = "both were" if keys else "neither was"
        raise ValueError(
            f"Of labels_key and labels_keys, {given} given. Pass one: labels_key for a single "
            "column of labels, or labels_keys for one column per level, coarse to fine."
        )
    obs = adata.obs
    for key in keys:
        if key not in obs:
            raise missing_column(key, obs.columns)
        check_labels(obs[key], f"obs[{key!r}]", unlabeled=unlabeled)
    if taxonomy is None:
        taxonomy = Taxonomy.from_obs(obs, keys, unlabeled=unlabeled)
    if len(keys) > 1:
        nodes = taxonomy.encode_levels(obs[keys], unlabeled=unlabeled)
    else:
        nodes = taxonomy.encode(obs[keys[0]], unlabeled=unlabeled)
    return audit_nodes(
        adata,
        taxonomy,
        nodes,
        layer=layer,
        batches=None if batch_key is None else batches_of(adata, batch_key),
        n_folds=n_folds,
        probabilities=probabilities,
        least_margin=least_margin,
        max_share=max_share,
        seed=seed,
    )


def audit_nodes(
    adata: AnnData | AlignedQuery,
    taxonomy: Taxonomy,
    nodes: np.ndarray,
    *,
    layer: str | None = None,
    batches: np.ndarray | None = None,
    n_folds: int = 5,
    probabilities: ArrayLike | None = None,
    least_margin: float = 0.7,
    max_share: float = 0.2,
    seed: int = 0,
) -> LabelAudit:
    """Audit labels that are nodes of a taxonomy already; see `audit_labels`.

    Parameters
    ----------
    adata
        Reference with raw counts, shape ``(n_obs, n_vars)``; may be opened already.
    taxonomy
        Tree of the cell types.
    nodes
        Node of every cell's label, shape ``(n_obs,)``; 0 where there is none.
    layer
        Layer with the counts; ``X`` by default.
    batches
        Batch of every cell, shape ``(n_obs,)``.
    n_folds, probabilities, least_margin, max_share, seed
        As in `audit_labels`.

    Raises
    ------
    ValueError
        As in `audit_labels`.

    Examples
    --------
    >>> import anndata as ad
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> tree = hdi.Taxonomy.from_nested({"T": [], "B": []})
    >>> rates = np.repeat([[9, 9, 1, 1], [1, 1, 9, 9]], 50, axis=0)
    >>> counts = np.random.default_rng(0).poisson(rates).astype("float32")
    >>> nodes = np.repeat(tree.encode(["B", "T"]), [49, 51])
    >>> cells = ad.AnnData(counts, var={"gene": ["CD79A", "MS4A1", "CD3D", "CD3E"]})
    >>> cells.var_names = cells.var["gene"]
    >>> hdi.tl.audit_nodes(cells, tree, nodes).cells.query("suspicious").index.tolist()
    ['49']
    """
    check_integer("n_folds", n_folds, 2, hint="Omit it to use 5.")
    check_number("least_margin", least_margin, 0, 1, hint="Omit it to use 0.7.")
    check_number("max_share", max_share, 0, 1, hint="Omit it to use 0.2.")
    if batches is not None and len(np.unique(batches)) < 2:
        batches = None
    sizes = taxonomy.roll_up(np.bincount(nodes, minlength=taxonomy.n_nodes))
    judged = (nodes > 0) & (sizes[nodes] >= n_folds)
    known = np.unique(nodes[judged])
    if len(known) < 2:
        names = [taxonomy.label(int(node)) for node in known]
        raise ValueError(
            f"Two or more labels must have n_folds={n_folds} cells, since a label can only be "
            f"contradicted by another one; found {names}. Check the label columns, or lower "
            "n_folds."
        )
    if probabilities is None:
        rng = np.random.default_rng(seed)
        features = expression_features(adata, layer=layer, seed=seed)
        kept = np.where(judged, nodes, 0)
        folds = assign_folds(kept, batches, n_folds, rng)
        probabilities = out_of_fold_probabilities(features, taxonomy, kept, folds)
    p = np.asarray(probabilities, dtype=np.float64)
    shape = (adata.n_obs, taxonomy.n_nodes)
    if p.shape != shape or not ((p >= 0) & (p <= 1 + PROBABILITY_TOLERANCE)).all():
        raise ValueError(
            f"probabilities must be numbers from 0 to 1 of shape (n_obs, n_nodes) = {shape}, got "
            f"{p.min(initial=np.inf):g} to {p.max(initial=-np.inf):g} of shape {p.shape}. Pass one "
            "column per node, in the taxonomy's order."
        )
    found = _confident_learning.find_contradictions(
        taxonomy, nodes, p, judged, least_margin=least_margin
    )
    contradicted = found.rival >= 0
    suspicious = _confident_learning.within_share(found.margin, nodes, contradicted, max_share)
    below = _confident_learning.most_probable_below(taxonomy, p, found.rival.clip(0))
    own = p[np.arange(len(nodes)), nodes]
    return LabelAudit(
        taxonomy=taxonomy,
        obs_names=pd.Index(adata.obs_names),
        nodes=nodes,
        suggested_nodes=np.where(contradicted, below, nodes),
        agreed_nodes=np.where(suspicious, taxonomy.parent[found.rival.clip(0)], nodes),
        probability=np.where(judged, own, np.nan),
        margin=found.margin,
        judged=judged,
        suspicious=suspicious,
        weight=np.where(suspicious, found.weight, 1.0),
        classes=_confident_learning.class_table(
            taxonomy, nodes, p, judged, suspicious, found.joints, batches
        ),
        transitions=_confident_learning.transition_table(taxonomy, found.joints),
        batch_nmi=_confident_learning.batch_information(taxonomy, nodes, batches),
        settings={"n_folds": n_folds, "least_margin": least_margin, "max_share": max_share},
    )


def expression_features(
    adata: AnnData | AlignedQuery, *, layer: str | None, seed: int
) -> np.ndarray:
    """Compute principal components of scaled log-normalised counts, ``(n_cells, n_components)``.

    The first component has variance 1, the others less: the penalty of the classifier then falls
    on the directions in which cells differ little.
    """
    opened = isinstance(adata, AlignedQuery)
    source = (
        adata.source if opened else open_counts(adata, layer=layer, arguments={"layer": "layer"})
    )
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
    folds = np.empty(len(nodes), dtype=np.int64)
    by_batch = None if batches is None else _folds_of_batches(batches, n_folds, rng)
    for node in np.unique(nodes):
        cells = rng.permutation(np.flatnonzero(nodes == node))
        folds[cells] = (np.arange(len(cells)) + rng.integers(n_folds)) % n_folds
        most = (1 - _LEAST_TRAINED) * len(cells)
        if by_batch is not None and np.bincount(by_batch[cells]).max() <= most:
            folds[cells] = by_batch[cells]
    return folds


def _folds_of_batches(batches: np.ndarray, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Return the fold of every cell, the largest batches first into the emptiest fold."""
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
    under = np.zeros((len(classes), taxonomy.n_nodes))
    for row, node in zip(under, classes.tolist(), strict=True):
        row[[0, *taxonomy.ancestors(node)]] = 1.0
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
