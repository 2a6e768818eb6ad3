"""How sure an annotation is as a whole, and how to make it more or less so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import brentq

from hdeepinsight.annotation._annotation import Annotation

#: Powers between which one is looked for.
_POWERS = (0.05, 20.0)


def sureness(annotation: Annotation) -> float:
    """Mean over cells of the probability of the most probable leaf."""
    return float(_leaves(annotation).max(axis=1).mean())


def raised(annotation: Annotation, power: float) -> Annotation:
    """Raise leaf probabilities to a power, and add up the tree what they become.

    The most probable leaf of every cell stays. A power below 1 makes an annotation less sure, one
    above 1 surer.
    """
    leaves = _powered(_leaves(annotation), power)
    matrix = annotation.taxonomy.ancestor_matrix.astype(np.float64)
    return replace(annotation, node_probabilities=leaves @ matrix)


def as_sure_as(annotation: Annotation, target: float) -> Annotation:
    """Raise leaf probabilities to the one power that makes the :func:`sureness` the target.

    Where no power between 0.05 and 20 does, the nearest of these is taken.
    """
    leaves = _leaves(annotation)

    def excess(log_power: float) -> float:
        return float(_powered(leaves, np.exp(log_power)).max(axis=1).mean()) - target

    low, high = np.log(_POWERS)
    if excess(low) >= 0:
        return raised(annotation, _POWERS[0])
    if excess(high) <= 0:
        return raised(annotation, _POWERS[1])
    return raised(annotation, float(np.exp(brentq(excess, low, high, xtol=1e-6))))


def _leaves(annotation: Annotation) -> np.ndarray:
    return annotation.node_probabilities[:, annotation.taxonomy.leaves].astype(np.float64)


def _powered(leaves: np.ndarray, power: float) -> np.ndarray:
    relative = leaves / leaves.max(axis=1, keepdims=True)  # a high power of all would be 0
    powered = relative**power
    return powered / powered.sum(axis=1, keepdims=True)
