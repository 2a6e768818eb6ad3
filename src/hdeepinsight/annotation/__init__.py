"""What to make of probabilities over a taxonomy, whoever computed them."""

from hdeepinsight.annotation import rejection
from hdeepinsight.annotation._annotation import Annotation
from hdeepinsight.annotation._calibration import expected_calibration_error
from hdeepinsight.annotation._conformal import Calibration, SetKind, calibrate
from hdeepinsight.annotation._decision import Decision
from hdeepinsight.annotation._decode import Decoded, Decoder, decode
from hdeepinsight.annotation._evaluation import (
    Evaluation,
    evaluate_annotation,
    level_calibration,
)
from hdeepinsight.annotation._label_sets import LabelSets
from hdeepinsight.annotation._novelty import FeatureCells, NoveltyDetector

__all__ = [
    "Annotation",
    "Calibration",
    "Decision",
    "Decoded",
    "Decoder",
    "Evaluation",
    "FeatureCells",
    "LabelSets",
    "NoveltyDetector",
    "SetKind",
    "calibrate",
    "decode",
    "evaluate_annotation",
    "expected_calibration_error",
    "level_calibration",
    "rejection",
]
