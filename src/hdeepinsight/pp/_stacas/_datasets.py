"""Datasets as blocks of log-normalised expression, and the genes that anchors are found with."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from hdeepinsight import data
from hdeepinsight._errors import check_integer, invalid

if TYPE_CHECKING:
    from hdeepinsight.nn import ModelNormalizer

Ints = NDArray[np.int64]

#: Variable genes of which each dataset keeps the first, and bounds of their mean log value.
_N_VARIABLE = 10_000
_MIN_MEAN, _MAX_MEAN = 0.01, 3.0
_CELLS = 4096


@dataclass(frozen=True, eq=False, repr=False)
class OpenedDataset:
    """One dataset of the user: where its values come from and how they become log values.

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
    layer, normalizer
        How it is read.
    totals
        Sum of every cell when it was opened, shape ``(n_cells,)``; what was computed then is not
        mixed with values that changed since.
    """

    name: str
    source: data.CountSource
    alignment: data.GeneAlignment
    genes: tuple[str, ...]
    layer: str | None
    normalizer: ModelNormalizer | None
    totals: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def measured_genes(self) -> list[str]:
        """Genes that it has values of."""
        return list(itertools.compress(self.genes, self.alignment.measured))

    def blocks(
        self, genes: Sequence[str], chunk_size: int = _CELLS
    ) -> Iterator[tuple[slice, sp.csr_matrix]]:
        """Read log values of some genes, CSR float32, shape ``(n_cells, n_chosen)``.

        Raises
        ------
        InputError
            If the values changed since the dataset was opened.
        """
        columns = pd.Index(self.genes).get_indexer(list(genes))
        for rows, values in self.source.chunks(self.alignment, chunk_size):
            if len(self.totals) and not np.allclose(
                _totals(values), self.totals[rows], rtol=1e-5, atol=1e-6
            ):
                raise data.InputError(
                    f"The values of {self.name!r} changed after the correction was computed.",
                    "They must be those of the matrix that it was computed on.",
                    "Restore it, or call hdi.pp.stacas again.",
                )
            if self.normalizer is None:
                values = data.log_normalize(values)
            else:
                values = self.normalizer.log_normalize(values, self.alignment.measured)
            yield rows, values[:, columns]

    def gather(self, genes: Sequence[str], cells: Ints | None = None) -> sp.csr_matrix:
        """Read log values of some genes and cells (sorted; all by default) as one CSR matrix."""
        parts = [sp.csr_matrix((0, len(genes)), dtype=np.float32)]
        for rows, values in self.blocks(genes):
            if cells is not None:
                first, last = np.searchsorted(cells, [rows.start, rows.stop])
                values = values[cells[first:last] - rows.start]
            parts.append(values)
        return sp.vstack(parts, format="csr")


def _totals(values: sp.csr_matrix) -> NDArray[np.float64]:
    return np.asarray(values.sum(axis=1, dtype=np.float64)).ravel()


def open_dataset(
    cells: data.DataLike,
    name: str,
    layer: str | None,
    normalizer: ModelNormalizer | None,
    like: Sequence[str] | None = None,
) -> OpenedDataset:
    """Open a dataset; ``like`` are the genes of the first one, whose kind of name is looked for."""
    source = data.open_counts(cells, layer=layer, arguments={"layer": "layer"})
    if normalizer is not None:
        genes = tuple(map(str, normalizer.genes))
        alignment = source.align(genes, warn_coverage=0.0, arguments={})
    else:
        names = source.var_names if like is None else data.resolve_var_names(source.var, like)[0]
        plain = [data.strip_version(str(gene)) for gene in names]
        genes = tuple(gene for gene in dict.fromkeys(plain) if gene)
        alignment = data.align_genes(plain, genes, warn_coverage=0.0, arguments={})
    totals = [np.zeros(0), *(_totals(values) for _, values in source.chunks(alignment))]
    return OpenedDataset(name, source, alignment, genes, layer, normalizer, np.concatenate(totals))


def shared_genes(datasets: Sequence[OpenedDataset]) -> list[str]:
    """Return the genes that every dataset measured, in the order of the first.

    Raises
    ------
    InputError
        If there is none.
    """
    measured = [dataset.measured_genes for dataset in datasets]
    if not (everywhere := set(measured[0]).intersection(*measured[1:])):
        shown = "; ".join(
            f"{dataset.name!r} has names like {data.examples(dataset.genes, 2)}"
            for dataset in datasets
        )
        raise data.InputError(
            f"No gene is in all {len(datasets)} datasets: {shown}.",
            "Datasets must share gene names (or ids), in var_names or a column of var.",
            "Bring all of them to the same kind of names.",
        )
    return [gene for gene in measured[0] if gene in everywhere]


_BLOCKED = re.compile(
    r"MT-.+"  # mitochondrial
    r"|M?RP[SL]\d.*|RP(LP\d|SA\d*)"  # ribosomal
    r"|HB(A|B|D|E|G|M|Q|Z)\d*|HB[AB]-.+"  # haemoglobin
    r"|TR[ABDG]([VDJ]\d.*|C\d*)|TCRG-.+|IG[HKL]([VDJ]\d.*|C\d*|[ADEGM]\d?[A-D]?)",  # receptors
    re.IGNORECASE,
)


def is_blocked(gene: str) -> bool:
    """Tell whether a symbol is mitochondrial, ribosomal, haemoglobin or antigen receptor.

    Examples
    --------
    >>> [is_blocked(gene) for gene in ("MT-CO1", "Rpl3", "TRAV1-2", "IGHM", "CD3D", "TRAF1")]
    [True, True, True, True, False, False]
    """
    return _BLOCKED.fullmatch(gene) is not None


def choose_features(
    datasets: Sequence[OpenedDataset],
    shared: Sequence[str],
    features: int | Sequence[str],
) -> list[str]:
    """Choose the anchor features, or check those given.

    Parameters
    ----------
    datasets
        All datasets; they count equally.
    shared
        Genes that all of them have.
    features
        How many, or which.

    Returns
    -------
    Names, in the order of ``shared``. All shared genes where these are no more than asked for.

    Notes
    -----
    Each dataset ranks its genes by standardised variance, leaves out blocked genes and those whose
    mean log value is below 0.01 or above 3, and keeps the first ones. Genes are then taken by the
    number of datasets that keep them, and by median rank. The published block list is another
    one; and on panels too small to fill the number, the limits on the mean are let go.

    Raises
    ------
    InputError
        If none of the genes given is shared by all datasets.
    ValueError
        If the number is below 1, or one name is given instead of a list.
    """
    if isinstance(features, str):
        raise invalid("features", features, "an integer >= 1 or a list", "Pass a list of one.")
    if not isinstance(features, int):
        wanted = set(map(str, features))
        if not (found := [gene for gene in shared if gene in wanted]):
            raise data.InputError(
                f"None of the {len(wanted):,} features ({data.examples(wanted)}) is in all "
                "datasets.",
                f"They must be shared genes, such as {data.examples(shared)}.",
                "Check the names, or pass a number.",
            )
        return found
    check_integer("features", features, hint="Omit it to use 1,000.")
    if len(shared) <= features:
        return list(shared)
    names = np.asarray(shared, dtype=object)
    allowed = np.array([not is_blocked(gene) for gene in shared])
    ranks = np.stack([_ranks(dataset, shared, allowed, features) for dataset in datasets])
    n_kept = np.isfinite(ranks).sum(axis=0)
    median = np.median(np.where(np.isfinite(ranks), ranks, len(shared)), axis=0)
    order = np.lexsort((np.arange(len(names)), median, -n_kept))
    chosen = np.sort(order[n_kept[order] > 0][:features])
    return names[chosen].tolist() if len(chosen) else list(shared)


def _ranks(
    dataset: OpenedDataset, shared: Sequence[str], allowed: np.ndarray, n_features: int
) -> np.ndarray:
    """Rank every shared gene in one dataset; infinite where it is not kept."""
    columns = pd.Index(dataset.genes).get_indexer(list(shared))

    def counts() -> Iterator[sp.csr_matrix]:
        for _, block in dataset.source.chunks(dataset.alignment, _CELLS):
            yield block[:, columns]

    scores = data.dispersion_scores(counts, len(shared))
    total = np.zeros(len(shared))
    for _, values in dataset.blocks(shared):
        total += np.asarray(values.sum(axis=0, dtype=np.float64)).ravel()
    mean = total / max(dataset.source.n_obs, 1)
    order = np.argsort(-scores, kind="stable")[:_N_VARIABLE]
    order = order[(scores[order] > 0) & allowed[order]]
    fits = (mean[order] >= _MIN_MEAN) & (mean[order] <= _MAX_MEAN)
    kept = order[fits][:n_features]
    if len(kept) < n_features:
        kept = np.concatenate([kept, order[~fits][: n_features - len(kept)]])
    ranks = np.full(len(shared), np.inf)
    ranks[kept] = np.arange(len(kept))
    return ranks
