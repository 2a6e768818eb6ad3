"""Errors and warnings of the data door."""

from __future__ import annotations


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
