"""The door for data: what a matrix holds, which genes it has, and its counts in chunks."""

from hdeepinsight.data._align import GeneAlignment, GeneReport
from hdeepinsight.data._checks import inspect_input
from hdeepinsight.data._errors import GeneCoverageWarning, GeneMatchError, InputError
from hdeepinsight.data._genes import align_genes, resolve_var_names
from hdeepinsight.data._recover import RecoveredCounts, recover_counts
from hdeepinsight.data._report import InputReport
from hdeepinsight.data._selection import select_genes
from hdeepinsight.data._store import DataLike, has_layer
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
    "RecoveredCounts",
    "ScaleMode",
    "align_genes",
    "has_layer",
    "inspect_input",
    "open_counts",
    "recover_counts",
    "resolve_var_names",
    "select_genes",
]
