"""The door for data: what a matrix holds, which genes it has, and its counts in chunks."""

from hdeepinsight.data._align import GeneAlignment, GeneReport
from hdeepinsight.data._checks import inspect_input
from hdeepinsight.data._declared import check_file
from hdeepinsight.data._errors import GeneCoverageWarning, GeneMatchError, InputError
from hdeepinsight.data._genes import align_genes, resolve_var_names
from hdeepinsight.data._modalities import Modalities, is_paired, open_paired
from hdeepinsight.data._protein_names import clean_protein_name, protein_genes, protein_key
from hdeepinsight.data._proteins import (
    ProteinCounts,
    ProteinCoverageWarning,
    align_proteins,
    protein_names,
    read_proteins,
)
from hdeepinsight.data._recover import RecoveredCounts, recover_counts
from hdeepinsight.data._report import InputReport
from hdeepinsight.data._selection import select_genes
from hdeepinsight.data._store import DataLike, Store, open_store
from hdeepinsight.data._streaming import CountSource, ScaleMode, open_counts

__all__ = [
    "CountSource",
    "DataLike",
    "GeneAlignment",
    "GeneCoverageWarning",
    "GeneMatchError",
    "GeneReport",
    "InputError",
    "InputReport",
    "Modalities",
    "ProteinCounts",
    "ProteinCoverageWarning",
    "RecoveredCounts",
    "ScaleMode",
    "Store",
    "align_genes",
    "align_proteins",
    "check_file",
    "clean_protein_name",
    "inspect_input",
    "is_paired",
    "open_counts",
    "open_paired",
    "open_store",
    "protein_genes",
    "protein_key",
    "protein_names",
    "read_proteins",
    "recover_counts",
    "resolve_var_names",
    "select_genes",
]
