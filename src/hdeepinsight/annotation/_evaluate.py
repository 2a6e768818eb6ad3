"""Score annotations against known labels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from hdeepinsight._errors import check_integer, invalid
from hdeepinsight.annotation._annotation import Annotation
from hdeepinsight.annotation._decode import PROBABILITY_TOLERANCE, most_probable_leaf
from hdeepinsight.annotation._external import known_cells
from hdeepinsight.taxonomy import (
    HierarchicalScores,
    Taxonomy,
    hierarchical_scores,
    level_scores,
    path_distance,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """Scores of an annotation against known labels.

    Parameters
    ----------
    levels
        One row per level: ``n_cells``, ``accuracy``, ``macro_f1``, ``balanced_accuracy`` and
        ``ece`` (expected calibration error) of the decoded leaves.
    hierarchical
        Hierarchical precision, recall and F1 of the assigned labels.
    mean_path_distance
        Mean number of edges between the true node and the assigned node.
    share_stopped
        Share of cells labelled above a leaf.
    n_cells
        Number of cells with a known label.
    note
        What restricts the meaning of the scores, if anything does.

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
    note: str = ""

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
        note = f"{self.note}\n" if self.note else ""
        return (
            f"{note}{self.n_cells} cells with known labels\n{levels}\n"
            f"hierarchical precision {h.precision:.3f}, recall {h.recall:.3f}, F1 {h.f1:.3f}; "
            f"mean path distance {self.mean_path_distance:.2f}; "
            f"{self.share_stopped:.1%} of cells stop above a type"
        )


def evaluate_annotation(annotation: Annotation, nodes: np.ndarray) -> Evaluation:
    """Score an annotation against known labels.

    Parameters
    ----------
    annotation
        The annotation.
    nodes
        True node of each cell, shape ``(n_cells,)``; cells with 0 (unlabelled) are ignored.

    Raises
    ------
    ValueError
        If the nodes do not match the cells or the taxonomy, or no cell has a label.

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
    known, truth = known_cells(taxonomy, annotation.obs_names, nodes=nodes)
    leaf, stop = annotation.leaf_nodes[known], annotation.stop_nodes[known]
    return Evaluation(
        levels=score_levels(taxonomy, annotation.node_probabilities[known], truth, leaf),
        hierarchical=hierarchical_scores(taxonomy, truth, stop),
        mean_path_distance=float(path_distance(taxonomy, truth, stop).mean()),
        share_stopped=float(annotation.is_stopped[known].mean()),
        n_cells=len(known),
    )


def score_levels(
    taxonomy: Taxonomy, probabilities: np.ndarray, truth: np.ndarray, leaf: np.ndarray
) -> pd.DataFrame:
    """Score the decoded leaves at each level, including the expected calibration error ``ece``.

    Parameters
    ----------
    taxonomy
        The tree.
    probabilities
        Probability of each node, shape ``(n_cells, n_nodes)``.
    truth, leaf
        True node and decoded leaf of each cell, shape ``(n_cells,)``.

    Returns
    -------
    One row per level, as from :func:`level_scores`; ``ece`` is computed over the cells whose label
    and leaf reach the level.

    Examples
    --------
    "T" and "CD4" have probability 1; "T" is correct for both cells, "CD4" for one:

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
    """Compute accuracy, macro-F1 and calibration error at each level.

    Parameters
    ----------
    taxonomy
        The tree.
    log_probs
        Log-probability of each node, shape ``(n_cells, n_nodes)``.
    nodes
        Node of each cell's label, shape ``(n_cells,)``.

    Returns
    -------
    ``accuracy_<level>``, ``macro_f1_<level>``, ``ece_<level>`` over cells labelled at least at this
    level, and ``log_loss``, the mean negative log-probability of the labels.

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
    """Compute the expected calibration error over bins with equal numbers of cells.

    Parameters
    ----------
    confidence
        Probability of the predicted label, shape ``(n_cells,)``.
    correct
        Whether the label is correct, shape ``(n_cells,)``.
    n_bins
        Maximum number of bins. Cells with equal confidence share a bin, so the order of the cells
        does not matter.

    Returns
    -------
    Mean difference between confidence and accuracy, from 0 (best) to 1; ``nan`` without cells.

    Raises
    ------
    ValueError
        If the arrays differ in length, confidence is outside [0, 1], `correct` is not boolean, or
        `n_bins` is not positive.

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
    probability, is_correct = check_confidence(confidence, correct, n_bins)
    if not len(probability):
        return float("nan")
    order = np.argsort(probability)
    ranked, n_cells = probability[order], len(probability)
    bins = np.searchsorted(ranked, ranked, side="left") * min(n_bins, n_cells) // n_cells
    gaps = np.bincount(bins, weights=ranked - is_correct[order])
    return float(round(np.abs(gaps).sum() / n_cells, 12))


def check_confidence(
    confidence: ArrayLike, correct: ArrayLike, n_bins: int
) -> tuple[np.ndarray, np.ndarray]:
    """Check confidence and correctness, and return both as float64 ``(n_cells,)``.

    Raises
    ------
    ValueError
        If their shapes differ, confidence is not in [0, 1], or correctness is not boolean.

    Examples
    --------
    >>> check_confidence([0.9, 0.4], [True, False], n_bins=15)
    (array([0.9, 0.4]), array([1., 0.]))
    """
    values, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if values.shape != right.shape or values.ndim != 1:
        shapes, hint = (values.shape, right.shape), "Pass both for the same cells."
        raise invalid("confidence and correct", shapes, "arrays of shape (n_cells,)", hint)
    if not ((values >= 0) & (values <= 1 + PROBABILITY_TOLERANCE)).all():
        found = f"{values.min():.3g} to {values.max():.3g}"
        hint = "Pass probabilities, not logits or percentages."
        raise ValueError(f"confidence must be finite and from 0 to 1, got {found}. {hint}")
    if not np.isin(right, (0, 1)).all():
        found = f"values from {right.min():.3g} to {right.max():.3g}"
        hint = "Compare labels with the known ones, without unlabelled cells."
        raise ValueError(f"correct must be boolean, got {found}. {hint}")
    check_integer("n_bins", n_bins, hint="15 is a good start.")
    return values.clip(max=1.0), right
