"""What to make of probabilities over a taxonomy, whoever computed them."""

from hdeepinsight.annotation._anndata_io import (
    Additions as Additions,
    check_cells as check_cells,
    check_same_cells as check_same_cells,
    storable as storable,
)
from hdeepinsight.annotation._annotation import (
    Annotation as Annotation,
    annotation_additions as annotation_additions,
    check_level_names as check_level_names,
    leaves_named as leaves_named,
)
from hdeepinsight.annotation._conformal import (
    Calibration as Calibration,
    LabelSets as LabelSets,
    calibrate as calibrate,
    conformal_threshold as conformal_threshold,
)
from hdeepinsight.annotation._decode import (
    PROBABILITY_TOLERANCE as PROBABILITY_TOLERANCE,
    Decoder as Decoder,
    Reject as Reject,
    check_decoding as check_decoding,
    decode as decode,
    depth_of_level as depth_of_level,
    most_probable_leaf as most_probable_leaf,
    node_categories as node_categories,
    node_names as node_names,
)
from hdeepinsight.annotation._evaluate import (
    Evaluation as Evaluation,
    check_confidence as check_confidence,
    evaluate_annotation as evaluate_annotation,
    expected_calibration_error as expected_calibration_error,
    level_metrics as level_metrics,
    match_mean_confidence as match_mean_confidence,
    mean_confidence as mean_confidence,
    sharpen as sharpen,
)
from hdeepinsight.annotation._external import (
    class_nodes as class_nodes,
    drop_ancestors as drop_ancestors,
    label_nodes as label_nodes,
    next_above as next_above,
    node_mass as node_mass,
    node_probabilities as node_probabilities,
    normalise_classes as normalise_classes,
)
from hdeepinsight.annotation._novelty import ReferenceBank as ReferenceBank
from hdeepinsight.annotation._trust import (
    NO_LIMIT as NO_LIMIT,
    Decision as Decision,
    QueryJudge as QueryJudge,
    Verdict as Verdict,
    judgement as judgement,
    marker_opinion as marker_opinion,
)
