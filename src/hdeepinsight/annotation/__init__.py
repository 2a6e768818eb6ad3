"""Annotations: labels, calibration, label sets and scores from probabilities over a taxonomy."""

from hdeepinsight.annotation._anndata_io import Additions as Additions
from hdeepinsight.annotation._anndata_io import check_cells as check_cells
from hdeepinsight.annotation._anndata_io import check_same_cells as check_same_cells
from hdeepinsight.annotation._anndata_io import recorded as recorded
from hdeepinsight.annotation._anndata_io import storable as storable
from hdeepinsight.annotation._anndata_io import target_of as target_of
from hdeepinsight.annotation._annotation import Annotation as Annotation
from hdeepinsight.annotation._annotation import allowed_leaves as allowed_leaves
from hdeepinsight.annotation._annotation import check_level_names as check_level_names
from hdeepinsight.annotation._conformal import Calibration as Calibration
from hdeepinsight.annotation._conformal import LabelSets as LabelSets
from hdeepinsight.annotation._conformal import calibrate as calibrate
from hdeepinsight.annotation._conformal import conformal_threshold as conformal_threshold
from hdeepinsight.annotation._decode import PROBABILITY_TOLERANCE as PROBABILITY_TOLERANCE
from hdeepinsight.annotation._decode import Decoder as Decoder
from hdeepinsight.annotation._decode import Reject as Reject
from hdeepinsight.annotation._decode import check_decoding as check_decoding
from hdeepinsight.annotation._decode import decode as decode
from hdeepinsight.annotation._decode import depth_of_level as depth_of_level
from hdeepinsight.annotation._decode import most_probable_leaf as most_probable_leaf
from hdeepinsight.annotation._decode import node_categories as node_categories
from hdeepinsight.annotation._evaluate import Evaluation as Evaluation
from hdeepinsight.annotation._evaluate import check_confidence as check_confidence
from hdeepinsight.annotation._evaluate import evaluate_annotation as evaluate_annotation
from hdeepinsight.annotation._evaluate import (
    expected_calibration_error as expected_calibration_error,
)
from hdeepinsight.annotation._evaluate import level_metrics as level_metrics
from hdeepinsight.annotation._external import class_nodes as class_nodes
from hdeepinsight.annotation._external import drop_ancestors as drop_ancestors
from hdeepinsight.annotation._external import label_nodes as label_nodes
from hdeepinsight.annotation._external import next_above as next_above
from hdeepinsight.annotation._external import node_mass as node_mass
from hdeepinsight.annotation._external import node_probabilities as node_probabilities
from hdeepinsight.annotation._external import normalise_classes as normalise_classes
from hdeepinsight.annotation._novelty import ReferenceBank as ReferenceBank
from hdeepinsight.annotation._trust import NO_LIMIT as NO_LIMIT
from hdeepinsight.annotation._trust import QueryComparison as QueryComparison
from hdeepinsight.annotation._trust import marker_predictor as marker_predictor
from hdeepinsight.annotation._verdict import NO_COUNTS as NO_COUNTS
from hdeepinsight.annotation._verdict import Decision as Decision
from hdeepinsight.annotation._verdict import Verdict as Verdict
from hdeepinsight.annotation._verdict import assess_query as assess_query
