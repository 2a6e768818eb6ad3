"""Scores of hierarchical annotations and of topics, for the output of any method."""

from hdeepinsight.annotation import Evaluation as Evaluation
from hdeepinsight.annotation import evaluate_annotation as evaluate_annotation
from hdeepinsight.annotation import expected_calibration_error as expected_calibration_error
from hdeepinsight.data import LeakReport as LeakReport
from hdeepinsight.data import check_leakage as check_leakage
from hdeepinsight.metrics._topics import TopicEnrichment as TopicEnrichment
from hdeepinsight.metrics._topics import topic_coherence as topic_coherence
from hdeepinsight.metrics._topics import topic_diversity as topic_diversity
from hdeepinsight.metrics._topics import topic_enrichment as topic_enrichment
from hdeepinsight.metrics._topics import topic_stability as topic_stability
from hdeepinsight.taxonomy import HierarchicalScores as HierarchicalScores
from hdeepinsight.taxonomy import hierarchical_scores as hierarchical_scores
from hdeepinsight.taxonomy import level_scores as level_scores
from hdeepinsight.taxonomy import path_distance as path_distance
