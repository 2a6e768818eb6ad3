"""Build error messages that state what was expected, what was found, and what to do."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from importlib import import_module
from os import PathLike
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


#: Arguments that errors about a matrix may recommend, by their names in the calling function.
#: Functions that lack some of them, or use other names, pass their own mapping.
ARGUMENTS: Final[Mapping[str, str]] = {
    name: name for name in ("layer", "use_raw", "scale", "fold_case")
}


class InputError(ValueError):
    """Error for invalid input, in three parts.

    Parameters
    ----------
    found
        What was found.
    valid
        What is valid.
    do_next
        What to do.

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


def invalid(name: str, value: object, expected: str, hint: str = "") -> ValueError:
    """Return the error for an argument with an invalid value.

    Parameters
    ----------
    name
        Name of the argument.
    value
        Value of the argument.
    expected
        Description of valid values, such as ``"an integer >= 1"``.
    hint
        What to do, as a sentence.

    Examples
    --------
    >>> invalid("n_genes", 0, "an integer >= 1", "Omit it to use 4096.")
    ValueError('n_genes must be an integer >= 1, got 0. Omit it to use 4096.')
    """
    return ValueError(f"{name} must be {expected}, got {value!r}. {hint}".rstrip())


def counted(n: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun in singular or plural.

    Examples
    --------
    >>> counted(1, "cell"), counted(2000, "cell"), counted(0, "batch", "batches")
    ('1 cell', '2,000 cells', '0 batches')
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def examples(names: Iterable[str], n: int = 3) -> str:
    """Join the first names for a sentence, with the number of further ones.

    Examples
    --------
    >>> from hdeepinsight.data import examples
    >>> examples(["CD3D", "NKG7", "LYZ"], 2)
    'CD3D, NKG7 and 1 more'
    """
    listed = [str(name) for name in names]
    more = f" and {len(listed) - n:,} more" if len(listed) > n else ""
    return ", ".join(listed[:n]) + more


def check_integer(
    name: str, value: Any, minimum: int = 1, *, optional: bool = False, hint: str = ""
) -> None:
    """Raise ``ValueError`` unless the value is an integer of at least ``minimum``.

    With ``optional``, ``None`` is valid too.
    """
    if optional and value is None:
        return
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < minimum:
        default = "Omit it to use the default." if optional else ""
        raise invalid(name, value, f"an integer >= {minimum}", hint or default)


def check_number(
    name: str, value: Any, low: float = 0.0, high: float = np.inf, *, hint: str = ""
) -> None:
    """Raise ``ValueError`` unless the value is a finite number from ``low`` to ``high``."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not np.isfinite(value) or not low <= value <= high:
        bounds = (
            f"number from {low:g} to {high:g}" if np.isfinite(high) else f"finite number >= {low:g}"
        )
        raise invalid(name, value, f"a {bounds}", hint)


def check_choice(name: str, value: object, choices: Iterable[object], hint: str = "") -> None:
    """Raise ``ValueError`` unless the value is one of the choices."""
    listed = list(choices)
    if not any(value is choice or value == choice for choice in listed):
        raise invalid(name, value, f"one of {', '.join(map(repr, listed))}", hint)


def check_key(name: str, value: object) -> None:
    """Raise ``ValueError`` unless the value can be a prefix of keys in AnnData."""
    if not isinstance(value, str) or not value.strip():
        raise invalid(name, value, "a name such as 'hdi'", "Omit it to use the default.")


def refuse_path(data: object) -> None:
    """Raise ``TypeError`` for a path, where an AnnData in memory or backed is needed."""
    if isinstance(data, str | PathLike):
        msg = f"Expected an AnnData, got the path {data}. Pass hdi.data.read_anndata(path)."
        raise TypeError(msg)


def check_keywords(
    call: str, given: Iterable[str], known: Iterable[str], hint: str = "Omit the others."
) -> None:
    """Raise ``TypeError``, with the valid names, for unexpected keyword arguments."""
    if unknown := sorted(set(given) - set(known)):
        valid = ", ".join(dict.fromkeys(known))
        raise TypeError(f"{call} got {', '.join(unknown)}; it takes {valid}. {hint}")


def refuse_unused(given: Mapping[str, Any], where: str) -> None:
    """Raise ``ValueError`` for the arguments that were given, because they have no effect."""
    names = [name for name, is_given in given.items() if is_given]
    if names:
        verb, them = ("has", "it") if len(names) == 1 else ("have", "them")
        raise ValueError(f"{', '.join(names)} {verb} no effect {where}. Omit {them}.")


def missing_column(
    key: object, columns: Iterable[object], *, where: str = "obs", hint: str = ""
) -> KeyError:
    """Return the error for a missing column, or a missing key of ``obsm``.

    Examples
    --------
    >>> missing_column("donor", ["batch"])
    KeyError("obs has no column 'donor'; it has 'batch'. Pass the name of one of them.")
    """
    noun = "key" if where.endswith("obsm") else "column"
    listed = examples(map(repr, columns), 20)
    advice = hint or "Pass the name of one of them."
    return KeyError(f"{where} has no {noun} {key!r}; it has {listed or 'none'}. {advice}")


def one_column(obs: pd.DataFrame, key: str, *, hint: str = "") -> pd.Series:
    """Return a column; raise ``KeyError`` if it is missing, ``ValueError`` if it is duplicated."""
    if not isinstance(key, Hashable) or key not in obs:
        raise missing_column(key, obs.columns, hint=hint)
    found = obs[key]
    if found.ndim > 1:
        msg = f"obs has {found.shape[1]} columns named {key!r}. Rename or drop all but one."
        raise ValueError(msg)
    return found


def batch_column(obs: pd.DataFrame, key: str) -> pd.Series:
    """Return the batch column; raise ``ValueError`` if a cell has no batch."""
    found = one_column(obs, key)
    if n_missing := int(found.isna().sum()):
        n_cells = f"{counted(n_missing, 'cell')} {'has' if n_missing == 1 else 'have'}"
        msg = f"{n_cells} no batch: {key!r} is missing there. Fill it in, or remove these cells."
        raise ValueError(msg)
    return found


def need_extra(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency.

    Parameters
    ----------
    module
        Module to import.
    extra
        Extra of this package that installs it.
    purpose
        What needs it, as the beginning of a sentence.

    Raises
    ------
    ImportError
        If it is not installed, with the command that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        msg = (
            f"{purpose} needs the package {module.partition('.')[0]}, which is not installed. "
            f'Install it with `pip install "hdeepinsight[{extra}]"`.'
        )
        raise ImportError(msg) from error
