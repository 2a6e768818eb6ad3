"""Labels on several levels as paths, without any dependency on the package that is measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

SEPARATOR = " > "


@dataclass(frozen=True)
class LabelTree:
    """Classes of a reference: one label path each, as deep as its cells are labelled.

    Parameters
    ----------
    levels
        Names of the levels, coarse to fine.
    classes
        Sorted label paths, each of length 1 to ``len(levels)``.
    """

    levels: tuple[str, ...]
    classes: tuple[tuple[str, ...], ...]

    @classmethod
    def from_labels(cls, labels: pd.DataFrame) -> LabelTree:
        """Collect the classes of a table with one column a level and ``""`` for missing labels."""
        return cls(tuple(labels.columns), tuple(sorted(set(label_paths(labels)))))

    @property
    def names(self) -> list[str]:
        """Every class as one string, unique."""
        return [SEPARATOR.join(path) for path in self.classes]

    def codes(self, labels: pd.DataFrame) -> np.ndarray:
        """Position of every cell's class, ``(n_cells,)``."""
        position = {path: code for code, path in enumerate(self.classes)}
        return np.array([position[path] for path in label_paths(labels)], dtype=np.int64)

    def table(self) -> np.ndarray:
        """Labels of every class, ``(n_classes, n_levels)`` strings with ``""`` where it stops."""
        depth = len(self.levels)
        rows = [path + ("",) * (depth - len(path)) for path in self.classes]
        return np.array(rows, dtype=object).reshape(len(rows), depth)


def label_paths(labels: pd.DataFrame) -> list[tuple[str, ...]]:
    """Path of every row: its labels down to the first missing one."""
    return [_cut(row) for row in labels.itertuples(index=False, name=None)]


def _cut(row: tuple[str, ...]) -> tuple[str, ...]:
    depth = row.index("") if "" in row else len(row)
    if any(row[depth:]):
        raise ValueError(
            f"a cell is labelled {row!r}: a finer label stands below a missing coarser one. Labels "
            "have to reach down from the first level without a gap. Fill the coarser label in."
        )
    return row[:depth]
