"""What to make of probabilities over a taxonomy, whoever computed them."""

from hdeepinsight.annotation._anndata_io import Additions, check_cells, check_same_cells, storable
from hdeepinsight.annotation._annotation import (
    Annotation,
    annotation_additions,
    check_level_names,
    leaves_named,
)
from hdeepinsight.annotation._conformal import (
    Calibration,
    LabelSets,
    calibrate,
    check_nodes,
    conformal_threshold,
)
from hdeepinsight.annotation._decode import (
    PROBABILITY_TOLERANCE,
    Decoder,
    Reject,
    check_decoding,
    decode,
    depth_of_level,
    most_probable_leaf,
    node_categories,
    node_names,
)
from hdeepinsight.annotation._evaluate import (
    Evaluation,
    check_confidence,
    evaluate_annotation,
    expected_calibration_error,
    level_metrics,
    match_mean_confidence,
    mean_confidence,
    sharpen,
)
from hdeepinsight.annotation._external import (
    class_nodes,
    drop_ancestors,
    label_nodes,
    next_above,
    node_mass,
    node_probabilities,
    normalise_classes,
)
from hdeepinsight.annotation._novelty import ReferenceBank
from hdeepinsight.annotation._trust import NO_LIMIT, QueryJudge, marker_opinion
from hdeepinsight.annotation._verdict import Decision, Verdict, judgement

__all__ = [
    "NO_LIMIT",
    "PROBABILITY_TOLERANCE",
    "Additions",
    "Annotation",
    "Calibration",
    "Decision",
    "Decoder",
    "Evaluation",
    "LabelSets",
    "QueryJudge",
    "ReferenceBank",
    "Reject",
    "Verdict",
    "annotation_additions",
    "calibrate",
    "check_cells",
    "check_confidence",
    "check_decoding",
    "check_level_names",
    "check_nodes",
    "check_same_cells",
    "class_nodes",
    "conformal_threshold",
    "decode",
    "depth_of_level",
    "drop_ancestors",
    "evaluate_annotation",
    "expected_calibration_error",
    "judgement",
    "label_nodes",
    "leaves_named",
    "level_metrics",
    "marker_opinion",
    "match_mean_confidence",
    "mean_confidence",
    "most_probable_leaf",
    "next_above",
    "node_categories",
    "node_mass",
    "node_names",
    "node_probabilities",
    "normalise_classes",
    "sharpen",
    "storable",
]
