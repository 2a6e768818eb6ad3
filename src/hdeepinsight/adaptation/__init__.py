"""Adaptation of a trained network to a query, and its label-free check."""

from hdeepinsight.adaptation._adapter import Adapter as Adapter
from hdeepinsight.adaptation._cells import QueryCells as QueryCells
from hdeepinsight.adaptation._cells import reference_sums as reference_sums
from hdeepinsight.adaptation._check import AdaptationFigures as AdaptationFigures
from hdeepinsight.adaptation._check import AdaptationOptions as AdaptationOptions
from hdeepinsight.adaptation._check import AdaptationReport as AdaptationReport
from hdeepinsight.adaptation._check import LabelChange as LabelChange
from hdeepinsight.adaptation._check import check_adaptation as check_adaptation
from hdeepinsight.adaptation._check import follow_changes as follow_changes
from hdeepinsight.adaptation._check import weigh_changes as weigh_changes
from hdeepinsight.adaptation._layers import AdapterSwitch as AdapterSwitch
from hdeepinsight.adaptation._layers import HeadAdapter as HeadAdapter
from hdeepinsight.adaptation._layers import Moments as Moments
from hdeepinsight.adaptation._layers import NormAdapter as NormAdapter
from hdeepinsight.adaptation._layers import freeze_norms as freeze_norms
from hdeepinsight.adaptation._layers import insert_adapters as insert_adapters
from hdeepinsight.adaptation._layers import record_moments as record_moments
from hdeepinsight.adaptation._layers import use_adapters as use_adapters
from hdeepinsight.adaptation._self_training import MovingAverage as MovingAverage
from hdeepinsight.adaptation._self_training import Targets as Targets
from hdeepinsight.adaptation._self_training import balance_classes as balance_classes
from hdeepinsight.adaptation._self_training import covered_share as covered_share
from hdeepinsight.adaptation._self_training import restrict_to_labels as restrict_to_labels
from hdeepinsight.adaptation._self_training import select_targets as select_targets
from hdeepinsight.adaptation._self_training import soft_cross_entropy as soft_cross_entropy
