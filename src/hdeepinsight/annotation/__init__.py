"""What to make of probabilities over a taxonomy, whoever computed them."""

from hdeepinsight.annotation._annotation import Annotation
from hdeepinsight.annotation._calibration import expected_calibration_error
from hdeepinsight.annotation._decode import Decoded, Decoder, check_threshold, decode
from hdeepinsight.annotation._evaluation import (
    Evaluation,
    evaluate_annotation,
    level_calibration,
)

__all__ = [
    "Annotation",
    "Decoded",
    "Decoder",
    "Evaluation",
    "check_threshold",
    "decode",
    "evaluate_annotation",
    "expected_calibration_error",
    "level_calibration",
]
