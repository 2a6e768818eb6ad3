"""Cell type taxonomies: construction, label encoding, node probabilities and scores."""

from hdeepinsight.taxonomy._algebra import TreeAlgebra as TreeAlgebra
from hdeepinsight.taxonomy._labels import MISSING_LABELS as MISSING_LABELS
from hdeepinsight.taxonomy._labels import LabelWarning as LabelWarning
from hdeepinsight.taxonomy._labels import check_labels as check_labels
from hdeepinsight.taxonomy._labels import column_nodes as column_nodes
from hdeepinsight.taxonomy._labels import find_unlabeled as find_unlabeled
from hdeepinsight.taxonomy._labels import nodes_of as nodes_of
from hdeepinsight.taxonomy._metrics import HierarchicalScores as HierarchicalScores
from hdeepinsight.taxonomy._metrics import check_nodes as check_nodes
from hdeepinsight.taxonomy._metrics import hierarchical_scores as hierarchical_scores
from hdeepinsight.taxonomy._metrics import level_scores as level_scores
from hdeepinsight.taxonomy._metrics import path_distance as path_distance
from hdeepinsight.taxonomy._metrics import shared_depth as shared_depth
from hdeepinsight.taxonomy._ontology import CellType as CellType
from hdeepinsight.taxonomy._ontology import cell_type as cell_type
from hdeepinsight.taxonomy._ontology import term_members as term_members
from hdeepinsight.taxonomy._taxonomy import Taxonomy as Taxonomy
