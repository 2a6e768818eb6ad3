"""From label columns to nodes, and which labels mean "no label" or look alike."""

from __future__ import annotations

import unicodedata
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hdeepinsight._errors import counted, invalid, missing_column
from hdeepinsight._io import plain_form
from hdeepinsight.taxonomy._forms import Annotations, clipped, close_matches, from_paths, quoted

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from hdeepinsight.taxonomy._taxonomy import Taxonomy

#: Words that mean "no label", without blanks around them and in lower case.
MISSING_LABELS = frozenset((
    "", "-", "--", "?", ".", "na", "n/a", "<na>", "n.a.", "nan", "nat", "none", "null", "unknown",
    "unassigned", "unlabeled", "unlabelled", "unannotated", "unclassified", "undefined",
    "undetermined", "not available", "not applicable", "not assigned", "no label", "missing",
    "heterogeneous",
))  # fmt: skip

#: Label, or labels, that mean "not labelled"; with None only missing values do.
Unlabeled = str | Collection[str] | None

_LOOK_ALIKES = str.maketrans("АВЕЅІЈКМНОРСТХУаеѕіјорсху", "ABESIJKMHOPCTXYaesijopcxy")
_LISTED = 20


class LabelWarning(UserWarning):
    """Labels were taken for "no label", or differ by nothing that a reader sees."""


def find_unlabeled(labels: Iterable[Any], unlabeled: Unlabeled = "Unknown") -> NDArray[np.bool_]:
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
    codes, names = _distinct(labels)
    missing = [_is_unlabeled(name, unlabeled) for name in names]
    return np.asarray([*missing, True], dtype=np.bool_)[codes]  # the last entry serves code -1


def check_labels(labels: Iterable[Any], name: str, *, unlabeled: Unlabeled = "Unknown") -> None:
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
    declared = [unlabeled] if isinstance(unlabeled, str) else (unlabeled or ())
    counts = pd.Series(list(labels), dtype=object).value_counts()  # the most frequent first
    texts = {label: n for label, n in counts.items() if isinstance(label, str)}
    count_of: dict[str, int] = {label: n for label, n in texts.items() if label not in declared}
    words = [label for label in count_of if _is_unlabeled(label, unlabeled)]
    alike: dict[str, list[str]] = defaultdict(list)
    for label in (label for label in count_of if label not in words):
        alike[plain_form(label.translate(_LOOK_ALIKES))].append(label)
    groups = [_counted(group, count_of) for group in alike.values() if group[1:]]
    more = f"; and {len(groups) - _LISTED} more" if len(groups) > _LISTED else ""
    said = name + ":"
    if words:
        said += (
            f" {_counted(words, count_of)} {'are' if words[1:] else 'is'} taken as unlabelled. Set "
        )
        said += "such cells to missing to say so, or rename the label if it is a type."
    if groups:
        said += f" {'; '.join(groups[:_LISTED])}{more} differ only by blanks, case or the form of "
        said += "their letters, and count as different types. Rename them if they are the same."
    if words or groups:
        warnings.warn(said, LabelWarning, stacklevel=3)


def _counted(labels: list[str], count_of: dict[str, int]) -> str:
    shown = list(map(clipped, labels))
    seen = {unicodedata.normalize("NFKC", text).translate(_LOOK_ALIKES) for text in shown}
    if len(seen) < len(shown):
        shown = list(map(ascii, labels))  # else the reader sees one text twice
    pieces = [
        f"{text} ({counted(count_of[label], 'cell')})"
        for text, label in zip(shown[:_LISTED], labels, strict=False)
    ]
    pieces += [f"{len(labels) - _LISTED} more"] if labels[_LISTED:] else []
    return " and ".join([", ".join(pieces[:-1])] * bool(pieces[1:]) + pieces[-1:])


def _is_unlabeled(
    name: object, unlabeled: Unlabeled, is_name: Callable[[Any], object] | None = None
) -> bool:
    """Return whether a label is declared to mean "no label", or is a word that does."""
    if unlabeled is None or name in ([unlabeled] if isinstance(unlabeled, str) else unlabeled):
        return unlabeled is not None
    word = isinstance(name, str) and plain_form(name) in MISSING_LABELS
    return word and not (is_name and is_name(name))


def _distinct(labels: Iterable[Any]) -> tuple[NDArray[np.int64], list[Any]]:
    """Codes and distinct names of a label column; missing values have code -1.

    Names stand in the order of the categories when the column is categorical, else in the order
    in which they occur.
    """
    if isinstance(labels, str):
        hint = "Use `resolve` for a single name."
        raise TypeError(f"labels must be one label per cell, got one text {labels!r}. {hint}")
    if not isinstance(labels, (pd.Series, pd.Categorical, pd.Index, np.ndarray)):
        labels = pd.Series(list(labels), dtype=object)  # which keeps tuples whole
    values = pd.Series(labels)
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values.cat.codes.to_numpy().astype(np.int64), list(values.cat.categories)
    codes, found = pd.factorize(values.astype(object))
    return codes.astype(np.int64), list(found)


def _factorize(
    labels: Iterable[Any], unlabeled: Unlabeled, is_name: Callable[[Any], object] | None = None
) -> tuple[NDArray[np.int64], list[Any]]:
    """Codes and distinct names of a label column; missing and unlabelled ones have code -1.

    Names stand in the order of the categories when the column is categorical, else sorted, so that
    nothing depends on the order of the cells. Words of `MISSING_LABELS` are unlabelled too, except
    those that `is_name` says are names; with `unlabeled` None only missing values are.
    """
    codes, names = _distinct(labels)
    if odd := [name for name in names if not isinstance(name, (str, tuple))]:
        column = getattr(labels, "name", None)
        where = "" if column is None else f" in column {column!r}"
        how = '`.map(str, na_action="ignore")`, which keeps missing values missing'
        found = f"{type(odd[0]).__name__}{where}: {odd[:5]}"
        raise TypeError(
            f"Labels must be text, got {found}. If they are right, convert them by {how}."
        )
    used = np.flatnonzero(np.bincount(codes[codes >= 0], minlength=len(names))).tolist()
    keep = [i for i in used if not _is_unlabeled(names[i], unlabeled, is_name)]
    if not isinstance(getattr(labels, "dtype", None), pd.CategoricalDtype):
        keep.sort(key=lambda i: (names[i],) if isinstance(names[i], str) else names[i])
    new = np.full(len(names) + 1, -1, dtype=np.int64)  # the last entry serves code -1
    new[keep] = np.arange(len(keep))
    return new[codes], [names[i] for i in keep]


def _combinations(
    frame: pd.DataFrame, unlabeled: Unlabeled, is_name: Callable[[Any], object] | None = None
) -> tuple[list[tuple[Any, ...]], NDArray[np.int64], NDArray[np.int64]]:
    """Distinct rows of label columns (None: no label), the row of every cell, and their counts."""
    columns = [_factorize(frame[key], unlabeled, is_name) for key in frame.columns]
    codes = np.stack([column for column, _ in columns], axis=1)
    rows, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    names = [[*found, None] for _, found in columns]  # the last entry serves code -1
    labels = [tuple(names[j][code] for j, code in enumerate(row)) for row in rows.tolist()]
    return labels, inverse.reshape(-1), counts


def _nodes_of(
    labels: list[Any], counts: NDArray[np.int64], find: Callable[[Any], int], expected: str
) -> NDArray[np.int64]:
    """Find the node of every distinct label; those that have none are listed with their counts."""
    nodes = np.zeros(len(labels) + 1, dtype=np.int64)  # the last entry serves code -1
    problems: list[str] = []
    for i, label in enumerate(labels):
        try:
            nodes[i] = find(label)
        except ValueError as error:
            problems.append(f"- {label!r} ({counts[i]:,} cells): {error}")
        if len(problems) > _LISTED:
            problems[_LISTED:] = ["- and more"]
            break
    if problems:
        raise ValueError("\n".join([expected, *problems]))
    return nodes


def encode(
    self: Taxonomy,
    labels: Iterable[Any],
    level: int | str | None = None,
    *,
    unlabeled: Unlabeled = "Unknown",
) -> NDArray[np.int64]:
    """Return the node of every label; missing and unlabelled ones give 0, the root.

    Parameters
    ----------
    labels
        Labels, shape ``(n_cells,)``: names, synonyms or paths as in `resolve`, at any depth.
        Missing values (NaN, None, ``pandas.NA``) are allowed.
    level
        Only accept nodes at this level (a level name, or a depth).
    unlabeled
        Label, or labels, that mean "not labelled". Words of `MISSING_LABELS` ("nan", "NA",
        "unassigned", ...) mean it too, unless they are names of this taxonomy; with None only
        missing values do.

    Returns
    -------
    numpy.ndarray
        Node indices, int64, shape ``(n_cells,)``.

    Raises
    ------
    ValueError
        When labels do not resolve; all of them are listed, with their counts.
    TypeError
        When labels are not text.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tax = Taxonomy.from_nested({"B": ["naive", "memory"], "T": []})
    >>> tax.encode(["memory", None, "T", "Unknown", "B"])
    array([4, 0, 2, 0, 1])
    """
    codes, names = _factorize(labels, unlabeled, self._candidates)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    expected = (
        "Labels must be names, synonyms or paths of the taxonomy, or mean that there is none, got "
    )
    expected += "labels that do not lead to a node. Rename them, add synonyms, or name them in "
    return _nodes_of(
        names, counts, lambda name: self.resolve(name, level), f"{expected}`unlabeled`."
    )[codes]


def encode_levels(
    self: Taxonomy, frame: pd.DataFrame, *, unlabeled: Unlabeled = "Unknown"
) -> NDArray[np.int64]:
    """Return the node of every row of a table with a column per level; the deepest label wins.

    Parameters
    ----------
    frame
        Labels, shape ``(n_cells, n_columns)``, coarse to fine. Columns that are all named like
        levels of the taxonomy are those levels; otherwise column ``i`` is level ``i + 1``.
        Missing values are allowed in any column. A column that repeats the label of its parent
        stays at the parent when that has no child of this name.
    unlabeled
        Label, or labels, that mean "not labelled". Words of `MISSING_LABELS` ("nan", "NA",
        "unassigned", ...) mean it too, unless they are names of this taxonomy; with None only
        missing values do.

    Returns
    -------
    numpy.ndarray
        Node indices, int64, shape ``(n_cells,)``; 0 where a row has no label.

    Raises
    ------
    ValueError
        When the columns of a row do not agree as one path, or hold labels that the taxonomy
        does not have at that level; all such rows are summed up with their counts.

    Examples
    --------
    >>> import pandas as pd
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tax = Taxonomy.from_nested({"B": ["naive", "memory"], "T": ["naive"]})
    >>> tax.encode_levels(
    ...     pd.DataFrame({"lineage": ["T", "B", None], "type": ["naive", None, "memory"]})
    ... )
    array([5, 1, 4])
    """
    names = list(frame.columns)
    if not names or len(names) > self.max_depth or len(set(names)) < len(names):
        expected = f"1 to {self.max_depth} distinct columns, one per level {list(self.level_names)}"
        raise invalid("frame", names, expected, "Select the columns that hold the levels.")
    levels = list(range(1, len(names) + 1))
    if set(names) <= set(self.level_names):
        levels = [self.level_depth(name) for name in names]
    if levels != sorted(levels):
        expected = f"columns from coarse to fine, as in the levels {list(self.level_names)}"
        raise invalid("frame", names, expected, "Put the columns in this order.")
    rows, inverse, counts = _combinations(frame, unlabeled, self._candidates)
    expected = "The columns of a cell must name one path from coarse to fine, got combinations of "
    expected += "labels that are not a path of the taxonomy. Correct them, or set them to missing."
    return _nodes_of(rows, counts, lambda row: _descend(self, row, levels), expected)[inverse]


def _descend(tree: Taxonomy, row: tuple[Any, ...], levels: list[int]) -> int:
    """Follow the labels of one cell from the root down."""
    node = 0
    for name, level in zip(row, levels, strict=True):
        if name is None:
            continue
        below: list[int] = []
        for bare in (False, True):  # a synonym or a path may hide a bare name that fits here
            found = tree._candidates(name, level, bare=bare)
            above = int(tree.depth[node])
            below = below or [each for each in found if tree.at_level(each, above) == node]
        if not below and node in tree._candidates(name):
            continue  # a shallow leaf whose finer columns repeat its name
        if not below:
            tree.resolve(name, level)  # unknown at this level: its own error says more
        if len(below) != 1:
            where = quoted(map(tree.path_name, below or tree._candidates(name, level)))
            if below:
                raise ValueError(f"{name!r} fits several nodes ({where}) and no column says which")
            raise ValueError(f"{name!r} is at {where}, not under {tree.path_name(node)!r}")
        node = below[0]
    return node


def from_obs(
    cls: type[Taxonomy],
    data: AnnData | MuData | pd.DataFrame,
    keys: str | Sequence[str],
    *,
    unlabeled: Unlabeled = "Unknown",
    **annotations: Unpack[Annotations],
) -> Taxonomy:
    """Build the taxonomy of the labels found in columns from coarse to fine.

    Parameters
    ----------
    data
        A DataFrame with a row per cell, or an object with one as ``.obs``. It is only read.
    keys
        Label columns from coarse to fine; they become `level_names`. Where a finer column is
        missing or unlabelled, the cell is labelled at an inner node (mixed depth).
    unlabeled
        Label, or labels, that mean "not labelled". Words of `MISSING_LABELS` ("nan", "NA",
        "unassigned", ...) mean it too and do not become types; with None only missing values
        do. `check_labels` warns of such words, and of labels that look alike.
    annotations
        Level names, synonyms and ontology ids, as in `Taxonomy.with_annotations`.

    Returns
    -------
    Taxonomy
        Siblings are in the order of the categories of a categorical column, else sorted; the
        order of the cells does not matter.

    Raises
    ------
    KeyError
        When a column is absent.
    ValueError
        When no cell is labelled, a cell has a finer label without the coarser one, or the
        columns go from fine to coarse.
    TypeError
        When labels are not text.

    Notes
    -----
    One fine label under two coarse ones makes two nodes, because a node is its path
    (``"B > naive"`` and ``"T > naive"``). Such a name is ambiguous on its own: `resolve` and
    `encode` then ask for the path, and `encode_levels` reads it off the columns. Print the
    taxonomy with counts to see whether a few mislabelled cells have made a node of their own.

    Examples
    --------
    >>> import pandas as pd
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> obs = pd.DataFrame(
    ...     {"lineage": ["T", "B", "T", "T"], "type": ["CD8", "Unknown", "CD4", None]}
    ... )
    >>> print(Taxonomy.from_obs(obs, ["lineage", "type"]))
    root
    ├── B
    └── T
        ├── CD4
        └── CD8
    """
    keys = [keys] if isinstance(keys, str) else list(keys)
    frame = getattr(data, "obs", data)
    if not isinstance(frame, pd.DataFrame):
        found = f"{type(data).__name__}. Pass the AnnData that holds the labels."
        raise TypeError(f"data must be a DataFrame, or an object with one as `.obs`, got {found}")
    if not keys or len(set(keys)) < len(keys):
        raise invalid("keys", keys, "one or more distinct columns, coarse to fine", "Correct them.")
    if absent := [key for key in keys if key not in frame.columns]:
        near = quoted(close_matches(str(absent[0]), map(str, frame.columns)))
        hint = near and f"Did you mean {near}?"
        raise missing_column(absent[0], frame.columns, where="The table", hint=hint)
    rows, _, counts = _combinations(frame[keys], unlabeled)
    paths = [tuple(name for name in row if name is not None) for row in rows]
    broken = [row[: len(path)] != path for row, path in zip(rows, paths, strict=True)]
    if any(broken):
        raise ValueError(
            f"A label must have all labels above it, got {counts[broken].sum():,} cells with a "
            f"finer label but no coarser one in {keys}. Fill in the coarser columns, order the "
            "keys from coarse to fine, or set the finer labels to missing."
        )
    for level, (coarse, fine) in enumerate(pairwise(keys)):
        pairs = {path[level : level + 2] for path in paths if len(path) > level + 1}
        n_coarse, n_fine = (len({pair[side] for pair in pairs}) for side in (0, 1))
        if len(pairs) == n_coarse > n_fine:
            raise ValueError(
                f"Keys must go from coarse to fine, got {clipped(coarse)}: each of its {n_coarse} "
                f"labels lies in one of the {n_fine} in {clipped(fine)}. Reverse their order."
            )
    if not any(paths):
        found = (
            f"all {len(frame):,} cells missing or unlabelled. Check the columns and `unlabeled`."
        )
        raise ValueError(f"At least one cell must have a label in {keys}, got {found}")
    annotations.setdefault("level_names", keys[: max(map(len, paths))])
    return from_paths(cls, paths, **annotations)


def column_nodes(
    taxonomy: Taxonomy,
    obs: pd.DataFrame,
    keys: str | Sequence[str],
    *,
    unlabeled: str = "Unknown",
    ignore_unknown: bool = False,
) -> NDArray[np.int64]:
    """Return the node of every cell's label in some columns; 0, the root, where unlabelled.

    A label that several nodes carry means the node at the level named like its column, if there is
    such a level.

    Parameters
    ----------
    taxonomy
        The tree.
    obs
        Table with the columns.
    keys
        Column, or columns from coarse to fine.
    unlabeled
        Label that means "not known".
    ignore_unknown
        Take labels that are not in the taxonomy for unlabelled; of several columns the deepest
        label that is known wins.

    Returns
    -------
    Nodes, shape ``(n_cells,)``.

    Raises
    ------
    ValueError
        If a label is not in the taxonomy.

    Examples
    --------
    >>> import pandas as pd
    >>> from hdeepinsight.taxonomy import Taxonomy, column_nodes
    >>> tree = Taxonomy.from_nested({"T": ["CD4 T", "CD8 T"]})
    >>> obs = pd.DataFrame({"mine": ["CD8 T", "T", "Unknown", "Martian"]})
    >>> nodes = column_nodes(tree, obs, "mine", ignore_unknown=True)
    >>> [tree.label(int(node)) for node in nodes]
    ['CD8 T', 'T', 'root', 'root']
    """
    keys = [keys] if isinstance(keys, str) else list(keys)
    if len(keys) > 1 and not ignore_unknown:
        return taxonomy.encode_levels(obs[keys], unlabeled=unlabeled)

    def known_node(label: Any, key: str) -> int:
        """Return the node of a label, at the level of its column if there is one; 0 for none."""
        if isinstance(label, (str, tuple)) and not _is_unlabeled(label, unlabeled, find):
            depth = taxonomy.level_depth(key) if key in taxonomy.level_names else None
            for level in (depth, None):
                if find(label, level):
                    with suppress(ValueError):  # on several branches
                        return taxonomy.resolve(label, level)
        return 0

    nodes, find = np.zeros(len(obs), dtype=np.int64), taxonomy._candidates
    for key in keys:
        labels = obs[key].astype(object)
        found = labels.map({name: known_node(name, key) for name in labels.unique()})
        nodes = np.where(found > 0, found, nodes)
    if not ignore_unknown:  # what is no name and does not mean "no label" is refused
        taxonomy.encode(obs[keys[0]][nodes == 0], unlabeled=unlabeled)
    return nodes
