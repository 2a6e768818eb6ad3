"""Every name that we read from or write to an AnnData, once."""

from typing import Final, NamedTuple

__all__ = ["ADDED_KEYS", "AddedKeys"]


class AddedKeys(NamedTuple):
    """Suffixes of the columns that `Annotation.to_adata` adds after its ``key_added``.

    With ``key_added="hdi"`` the labels at their stop depth land in ``obs["hdi_cell_type"]``.
    """

    LABEL: str = "cell_type"
    CONFIDENCE: str = "confidence"
    MARGIN: str = "margin"
    STOP_DEPTH: str = "stop_depth"
    PROBABILITIES: str = "probabilities"


ADDED_KEYS: Final = AddedKeys()
