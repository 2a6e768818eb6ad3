"""Errors and warnings of the data door, and the words that they share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

#: Arguments that an error may advise, under the names that they have where it is raised. A caller
#: that takes fewer of them, or by other names, passes its own.
ARGUMENTS: Final[Mapping[str, str]] = {
    name: name for name in ("layer", "use_raw", "scale", "fold_case")
}


class InputError(ValueError):
    """Input that cannot be used, said in three parts.

    Parameters
    ----------
    found
        What was found.
    valid
        What is valid.
    do_next
        What to do next.

    Examples
    --------
    >>> from hdeepinsight.data import InputError
    >>> print(InputError("X holds 3 NaN.", "Counts are whole numbers.", "Remove those cells."))
    X holds 3 NaN. Counts are whole numbers. Remove those cells.
    """

    def __init__(self, found: str, valid: str, do_next: str) -> None:
        super().__init__(found, valid, do_next)
        self.found = found
        self.valid = valid
        self.do_next = do_next

    def __str__(self) -> str:
        return f"{self.found} {self.valid} {self.do_next}"


class GeneMatchError(InputError):
    """Too few genes of the model are found in the query."""


class GeneCoverageWarning(UserWarning):
    """A query covers so few genes of the model that its labels are less certain."""


def examples(names: Iterable[str], n: int = 3) -> str:
    """Return the first names, joined for a sentence, with how many more there are.

    Examples
    --------
    >>> from hdeepinsight.data import examples
    >>> examples(["CD3D", "NKG7", "LYZ"], 2)
    'CD3D, NKG7 and 1 more'
    """
    listed = [str(name) for name in names]
    more = f" and {len(listed) - n:,} more" if len(listed) > n else ""
    return ", ".join(listed[:n]) + more
