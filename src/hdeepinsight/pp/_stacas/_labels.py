"""What labels say about anchors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hdeepinsight.pp._stacas._embedding import Floats

if TYPE_CHECKING:
    from hdeepinsight.taxonomy import Taxonomy

__all__ = ["consistent_labels", "encode_labels", "filter_by_labels"]

Ints = NDArray[np.int64]

#: Texts that mean "no label", as in the rest of the package and in the published method.
UNLABELED = ("Unknown", "unknown", "multi", "nan", "")


def encode_labels(
    columns: list[pd.Series | None], n_cells: list[int], taxonomy: Taxonomy | None = None
) -> list[Ints]:
    """Codes of the labels of several datasets, in one numbering.

    Parameters
    ----------
    columns
        Labels of each dataset, ``None`` where it has none. Missing values, ``"Unknown"`` and
        ``"multi"`` mean not labelled.
    n_cells
        Cells of each dataset.
    taxonomy
        Tree whose nodes the labels name; without it, labels are equal or not.

    Returns
    -------
    Per dataset the codes (nodes of the taxonomy), int64, shape ``(n_cells,)``; 0 for not labelled.

    Raises
    ------
    ValueError
        If a label is not in the taxonomy.
    """
    given = [
        pd.Series([None] * n, dtype=object) if column is None else column.astype(object)
        for column, n in zip(columns, n_cells, strict=True)
    ]
    if taxonomy is not None:
        return [taxonomy.encode(column, unlabeled=UNLABELED) for column in given]
    names = pd.Index(sorted({str(name) for column in given for name in column[_known(column)]}))
    return [
        np.where(_known(column), names.get_indexer(column.astype(str)) + 1, 0).astype(np.int64)
        for column in given
    ]


def _known(column: pd.Series) -> NDArray[np.bool_]:
    known: NDArray[np.bool_] = (column.notna() & ~column.isin(UNLABELED)).to_numpy(dtype=bool)
    return known


def consistent_labels(
    first: Ints, second: Ints, taxonomy: Taxonomy | None = None
) -> NDArray[np.bool_]:
    """Whether the labels of each anchor's cells do not contradict each other.

    Parameters
    ----------
    first, second
        Codes of the labels, shape ``(n_anchors,)``; 0 means not labelled, which contradicts
        nothing.
    taxonomy
        With it, a label also agrees with those above and below it on its path.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight import Taxonomy
    >>> tree = Taxonomy.from_nested({"B": ["naive", "memory"], "T": []})
    >>> first, second = tree.encode(["B", "naive", "T"]), tree.encode(["naive", "memory", None])
    >>> consistent_labels(first, second, tree).tolist()
    [True, False, True]
    """
    if taxonomy is None:
        return np.asarray((first == second) | (first == 0) | (second == 0))
    pairs, inverse = np.unique(np.stack([first, second], axis=1), axis=0, return_inverse=True)
    agree = [taxonomy.lca(a, b) in (a, b) for a, b in pairs.tolist()]
    return np.asarray(agree, dtype=bool)[inverse.reshape(-1)]


def filter_by_labels(
    scores: Floats,
    consistent: NDArray[np.bool_],
    *,
    label_confidence: float = 1.0,
    label_mode: str = "weight",
    seed: int = 0,
) -> Floats:
    """Lower the score of anchors whose labels disagree; those at 0 are to be dropped.

    Parameters
    ----------
    scores
        Scores of the anchors, in [0, 1], shape ``(n_anchors,)``.
    consistent
        Whether their labels agree, shape ``(n_anchors,)``.
    label_confidence
        Trust in the labels: 0 changes nothing, 1 drops every anchor whose labels disagree.
    label_mode
        ``"weight"`` multiplies by one minus the trust. ``"sample"`` keeps an anchor with that
        probability, if its score exceeds the lowest.
    seed
        Of the draws.

    Returns
    -------
    New scores, shape ``(n_anchors,)``.

    Notes
    -----
    The published rule {cite:p}`andreatta2024` draws for both directions of a pair; here a pair
    has one draw.

    Examples
    --------
    >>> import numpy as np
    >>> agree = np.array([True, False])
    >>> filter_by_labels(np.array([0.8, 0.8]), agree, label_confidence=0.75).round(3).tolist()
    [0.8, 0.2]
    """
    if label_mode == "weight":
        return np.where(consistent, scores, (1.0 - label_confidence) * scores)
    drawn = np.random.default_rng(seed).random(len(scores)) < 1.0 - label_confidence
    kept = consistent | (drawn & (scores > scores.min(initial=np.inf)))
    return np.where(kept, scores, 0.0)
