"""Published rules for cells that a method should not name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from hdeepinsight.annotation._annotation import Annotation

__all__ = ["published_rare"]


def published_rare(annotation: Annotation, *, q_base: float = 0.6, q_sub: float = 0.1) -> pd.Series:
    """Flag cells as rare by the rule that was published with scHDeepInsight.

    Within the cells of each predicted base type, a cell is flagged whose base probability lies
    above the group's quantile ``q_base`` while the probability of its most probable child, given
    the base, lies below the group's quantile ``q_sub``: sure of the base, unsure of the type.

    Parameters
    ----------
    annotation
        The result to look at.
    q_base, q_sub
        Quantiles, from 0 to 1.

    Returns
    -------
    Series of booleans, indexed by cell.

    Raises
    ------
    ValueError
        If a quantile is not from 0 to 1.

    Notes
    -----
    Kept for comparison. It ranks cells within the query, so it flags some even where nothing is
    new, never more than ``q_sub`` of a group, and never a cell whose base has no or one child.
    For an absolute judgement see ``annotation.novelty``.

    References
    ----------
    Public code of scHDeepInsight (doi:10.1101/2025.06.23.661045).

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.annotation import Annotation
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> base, share = np.array([0.9, 0.9, 0.9, 0.99]), np.array([0.9, 0.9, 0.9, 0.5])
    >>> p = np.stack([base**0, base, 1 - base, base * share, base * (1 - share)], axis=1)
    >>> result = Annotation(taxonomy=tree, obs_names=list("abcd"), node_probabilities=p)
    >>> published_rare(result).tolist()
    [False, False, False, True]
    """
    for name, value in (("q_base", q_base), ("q_sub", q_sub)):
        if not 0.0 <= value <= 1.0:
            msg = f"{name}={value}; valid are quantiles from 0 to 1. Published are 0.6 and 0.1."
            raise ValueError(msg)
    taxonomy, probabilities = annotation.taxonomy, annotation.node_probabilities
    bases = taxonomy.groups[0]
    predicted = bases[probabilities[:, bases].argmax(axis=1)]
    rare = np.zeros(len(annotation), dtype=bool)
    for base in bases[taxonomy.n_children[bases] > 1]:
        rows = np.flatnonzero(predicted == base)
        if not rows.size:
            continue
        of_base = probabilities[rows, base].astype(np.float64)
        of_child = probabilities[np.ix_(rows, taxonomy.children(int(base)))].max(axis=1)
        conditional = of_child / np.maximum(of_base, 1e-12)
        sure = of_base > np.quantile(of_base, q_base)
        rare[rows] = sure & (conditional < np.quantile(conditional, q_sub))
    return pd.Series(rare, index=annotation.obs_names, name="published_rare")
