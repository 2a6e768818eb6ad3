"""In which order datasets are joined, and which side of a join stays where it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import linkage as hierarchy
from scipy.spatial.distance import squareform

from hdeepinsight.pp._stacas._embedding import Floats

__all__ = ["GuideTree", "Merge", "guide_tree"]


@dataclass(frozen=True)
class Merge:
    """One join: the datasets of the side that stays, those of the side that moves, its height."""

    reference: tuple[int, ...]
    query: tuple[int, ...]
    height: float


@dataclass(frozen=True)
class GuideTree:
    """Order of joins.

    Parameters
    ----------
    merges
        Joins, in order.
    base
        Dataset that never moves.
    strengths
        Sum of the scores of each dataset's anchors.
    """

    merges: tuple[Merge, ...]
    base: int
    strengths: tuple[float, ...]


def guide_tree(similarity: Floats, strengths: Floats, linkage: str = "single") -> GuideTree:
    r"""Join the most similar datasets first; the stronger side stays.

    Parameters
    ----------
    similarity
        Sum of anchor scores over the smaller number of cells, for each pair of datasets,
        symmetric, shape ``(n_datasets, n_datasets)``.
    strengths
        Sum of the scores of all anchors of each dataset, shape ``(n_datasets,)``.
    linkage
        How the similarity of joined datasets is taken.

    Returns
    -------
    The order of joins.

    Notes
    -----
    Distances are :math:`1 - s / \max s`, in [0, 1], where the published :math:`1 - s` may be
    negative; for single linkage only their order matters. A joined side inherits the larger
    strength of its parts.

    Examples
    --------
    >>> import numpy as np
    >>> s = np.array([[0, 0.9, 0.1], [0.9, 0, 0.2], [0.1, 0.2, 0]])
    >>> tree = guide_tree(s, np.array([5.0, 7.0, 3.0]))
    >>> [(merge.reference, merge.query) for merge in tree.merges], tree.base
    ([((1,), (0,)), ((0, 1), (2,))], 1)
    """
    n_datasets = len(strengths)
    off = similarity[~np.eye(n_datasets, dtype=bool)]
    top = float(off.max(initial=0.0)) or 1.0
    distance = 1.0 - similarity / top
    np.fill_diagonal(distance, 0.0)
    members: dict[int, tuple[int, ...]] = {i: (i,) for i in range(n_datasets)}
    strength = dict(enumerate(np.asarray(strengths, dtype=float).tolist()))
    merges = []
    rows = hierarchy(squareform(distance, checks=False), method=linkage)
    for step, (left, right, height, _) in enumerate(rows):
        stays, moves = sorted((int(left), int(right)), key=lambda i: (-strength[i], i))
        merges.append(Merge(members[stays], members[moves], float(height)))
        members[n_datasets + step] = tuple(sorted(members[stays] + members[moves]))
        strength[n_datasets + step] = strength[stays]
    return GuideTree(
        merges=tuple(merges),
        base=int(np.argmax(strengths)),
        strengths=tuple(strength[i] for i in range(n_datasets)),
    )
