"""Pure torch: from counts to values, from images to features, from features to a loss."""

from hdeepinsight.nn._augment import CountThinning, GeneMasking
from hdeepinsight.nn._backbones import (
    BACKBONES,
    CompactBackbone,
    EfficientNetBackbone,
    MLPBackbone,
    adapt_first_convolution,
    make_backbone,
)
from hdeepinsight.nn._clusters import sharpened_assignment, student_t_assignment
from hdeepinsight.nn._contrast import cluster_contrast
from hdeepinsight.nn._count_autoencoder import CountHeads, CountParameters
from hdeepinsight.nn._distill import (
    ComponentDecoder,
    ConditionalDenoiser,
    MatchingNetwork,
    class_means,
    distribution_loss,
    gradient_loss,
    noise_schedule,
    regression_loss,
)
from hdeepinsight.nn._folded import FoldedClassifier, SparseCounts
from hdeepinsight.nn._heads import LinearHead, PerParentHead, fit_temperatures
from hdeepinsight.nn._hierarchical_loss import (
    AdaptiveHierarchicalFocalLoss,
    Reduction,
    inverse_frequency_weights,
    project_with_floor,
)
from hdeepinsight.nn._members import MemberBackbones, MemberHeads
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
from hdeepinsight.nn._sinkhorn import sinkhorn

__all__ = [
    "BACKBONES",
    "AdaptiveHierarchicalFocalLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "CompactBackbone",
    "ComponentDecoder",
    "ConditionalDenoiser",
    "CountHeads",
    "CountNormalizer",
    "CountParameters",
    "CountThinning",
    "EfficientNetBackbone",
    "FoldedClassifier",
    "FrozenNorm",
    "GeneMasking",
    "LeafProfiles",
    "LeafSums",
    "LinearHead",
    "MLPBackbone",
    "MatchingNetwork",
    "MemberBackbones",
    "MemberHeads",
    "ModalityDropout",
    "ModelNormalizer",
    "PerParentHead",
    "ProfileMatcher",
    "ProteinChannels",
    "ProteinNormalizer",
    "ProteinValues",
    "Reduction",
    "SparseCounts",
    "adapt_first_convolution",
    "class_means",
    "cluster_contrast",
    "distribution_loss",
    "fit_temperatures",
    "gradient_loss",
    "inverse_frequency_weights",
    "make_backbone",
    "noise_schedule",
    "profile_shift",
    "project_with_floor",
    "regression_loss",
    "sharpened_assignment",
    "sinkhorn",
    "student_t_assignment",
    "tolerate_single_cells",
    "usual_shift",
]
