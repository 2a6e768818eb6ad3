"""What follows from an annotation: one that is more or less sure, and cells that look rare."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from hdeepinsight._errors import check_number
from hdeepinsight.annotation._annotation import Annotation

#: Powers between which one is looked for.
_POWERS = (0.05, 20.0)


def mean_confidence(annotation: Annotation) -> float:
    """Return the mean over cells of the probability of the most probable leaf.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> table = pd.DataFrame({"CD4": [0.5], "CD8": [0.25], "B": [0.25]}, index=["a"])
    >>> result = hdi.Annotation.from_probabilities(table, tree)
    >>> mean_confidence(result)
    0.5
    """
    return float(_leaves(annotation).max(axis=1).mean())


def sharpen(annotation: Annotation, power: float) -> Annotation:
    """Raise leaf probabilities to a power, and add up the tree what they become.

    The most probable leaf of every cell stays. A power below 1 makes an annotation less sure, one
    above 1 surer.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> table = pd.DataFrame({"CD4": [0.5], "CD8": [0.25], "B": [0.25]}, index=["a"])
    >>> result = hdi.Annotation.from_probabilities(table, tree)
    >>> round(mean_confidence(sharpen(result, 2.0)), 3)
    0.667
    """
    leaves = _powered(_leaves(annotation), power)
    matrix = annotation.taxonomy.ancestor_matrix.astype(np.float64)
    return replace(annotation, node_probabilities=leaves @ matrix)


def match_mean_confidence(annotation: Annotation, target: float) -> Annotation:
    """Raise leaf probabilities to the one power that makes the :func:`mean_confidence` the target.

    Where no power between 0.05 and 20 does, the nearest of these is taken.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> table = pd.DataFrame({"CD4": [0.5], "CD8": [0.25], "B": [0.25]}, index=["a"])
    >>> result = hdi.Annotation.from_probabilities(table, tree)
    >>> round(mean_confidence(match_mean_confidence(result, 0.8)), 3)
    0.8
    """
    leaves = _leaves(annotation)

    def excess(log_power: float) -> float:
        return float(_powered(leaves, np.exp(log_power)).max(axis=1).mean()) - target

    low, high = np.log(_POWERS)
    if excess(low) >= 0:
        return sharpen(annotation, _POWERS[0])
    if excess(high) <= 0:
        return sharpen(annotation, _POWERS[1])
    return sharpen(annotation, float(np.exp(brentq(excess, low, high, xtol=1e-6))))


def _leaves(annotation: Annotation) -> np.ndarray:
    return annotation.node_probabilities[:, annotation.taxonomy.leaves].astype(np.float64)


def _powered(leaves: np.ndarray, power: float) -> np.ndarray:
    relative = leaves / leaves.max(axis=1, keepdims=True)  # a high power of all would be 0
    powered: np.ndarray = relative**power
    powered /= powered.sum(axis=1, keepdims=True)
    return powered


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
        check_number(name, value, 0.0, 1.0, hint="Published are 0.6 and 0.1.")
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
