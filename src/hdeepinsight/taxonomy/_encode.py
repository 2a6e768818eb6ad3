"""From columns of labels to arrays of node indices."""

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hdeepinsight.taxonomy._labels import factorize
from hdeepinsight.taxonomy._lookup import LookupMixin
from hdeepinsight.taxonomy._names import quoted

_LISTED = 20


class EncodeMixin(LookupMixin):
    """Vectorised lookup of whole label columns."""

    def encode(
        self,
        labels: Iterable[Any],
        level: int | str | None = None,
        *,
        unlabeled: str | Collection[str] | None = "Unknown",
    ) -> NDArray[np.int64]:
        """Node of every label; missing and unlabelled ones give 0, the root.

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
        codes, names = factorize(labels, unlabeled, self._is_name)
        nodes = np.zeros(len(names) + 1, dtype=np.int64)  # the last entry serves code -1
        problems: dict[int, str] = {}
        depth = None if level is None else self.level_depth(level)
        for code, name in enumerate(names):
            if len(problems) >= _LISTED and not self._candidates(name, depth):
                problems[code] = "unknown"  # not listed, so not worth the search for close names
                continue
            try:
                nodes[code] = self.resolve(name, level)
            except ValueError as error:
                problems[code] = str(error)
        if problems:
            raise ValueError(self._label_errors(names, codes, problems))
        return nodes[codes]

    def _is_name(self, name: Any) -> bool:
        return bool(self._candidates(name, None))

    def _label_errors(
        self, names: list[Any], codes: NDArray[np.int64], problems: dict[int, str]
    ) -> str:
        counts = np.bincount(codes[codes >= 0], minlength=len(names))
        lines = [
            f"- {names[code]!r} ({counts[code]:,} cells): {problem}"
            for code, problem in list(problems.items())[:_LISTED]
        ]
        if len(problems) > _LISTED:
            lines.append(f"- and {len(problems) - _LISTED:,} more")
        return (
            f"Found {len(problems):,} labels that do not lead to a node of the taxonomy. Valid are "
            "its names, synonyms and paths, missing values, and the unlabelled category. Rename "
            "these labels, add synonyms, or name them in `unlabeled`.\n" + "\n".join(lines)
        )

    def encode_levels(
        self,
        frame: pd.DataFrame,
        *,
        unlabeled: str | Collection[str] | None = "Unknown",
    ) -> NDArray[np.int64]:
        """Node of every row of a table with a column a level; the deepest given label wins.

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
        levels = self._column_levels(frame)
        columns = [factorize(frame[column], unlabeled, self._is_name) for column in frame.columns]
        codes = np.stack([column for column, _ in columns], axis=1)
        rows, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
        nodes = np.zeros(len(rows), dtype=np.int64)
        problems: list[str] = []
        for i, row in enumerate(rows.tolist()):
            given = [(columns[j][1][code], levels[j]) for j, code in enumerate(row) if code >= 0]
            try:
                nodes[i] = self._descend(given)
            except ValueError as error:
                if len(problems) == _LISTED:
                    problems.append("- and more")
                    break
                problems.append(f"- {tuple(n for n, _ in given)} ({counts[i]:,} cells): {error}")
        if problems:
            raise ValueError(
                "Found combinations of labels that are no path of the taxonomy. The columns of a "
                "cell must name one path from coarse to fine. Correct these labels, or set the "
                "wrong ones to missing.\n" + "\n".join(problems)
            )
        return nodes[inverse.reshape(-1)]

    def _column_levels(self, frame: pd.DataFrame) -> list[int]:
        names = list(frame.columns)
        if not names or len(names) > self.max_depth or len(set(names)) < len(names):
            raise ValueError(
                f"Found the columns {names}. Valid are 1 to {self.max_depth} distinct columns, "
                f"one a level ({list(self.level_names)}). Select the columns that hold the levels."
            )
        if not set(names) <= set(self.level_names):
            return list(range(1, len(names) + 1))
        levels = [self.level_depth(name) for name in names]
        if levels != sorted(levels):
            raise ValueError(
                f"Found the columns {names}. Valid is coarse to fine, as in the levels "
                f"{list(self.level_names)}. Put the columns in this order."
            )
        return levels

    def _descend(self, given: list[tuple[Any, int]]) -> int:
        node = 0
        for name, level in given:
            below = [
                candidate
                for candidate in self._candidates(name, level)
                if self.at_level(candidate, int(self.depth[node])) == node
            ] or self._below_by_name(name, level, node)
            if not below and node in self._candidates(name, None):
                continue  # a shallow leaf whose finer columns repeat its name
            if not below:
                self.resolve(name, level)  # unknown at this level: its own error says more
                where = quoted(self.path_name(n) for n in self._candidates(name, level))
                raise ValueError(f"{name!r} is at {where}, not under {self.path_name(node)!r}")
            if len(below) > 1:
                where = quoted(self.path_name(n) for n in below)
                raise ValueError(f"{name!r} fits several nodes ({where}) and no column says which")
            node = below[0]
        return node

    def _below_by_name(self, name: Any, level: int, node: int) -> list[int]:
        # A synonym or a level-1 path may hide a bare name that fits under this parent.
        nodes = self._at_depth(self._nodes_named.get(name), level)
        return [n for n in nodes if self.at_level(n, int(self.depth[node])) == node]
