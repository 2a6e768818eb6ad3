"""Pure torch: from counts to values, from images to features, from features to a loss."""

from hdeepinsight.nn._augment import CountThinning, GeneMasking
from hdeepinsight.nn._backbones import BACKBONES, make_backbone
from hdeepinsight.nn._compact import CompactBackbone
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
from hdeepinsight.nn._normalize import CountNormalizer
from hdeepinsight.nn._profiles import LeafProfiles, ProfileMatcher
from hdeepinsight.nn._protein_norm import ProteinNormalizer
from hdeepinsight.nn._refinement import GraphRefinement
from hdeepinsight.nn._shift import LeafSums, profile_shift, usual_shift
from hdeepinsight.nn._temperature import fit_temperatures

__all__ = [
    "BACKBONES",
    "AdaptiveHierarchicalFocalLoss",
    "CompactBackbone",
    "CountNormalizer",
    "CountThinning",
    "EfficientNetBackbone",
    "GeneMasking",
    "GraphRefinement",
    "HierarchicalLoss",
    "LeafProfiles",
    "LeafSums",
    "LinearHead",
    "MLPBackbone",
    "ModalityDropout",
    "PerParentHead",
    "ProfileMatcher",
    "ProteinNormalizer",
    "Reduction",
    "fit_temperatures",
    "inverse_frequency_weights",
    "make_backbone",
    "profile_shift",
    "project_with_floor",
    "usual_shift",
]
