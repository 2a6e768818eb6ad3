"""The tree of cell types: names, paths, probabilities along paths, and scores."""

from hdeepinsight.taxonomy._algebra import TreeAlgebra
from hdeepinsight.taxonomy._metrics import (
    HierarchicalScores,
    hierarchical_scores,
    level_scores,
    path_distance,
)
from hdeepinsight.taxonomy._taxonomy import Taxonomy

__all__ = [
    "HierarchicalScores",
    "Taxonomy",
    "TreeAlgebra",
    "hierarchical_scores",
    "level_scores",
    "path_distance",
]
