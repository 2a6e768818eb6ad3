"""What to make of probabilities over a taxonomy, whoever computed them."""

from hdeepinsight.annotation import rejection
from hdeepinsight.annotation._additions import Additions, check_cells, check_same_cells, storable
from hdeepinsight.annotation._annotation import Annotation, check_level_names
from hdeepinsight.annotation._calibration import (
    PROBABILITY_TOLERANCE,
    check_confidence,
    expected_calibration_error,
)
from hdeepinsight.annotation._classes import (
    class_nodes,
    depth_of_level,
    drop_ancestors,
    label_nodes,
    next_above,
    node_categories,
    node_mass,
    node_names,
    node_probabilities,
    normalise_classes,
)
from hdeepinsight.annotation._conformal import (
    Calibration,
    SetKind,
    calibrate,
    check_nodes,
    conformal_threshold,
)
from hdeepinsight.annotation._decision import Decision
from hdeepinsight.annotation._decode import (
    Decoded,
    Decoder,
    check_decoder,
    check_threshold,
    decode,
    most_probable_leaf,
)
from hdeepinsight.annotation._evaluation import (
    Evaluation,
    evaluate_annotation,
    level_calibration,
)
from hdeepinsight.annotation._label_sets import LabelSets
from hdeepinsight.annotation._novelty import FeatureCells, NoveltyDetector, NoveltyLevel
from hdeepinsight.annotation._sureness import match_mean_confidence, mean_confidence, sharpen
from hdeepinsight.annotation._writing import annotation_additions

__all__ = [
    "PROBABILITY_TOLERANCE",
    "Additions",
    "Annotation",
    "Calibration",
    "Decision",
    "Decoded",
    "Decoder",
    "Evaluation",
    "FeatureCells",
    "LabelSets",
    "NoveltyDetector",
    "NoveltyLevel",
    "SetKind",
    "annotation_additions",
    "calibrate",
    "check_cells",
    "check_confidence",
    "check_decoder",
    "check_level_names",
    "check_nodes",
    "check_same_cells",
    "check_threshold",
    "class_nodes",
    "conformal_threshold",
    "decode",
    "depth_of_level",
    "drop_ancestors",
    "evaluate_annotation",
    "expected_calibration_error",
    "label_nodes",
    "level_calibration",
    "match_mean_confidence",
    "mean_confidence",
    "most_probable_leaf",
    "next_above",
    "node_categories",
    "node_mass",
    "node_names",
    "node_probabilities",
    "normalise_classes",
    "rejection",
    "sharpen",
    "storable",
]
