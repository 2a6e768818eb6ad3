"""The door for data: what a matrix holds, which genes it has, and its counts in chunks."""

from hdeepinsight._errors import InputError, examples
from hdeepinsight.data._counts import (
    CountSource,
    dispersion_scores,
    log_normalize,
    open_counts,
    recover_counts,
    select_genes,
)
from hdeepinsight.data._files import check_file
from hdeepinsight.data._genes import (
    GeneAlignment,
    GeneCoverageWarning,
    GeneMatchError,
    GeneReport,
    align_genes,
    resolve_var_names,
)
from hdeepinsight.data._inspect import InputReport, ScaleMode, inspect_input
from hdeepinsight.data._leakage import LeakReport, check_leakage
from hdeepinsight.data._matrix import RowMatrix, spread_rows
from hdeepinsight.data._modalities import (
    Modalities,
    errors_of,
    is_paired,
    open_paired,
    own_columns,
    pad,
)
from hdeepinsight.data._names import name_digests, strip_version
from hdeepinsight.data._proteins import (
    ProteinCounts,
    ProteinCoverageWarning,
    align_proteins,
    clean_protein_name,
    protein_genes,
    protein_key,
    protein_names,
    read_proteins,
)
from hdeepinsight.data._query import AlignedQuery, ExtraInputs, open_query
from hdeepinsight.data._recover import Denormalizer
from hdeepinsight.data._sampling import deal_out, draw_evenly, given_split, split_three
from hdeepinsight.data._store import DataLike, Store, open_store, read_anndata

__all__ = [
    "AlignedQuery",
    "CountSource",
    "DataLike",
    "Denormalizer",
    "ExtraInputs",
    "GeneAlignment",
    "GeneCoverageWarning",
    "GeneMatchError",
    "GeneReport",
    "InputError",
    "InputReport",
    "LeakReport",
    "Modalities",
    "ProteinCounts",
    "ProteinCoverageWarning",
    "RowMatrix",
    "ScaleMode",
    "Store",
    "align_genes",
    "align_proteins",
    "check_file",
    "check_leakage",
    "clean_protein_name",
    "deal_out",
    "dispersion_scores",
    "draw_evenly",
    "errors_of",
    "examples",
    "given_split",
    "inspect_input",
    "is_paired",
    "log_normalize",
    "name_digests",
    "open_counts",
    "open_paired",
    "open_query",
    "open_store",
    "own_columns",
    "pad",
    "protein_genes",
    "protein_key",
    "protein_names",
    "read_anndata",
    "read_proteins",
    "recover_counts",
    "resolve_var_names",
    "select_genes",
    "split_three",
    "spread_rows",
    "strip_version",
]
