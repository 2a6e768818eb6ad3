"""The tree of cell types: names, paths, probabilities along paths, and scores."""

from hdeepinsight.taxonomy._algebra import TreeAlgebra as TreeAlgebra
from hdeepinsight.taxonomy._labels import (
    MISSING_LABELS as MISSING_LABELS,
    LabelWarning as LabelWarning,
    check_labels as check_labels,
    column_nodes as column_nodes,
    find_unlabeled as find_unlabeled,
)
from hdeepinsight.taxonomy._metrics import (
    HierarchicalScores as HierarchicalScores,
    check_nodes as check_nodes,
    hierarchical_scores as hierarchical_scores,
    level_scores as level_scores,
    path_distance as path_distance,
)
from hdeepinsight.taxonomy._ontology import (
    CellType as CellType,
    cell_type as cell_type,
)
from hdeepinsight.taxonomy._taxonomy import Taxonomy as Taxonomy
