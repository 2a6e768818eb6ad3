"""The door for data: what a matrix holds, which genes it has, and its counts in chunks."""

from hdeepinsight.data._align import GeneAlignment, GeneReport
from hdeepinsight.data._checks import inspect_input
from hdeepinsight.data._errors import GeneCoverageWarning, GeneMatchError, InputError
from hdeepinsight.data._genes import align_genes, resolve_var_names
from hdeepinsight.data._recover import RecoveredCounts, recover_counts
from hdeepinsight.data._report import InputReport
from hdeepinsight.data._streaming import CountSource, open_counts

__all__ = [
    "CountSource",
    "GeneAlignment",
    "GeneCoverageWarning",
    "GeneMatchError",
    "GeneReport",
    "InputError",
    "InputReport",
    "RecoveredCounts",
    "align_genes",
    "inspect_input",
    "open_counts",
    "recover_counts",
    "resolve_var_names",
]
