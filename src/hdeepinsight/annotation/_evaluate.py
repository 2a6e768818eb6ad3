"""How right an annotation is, how sure, and whether 0.9 is right nine times in ten."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq

from hdeepinsight._errors import check_integer, invalid
from hdeepinsight.annotation._annotation import Annotation
from hdeepinsight.annotation._decode import PROBABILITY_TOLERANCE, most_probable_leaf
from hdeepinsight.taxonomy import (
    HierarchicalScores,
    Taxonomy,
    check_nodes,
    hierarchical_scores,
    level_scores,
    path_distance,
)

#: Powers between which one is looked for.
_POWERS = (0.05, 20.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """Scores of an annotation against known labels.

    Parameters
    ----------
    levels
        One row per level: ``n_cells``, ``accuracy``, ``macro_f1``, ``balanced_accuracy`` and
        ``ece`` (expected calibration error) of the labels followed down to the leaves.
    hierarchical
        Hierarchical precision, recall and F1 of the labels where each cell stops.
    mean_path_distance
        Mean number of edges between the true node and the one where the cell stops.
    share_stopped
        Share of cells that stop above a leaf.
    n_cells
        Cells with a known label.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> from hdeepinsight.annotation import evaluate_annotation
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> labels = pd.Series(["CD4", "CD4", "T", "B"], index=["a", "b", "c", "d"])
    >>> result = hdi.Annotation.from_labels(labels, tree)
    >>> found = evaluate_annotation(result, tree.encode(["CD4", "CD8", "CD4", "B"]))
    >>> print(found)
    4 cells with known labels
             n_cells  n_classes  accuracy  macro_f1  balanced_accuracy   ece
    level
    level_1        4          2     1.000     1.000              1.000 0.000
    level_2        3          2     0.667     0.400              0.500 0.500
    hierarchical precision 0.833, recall 0.714, F1 0.769; mean path distance 0.75; 25.0% of cells
    stop above a type
    """

    levels: pd.DataFrame
    hierarchical: HierarchicalScores
    mean_path_distance: float
    share_stopped: float
    n_cells: int

    def to_dict(self) -> dict[str, Any]:
        """Return the scores in plain types.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> from hdeepinsight.annotation import evaluate_annotation
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> result = hdi.Annotation.from_labels(pd.Series(["CD4", "T"], index=["a", "b"]), tree)
        >>> evaluate_annotation(result, tree.encode(["CD4", "CD4"])).to_dict()["share_stopped"]
        0.5
        """
        levels = self.levels.reset_index(names="level").to_dict("records")
        return vars(self) | {"levels": levels, "hierarchical": asdict(self.hierarchical)}

    def __str__(self) -> str:
        h, levels = self.hierarchical, self.levels.to_string(float_format=lambda x: f"{x:.3f}")
        said = f"hierarchical precision {h.precision:.3f}, recall {h.recall:.3f}, F1 {h.f1:.3f}; "
        said += f"mean path distance {self.mean_path_distance:.2f}; "
        said += f"{self.share_stopped:.1%} of cells stop above a type"
        return f"{self.n_cells} cells with known labels\n{levels}\n{said}"


def evaluate_annotation(annotation: Annotation, nodes: np.ndarray) -> Evaluation:
    """Score an annotation.

    Parameters
    ----------
    annotation
        The result to score.
    nodes
        True node of every cell, shape ``(n_cells,)``; cells with 0 (unlabelled) are left out.

    Raises
    ------
    ValueError
        If the nodes do not fit the cells or the taxonomy, or no cell has a label.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> result = hdi.Annotation.from_labels(pd.Series(["CD4", "B"], index=["a", "b"]), tree)
    >>> found = hdi.metrics.evaluate_annotation(result, tree.encode(["CD8", "B"]))
    >>> found.levels["accuracy"].tolist(), found.mean_path_distance
    ([1.0, 0.0], 1.0)
    """
    taxonomy = annotation.taxonomy
    (nodes,) = check_nodes(taxonomy, len(annotation), nodes=nodes)
    known = np.flatnonzero(nodes > 0)
    if not known.size:
        hint = "Check the label column and its unlabelled category."
        raise ValueError(f"No cell has a known label, so there is nothing to score. {hint}")
    truth, leaf, stop = (
        each[known] for each in (nodes, annotation.leaf_nodes, annotation.stop_nodes)
    )
    return Evaluation(
        levels=score_levels(taxonomy, annotation.node_probabilities[known], truth, leaf),
        hierarchical=hierarchical_scores(taxonomy, truth, stop),
        mean_path_distance=float(path_distance(taxonomy, truth, stop).mean()),
        share_stopped=float((~np.isin(stop, taxonomy.leaves)).mean()),
        n_cells=len(known),
    )


def score_levels(
    taxonomy: Taxonomy, probabilities: np.ndarray, truth: np.ndarray, leaf: np.ndarray
) -> pd.DataFrame:
    """Score the decoded path at every level, with its expected calibration error as ``ece``.

    Parameters
    ----------
    taxonomy
        The tree.
    probabilities
        Probability of every node, shape ``(n_cells, n_nodes)``.
    truth, leaf
        True node and decoded leaf, shape ``(n_cells,)``.

    Returns
    -------
    One row per level, as :func:`level_scores` has it; ``ece`` over the cells whose label and leaf
    reach the level.

    Examples
    --------
    Sure of "T", which is right twice, and as sure of "CD4", which is right once:

    >>> import numpy as np
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> p = np.array([[1.0, 1.0, 0.0, 1.0, 0.0]] * 2)
    >>> scores = score_levels(tree, p, tree.encode(["CD4", "CD8"]), tree.encode(["CD4", "CD4"]))
    >>> scores["ece"].tolist()
    [0.0, 0.5]
    """
    true_path, path = taxonomy.node_at_level[truth], taxonomy.node_at_level[leaf]
    errors = []
    for level in range(taxonomy.max_depth):
        deep = np.flatnonzero((true_path[:, level] >= 0) & (path[:, level] >= 0))
        here = path[deep, level]
        errors.append(
            expected_calibration_error(probabilities[deep, here], here == true_path[deep, level])
        )
    return level_scores(taxonomy, truth, leaf).assign(ece=errors)


def level_metrics(taxonomy: Taxonomy, log_probs: np.ndarray, nodes: np.ndarray) -> dict[str, float]:
    """Compute accuracy, macro-F1 and calibration error of every level.

    Parameters
    ----------
    taxonomy
        The tree.
    log_probs
        Log-probability of every node, shape ``(n_cells, n_nodes)``.
    nodes
        Node of every cell's label, shape ``(n_cells,)``.

    Returns
    -------
    ``accuracy_<level>``, ``macro_f1_<level>``, ``ece_<level>`` on cells labelled at least that
    deep, and ``log_loss``, the mean negative log-probability of the labels.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.annotation import level_metrics
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4 T", "CD8 T"]})
    >>> log_probs = np.log([[1.0, 1.0, 0.75, 0.25]])
    >>> level_metrics(tree, log_probs, np.array([2]))["log_loss"] - 0.2877 < 1e-4
    True
    """
    probabilities = np.exp(log_probs)
    predicted = most_probable_leaf(taxonomy, probabilities)
    metrics = {"log_loss": float(-log_probs[np.arange(len(nodes)), nodes].mean())}
    for level, row in score_levels(taxonomy, probabilities, nodes, predicted).iterrows():
        metrics |= {f"{name}_{level}": float(row[name]) for name in ("accuracy", "macro_f1", "ece")}
    return metrics


def expected_calibration_error(
    confidence: ArrayLike, correct: ArrayLike, *, n_bins: int = 15
) -> float:
    """Mean gap between confidence and accuracy over bins of equal numbers of cells.

    Parameters
    ----------
    confidence
        Probability of the predicted label, shape ``(n_cells,)``.
    correct
        Whether the label is right, shape ``(n_cells,)``.
    n_bins
        Number of bins; fewer are used where there are fewer cells. Cells of equal confidence share
        a bin, so that the order of the cells does not matter.

    Returns
    -------
    A number from 0 (perfect) to 1; ``nan`` without cells.

    Raises
    ------
    ValueError
        If the arrays differ in length, a confidence lies outside [0, 1], `correct` is not true or
        false throughout, or `n_bins` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> expected_calibration_error(np.full(10, 0.9), np.arange(10) < 9)
    0.0
    >>> round(expected_calibration_error(np.full(10, 1.0), np.arange(10) < 7), 6)
    0.3

    References
    ----------
    Naeini, Cooper and Hauskrecht (2015), Obtaining well calibrated probabilities using Bayesian
    binning; with equal-mass instead of equal-width bins.
    """
    said, right = check_confidence(confidence, correct, n_bins)
    if not len(said):
        return float("nan")
    order = np.argsort(said)
    ranked, n_cells = said[order], len(said)
    bins = np.searchsorted(ranked, ranked, side="left") * min(n_bins, n_cells) // n_cells
    gaps = np.bincount(bins, weights=ranked - right[order])
    return float(round(np.abs(gaps).sum() / n_cells, 12))


def check_confidence(
    confidence: ArrayLike, correct: ArrayLike, n_bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return both as float64 ``(n_cells,)``.

    Raises
    ------
    ValueError
        Unless they fit each other, confidence is a probability and correctness true or false.

    Examples
    --------
    >>> check_confidence([0.9, 0.4], [True, False], n_bins=15)
    (array([0.9, 0.4]), array([1., 0.]))
    """
    said, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if said.shape != right.shape or said.ndim != 1:
        hint = "Select the same cells of both."
        raise invalid("confidence and correct", (said.shape, right.shape), "(n_cells,) each", hint)
    if not ((said >= 0) & (said <= 1 + PROBABILITY_TOLERANCE)).all():
        found, hint = (
            f"{said.min():.3g} to {said.max():.3g}",
            "Pass probabilities, not logits or percent.",
        )
        raise ValueError(f"Confidence is a finite probability in [0, 1], got {found}. {hint}")
    if not np.isin(right, (0, 1)).all():
        found = f"{right.min():.3g} to {right.max():.3g}"
        hint = "Compare labels with the known ones, and leave out cells without one."
        raise ValueError(f"Correctness is right (1) or not (0), got {found}. {hint}")
    check_integer("n_bins", n_bins, hint="Use 15 to begin with.")
    return said.clip(max=1.0), right


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
    if excess(low) >= 0 or excess(high) <= 0:
        return sharpen(annotation, _POWERS[excess(high) <= 0])
    return sharpen(annotation, float(np.exp(brentq(excess, low, high, xtol=1e-6))))


def _leaves(annotation: Annotation) -> np.ndarray:
    return annotation.node_probabilities[:, annotation.taxonomy.leaves].astype(np.float64)


def _powered(leaves: np.ndarray, power: float) -> np.ndarray:
    relative = leaves / leaves.max(axis=1, keepdims=True)  # a high power of all would be 0
    powered: np.ndarray = relative**power
    powered /= powered.sum(axis=1, keepdims=True)
    return powered
