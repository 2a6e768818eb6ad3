"""Convert label columns to nodes, and find labels that mean "no label" or look alike."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hdeepinsight._errors import counted, examples, invalid, one_column
from hdeepinsight._io import plain_form
from hdeepinsight.taxonomy._forms import Annotations, clipped, from_paths, quoted

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from hdeepinsight.taxonomy._taxonomy import Taxonomy

#: Words that mean "no label", in lower case, with spaces for ``_`` and ``-`` within. They may be
#: followed by "cell", "cell type" or a number ("Unknown_2").
MISSING_LABELS = frozenset((
    "", "-", "--", "?", ".", "na", "n/a", "<na>", "n.a.", "nan", "nat", "none", "null", "unknown",
    "unassigned", "unlabeled", "unlabelled", "unannotated", "unclassified", "undefined",
    "undetermined", "not available", "not applicable", "not assigned", "no label", "missing",
    "heterogeneous", "#n/a", "unk", "untyped", "unidentified", "unmapped", "ungated", "uncertain",
    "ambiguous", "not annotated", "not determined", "no annotation", "no match",
    "none of the above", "n.d.", "nd", "tbd", "to be determined", "unspecified", "unresolved",
    "undecided", "unclear", "unsure", "unnamed", "indeterminate", "not known", "notassigned",
    "not classified", "not labeled", "not labelled", "no call",
))  # fmt: skip
_WITHIN, _BEHIND = re.compile(r"[\s_-]+"), re.compile(r"( cells?)?( types?)?([ :]*\d+)?$")
_AROUND = " ()[]{}<>?*:"

#: One or more labels that mean "not labelled"; None if only missing values do.
Unlabeled = str | Collection[str] | None
#: Returns a true value for names of a taxonomy.
IsName = Callable[[Any], object] | None

_LOOK_ALIKES = str.maketrans("АВЕЅІЈКМНОРСТХУаеѕіјорсху", "ABESIJKMHOPCTXYaesijopcxy")
_LISTED = 20


class LabelWarning(UserWarning):
    """Warning about labels that are read as "no label", or that look the same."""


def find_unlabeled(labels: Iterable[Any], unlabeled: Unlabeled = "Unknown") -> NDArray[np.bool_]:
    """Find the labels that mean "no label".

    Parameters
    ----------
    labels
        Labels, shape ``(n_cells,)``.
    unlabeled
        One or more labels that mean "not labelled", in addition to the words of `MISSING_LABELS`
        in any case and with any surrounding whitespace. If None, only missing values (NaN, None,
        ``pandas.NA``) do.

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
    return np.asarray([*missing, True], dtype=np.bool_)[codes]  # code -1 takes the last entry


def check_labels(labels: Iterable[Any], name: str, *, unlabeled: Unlabeled = "Unknown") -> None:
    """Warn about labels that `find_unlabeled` reads as "no label" and labels that look alike.

    There is no warning about missing values and the labels in `unlabeled`, which are intended.

    Parameters
    ----------
    labels
        Labels, shape ``(n_cells,)``.
    name
        Where the labels are stored, such as ``"obs['cell_type']"``.
    unlabeled
        One or more labels that mean "not labelled"; None if only missing values do.

    Warns
    -----
    LabelWarning
        A single warning with the number of cells per label.

    Examples
    --------
    >>> import warnings
    >>> from hdeepinsight.taxonomy import check_labels
    >>> with warnings.catch_warnings(record=True) as raised:
    ...     warnings.simplefilter("always")
    ...     check_labels(["B", "B", "B ", "NA"], "obs['type']")
    >>> print(raised[0].message)
    obs['type']: 'NA' (1 cell) is treated as unlabelled. Set such cells to missing to confirm \
this, or rename the label if it is a type. 'B' (2 cells) and 'B ' (1 cell) differ only in \
whitespace, case or Unicode form, but count as different types. Rename them if they are the same.
    """
    declared = [unlabeled] if isinstance(unlabeled, str) else (unlabeled or ())
    counts = pd.Series(list(labels), dtype=object).value_counts()  # in decreasing order
    count_of = {x: int(n) for x, n in counts.items() if isinstance(x, str) and x not in declared}
    words = [label for label in count_of if _is_unlabeled(label, unlabeled)]
    alike: dict[str, list[str]] = defaultdict(list)
    for label in count_of:
        if label not in words:
            alike[plain_form(label.translate(_LOOK_ALIKES))].append(label)
    groups = [_counted(group, count_of) for group in alike.values() if len(group) > 1]
    message = f"{name}:"
    if words:
        message += f" {_counted(words, count_of)} {'are' if words[1:] else 'is'} treated as "
        message += "unlabelled. Set such cells to missing to confirm this, or rename the label if "
        message += "it is a type."
    if groups:
        message += f" {examples(groups, _LISTED)} differ only in whitespace, case or Unicode form,"
        message += " but count as different types. Rename them if they are the same."
    if words or groups:
        warnings.warn(message, LabelWarning, stacklevel=3)


def _counted(labels: list[str], count_of: dict[str, int]) -> str:
    """Return quoted labels with their numbers of cells, joined for a sentence."""
    shown = list(map(clipped, labels))
    seen = {unicodedata.normalize("NFKC", text).translate(_LOOK_ALIKES) for text in shown}
    if len(seen) < len(shown):
        shown = list(map(ascii, labels))  # otherwise different labels would be printed alike
    pairs = zip(shown, labels, strict=True)
    *first, last = (f"{text} ({counted(count_of[label], 'cell')})" for text, label in pairs)
    if len(labels) > _LISTED:
        return examples([*first, last], _LISTED)
    return f"{', '.join(first)} and {last}" if first else last


def _is_unlabeled(name: object, unlabeled: Unlabeled, is_name: IsName = None) -> bool:
    """Return whether a label is in `unlabeled`, or is a word for "no label" and not a name."""
    if unlabeled is None or name in ([unlabeled] if isinstance(unlabeled, str) else unlabeled):
        return unlabeled is not None
    forms = [plain_form(name)] if isinstance(name, str) else []
    forms += [_BEHIND.sub("", _WITHIN.sub(" ", form).strip(_AROUND)) for form in forms if form[1:]]
    return not MISSING_LABELS.isdisjoint(forms) and not (is_name and is_name(name))


def _distinct(labels: Iterable[Any]) -> tuple[NDArray[np.int64], list[Any]]:
    """Return codes and distinct names of a label column; missing values have code -1.

    Names are in the order of the categories of a categorical column, otherwise in the order in
    which they occur.
    """
    if isinstance(labels, str):
        hint = "Use `resolve` for a single name."
        raise TypeError(f"labels must be one label per cell, got the string {labels!r}. {hint}")
    if not isinstance(labels, (pd.Series, pd.Categorical, pd.Index, np.ndarray)):
        labels = pd.Series(list(labels), dtype=object)  # keeps tuples as elements
    values = pd.Series(labels)
    if isinstance(values.dtype, pd.CategoricalDtype):
        codes, found = values.cat.codes.to_numpy(), values.cat.categories
    else:
        codes, found = pd.factorize(values.astype(object))
    # Files that other languages wrote may hold text as bytes.
    names = [name.decode() if isinstance(name, bytes) else name for name in found]
    return codes.astype(np.int64), names


def _factorize(
    labels: Iterable[Any], unlabeled: Unlabeled, is_name: IsName = None
) -> tuple[NDArray[np.int64], list[Any]]:
    """Return codes and distinct names of a label column; cells without a label have code -1.

    Names are in the order of the categories of a categorical column, otherwise sorted, so that the
    order of the cells does not matter. Words of `MISSING_LABELS` are read as "no label" unless
    `is_name` returns True for them; if `unlabeled` is None, only missing values are.
    """
    codes, names = _distinct(labels)
    if wrong := [name for name in names if not isinstance(name, (str, tuple))]:
        column = getattr(labels, "name", None)
        where = "" if column is None else f" in column {column!r}"
        found = f"{type(wrong[0]).__name__}{where}: {wrong[:5]}"
        hint = 'Convert them by `.map(str, na_action="ignore")`, which keeps missing values.'
        raise TypeError(f"Labels must be text, got {found}. {hint}")
    used = np.flatnonzero(np.bincount(codes[codes >= 0], minlength=len(names))).tolist()
    keep = [i for i in used if not _is_unlabeled(names[i], unlabeled, is_name)]
    if not isinstance(getattr(labels, "dtype", None), pd.CategoricalDtype):
        keep.sort(key=lambda i: (names[i],) if isinstance(names[i], str) else names[i])
    new = np.full(len(names) + 1, -1, dtype=np.int64)  # code -1 takes the last entry
    new[keep] = np.arange(len(keep))
    return new[codes], [names[i] for i in keep]


def _combinations(
    frame: pd.DataFrame, unlabeled: Unlabeled, is_name: IsName = None
) -> tuple[list[tuple[Any, ...]], NDArray[np.int64], NDArray[np.int64]]:
    """Return the distinct rows of label columns (None: no label), the row per cell, and counts."""
    columns = [_factorize(frame[key], unlabeled, is_name) for key in frame.columns]
    codes = np.stack([column for column, _ in columns], axis=1)
    rows, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    names = [[*found, None] for _, found in columns]  # code -1 takes the last entry
    labels = [tuple(names[j][code] for j, code in enumerate(row)) for row in rows.tolist()]
    return labels, inverse.reshape(-1), counts


def nodes_of(
    labels: Sequence[Any],
    find: Callable[[Any], int],
    expected: str,
    counts: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Return the node of each distinct label, and 0 at the end, for code -1.

    Parameters
    ----------
    labels
        Distinct labels.
    find
        Function that returns the node of a label, or raises ``ValueError``.
    expected
        Beginning of the error, which lists the labels without a node.
    counts
        Number of cells of each label, for the error.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> nodes_of(["CD4", "B"], tree.resolve, "Labels must be in the taxonomy.")
    array([3, 2, 0])
    """
    nodes = np.zeros(len(labels) + 1, dtype=np.int64)
    problems: list[str] = []
    for i, label in enumerate(labels):
        try:
            nodes[i] = find(label)
        except ValueError as error:
            n_cells = "" if counts is None else f" ({counted(int(counts[i]), 'cell')})"
            problems.append(f"- {label!r}{n_cells}: {error}")
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
    """Return the node of each label; 0, the root, for cells without a label.

    Parameters
    ----------
    labels
        Labels, shape ``(n_cells,)``: names, synonyms or paths as in `resolve`, at any depth.
        Missing values (NaN, None, ``pandas.NA``) are allowed.
    level
        Only accept nodes at this level (level name or depth).
    unlabeled
        One or more labels that mean "not labelled". So do the words of `MISSING_LABELS` ("nan",
        "NA", "unassigned", ...), unless they are names of this taxonomy. If None, only missing
        values do.

    Returns
    -------
    numpy.ndarray
        Node indices, int64, shape ``(n_cells,)``.

    Raises
    ------
    ValueError
        If a label does not resolve to a node. Such labels are listed with their counts.
    TypeError
        If labels are not text.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tax = Taxonomy.from_nested({"B": ["naive", "memory"], "T": []})
    >>> tax.encode(["memory", None, "T", "Unknown", "B"])
    array([4, 0, 2, 0, 1])
    """
    codes, names = _factorize(labels, unlabeled, self._candidates)
    counts = np.bincount(codes[codes >= 0], minlength=len(names))
    expected = "Labels must be names, synonyms or paths of the taxonomy, got labels that do not "
    expected += "lead to a node. Rename them, add synonyms, or set them to missing."
    return nodes_of(names, lambda name: self.resolve(name, level), expected, counts)[codes]


def encode_levels(
    self: Taxonomy, frame: pd.DataFrame, *, unlabeled: Unlabeled = "Unknown"
) -> NDArray[np.int64]:
    """Return the node of the deepest label of each row of a table with one column per level.

    Parameters
    ----------
    frame
        Labels, shape ``(n_cells, n_columns)``, coarse to fine. If all columns have names of levels
        of the taxonomy, they are these levels; otherwise column ``i`` is level ``i + 1``. Missing
        values are allowed in any column. If a column repeats the label of a coarser one, and that
        node has no child of this name, the row stays at that node.
    unlabeled
        One or more labels that mean "not labelled". So do the words of `MISSING_LABELS` ("nan",
        "NA", "unassigned", ...), unless they are names of this taxonomy. If None, only missing
        values do.

    Returns
    -------
    numpy.ndarray
        Node indices, int64, shape ``(n_cells,)``; 0 for rows without a label.

    Raises
    ------
    ValueError
        If the labels of a row do not form a path, or are not in the taxonomy at their level. Such
        combinations are listed with their counts.

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
    names, order = list(frame.columns), list(self.level_names)
    levels = list(range(1, len(names) + 1))
    if set(names) <= set(order):
        levels = [self.level_depth(name) for name in names]
    empty = [n for n in names if find_unlabeled(frame[n], unlabeled).all()]
    if empty and len(names) > self.max_depth:
        found = f"none in {clipped(empty[0])}. Omit this column, or check its labels."
        raise ValueError(f"Every column must have labels, got {found}")
    if not 0 < len(set(names)) == len(names) <= self.max_depth or levels != sorted(levels):
        most = "one column" if self.max_depth == 1 else f"up to {self.max_depth} distinct columns"
        expected = f"{most}, coarse to fine, as the levels {order}"
        raise invalid("The labels", names, expected, "Select the label columns in this order.")
    rows, inverse, counts = _combinations(frame, unlabeled, self._candidates)
    expected = "The labels of a cell must form a path from coarse to fine, got combinations that "
    expected += "are not a path of the taxonomy. Correct them, or set labels to missing."
    return nodes_of(rows, lambda row: _descend(self, row, levels), expected, counts)[inverse]


def _descend(tree: Taxonomy, row: tuple[Any, ...], levels: list[int]) -> int:
    """Follow the labels of a cell down from the root."""
    node = 0
    for name, level in zip(row, levels, strict=True):
        if name is None:
            continue
        found, above = tree._candidates(name, level), int(tree.depth[node])
        below = [each for each in found if tree.at_level(each, above) == node]
        if not below and node in tree._candidates(name):
            continue  # finer columns repeat the name of a shallow leaf
        if not below:
            tree.resolve(name, level)  # raises a more specific error for an unknown name
        if len(below) != 1:
            where = quoted(map(tree.path_name, below or found))
            under = f"is at {where}, not under {tree.path_name(node)!r}"
            raise ValueError(f"{name!r} {f'fits several nodes: {where}' if below else under}")
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
    """Build the taxonomy of the labels in columns from coarse to fine.

    Parameters
    ----------
    data
        DataFrame with one row per cell, or an object with such a table as ``.obs``. Not modified.
    keys
        Label columns from coarse to fine, which become `level_names`. If a finer column has no
        label, the cell is labelled at an inner node (mixed depth).
    unlabeled
        One or more labels that mean "not labelled". So do the words of `MISSING_LABELS` ("nan",
        "NA", "unassigned", ...), which do not become types. If None, only missing values do.
        `check_labels` warns about such words and about labels that look alike.
    annotations
        Level names, synonyms and ontology ids, as in `Taxonomy.with_annotations`.

    Returns
    -------
    Taxonomy
        Siblings are in the order of the categories of a categorical column, otherwise sorted. The
        order of the cells does not matter.

    Raises
    ------
    KeyError
        If a column does not exist.
    ValueError
        If no cell is labelled, a cell has a finer label without the coarser one, or the columns
        are ordered from fine to coarse.
    TypeError
        If labels are not text.

    Warns
    -----
    LabelWarning
        If a finer column repeats a coarser label that has other finer labels as well.

    Notes
    -----
    A fine label under two coarse ones becomes two nodes, because a node is identified by its path
    (``"B > naive"`` and ``"T > naive"``). Such a bare name is ambiguous: `resolve` and `encode`
    require the path, while `encode_levels` obtains it from the columns. Print the taxonomy with
    counts to check whether a few mislabelled cells have created a spurious node.

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
    frame: pd.DataFrame = getattr(data, "obs", data)
    if not keys or len(set(keys)) < len(keys):
        raise invalid("keys", keys, "one or more distinct columns, coarse to fine", "Correct them.")
    for key in keys:
        one_column(frame, key)
    rows, _, counts = _combinations(frame[keys], unlabeled)
    paths = [tuple(name for name in row if name is not None) for row in rows]
    broken = [row[: len(path)] != path for row, path in zip(rows, paths, strict=True)]
    if any(broken):
        found = f"{counts[broken].sum():,} cells with a finer label but no coarser one in {keys}"
        hint = "Fill in the coarser labels, order keys from coarse to fine, or remove finer labels."
        raise ValueError(f"A label must have all labels above it, got {found}. {hint}")
    nodes = {path[:depth] for path in paths for depth in range(1, len(path) + 1)}
    n_children = Counter(node[:-1] for node in nodes)
    for node in sorted(each for each in nodes if each[1:] and each[-1] == each[-2]):
        if n_children[node[:-1]] > 1:
            n_cells = int(counts[[path[: len(node)] == node for path in paths]].sum())
            found = f"{clipped(node[-1])} in {keys[len(node) - 1]} ({counted(n_cells, 'cell')})"
            text = f"{found} repeats the coarser label, and is a type beside others there. "
            text += "If it means that the type is not known, set it to missing, as fill=False or "
            text += "--no-fill of this package writes it."
            warnings.warn(text, LabelWarning, stacklevel=2)
    for level, (coarse, fine) in enumerate(pairwise(keys)):
        pairs = {path[level : level + 2] for path in paths if len(path) > level + 1}
        n_coarse, n_fine = (len({pair[side] for pair in pairs}) for side in (0, 1))
        if len(pairs) == n_coarse > n_fine:
            found = f"{clipped(coarse)} ({n_coarse} labels) nested in {clipped(fine)} ({n_fine})"
            raise ValueError(f"Keys must go from coarse to fine, got {found}. Reverse their order.")
    if not any(paths):
        found = f"no label on any of {len(frame):,} cells. Pass other columns."
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
    """Return the node of each cell's label in one or more columns; 0, the root, if unlabelled.

    If several nodes have the same name, the node at the level with the name of the column is used,
    provided that there is such a level.

    Parameters
    ----------
    taxonomy
        Taxonomy with V nodes.
    obs
        Table with the columns.
    keys
        Column, or several columns from coarse to fine.
    unlabeled
        Label that means "not labelled".
    ignore_unknown
        Treat labels that are not in the taxonomy as missing. With several columns, the known label
        in the last column is used.

    Returns
    -------
    numpy.ndarray
        Nodes, int64, shape ``(n_cells,)``.

    Raises
    ------
    ValueError
        If a label is not in the taxonomy and `ignore_unknown` is False.

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
        if isinstance(label, (str, tuple)) and not _is_unlabeled(label, unlabeled, find):
            for level in (key, None) if key in taxonomy.level_names else (None,):
                with suppress(ValueError):  # unknown, or on several branches
                    return taxonomy.resolve(label, level)
        return 0

    nodes, find = np.zeros(len(obs), dtype=np.int64), taxonomy._candidates
    for key in keys:
        codes, names = _distinct(obs[key])
        found = np.asarray([*(known_node(name, key) for name in names), 0])[codes]
        nodes = np.where(found > 0, found, nodes)
    if not ignore_unknown:  # raises for labels that are neither names nor "no label"
        taxonomy.encode(obs[keys[0]][nodes == 0], unlabeled=unlabeled)
    return nodes
