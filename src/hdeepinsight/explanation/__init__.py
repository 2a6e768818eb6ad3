"""Which genes speak for a node of a taxonomy: mathematics and results, whatever the model."""

from hdeepinsight.explanation._explanation import CellChoice, Explanation, Statistic
from hdeepinsight.explanation._run import (
    AttributionAccumulator,
    Draws,
    ExplanationRun,
    balanced_draws,
    expected_gradients,
    explain_cells,
)
from hdeepinsight.explanation._targets import (
    Background,
    TargetKind,
    Targets,
    background_from_cells,
    background_from_profiles,
)

__all__ = [
    "AttributionAccumulator",
    "Background",
    "CellChoice",
    "Draws",
    "Explanation",
    "ExplanationRun",
    "Statistic",
    "TargetKind",
    "Targets",
    "background_from_cells",
    "background_from_profiles",
    "balanced_draws",
    "expected_gradients",
    "explain_cells",
]
