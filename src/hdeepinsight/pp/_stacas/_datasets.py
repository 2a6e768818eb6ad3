"""Datasets as blocks of log-normalised expression, with genes matched by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from hdeepinsight.data import (
    CountSource,
    DataLike,
    GeneAlignment,
    InputError,
    align_genes,
    examples,
    inspect_store,
    log_normalize,
    not_finite,
    open_counts,
    open_store,
    resolve_var_names,
    strip_version,
)

__all__ = ["Dataset", "InputScale", "Normalizer", "Reading", "open_dataset", "shared_genes"]

InputScale = Literal["counts", "log"]
Ints = NDArray[np.int64]


class Normalizer(Protocol):
    """What turns counts into log values exactly as a model does; `SCHDeepInsight.normalizer`."""

    @property
    def genes(self) -> Sequence[str]:
        """Genes of the model, in its order."""

    def log_normalize(self, counts: sp.csr_matrix, measured: NDArray[np.bool_]) -> sp.csr_matrix:
        """Log values of counts in the model's gene order, shape ``(n_cells, n_genes)``."""


@dataclass(frozen=True)
class Reading:
    """How every dataset of a run is read."""

    layer: str | None = None
    input: InputScale = "counts"
    normalizer: Normalizer | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """One dataset: where its values come from and how they become log values.

    Parameters
    ----------
    name
        How it is called in reports.
    source
        Its values.
    alignment
        Map from its columns to ``genes``.
    genes
        Genes in the order of its blocks.
    reading
        How it is read.
    totals
        Sum of every cell when it was opened, shape ``(n_cells,)``; what was computed then is not
        mixed with values that changed since.
    """

    name: str
    source: CountSource
    alignment: GeneAlignment
    genes: tuple[str, ...]
    reading: Reading
    totals: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return self.source.n_obs

    @property
    def obs_names(self) -> pd.Index:
        """Names of the cells."""
        return self.source.obs_names

    def blocks(
        self, genes: Sequence[str], chunk_size: int
    ) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Read log values of some genes, CSR float32, shape ``(n_cells, n_chosen)``.

        Raises
        ------
        InputError
            If the values changed since the dataset was opened.
        """
        columns = pd.Index(self.genes).get_indexer(list(genes))
        for rows, values in self.source.chunks(self.alignment, chunk_size):
            self._check_unchanged(rows, values)
            yield rows, self._log(values)[:, columns]

    def gather(
        self, genes: Sequence[str], cells: Ints | None = None, chunk_size: int = 10_000
    ) -> sp.csr_matrix:
        """Log values of some genes and some cells (sorted; all by default) as one CSR matrix."""
        parts = []
        for rows, values in self.blocks(genes, chunk_size):
            if cells is None:
                parts.append(values)
                continue
            first, last = np.searchsorted(cells, [rows.start, rows.stop])
            parts.append(values[cells[first:last] - rows.start])
        if not parts:
            return sp.csr_matrix((0, len(genes)), dtype=np.float32)
        return sp.vstack(parts, format="csr")

    def _log(self, values: sp.csr_matrix) -> sp.csr_matrix:
        reading = self.reading
        if reading.normalizer is not None:
            return reading.normalizer.log_normalize(values, self.alignment.measured)
        return log_normalize(values) if reading.input == "counts" else values

    def _check_unchanged(self, rows: slice, values: sp.csr_matrix) -> None:
        found = np.asarray(values.sum(axis=1, dtype=np.float64)).ravel()
        if len(self.totals) and not np.allclose(found, self.totals[rows], rtol=1e-5, atol=1e-6):
            raise InputError(
                f"The values of {self.name!r} changed after the correction was computed.",
                "Valid is the matrix that it was computed on.",
                "Restore it, or call hdi.pp.stacas again.",
            )


def open_dataset(
    data: DataLike, name: str, reading: Reading, like: Sequence[str] | None = None
) -> Dataset:
    """Open a dataset; ``like`` are the genes of the first one, whose kind of name is looked for."""
    source = _source(data, reading)
    if reading.normalizer is not None:
        genes = tuple(map(str, reading.normalizer.genes))
        alignment = source.align(genes, warn_coverage=0.0)
    else:
        names = source.var_names if like is None else resolve_var_names(source.var, like)[0]
        plain = [strip_version(str(gene)) for gene in names]
        genes = tuple(gene for gene in dict.fromkeys(plain) if gene)
        alignment = align_genes(plain, genes, warn_coverage=0.0)
    _refuse_summed_logs(alignment, name, reading)
    return _with_totals(Dataset(name, source, alignment, genes, reading))


def _with_totals(dataset: Dataset) -> Dataset:
    totals = [
        np.asarray(values.sum(axis=1, dtype=np.float64)).ravel()
        for _, values in dataset.source.chunks(dataset.alignment)
    ]
    object.__setattr__(dataset, "totals", np.concatenate([np.zeros(0), *totals]))
    return dataset


def _source(data: DataLike, reading: Reading) -> CountSource:
    if reading.input == "counts":
        return open_counts(data, layer=reading.layer)
    store = open_store(data)
    report = inspect_store(store, layer=reading.layer)
    error = not_finite(report)
    if error is None and report.scale in ("counts", "binary", "scaled"):
        error = InputError(
            f"{report.layer} looks {report.scale}: {report.evidence}.",
            "With input='log', valid are log-normalised values from 0 up.",
            "Name the layer that holds them, or pass counts with input='counts'.",
        )
    if error is not None:
        raise error
    matrix = store.matrix(reading.layer, False)
    return CountSource(matrix, store.obs, store.genes(False), report)


def _refuse_summed_logs(alignment: GeneAlignment, name: str, reading: Reading) -> None:
    if reading.input == "log" and alignment.report.duplicated:
        raise InputError(
            f"{name!r} has columns of the same gene: {examples(alignment.report.duplicated)}.",
            "With input='log', valid are unique genes: logarithms cannot be summed.",
            "Make them unique, or pass counts with input='counts'.",
        )


def shared_genes(datasets: Sequence[Dataset]) -> list[str]:
    """Genes that every dataset measured, in the order of the first.

    Raises
    ------
    InputError
        If there is none.
    """
    measured = [_measured(dataset) for dataset in datasets]
    everywhere = set(measured[0]).intersection(*measured[1:])
    if not everywhere:
        shown = "; ".join(
            f"{dataset.name!r} has names like {examples(dataset.genes, 2)}" for dataset in datasets
        )
        raise InputError(
            f"No gene is in all {len(datasets)} datasets: {shown}.",
            "Valid are datasets that share gene names (or ids), in var_names or a column of var.",
            "Bring all of them to the same kind of names.",
        )
    return [gene for gene in measured[0] if gene in everywhere]


def _measured(dataset: Dataset) -> list[str]:
    flags: Any = dataset.alignment.measured
    return [gene for gene, there in zip(dataset.genes, flags, strict=True) if there]
