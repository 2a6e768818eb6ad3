"""Which genes speak for a node of a taxonomy: mathematics and results, whatever the model."""

from hdeepinsight.explanation._explanation import (
    CellChoice as CellChoice,
    Explanation as Explanation,
    Statistic as Statistic,
)
from hdeepinsight.explanation._run import (
    AttributionAccumulator as AttributionAccumulator,
    Draws as Draws,
    ExplanationRun as ExplanationRun,
    balanced_draws as balanced_draws,
    expected_gradients as expected_gradients,
    explain_cells as explain_cells,
)
from hdeepinsight.explanation._targets import (
    Background as Background,
    TargetKind as TargetKind,
    Targets as Targets,
    background_from_cells as background_from_cells,
    background_from_profiles as background_from_profiles,
)
