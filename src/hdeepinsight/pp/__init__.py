"""Preprocessing: inspect input, recover counts, align genes, correct batches, mask entries."""

from hdeepinsight.data import GeneAlignment as GeneAlignment
from hdeepinsight.data import GeneReport as GeneReport
from hdeepinsight.data import InputReport as InputReport
from hdeepinsight.data import align_genes as align_genes
from hdeepinsight.data import inspect_input as inspect_input
from hdeepinsight.data import recover_counts as recover_counts
from hdeepinsight.pp._corrected_gram import CorrectedPCA as CorrectedPCA
from hdeepinsight.pp._corrected_gram import corrected_gram as corrected_gram
from hdeepinsight.pp._corrected_gram import corrected_gram_pca as corrected_gram_pca
from hdeepinsight.pp._masks import DropoutMask as DropoutMask
from hdeepinsight.pp._masks import MissingEntries as MissingEntries
from hdeepinsight.pp._masks import PanelMask as PanelMask
from hdeepinsight.pp._masks import estimate_dropout_mask as estimate_dropout_mask
from hdeepinsight.pp._masks import panel_mask as panel_mask
from hdeepinsight.pp._stacas import StacasConfig as StacasConfig
from hdeepinsight.pp._stacas import StacasReport as StacasReport
from hdeepinsight.pp._stacas import StacasResult as StacasResult
from hdeepinsight.pp._stacas import stacas as stacas
