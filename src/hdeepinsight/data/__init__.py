"""The door for data: what a matrix holds, which genes it has, and its counts in chunks."""

from hdeepinsight._errors import (
    InputError as InputError,
    examples as examples,
)
from hdeepinsight.data._counts import (
    CountSource as CountSource,
    dispersion_scores as dispersion_scores,
    log_normalize as log_normalize,
    open_counts as open_counts,
    recover_counts as recover_counts,
    select_genes as select_genes,
)
from hdeepinsight.data._files import check_file as check_file
from hdeepinsight.data._genes import (
    GeneAlignment as GeneAlignment,
    GeneCoverageWarning as GeneCoverageWarning,
    GeneMatchError as GeneMatchError,
    GeneReport as GeneReport,
    align_genes as align_genes,
    name_digests as name_digests,
    resolve_var_names as resolve_var_names,
    strip_version as strip_version,
)
from hdeepinsight.data._inspect import (
    InputReport as InputReport,
    ScaleMode as ScaleMode,
    inspect_input as inspect_input,
)
from hdeepinsight.data._matrix import (
    CHUNK_CELLS as CHUNK_CELLS,
    SAMPLE_CELLS as SAMPLE_CELLS,
    RowMatrix as RowMatrix,
    spread_rows as spread_rows,
)
from hdeepinsight.data._modalities import (
    Modalities as Modalities,
    ProteinCounts as ProteinCounts,
    ProteinCoverageWarning as ProteinCoverageWarning,
    align_proteins as align_proteins,
    clean_protein_name as clean_protein_name,
    errors_of as errors_of,
    is_paired as is_paired,
    open_paired as open_paired,
    own_columns as own_columns,
    pad as pad,
    protein_genes as protein_genes,
    protein_key as protein_key,
    protein_names as protein_names,
    read_proteins as read_proteins,
)
from hdeepinsight.data._query import (
    AlignedQuery as AlignedQuery,
    ExtraInputs as ExtraInputs,
    open_query as open_query,
)
from hdeepinsight.data._recover import Denormalizer as Denormalizer
from hdeepinsight.data._sampling import (
    deal_out as deal_out,
    draw_evenly as draw_evenly,
    given_split as given_split,
    split_three as split_three,
)
from hdeepinsight.data._store import (
    DataLike as DataLike,
    Store as Store,
    open_store as open_store,
    read_anndata as read_anndata,
)
