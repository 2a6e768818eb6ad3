"""Which genes speak for a node of a taxonomy: mathematics and results, whatever the model."""

from hdeepinsight.explanation._checks import Method
from hdeepinsight.explanation._draws import BalancedDraws, Draws
from hdeepinsight.explanation._explanation import Explanation
from hdeepinsight.explanation._gradients import expected_gradients
from hdeepinsight.explanation._questions import Questions, Target

__all__ = [
    "BalancedDraws",
    "Draws",
    "Explanation",
    "Method",
    "Questions",
    "Target",
    "expected_gradients",
]
