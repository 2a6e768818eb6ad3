"""Scores of an annotation of cells whose labels are known."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from hdeepinsight.annotation._annotation import Annotation
from hdeepinsight.annotation._confidence import expected_calibration_error
from hdeepinsight.annotation._conformal import check_nodes
from hdeepinsight.annotation._decode import most_probable_leaf
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
        h = self.hierarchical
        return (
            f"{self.n_cells} cells with known labels\n"
            f"{self.levels.to_string(float_format=lambda x: f'{x:.3f}')}\n"
            f"hierarchical precision {h.precision:.3f}, recall {h.recall:.3f}, F1 {h.f1:.3f}; "
            f"mean path distance {self.mean_path_distance:.2f}; "
            f"{self.share_stopped:.1%} of cells stop above a type"
        )


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
    nodes = check_nodes(annotation.taxonomy, nodes, len(annotation))
    known = np.flatnonzero(nodes > 0)
    if not known.size:
        raise ValueError(
            "No cell has a known label, so there is nothing to score. Check the label column and "
            "its unlabelled category."
        )
    taxonomy, truth = annotation.taxonomy, nodes[known]
    leaf, stop = annotation.leaf_nodes[known], annotation.stop_nodes[known]
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
