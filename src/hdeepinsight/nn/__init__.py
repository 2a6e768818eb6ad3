"""Pure torch: from counts to values, from images to features, from features to a loss."""

from hdeepinsight.nn._adapters import (
    AdapterSwitch,
    HeadAdapter,
    NormAdapter,
    record_moments,
    wrap_norms,
)
from hdeepinsight.nn._augment import CountThinning, GeneMasking
from hdeepinsight.nn._backbones import BACKBONES, make_backbone
from hdeepinsight.nn._compact import CompactBackbone
from hdeepinsight.nn._consistency import (
    MovingAverage,
    Targets,
    balance_classes,
    covered_share,
    restrict_to_labels,
    select_targets,
    soft_cross_entropy,
)
from hdeepinsight.nn._efficientnet import EfficientNetBackbone
from hdeepinsight.nn._heads import LinearHead, PerParentHead
from hdeepinsight.nn._losses import (
    AdaptiveHierarchicalFocalLoss,
    HierarchicalLoss,
    Reduction,
    inverse_frequency_weights,
    project_with_floor,
)
from hdeepinsight.nn._mlp import MLPBackbone
from hdeepinsight.nn._modality import ModalityDropout
from hdeepinsight.nn._norm import freeze_norms
from hdeepinsight.nn._normalize import CountNormalizer
from hdeepinsight.nn._profiles import LeafProfiles, ProfileMatcher
from hdeepinsight.nn._protein_norm import ProteinNormalizer
from hdeepinsight.nn._refinement import GraphRefinement
from hdeepinsight.nn._shift import LeafSums, profile_shift, usual_shift
from hdeepinsight.nn._temperature import fit_temperatures

__all__ = [
    "BACKBONES",
    "AdapterSwitch",
    "AdaptiveHierarchicalFocalLoss",
    "CompactBackbone",
    "CountNormalizer",
    "CountThinning",
    "EfficientNetBackbone",
    "GeneMasking",
    "GraphRefinement",
    "HeadAdapter",
    "HierarchicalLoss",
    "LeafProfiles",
    "LeafSums",
    "LinearHead",
    "MLPBackbone",
    "ModalityDropout",
    "MovingAverage",
    "NormAdapter",
    "PerParentHead",
    "ProfileMatcher",
    "ProteinNormalizer",
    "Reduction",
    "Targets",
    "balance_classes",
    "covered_share",
    "fit_temperatures",
    "freeze_norms",
    "inverse_frequency_weights",
    "make_backbone",
    "profile_shift",
    "project_with_floor",
    "record_moments",
    "restrict_to_labels",
    "select_targets",
    "soft_cross_entropy",
    "usual_shift",
    "wrap_norms",
]
