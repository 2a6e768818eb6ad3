"""Label columns: which labels mean "no label", which look alike, and the code of each cell."""

import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hdeepinsight._io import plain_form
from hdeepinsight.taxonomy._names import clipped

MISSING_LABELS = frozenset(
    {
        "", "-", "--", "?", ".", "na", "n/a", "<na>", "n.a.", "nan", "nat", "none", "null",
        "unknown", "unassigned", "unlabeled", "unlabelled", "unannotated", "unclassified",
        "undefined", "undetermined", "not available", "not applicable", "not assigned",
        "no label", "missing", "heterogeneous",
    }
)  # fmt: skip
"""Words that mean "no label", without blanks around them and in lower case."""

_LOOK_ALIKES = str.maketrans("АВЕЅІЈКМНОРСТХУаеѕіјорсху", "ABESIJKMHOPCTXYaesijopcxy")
_LISTED = 10


class LabelWarning(UserWarning):
    """Labels were taken for "no label", or differ by nothing that a reader sees."""


def find_unlabeled(
    labels: Iterable[Any], unlabeled: str | Collection[str] | None = "Unknown"
) -> NDArray[np.bool_]:
    """Find the labels that mean "no label".

    Parameters
    ----------
    labels
        Labels, shape ``(n_cells,)``.
    unlabeled
        Label, or labels, that mean "not labelled", beside the words of `MISSING_LABELS` in any
        case and with blanks around them. With None only missing values (NaN, None, ``pandas.NA``)
        do.

    Returns
    -------
    numpy.ndarray
        bool, shape ``(n_cells,)``.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import find_unlabeled
    >>> find_unlabeled(["CD4", "nan", " Unassigned", None, "doublet"], unlabeled="doublet")
    array([False,  True,  True,  True,  True])
    """
    codes, names = distinct_labels(labels)
    declared = as_set(unlabeled)
    missing = [
        name in declared or (unlabeled is not None and means_no_label(name)) for name in names
    ]
    return np.asarray([*missing, True], dtype=np.bool_)[codes]  # the last entry serves code -1


def check_labels(
    labels: Iterable[Any], name: str, *, unlabeled: str | Collection[str] | None = "Unknown"
) -> None:
    """Warn of labels that `find_unlabeled` takes for "no label", and of labels that look alike.

    Missing values and the labels in `unlabeled` are as the user says and not warned of.

    Parameters
    ----------
    labels
        Labels, shape ``(n_cells,)``.
    name
        What holds them, such as ``"obs['cell_type']"``.
    unlabeled
        Label, or labels, that mean "not labelled"; None where only missing values do.

    Warns
    -----
    LabelWarning
        Once, with the number of cells of each label.

    Examples
    --------
    >>> import warnings
    >>> from hdeepinsight.taxonomy import check_labels
    >>> with warnings.catch_warnings(record=True) as raised:
    ...     warnings.simplefilter("always")
    ...     check_labels(["B", "B", "B ", "NA"], "obs['type']")
    >>> print(raised[0].message)
    obs['type']: 'NA' (1 cell) is taken as unlabelled. Set such cells to missing to say so, or \
rename the label if it is a type. 'B' (2 cells) and 'B ' (1 cell) differ only by blanks, case or \
the form of their letters, and count as different types. Rename them if they are the same.
    """
    codes, names = distinct_labels(labels)
    counts = np.bincount(codes[codes >= 0], minlength=len(names)).tolist()
    declared = as_set(unlabeled)
    count_of = {
        label: count
        for label, count in zip(names, counts, strict=True)
        if isinstance(label, str) and count and label not in declared
    }
    words = [label for label in count_of if unlabeled is not None and means_no_label(label)]
    alike: dict[str, list[str]] = defaultdict(list)
    for label in count_of.keys() - set(words):
        alike[plain_form(label.translate(_LOOK_ALIKES))].append(label)
    groups = [sorted(group, key=lambda x: -count_of[x]) for group in alike.values() if group[1:]]
    said = []
    if words:
        are = "are" if words[1:] else "is"
        said.append(
            f"{_counted(words, count_of)} {are} taken as unlabelled. Set such cells to missing to "
            "say so, or rename the label if it is a type."
        )
    if groups:
        groups.sort(key=lambda group: -count_of[group[0]])
        listed = "; ".join(_counted(group, count_of) for group in groups[:_LISTED])
        more = f"; and {len(groups) - _LISTED} more" if len(groups) > _LISTED else ""
        said.append(
            f"{listed}{more} differ only by blanks, case or the form of their letters, and count "
            "as different types. Rename them if they are the same."
        )
    if said:
        warnings.warn(f"{name}: {' '.join(said)}", LabelWarning, stacklevel=3)


def means_no_label(name: object) -> bool:
    """Return whether a label is one of the words that mean "no label"."""
    return isinstance(name, str) and plain_form(name) in MISSING_LABELS


def _counted(labels: list[str], count_of: dict[str, int]) -> str:
    shown = list(map(clipped, labels))
    seen = {unicodedata.normalize("NFKC", text).translate(_LOOK_ALIKES) for text in shown}
    if len(seen) < len(shown):
        shown = list(map(ascii, labels))  # else the reader sees one text twice
    pieces = [
        f"{text} ({count_of[label]:,} cell{'s' * (count_of[label] != 1)})"
        for text, label in zip(shown, labels, strict=True)
    ]
    pieces = pieces[:_LISTED] + ([f"{len(pieces) - _LISTED} more"] if pieces[_LISTED:] else [])
    return " and ".join([", ".join(pieces[:-1])] * bool(pieces[1:]) + pieces[-1:])


def distinct_labels(labels: Iterable[Any]) -> tuple[NDArray[np.int64], list[Any]]:
    """Codes and distinct names of a label column; missing values have code -1.

    Names stand in the order of the categories when the column is categorical, else in the order
    in which they occur.
    """
    values = labels if isinstance(labels, pd.Series) else pd.Series(_as_column(labels))
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.cat.codes.to_numpy().astype(np.int64), list(values.cat.categories)
    codes, found = pd.factorize(values.astype(object))
    return codes.astype(np.int64), list(found)


def factorize(
    labels: Iterable[Any],
    unlabeled: str | Collection[str] | None,
    is_name: Callable[[Any], bool] | None = None,
) -> tuple[NDArray[np.int64], list[Any]]:
    """Codes and distinct names of a label column; missing and unlabelled ones have code -1.

    Names stand in the order of the categories when the column is categorical, else sorted, so that
    nothing depends on the order of the cells. A word XX `unlabeled` is None.
    """
    values = labels if isinstance(labels, pd.Series) else pd.Series(_as_column(labels))
    codes, names = distinct_labels(values)
    _check_text(names, values.name)
    declared = as_set(unlabeled)
    used = np.bincount(codes[codes >= 0], minlength=len(names)) > 0
    keep = [
        i
        for i in np.flatnonzero(used).tolist()
        if names[i] not in declared
        and (
            unlabeled is None
            or not means_no_label(names[i])
            or (is_name is not None and is_name(names[i]))
        )
    ]
    if not isinstance(values.dtype, pd.CategoricalDtype):
        keep.sort(key=lambda i: (names[i],) if isinstance(names[i], str) else names[i])
    new = np.full(len(names) + 1, -1, dtype=np.int64)  # the last entry serves code -1
    new[keep] = np.arange(len(keep))
    return new[codes], [names[i] for i in keep]


def _as_column(labels: Iterable[Any]) -> Any:
    if isinstance(labels, str):
        raise TypeError(
            f"Found one text {labels!r}, where a sequence of one label per cell is expected. Use "
            "`resolve` for a single name."
        )
    if isinstance(labels, (pd.Categorical, pd.Index, np.ndarray)):
        return labels
    listed = list(labels)
    column = np.empty(len(listed), dtype=object)
    for i, label in enumerate(listed):  # one by one, which keeps tuples whole
        column[i] = label
    return column


def _check_text(names: list[Any], column: Any) -> None:
    odd = [name for name in names if not isinstance(name, (str, tuple))]
    if odd:
        where = "" if column is None else f" in column {column!r}"
        raise TypeError(
            f"Labels must be text, got {type(odd[0]).__name__}{where}: {odd[:5]}. If they are the "
            'right column, convert them by `.map(str, na_action="ignore")`, which keeps missing '
            "values missing."
        )


def as_set(unlabeled: str | Collection[str] | None) -> set[str]:
    """Return the labels that mean "not labelled"."""
    if unlabeled is None:
        return set()
    return {unlabeled} if isinstance(unlabeled, str) else set(unlabeled)
