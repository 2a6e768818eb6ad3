"""How sure an annotation is as a whole, and how to make it more or less so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import brentq

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
    powered = relative**power
    return powered / powered.sum(axis=1, keepdims=True)
