"""PyTorch modules and functions: normalisation, augmentation, networks and losses."""

from hdeepinsight.nn._augment import CountThinning as CountThinning
from hdeepinsight.nn._augment import GeneMasking as GeneMasking
from hdeepinsight.nn._backbones import BACKBONES as BACKBONES
from hdeepinsight.nn._backbones import CompactBackbone as CompactBackbone
from hdeepinsight.nn._backbones import EfficientNetBackbone as EfficientNetBackbone
from hdeepinsight.nn._backbones import MLPBackbone as MLPBackbone
from hdeepinsight.nn._backbones import adapt_first_convolution as adapt_first_convolution
from hdeepinsight.nn._backbones import make_backbone as make_backbone
from hdeepinsight.nn._classifiers import GeneImageClassifier as GeneImageClassifier
from hdeepinsight.nn._classifiers import ModuleConfig as ModuleConfig
from hdeepinsight.nn._classifiers import TreeClassifier as TreeClassifier
from hdeepinsight.nn._clusters import cluster_contrast as cluster_contrast
from hdeepinsight.nn._clusters import info_nce as info_nce
from hdeepinsight.nn._clusters import sharpened_assignment as sharpened_assignment
from hdeepinsight.nn._clusters import student_t_assignment as student_t_assignment
from hdeepinsight.nn._count_autoencoder import CountHeads as CountHeads
from hdeepinsight.nn._count_autoencoder import CountParameters as CountParameters
from hdeepinsight.nn._distill import ComponentDecoder as ComponentDecoder
from hdeepinsight.nn._distill import ConditionalDenoiser as ConditionalDenoiser
from hdeepinsight.nn._distill import MatchingNetwork as MatchingNetwork
from hdeepinsight.nn._distill import class_means as class_means
from hdeepinsight.nn._distill import distribution_loss as distribution_loss
from hdeepinsight.nn._distill import gradient_loss as gradient_loss
from hdeepinsight.nn._distill import noise_schedule as noise_schedule
from hdeepinsight.nn._distill import regression_loss as regression_loss
from hdeepinsight.nn._edge_sampler import Similarity as Similarity
from hdeepinsight.nn._edge_sampler import adjacency_error as adjacency_error
from hdeepinsight.nn._edge_sampler import are_joined as are_joined
from hdeepinsight.nn._edge_sampler import candidate_similarity as candidate_similarity
from hdeepinsight.nn._edge_sampler import chosen_cells as chosen_cells
from hdeepinsight.nn._edge_sampler import draw_neighbors as draw_neighbors
from hdeepinsight.nn._edge_sampler import gumbel_noise as gumbel_noise
from hdeepinsight.nn._edge_sampler import union_graph as union_graph
from hdeepinsight.nn._folded import FoldedClassifier as FoldedClassifier
from hdeepinsight.nn._folded import SparseCounts as SparseCounts
from hdeepinsight.nn._heads import LinearHead as LinearHead
from hdeepinsight.nn._heads import PerParentHead as PerParentHead
from hdeepinsight.nn._heads import fit_temperatures as fit_temperatures
from hdeepinsight.nn._hierarchical_loss import (
    AdaptiveHierarchicalFocalLoss as AdaptiveHierarchicalFocalLoss,
)
from hdeepinsight.nn._hierarchical_loss import Reduction as Reduction
from hdeepinsight.nn._hierarchical_loss import (
    inverse_frequency_weights as inverse_frequency_weights,
)
from hdeepinsight.nn._hierarchical_loss import log_prior_ratio as log_prior_ratio
from hdeepinsight.nn._hierarchical_loss import project_with_floor as project_with_floor
from hdeepinsight.nn._hierarchical_loss import sampling_weights as sampling_weights
from hdeepinsight.nn._members import MemberBackbones as MemberBackbones
from hdeepinsight.nn._members import MemberHeads as MemberHeads
from hdeepinsight.nn._modality import ModalityDropout as ModalityDropout
from hdeepinsight.nn._modality import ProteinChannels as ProteinChannels
from hdeepinsight.nn._modality import ProteinValues as ProteinValues
from hdeepinsight.nn._norm import BatchNorm1d as BatchNorm1d
from hdeepinsight.nn._norm import BatchNorm2d as BatchNorm2d
from hdeepinsight.nn._norm import FrozenNorm as FrozenNorm
from hdeepinsight.nn._norm import tolerate_single_cells as tolerate_single_cells
from hdeepinsight.nn._normalize import CountNormalizer as CountNormalizer
from hdeepinsight.nn._normalize import ModelNormalizer as ModelNormalizer
from hdeepinsight.nn._normalize import ProteinNormalizer as ProteinNormalizer
from hdeepinsight.nn._panels import GenePanels as GenePanels
from hdeepinsight.nn._profiles import COVARIANCE_CELLS as COVARIANCE_CELLS
from hdeepinsight.nn._profiles import LeafProfiles as LeafProfiles
from hdeepinsight.nn._profiles import LeafSums as LeafSums
from hdeepinsight.nn._profiles import ProfileEnsemble as ProfileEnsemble
from hdeepinsight.nn._profiles import ProfileMatcher as ProfileMatcher
from hdeepinsight.nn._profiles import QueryProfiles as QueryProfiles
from hdeepinsight.nn._profiles import profile_shift as profile_shift
from hdeepinsight.nn._profiles import usual_shift as usual_shift
from hdeepinsight.nn._seeds import one_at_a_time as one_at_a_time
from hdeepinsight.nn._seeds import seeded as seeded
from hdeepinsight.nn._sinkhorn import sinkhorn as sinkhorn
from hdeepinsight.nn._tagconv import CellGraph as CellGraph
from hdeepinsight.nn._tagconv import SparseFeatures as SparseFeatures
from hdeepinsight.nn._tagconv import TAGConv as TAGConv
from hdeepinsight.nn._tagconv import sparse_rows as sparse_rows
from hdeepinsight.nn._token_classifier import GeneTokenClassifier as GeneTokenClassifier
from hdeepinsight.nn._tokens import Binning as Binning
from hdeepinsight.nn._tokens import Pooling as Pooling
from hdeepinsight.nn._tokens import TokenEncoder as TokenEncoder
from hdeepinsight.nn._tokens import TokenSets as TokenSets
from hdeepinsight.nn._tokens import ValueEncoding as ValueEncoding
from hdeepinsight.nn._tokens import bin_values as bin_values
from hdeepinsight.nn._tokens import choose_tokens as choose_tokens
from hdeepinsight.nn._tokens import masked_value_losses as masked_value_losses
from hdeepinsight.nn._tokens import token_sets as token_sets
