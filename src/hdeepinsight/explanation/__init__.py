"""Attribute predictions to genes by expected gradients, for any hierarchical classifier."""

from hdeepinsight.explanation._explanation import CellChoice as CellChoice
from hdeepinsight.explanation._explanation import Explanation as Explanation
from hdeepinsight.explanation._explanation import Statistic as Statistic
from hdeepinsight.explanation._run import AttributionAccumulator as AttributionAccumulator
from hdeepinsight.explanation._run import ExplanationRun as ExplanationRun
from hdeepinsight.explanation._run import balanced_draws as balanced_draws
from hdeepinsight.explanation._run import collect_attributions as collect_attributions
from hdeepinsight.explanation._run import expected_gradients as expected_gradients
from hdeepinsight.explanation._run import explain_cells as explain_cells
from hdeepinsight.explanation._targets import Background as Background
from hdeepinsight.explanation._targets import TargetKind as TargetKind
from hdeepinsight.explanation._targets import Targets as Targets
from hdeepinsight.explanation._targets import background_from_cells as background_from_cells
from hdeepinsight.explanation._targets import background_from_profiles as background_from_profiles
