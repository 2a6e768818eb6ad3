"""Datasets as blocks of log-normalised expression, and the selection of anchor features."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import NDArray

from hdeepinsight import data
from hdeepinsight._errors import check_integer
from hdeepinsight.nn import ModelNormalizer

Ints = NDArray[np.int64]

#: Number of most variable genes considered in each dataset, and bounds of their mean log value.
_N_VARIABLE = 10_000
_MIN_MEAN, _MAX_MEAN = 0.01, 3.0
_CELLS = 4096


@dataclass(frozen=True, eq=False, repr=False)
class OpenedDataset:
    """Dataset of the user, read as log values.

    Parameters
    ----------
    name
        Name in reports.
    source
        Counts of the dataset.
    alignment
        Alignment of its columns to ``genes``.
    genes
        Genes in the order of the blocks.
    layer, normalizer
        Layer with the counts, and normalisation.
    """

    name: str
    source: data.CountSource
    alignment: data.GeneAlignment
    genes: tuple[str, ...]
    layer: str | None
    normalizer: ModelNormalizer | None

    @property
    def measured_genes(self) -> list[str]:
        """Genes that were measured."""
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


def open_dataset(
    cells: data.DataLike,
    name: str,
    layer: str | None,
    normalizer: ModelNormalizer | None,
    like: Sequence[str] | None = None,
) -> OpenedDataset:
    """Open a dataset; ``like`` are the genes of the first one, to find the same kind of names."""
    source = data.open_counts(cells, layer=layer, arguments={"layer": "layer"})
    if normalizer is not None:
        genes = tuple(map(str, normalizer.genes))
        alignment = source.align(genes, warn_coverage=0.0, arguments={})
    else:
        names = source.var_names if like is None else data.resolve_var_names(source.var, like)[0]
        plain = [data.strip_version(str(gene)) for gene in names]
        genes = tuple(gene for gene in dict.fromkeys(plain) if gene)
        alignment = data.align_genes(plain, genes, warn_coverage=0.0, arguments={})
    return OpenedDataset(name, source, alignment, genes, layer, normalizer)


def shared_genes(datasets: Sequence[OpenedDataset]) -> list[str]:
    """Return the genes that were measured in all datasets, in the order of the first.

    Raises
    ------
    InputError
        If there are none.
    """
    measured = [dataset.measured_genes for dataset in datasets]
    shared = set(measured[0]).intersection(*measured[1:])
    if not shared:
        named = [f"{one.name!r} has names like {data.examples(one.genes, 2)}" for one in datasets]
        raise data.InputError(
            f"No gene is in all {len(datasets)} datasets: {'; '.join(named)}.",
            "Datasets must share gene names (or ids), in var_names or a column of var.",
            "Convert all of them to the same kind of names.",
        )
    return [gene for gene in measured[0] if gene in shared]


#: Genes that are never anchor features.
_BLOCKED = re.compile(
    r"MT-.+"  # mitochondrial
    r"|M?RP[SL]\d.*|RP(LP\d|SA\d*)"  # ribosomal
    r"|HB(A|B|D|E|G|M|Q|Z)\d*|HB[AB]-.+"  # haemoglobin
    r"|TR[ABDG]([VDJ]\d.*|C\d*)|TCRG-.+|IG[HKL]([VDJ]\d.*|C\d*|[ADEGM]\d?[A-D]?)",  # receptors
    re.IGNORECASE,
)


def choose_features(
    datasets: Sequence[OpenedDataset],
    shared: Sequence[str],
    features: int | Sequence[str],
) -> list[str]:
    """Select anchor features, or check given ones.

    Parameters
    ----------
    datasets
        All datasets, with equal weight.
    shared
        Genes of all datasets.
    features
        Number or names of features.

    Returns
    -------
    Names, in the order of ``shared``; all shared genes if there are no more than requested.

    Notes
    -----
    Genes of each dataset are ranked by standardised variance, without blocked genes and genes with
    a mean log value below 0.01 or above 3. Genes are selected by the number of datasets in which
    they are among the top ranks, then by median rank. The block list differs from the published
    one, and the limits on the mean are ignored in panels that are too small otherwise.

    Raises
    ------
    InputError
        If no given gene is shared by all datasets.
    ValueError
        If the number is below 1, or a single name is given instead of a list.
    """
    if not isinstance(features, int):
        wanted = set(map(str, features))
        if not (found := [gene for gene in shared if gene in wanted]):
            listed = f"None of the {len(wanted):,} features ({data.examples(wanted)})"
            valid = f"They must be shared genes, such as {data.examples(shared)}."
            hint = "Check the names, or pass a number."
            raise data.InputError(f"{listed} is in all datasets.", valid, hint)
        if lost := sorted(wanted.difference(found)):
            of_all = f"{len(lost):,} of the {len(wanted):,} features are"
            text = f"{of_all} not in all datasets and are left out: {data.examples(lost)}."
            warnings.warn(text, UserWarning, stacklevel=2)
        return found
    check_integer("features", features, hint="Omit it to use 1,000.")
    allowed = np.array([_BLOCKED.fullmatch(gene) is None for gene in shared])
    if len(shared) <= features:
        return list(shared)
    ranks = np.stack([_ranks(dataset, shared, allowed, features) for dataset in datasets])
    n_kept = np.isfinite(ranks).sum(axis=0)
    median = np.median(np.where(np.isfinite(ranks), ranks, len(shared)), axis=0)
    order = np.lexsort((median, -n_kept))
    chosen = np.sort(order[n_kept[order] > 0][:features])
    return [shared[gene] for gene in chosen] or list(shared)


def _ranks(
    dataset: OpenedDataset, shared: Sequence[str], allowed: np.ndarray, n_features: int
) -> np.ndarray:
    """Rank the shared genes in one dataset; infinite for genes that are not selected."""
    columns = pd.Index(dataset.genes).get_indexer(list(shared))
    read = partial(dataset.source.chunks, dataset.alignment, _CELLS)
    scores = data.dispersion_scores(lambda: (part[:, columns] for _, part in read()), len(shared))
    sums = [values.sum(axis=0, dtype=np.float64) for _, values in dataset.blocks(shared)]
    mean = np.ravel(np.sum(sums, axis=0)) / max(dataset.source.n_obs, 1)
    order = np.argsort(-scores, kind="stable")[:_N_VARIABLE]
    order = order[(scores[order] > 0) & allowed[order]]
    fits = (mean[order] >= _MIN_MEAN) & (mean[order] <= _MAX_MEAN)
    kept = np.concatenate([order[fits], order[~fits]])[:n_features]
    ranks = np.full(len(shared), np.inf)
    ranks[kept] = np.arange(len(kept))
    return ranks
