"""Find reference labels that the rest of the reference contradicts."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hdeepinsight.annotation import PROBABILITY_TOLERANCE
from hdeepinsight.taxonomy import Taxonomy
from hdeepinsight.tl._audit_batches import batch_information
from hdeepinsight.tl._audit_classifier import (
    assign_folds,
    expression_features,
    out_of_fold_probabilities,
)
from hdeepinsight.tl._audit_joint import find_contradictions, most_probable_below, within_share
from hdeepinsight.tl._audit_result import LabelAudit
from hdeepinsight.tl._audit_tables import class_table, transition_table
from hdeepinsight.tl._graphs import batches_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import ArrayLike


def audit_labels(
    adata: AnnData,
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
        Labelled reference with raw counts, shape ``(n_obs, n_vars)``.
    taxonomy
        Tree of the cell types; by default the one that the label columns span.
    labels_key
        Column of ``obs`` with labels at any depth of the taxonomy.
    labels_keys
        Instead of ``labels_key``: one column a level, from coarse to fine.
    layer
        Layer with the counts; ``X`` by default.
    batch_key
        Column of ``obs`` with the batch (donor, study) of every cell. Folds then follow batches
        for labels that occur in enough of them, and the confounding of labels and batches is
        reported.
    unlabeled
        Label that means "not known"; missing values mean the same. Such cells are not judged.
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
    _check_settings(n_folds, least_margin, max_share)
    keys = _label_columns(adata, labels_key, labels_keys, batch_key)
    if taxonomy is None:
        taxonomy = Taxonomy.from_obs(adata, keys, unlabeled=unlabeled)
    if len(keys) > 1:
        nodes = taxonomy.encode_levels(adata.obs[keys], unlabeled=unlabeled)
    else:
        nodes = taxonomy.encode(adata.obs[keys[0]], unlabeled=unlabeled)
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
    adata: AnnData,
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
    """`audit_labels` for labels that are nodes of a taxonomy already, shape ``(n_obs,)``.

    ``batches`` holds the batch of every cell, shape ``(n_obs,)``.
    """
    if batches is not None and len(np.unique(batches)) < 2:
        batches = None
    sizes = taxonomy.roll_up(np.bincount(nodes, minlength=taxonomy.n_nodes))
    judged = (nodes > 0) & (sizes[nodes] >= n_folds)
    _check_judged(taxonomy, nodes[judged], n_folds)
    if probabilities is None:
        rng = np.random.default_rng(seed)
        features = expression_features(adata, layer=layer, seed=seed)
        kept = np.where(judged, nodes, 0)
        folds = assign_folds(kept, batches, n_folds, rng)
        probabilities = out_of_fold_probabilities(features, taxonomy, kept, folds)
    probabilities = _checked_probabilities(probabilities, (adata.n_obs, taxonomy.n_nodes))
    settings = {"n_folds": n_folds, "least_margin": least_margin, "max_share": max_share}
    return _assemble(adata, taxonomy, nodes, probabilities, judged, batches, settings)


def _assemble(
    adata: AnnData,
    taxonomy: Taxonomy,
    nodes: np.ndarray,
    probabilities: np.ndarray,
    judged: np.ndarray,
    batches: np.ndarray | None,
    settings: dict[str, float],
) -> LabelAudit:
    found = find_contradictions(
        taxonomy, nodes, probabilities, judged, least_margin=settings["least_margin"]
    )
    contradicted = found.rival >= 0
    suspicious = within_share(found.margin, nodes, contradicted, settings["max_share"])
    suggested = nodes.copy()
    below = most_probable_below(taxonomy, probabilities, found.rival.clip(0))
    suggested[contradicted] = below[contradicted]
    own = probabilities[np.arange(len(nodes)), nodes]
    return LabelAudit(
        taxonomy=taxonomy,
        obs_names=pd.Index(adata.obs_names),
        nodes=nodes,
        suggested_nodes=suggested,
        agreed_nodes=np.where(suspicious, taxonomy.parent[found.rival.clip(0)], nodes),
        probability=np.where(judged, own, np.nan),
        margin=found.margin,
        judged=judged,
        suspicious=suspicious,
        weight=np.where(suspicious, found.weight, 1.0),
        classes=class_table(
            taxonomy, nodes, probabilities, judged, suspicious, found.joints, batches
        ),
        transitions=transition_table(taxonomy, found.joints),
        batch_nmi=batch_information(taxonomy, nodes, batches),
        settings=settings,
    )


def _label_columns(
    adata: AnnData,
    labels_key: str | None,
    labels_keys: Sequence[str] | None,
    batch_key: str | None,
) -> list[str]:
    if (labels_key is None) == (labels_keys is None):
        given = "neither" if labels_key is None else "both"
        msg = (
            f"Of labels_key and labels_keys, {given} was given. Valid is one: labels_key for a "
            "single column of labels, or labels_keys for one column a level, coarse to fine."
        )
        raise ValueError(msg)
    keys = [labels_key] if labels_key is not None else list(labels_keys or ())
    missing = [key for key in (*keys, batch_key) if key is not None and key not in adata.obs]
    if missing or not keys:
        msg = (
            f"obs has no columns {missing}; valid are {list(adata.obs.columns)}. Name the columns "
            "that hold the labels and the batch."
        )
        raise KeyError(msg)
    return keys


def _check_settings(n_folds: int, least_margin: float, max_share: float) -> None:
    for name, value, valid, passes in (
        ("n_folds", n_folds, "2 or more", operator.index(n_folds) >= 2),
        ("least_margin", least_margin, "a probability from 0 to 1", 0 <= least_margin <= 1),
        ("max_share", max_share, "a share from 0 to 1", 0 <= max_share <= 1),
    ):
        if not passes:
            msg = f"{name}={value}; valid is {valid}. The default suits most references."
            raise ValueError(msg)


def _check_judged(taxonomy: Taxonomy, nodes: np.ndarray, n_folds: int) -> None:
    known = np.unique(nodes)
    if len(known) < 2:
        names = [taxonomy.label(int(node)) for node in known]
        msg = (
            f"Labels with at least n_folds={n_folds} cells: {names}; valid are two or more, since "
            "a label can only be contradicted by another one. Check the label columns, or lower "
            "n_folds."
        )
        raise ValueError(msg)


def _checked_probabilities(probabilities: ArrayLike, shape: tuple[int, int]) -> np.ndarray:
    values = np.asarray(probabilities, dtype=np.float64)
    if values.shape != shape or not ((values >= 0) & (values <= 1 + PROBABILITY_TOLERANCE)).all():
        msg = (
            f"probabilities has shape {values.shape} and values from "
            f"{values.min(initial=np.inf):g} to {values.max(initial=-np.inf):g}; valid are numbers "
            f"from 0 to 1 of shape (n_obs, n_nodes) = {shape}. Pass one column a node, in the "
            "taxonomy's order."
        )
        raise ValueError(msg)
    return values
