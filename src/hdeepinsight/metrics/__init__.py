"""Scores of hierarchical annotations and of topics, for the output of any method."""

from hdeepinsight.annotation import Evaluation, evaluate_annotation, expected_calibration_error
from hdeepinsight.data import LeakReport, check_leakage
from hdeepinsight.metrics._topics import (
    TopicEnrichment,
    topic_coherence,
    topic_diversity,
    topic_enrichment,
    topic_stability,
)
from hdeepinsight.taxonomy import (
    HierarchicalScores,
    hierarchical_scores,
    level_scores,
    path_distance,
)

__all__ = [
    "Evaluation",
    "HierarchicalScores",
    "LeakReport",
    "TopicEnrichment",
    "check_leakage",
    "evaluate_annotation",
    "expected_calibration_error",
    "hierarchical_scores",
    "level_scores",
    "path_distance",
    "topic_coherence",
    "topic_diversity",
    "topic_enrichment",
    "topic_stability",
]
