"""Match genes by name, never by position."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from hdeepinsight.data._align import GeneAlignment, GeneReport
from hdeepinsight.data._errors import GeneCoverageWarning, GeneMatchError
from hdeepinsight.data._names import (
    Species,
    examples,
    guess_species,
    identifier_kind,
    share_barcodes,
    strip_version,
)

__all__ = ["align_genes", "resolve_var_names"]

#: Coverage below which labels are less certain, which is warned of.
WARN_COVERAGE = 0.50

Ints: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


def resolve_var_names(var: pd.DataFrame, genes: Sequence[str]) -> tuple[pd.Index, str | None]:
    """Choose the names of ``var`` that fit a model: the index, or a column of text.

    Parameters
    ----------
    var
        Annotation of the genes, shape ``(n_vars, ...)``.
    genes
        Genes of the model.

    Returns
    -------
    The names, shape ``(n_vars,)``, and the column that they came from (``None`` for the index). The
    index wins unless a column holds more than twice as many model genes.

    Examples
    --------
    >>> import pandas as pd
    >>> from hdeepinsight.data import resolve_var_names
    >>> var = pd.DataFrame({"gene_ids": ["ENSG00000167286"]}, index=["CD3D"])
    >>> resolve_var_names(var, ["ENSG00000167286"])[1]
    'gene_ids'
    """
    wanted = pd.Index([strip_version(gene) for gene in genes])
    index = _text(var.index)
    best, column, most = index, None, 2 * _n_held(index, wanted)
    for name, values in var.items():  # unlike var[name], a series even where a name is there twice
        if not _holds_text(values):
            continue
        names = _text(values)
        held = _n_held(names, wanted)
        if held > most:
            best, column, most = names, str(name), held
    return best, column


def _holds_text(column: pd.Series) -> bool:
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        dtype = dtype.categories.dtype
    return bool(pd.api.types.is_string_dtype(dtype) or pd.api.types.is_object_dtype(dtype))


def _text(names: Any) -> pd.Index:
    """Names as plain strings; a missing one becomes empty and matches nothing."""
    missing = pd.isna(names)
    listed = ["" if gone else str(name) for name, gone in zip(names, missing, strict=True)]
    return pd.Index(listed, dtype=object)


def _n_held(names: pd.Index, wanted: pd.Index) -> int:
    return int(wanted.isin(names.map(strip_version)).sum())


def align_genes(
    var_names: pd.DataFrame | Iterable[str],
    genes: Sequence[str],
    *,
    synonyms: Mapping[str, Sequence[str]] | None = None,
    weights: np.ndarray[Any, Any] | None = None,
    min_coverage: float = 0.10,
    warn_coverage: float = WARN_COVERAGE,
    fold_case: bool = False,
) -> GeneAlignment:
    """Match the genes of a query to those of a model by name.

    A gene is looked for by its exact name, then without Ensembl versions, then by its synonyms, and
    last, only if asked for, regardless of case. A later way is used only for genes that no earlier
    way found.

    Parameters
    ----------
    var_names
        Names of the query's columns, or its ``var``: then the column that fits is found by
        `resolve_var_names`.
    genes
        Genes of the model, unique, shape ``(n_genes,)``.
    synonyms
        Other names of model genes, the preferred one first.
    weights
        Share of every model gene in the reference's expression, shape ``(n_genes,)``, not negative.
        Coverage is the weight of the genes found; without weights, their number.
    min_coverage
        Coverage below which the query is refused.
    warn_coverage
        Coverage below which a `GeneCoverageWarning` is given.
    fold_case
        Match ``Cd3d`` to ``CD3D``. A mouse gene is not the human gene of the same name, so this is
        never done unless asked for.

    Returns
    -------
    The map, with a report of what was found.

    Raises
    ------
    GeneMatchError
        If the coverage is too small; the text says what the names look like and what to do.
    ValueError
        If model genes repeat, or weights do not fit them.

    Notes
    -----
    Columns that carry the same model gene are summed. The limits of 10 % and 50 % of the
    reference's expression are our decision.

    Examples
    --------
    >>> from hdeepinsight.data import align_genes
    >>> alignment = align_genes(["NKG7", "CD3D", "ACTB"], ["CD3D", "MS4A1", "NKG7"])
    >>> alignment.source
    array([ 1, -1,  0])
    >>> alignment.report.missing
    ('MS4A1',)
    """
    model = _check_genes(genes)
    share = _check_weights(weights, len(model))
    column = None
    if isinstance(var_names, pd.DataFrame):
        names, column = resolve_var_names(var_names, model.tolist())
    else:
        names = _text(list(var_names))
    target, messages = _match(names, model, synonyms or {}, fold_case)
    if column is not None:
        messages.insert(0, f"Gene names were taken from var[{column!r}], not from var_names.")
    species = guess_species(names.tolist()), guess_species(model.tolist())
    if _differ(*species):
        messages.append(
            f"The query looks like {species[0]} and the model like {species[1]}: genes of the same "
            "name are taken for the same gene."
        )
    alignment = _describe(names, model, target, share, column, messages)
    _check_coverage(alignment.report, names, model, species, min_coverage, warn_coverage)
    return alignment


def _check_genes(genes: Sequence[str]) -> pd.Index:
    model = pd.Index([str(gene) for gene in genes], dtype=object)
    if not model.is_unique or not len(model):
        twice = examples(model[model.duplicated()].unique()) or "none at all"
        msg = f"Genes of the model that repeat: {twice}. Valid are one or more unique names."
        raise ValueError(f"{msg} Pass every gene once.")
    return model


def _check_weights(
    weights: np.ndarray[Any, Any] | None, n_genes: int
) -> np.ndarray[Any, np.dtype[np.float64]]:
    share = np.ones(n_genes) if weights is None else np.asarray(weights, dtype=np.float64)
    total = share.sum()
    if share.shape != (n_genes,) or not np.isfinite(total) or total <= 0 or (share < 0).any():
        msg = (
            f"The weights have shape {share.shape} and sum {total:.4g}. Valid are {n_genes} finite "
            "values from 0 up, not all 0. Pass the mean share of every model gene."
        )
        raise ValueError(msg)
    scaled: np.ndarray[Any, np.dtype[np.float64]] = share / total
    return scaled


def _match(
    names: pd.Index, model: pd.Index, synonyms: Mapping[str, Sequence[str]], fold_case: bool
) -> tuple[Ints, list[str]]:
    """Model gene of every column, -1 for none, and what was done beyond exact names."""
    target = model.get_indexer(names).astype(np.int64)
    messages: list[str] = []
    stripped = names.map(strip_version)
    found = _add(target, stripped, model.map(strip_version))
    if found:
        messages.append(f"{found:,} genes were matched after leaving out Ensembl versions.")
    found = _add_synonyms(target, names, model, synonyms)
    if found:
        messages.append(f"{found:,} genes were matched by a synonym.")
    if fold_case:
        found = _add(target, stripped.map(str.upper), model.map(strip_version).map(str.upper))
        messages += [f"{found:,} genes were matched regardless of case."] if found else []
    return target, messages


def _add(target: Ints, names: pd.Index, model: pd.Index) -> int:
    """Match what is still open under new spellings; a spelling of two model genes matches none."""
    open_columns = np.flatnonzero(target < 0)
    open_genes = np.setdiff1d(np.arange(len(model)), target)
    spelled = model[open_genes]
    clear = ~spelled.duplicated(keep=False)
    hit = spelled[clear].get_indexer(names[open_columns])
    target[open_columns[hit >= 0]] = open_genes[clear][hit[hit >= 0]]
    return len(np.unique(hit[hit >= 0]))


def _add_synonyms(
    target: Ints, names: pd.Index, model: pd.Index, synonyms: Mapping[str, Sequence[str]]
) -> int:
    """Give every open gene the first of its synonyms that an open column carries."""
    free = {names[i]: i for i in np.flatnonzero(target < 0)[::-1]}
    found = 0
    for gene in np.setdiff1d(np.arange(len(model)), target):
        alias = next((a for a in synonyms.get(model[gene], ()) if a in free), None)
        if alias is not None:
            target[free.pop(alias)] = gene
            found += 1
    return found


def _describe(
    names: pd.Index,
    model: pd.Index,
    target: Ints,
    share: np.ndarray[Any, np.dtype[np.float64]],
    column: str | None,
    messages: list[str],
) -> GeneAlignment:
    used = np.flatnonzero(target >= 0)
    source = np.full(len(model), -1, dtype=np.int64)
    source[target[used[::-1]]] = used[::-1]  # the first column wins
    measured = source >= 0
    duplicated = tuple(model[np.bincount(target[used], minlength=len(model)) > 1])
    if duplicated:
        messages.append(f"Columns that carry the same gene are summed: {examples(duplicated)}.")
    report = GeneReport(
        n_model=len(model),
        n_query=len(names),
        n_measured=int(measured.sum()),
        coverage=min(1.0, float(share[measured].sum())),
        missing=tuple(model[~measured]),
        duplicated=duplicated,
        n_extra=int(np.count_nonzero(target < 0)),
        column=column,
        messages=tuple(messages),
    )
    return GeneAlignment(source=source, target=target, measured=measured, report=report)


def _differ(species: Species, other: Species) -> bool:
    return species != other and "unknown" not in (species, other)


def _check_coverage(
    report: GeneReport,
    names: pd.Index,
    model: pd.Index,
    species: tuple[Species, Species],
    lowest: float,
    low: float,
) -> None:
    found = (
        f"{report.n_measured:,} of the model's {report.n_model:,} genes are in the query "
        f"({report.coverage:.1%} of the reference's expression)."
    )
    if report.coverage < lowest or not report.n_measured:
        advice = _diagnose(names, model, species, report)
        raise GeneMatchError(found, f"At least {lowest:.0%} is needed.", advice)
    if report.coverage < low:
        advice = _diagnose(names, model, species, report)
        text = f"{found} Below {low:.0%} labels are less certain. {advice}"
        warnings.warn(text, GeneCoverageWarning, stacklevel=3)


def _diagnose(
    names: pd.Index, model: pd.Index, species: tuple[Species, Species], report: GeneReport
) -> str:
    """Say what the names look like beside the model's, and what to do about it."""
    listed, wanted = names.tolist(), model.tolist()
    shown = (
        f"the query's names are like {examples(listed, 2)}, the model's like {examples(wanted, 2)}"
    )
    kind, model_kind = identifier_kind(listed), identifier_kind(wanted)
    if share_barcodes(listed) > 0.5:
        return f"The columns look like cells ({shown}): pass adata.T."
    if kind == "unknown" and model_kind != "unknown":
        return (
            f"The columns have no gene names ({shown}): set adata.var_names to {model_kind} names."
        )
    if {kind, model_kind} == {"symbol", "ensembl"}:
        return (
            f"The query has {kind} names and the model {model_kind} names ({shown}): set "
            f"adata.var_names to {model_kind} names, or keep them in a column of adata.var."
        )
    if _differ(*species):
        return (
            f"The query looks like {species[0]} and the model like {species[1]} ({shown}): "
            f"translate the genes to {species[1]} orthologs first, or pass fold_case=True to "
            "take genes of the same name for the same gene."
        )
    return _diagnose_case(listed, wanted, shown, report)


def _diagnose_case(listed: list[str], wanted: list[str], shown: str, report: GeneReport) -> str:
    folded = len({name.upper() for name in listed} & {name.upper() for name in wanted})
    if folded > 2 * report.n_measured:
        return f"{folded:,} names differ only in case ({shown}): pass fold_case=True to match them."
    return f"Check that the query and the model were made for the same genes ({shown})."
