"""Adaptation of a trained network to one query, and the label-free check of it."""

from hdeepinsight.adaptation._adapter import Adapter as Adapter
from hdeepinsight.adaptation._cells import (
    QueryCells as QueryCells,
    reference_sums as reference_sums,
)
from hdeepinsight.adaptation._check import (
    AdaptationFigures as AdaptationFigures,
    AdaptationOptions as AdaptationOptions,
    AdaptationReport as AdaptationReport,
    LabelChange as LabelChange,
    check_adaptation as check_adaptation,
    follow_changes as follow_changes,
    weigh_changes as weigh_changes,
)
from hdeepinsight.adaptation._layers import (
    AdapterSwitch as AdapterSwitch,
    HeadAdapter as HeadAdapter,
    Moments as Moments,
    NormAdapter as NormAdapter,
    freeze_norms as freeze_norms,
    insert_adapters as insert_adapters,
    record_moments as record_moments,
    use_adapters as use_adapters,
)
from hdeepinsight.adaptation._targets import (
    MovingAverage as MovingAverage,
    Targets as Targets,
    balance_classes as balance_classes,
    covered_share as covered_share,
    restrict_to_labels as restrict_to_labels,
    select_targets as select_targets,
    soft_cross_entropy as soft_cross_entropy,
)
