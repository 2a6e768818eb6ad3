"""Adaptation of a trained network to one query, and the label-free check of it."""

from hdeepinsight.adaptation._adapter import Adapter
from hdeepinsight.adaptation._cells import QueryCells, reference_sums
from hdeepinsight.adaptation._check import (
    AdaptationFigures,
    AdaptationOptions,
    AdaptationReport,
    LabelChange,
    check_adaptation,
    follow_changes,
    weigh_changes,
)
from hdeepinsight.adaptation._layers import (
    AdapterSwitch,
    HeadAdapter,
    Moments,
    NormAdapter,
    freeze_norms,
    insert_adapters,
    record_moments,
    use_adapters,
)
from hdeepinsight.adaptation._targets import (
    MovingAverage,
    Targets,
    balance_classes,
    covered_share,
    restrict_to_labels,
    select_targets,
    soft_cross_entropy,
)

__all__ = [
    "AdaptationFigures",
    "AdaptationOptions",
    "AdaptationReport",
    "Adapter",
    "AdapterSwitch",
    "HeadAdapter",
    "LabelChange",
    "Moments",
    "MovingAverage",
    "NormAdapter",
    "QueryCells",
    "Targets",
    "balance_classes",
    "check_adaptation",
    "covered_share",
    "follow_changes",
    "freeze_norms",
    "insert_adapters",
    "record_moments",
    "reference_sums",
    "restrict_to_labels",
    "select_targets",
    "soft_cross_entropy",
    "use_adapters",
    "weigh_changes",
]
