"""The tree of cell types: names, paths, probabilities along paths, and scores."""

from hdeepinsight.taxonomy._algebra import TreeAlgebra
from hdeepinsight.taxonomy._labels import (
    MISSING_LABELS,
    LabelWarning,
    check_labels,
    column_nodes,
    find_unlabeled,
)
from hdeepinsight.taxonomy._metrics import (
    HierarchicalScores,
    check_nodes,
    hierarchical_scores,
    level_scores,
    path_distance,
)
from hdeepinsight.taxonomy._ontology import CellType, cell_type
from hdeepinsight.taxonomy._taxonomy import Taxonomy

__all__ = [
    "MISSING_LABELS",
    "CellType",
    "HierarchicalScores",
    "LabelWarning",
    "Taxonomy",
    "TreeAlgebra",
    "cell_type",
    "check_labels",
    "check_nodes",
    "column_nodes",
    "find_unlabeled",
    "hierarchical_scores",
    "level_scores",
    "path_distance",
]
