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
from hdeepinsight.nn._classifiers import GeneImageClassifier as GeneImageClassifier
from hdeepinsight.nn._classifiers import ModuleConfig as ModuleConfig
from hdeepinsight.nn._classifiers import TreeClassifier as TreeClassifier
from hdeepinsight.nn._clusters import sharpened_assignment, student_t_assignment
from hdeepinsight.nn._contrast import cluster_contrast, info_nce
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
from hdeepinsight.nn._edge_sampler import (
    Similarity,
    adjacency_error,
    are_joined,
    candidate_similarity,
    chosen_cells,
    draw_neighbors,
    gumbel_noise,
    union_graph,
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
    COVARIANCE_CELLS,
    LeafProfiles,
    LeafSums,
    ProfileEnsemble,
    ProfileMatcher,
    profile_shift,
    usual_shift,
)
from hdeepinsight.nn._seeds import one_at_a_time as one_at_a_time
from hdeepinsight.nn._seeds import seeded as seeded
from hdeepinsight.nn._sinkhorn import sinkhorn
from hdeepinsight.nn._tagconv import CellGraph, SparseFeatures, TAGConv, sparse_rows
from hdeepinsight.nn._tokens import (
    Binning,
    Pooling,
    TokenEncoder,
    TokenSets,
    ValueEncoding,
    bin_values,
    token_sets,
)

__all__ = [
    "BACKBONES",
    "COVARIANCE_CELLS",
    "AdaptiveHierarchicalFocalLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Binning",
    "CellGraph",
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
    "Pooling",
    "ProfileEnsemble",
    "ProfileMatcher",
    "ProteinChannels",
    "ProteinNormalizer",
    "ProteinValues",
    "Reduction",
    "Similarity",
    "SparseCounts",
    "SparseFeatures",
    "TAGConv",
    "TokenEncoder",
    "TokenSets",
    "ValueEncoding",
    "adapt_first_convolution",
    "adjacency_error",
    "are_joined",
    "bin_values",
    "candidate_similarity",
    "chosen_cells",
    "class_means",
    "cluster_contrast",
    "distribution_loss",
    "draw_neighbors",
    "fit_temperatures",
    "gradient_loss",
    "gumbel_noise",
    "info_nce",
    "inverse_frequency_weights",
    "make_backbone",
    "noise_schedule",
    "profile_shift",
    "project_with_floor",
    "regression_loss",
    "sharpened_assignment",
    "sinkhorn",
    "sparse_rows",
    "student_t_assignment",
    "token_sets",
    "tolerate_single_cells",
    "union_graph",
    "usual_shift",
]
