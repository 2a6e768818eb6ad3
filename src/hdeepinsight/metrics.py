"""Scores of hierarchical annotations, for any method's output."""

from hdeepinsight.annotation import Evaluation, evaluate_annotation, expected_calibration_error
from hdeepinsight.taxonomy import (
    HierarchicalScores,
    hierarchical_scores,
    level_scores,
    path_distance,
)

__all__ = [
    "Evaluation",
    "HierarchicalScores",
    "evaluate_annotation",
    "expected_calibration_error",
    "hierarchical_scores",
    "level_scores",
    "path_distance",
]
