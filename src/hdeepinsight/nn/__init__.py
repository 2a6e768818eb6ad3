"""Pure torch: from counts to values, from images to features, from features to a loss."""

from hdeepinsight.nn._adapters import (
    AdapterSwitch,
    HeadAdapter,
    NormAdapter,
    freeze_norms,
    insert_adapters,
    record_moments,
    use_adapters,
    wrap_norms,
)
from hdeepinsight.nn._augment import CountThinning, GeneMasking
from hdeepinsight.nn._backbones import (
    BACKBONES,
    CompactBackbone,
    EfficientNetBackbone,
    MLPBackbone,
    adapt_first_convolution,
    make_backbone,
)
from hdeepinsight.nn._consistency import (
    MovingAverage,
    Targets,
    balance_classes,
    covered_share,
    restrict_to_labels,
    select_targets,
    soft_cross_entropy,
)
from hdeepinsight.nn._heads import LinearHead, PerParentHead, fit_temperatures
from hdeepinsight.nn._hierarchical_loss import (
    AdaptiveHierarchicalFocalLoss,
    HierarchicalLoss,
    Reduction,
    inverse_frequency_weights,
    project_with_floor,
)
from hdeepinsight.nn._modality import ModalityDropout, ProteinChannels, ProteinValues
from hdeepinsight.nn._norm import BatchNorm1d, BatchNorm2d, FrozenNorm, tolerate_single_cells
from hdeepinsight.nn._normalize import CountNormalizer, ModelNormalizer, ProteinNormalizer
from hdeepinsight.nn._profiles import (
    LeafProfiles,
    LeafSums,
    ProfileMatcher,
    profile_shift,
    usual_shift,
)

__all__ = [
    "BACKBONES",
    "AdapterSwitch",
    "AdaptiveHierarchicalFocalLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "CompactBackbone",
    "CountNormalizer",
    "CountThinning",
    "EfficientNetBackbone",
    "FrozenNorm",
    "GeneMasking",
    "HeadAdapter",
    "HierarchicalLoss",
    "LeafProfiles",
    "LeafSums",
    "LinearHead",
    "MLPBackbone",
    "ModalityDropout",
    "ModelNormalizer",
    "MovingAverage",
    "NormAdapter",
    "PerParentHead",
    "ProfileMatcher",
    "ProteinChannels",
    "ProteinNormalizer",
    "ProteinValues",
    "Reduction",
    "Targets",
    "adapt_first_convolution",
    "balance_classes",
    "covered_share",
    "fit_temperatures",
    "freeze_norms",
    "insert_adapters",
    "inverse_frequency_weights",
    "make_backbone",
    "profile_shift",
    "project_with_floor",
    "record_moments",
    "restrict_to_labels",
    "select_targets",
    "soft_cross_entropy",
    "tolerate_single_cells",
    "use_adapters",
    "usual_shift",
    "wrap_norms",
]
