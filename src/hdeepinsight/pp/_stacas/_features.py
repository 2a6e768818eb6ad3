"""Genes that anchors are looked for with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp

from hdeepinsight.data import InputError, dispersion_scores, examples
from hdeepinsight.pp._stacas._datasets import Dataset

__all__ = ["choose_features", "is_blocked"]

N_VARIABLE = 10_000
MIN_MEAN, MAX_MEAN = 0.01, 3.0
_CELLS = 4096

_BLOCKED = re.compile(
    r"MT-.+"  # mitochondrial
    r"|M?RP[SL]\d.*|RP(LP\d|SA\d*)"  # ribosomal
    r"|HB(A|B|D|E|G|M|Q|Z)\d*|HB[AB]-.+"  # haemoglobin
    r"|TR[ABDG]([VDJ]\d.*|C\d*)|TCRG-.+|IG[HKL]([VDJ]\d.*|C\d*|[ADEGM]\d?[A-D]?)",  # receptors
    re.IGNORECASE,
)


def is_blocked(gene: str) -> bool:
    """Whether a symbol is mitochondrial, ribosomal, haemoglobin or antigen receptor.

    Examples
    --------
    >>> [is_blocked(gene) for gene in ("MT-CO1", "Rpl3", "TRAV1-2", "IGHM", "CD3D", "TRAF1")]
    [True, True, True, True, False, False]
    """
    return _BLOCKED.fullmatch(gene) is not None


def choose_features(
    datasets: Sequence[Dataset],
    shared: Sequence[str],
    features: int | Sequence[str],
    blocked: Sequence[str] = (),
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
    blocked
        Genes not to choose besides those of `is_blocked`.

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
        If none of the genes given is shared by all datasets, or the number is below 1.
    """
    if isinstance(features, str) or (isinstance(features, int) and features < 1):
        raise InputError(
            f"Found features={features!r}.",
            "Valid are a number from 1 up, and a list of names.",
            "Pass a list, even for one gene.",
        )
    if not isinstance(features, int):
        return _checked(features, shared)
    if len(shared) <= features:
        return list(shared)
    names = np.asarray(shared, dtype=object)
    out = set(blocked)
    allowed = np.array([gene not in out and not is_blocked(gene) for gene in shared])
    ranks = np.stack([_ranks(dataset, shared, allowed, features) for dataset in datasets])
    n_kept = np.isfinite(ranks).sum(axis=0)
    median = np.median(np.where(np.isfinite(ranks), ranks, len(shared)), axis=0)
    order = np.lexsort((np.arange(len(names)), median, -n_kept))
    chosen = np.sort(order[n_kept[order] > 0][:features])
    return names[chosen].tolist() if len(chosen) else list(shared)


def _checked(features: Sequence[str], shared: Sequence[str]) -> list[str]:
    wanted = set(map(str, features))
    found = [gene for gene in shared if gene in wanted]
    if not found:
        raise InputError(
            f"None of the {len(wanted):,} features ({examples(wanted)}) is in all datasets.",
            f"Valid are shared genes, such as {examples(shared)}.",
            "Check the names, or pass a number.",
        )
    return found


def _ranks(
    dataset: Dataset, shared: Sequence[str], allowed: np.ndarray, n_features: int
) -> np.ndarray:
    """Rank of every shared gene in one dataset; infinite where it is not kept."""
    scores = dispersion_scores(lambda: _linear(dataset, shared), len(shared))
    mean = _mean_log(dataset, shared)
    order = np.argsort(-scores, kind="stable")[:N_VARIABLE]
    order = order[(scores[order] > 0) & allowed[order]]
    fits = (mean[order] >= MIN_MEAN) & (mean[order] <= MAX_MEAN)
    kept = order[fits][:n_features]
    if len(kept) < n_features:
        kept = np.concatenate([kept, order[~fits][: n_features - len(kept)]])
    ranks = np.full(len(shared), np.inf)
    ranks[kept] = np.arange(len(kept))
    return ranks


def _linear(dataset: Dataset, genes: Sequence[str]) -> Iterator[sp.csr_matrix]:
    """Read counts of some genes, or what the logarithm was taken of."""
    if dataset.reading.input == "log":
        for _, values in dataset.blocks(genes, _CELLS):
            yield values.expm1()
        return
    columns = pd.Index(dataset.genes).get_indexer(list(genes))
    for _, counts in dataset.source.chunks(dataset.alignment, _CELLS):
        yield counts[:, columns]


def _mean_log(dataset: Dataset, genes: Sequence[str]) -> np.ndarray:
    total = np.zeros(len(genes))
    for _, values in dataset.blocks(genes, _CELLS):
        total += np.asarray(values.sum(axis=0, dtype=np.float64)).ravel()
    return total / max(dataset.n_obs, 1)
