"""Match the genes of a query to those of a model by name, never by position."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp

from hdeepinsight._errors import ARGUMENTS, InputError, counted, examples
from hdeepinsight.data import _names
from hdeepinsight.data._matrix import Block

Ints: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

#: Coverage below which labels are less certain, which is warned of.
WARN_COVERAGE = 0.50
#: A change of all names is looked for where fewer genes of the model match without, and made where
#: it gives at least so many and twice as many as before.
SYSTEMATIC, ENOUGH = 0.5, 0.1


class GeneMatchError(InputError):
    """Too few genes of the model are found in the query."""


class GeneCoverageWarning(UserWarning):
    """A query covers so few genes of the model that its labels are less certain."""


@dataclass(frozen=True)
class GeneReport:
    """How the genes of a query match those of a model.

    Parameters
    ----------
    n_model
        Genes of the model.
    n_query
        Columns of the query.
    n_measured
        Model genes that the query has.
    coverage
        Share of the reference's expression that these genes carry, in ``[0, 1]``; the share of
        genes if no weights were given.
    missing
        Model genes that the query lacks, in model order.
    duplicated
        Model genes that several columns of the query carry; their counts are summed.
    n_extra
        Columns of the query that the model does not use.
    column
        Column of ``var`` that the names came from; ``None`` for ``var_names``.
    messages
        Sentences about what was repaired and what needs care.

    Examples
    --------
    >>> from hdeepinsight.data import align_genes
    >>> print(align_genes(["NKG7", "CD3D", "ACTB"], ["CD3D", "MS4A1", "NKG7"]).report)
    2 of 3 model genes measured (coverage 66.7%), 1 of 3 columns unused
      missing   MS4A1
    """

    n_model: int
    n_query: int
    n_measured: int
    coverage: float
    missing: tuple[str, ...] = ()
    duplicated: tuple[str, ...] = ()
    n_extra: int = 0
    column: str | None = None
    messages: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.n_measured:,} of {self.n_model:,} model genes measured "
            f"(coverage {self.coverage:.1%}), {self.n_extra:,} of {self.n_query:,} columns unused"
        ]
        if self.missing:
            lines.append(f"  missing   {examples(self.missing, 5)}")
        lines += [f"  note      {text}" for text in self.messages]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only (numbers, strings, lists), as JSON takes them.

        Examples
        --------
        >>> from hdeepinsight.data import align_genes
        >>> align_genes(["NKG7", "CD3D"], ["CD3D", "MS4A1", "NKG7"]).report.to_dict()["missing"]
        ['MS4A1']
        """
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


@dataclass(frozen=True, eq=False)
class GeneAlignment:
    """Map from the columns of a query to the genes of a model.

    Parameters
    ----------
    source
        First column of every model gene, int64, shape ``(n_genes,)``; -1 where it is missing.
    target
        Model gene of every column, int64, shape ``(n_vars,)``; -1 where the model does not use it.
    measured
        Whether the query has the gene, bool, shape ``(n_genes,)``.
    report
        The same in words.

    Examples
    --------
    >>> from hdeepinsight.data import align_genes
    >>> alignment = align_genes(["NKG7", "CD3D", "ACTB"], ["CD3D", "MS4A1", "NKG7"])
    >>> alignment.target.tolist(), alignment.measured.tolist()
    ([2, 0, -1], [True, False, True])
    """

    source: np.ndarray[Any, np.dtype[np.int64]]
    target: np.ndarray[Any, np.dtype[np.int64]]
    measured: np.ndarray[Any, np.dtype[np.bool_]]
    report: GeneReport

    def __post_init__(self) -> None:
        for array in (self.source, self.target, self.measured):
            array.setflags(write=False)

    def apply(self, block: Block) -> sp.csr_matrix:
        """Bring counts into model order; genes that the query lacks are 0.

        Parameters
        ----------
        block
            Counts, shape ``(n_cells, n_vars)``, dense or CSR. Not changed.

        Returns
        -------
        CSR float32 with sorted indices, shape ``(n_cells, n_genes)``. Columns that carry the same
        model gene are summed.

        Examples
        --------
        >>> import numpy as np
        >>> from hdeepinsight.data import align_genes
        >>> alignment = align_genes(["CD3D", "NKG7", "ACTB"], ["NKG7", "CD3D"])
        >>> alignment.apply(np.array([[1, 2, 3]])).toarray()
        array([[2., 1.]], dtype=float32)
        """
        if block.shape[1] != len(self.target):
            raise ValueError(
                f"The block has {block.shape[1]} columns. This alignment was made for "
                f"{len(self.target)}. Align the genes of this matrix first."
            )
        target = self.target.astype(np.int32)
        rows: Any = block
        if not sp.issparse(block):
            used = np.flatnonzero(target >= 0)
            rows, target = sp.csr_matrix(block[:, used]), target[used]
        # Rename columns: much faster than a sparse product or fancy indexing with a sort.
        renamed = target[rows.indices]
        kept = np.flatnonzero(renamed >= 0)
        indptr = np.searchsorted(kept, rows.indptr)
        stored = (rows.data[kept].astype(np.float32, copy=False), renamed[kept], indptr)
        result = sp.csr_matrix(stored, shape=(rows.shape[0], len(self.source)))
        if not result.has_sorted_indices:
            result = result.tocsc().tocsr()  # two bucket sorts: linear in the stored values
        result.sum_duplicates()
        if np.count_nonzero(result.data) < len(result.data):
            result.eliminate_zeros()
        return result


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
    index wins unless a column holds more than twice as many model genes. Where none holds a tenth
    of them, those count that are there after one change of all names, as in `align_genes`.

    Examples
    --------
    >>> import pandas as pd
    >>> from hdeepinsight.data import resolve_var_names
    >>> var = pd.DataFrame({"gene_ids": ["ENSG00000167286"]}, index=["CD3D"])
    >>> resolve_var_names(var, ["ENSG00000167286"])[1]
    'gene_ids'
    """
    wanted = _names.as_wanted(_names.strip_version(gene) for gene in genes)
    tables: list[tuple[str | None, pd.Index]] = [
        (None, _names.as_text(var.index)),
        *_names.text_columns(var),
    ]
    held = [int(wanted.isin(names.map(_names.strip_version)).sum()) for _, names in tables]
    enough = ENOUGH * len(wanted)
    if max(held) < enough:
        for place, (_, names) in enumerate(tables):
            change = _names.find_change(names, wanted) if names.nunique() >= enough else None
            held[place] = change.n if change and change.n >= enough else held[place]
    column, names = tables[int(np.argmax([2 * held[0], *held[1:]]))]
    return names, column


def align_genes(
    var_names: pd.DataFrame | Iterable[str],
    genes: Sequence[str],
    *,
    weights: np.ndarray[Any, Any] | None = None,
    min_coverage: float = 0.10,
    warn_coverage: float = WARN_COVERAGE,
    fold_case: bool = False,
    arguments: Mapping[str, str] = ARGUMENTS,
) -> GeneAlignment:
    """Match the genes of a query to those of a model by name.

    A gene is looked for by its exact name, then without Ensembl versions, then with one sign for
    ``-``, ``.``, ``_`` and blanks, then after the one change that makes most
    names fit (a prefix such as ``GRCh38_``, a suffix, a part of ``ENSG00000198851_CD3E``), then
    without blanks, quotes and characters that do not show or look alike, and last, only if asked
    for, regardless of case. A later way is used only for genes that no earlier way found. Numbers
    are not names, and match nothing; nor do genes of another species' genome (``mm10_Cd3d``).

    Parameters
    ----------
    var_names
        Names of the query's columns, or its ``var``: then the column that fits is found by
        `resolve_var_names`, and what ``var`` says not to be a gene (antibodies, guides, genes that
        were filtered) matches nothing.
    genes
        Genes of the model, unique, shape ``(n_genes,)``.
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
    arguments
        By which name the caller takes ``fold_case``, if it does, for the advice in errors.

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
    model = pd.Index([str(gene) for gene in genes], dtype=object)
    if not model.is_unique or not len(model):
        twice = examples(model[model.duplicated()].unique()) or "none at all"
        raise ValueError(
            f"Genes of the model that repeat: {twice}. Valid are one or more unique names. Pass "
            "every gene once."
        )
    share = np.ones(len(model)) if weights is None else np.asarray(weights, dtype=np.float64)
    total = share.sum()
    if share.shape != (len(model),) or not np.isfinite(total) or total <= 0 or (share < 0).any():
        raise ValueError(
            f"The weights have shape {share.shape} and sum {total:.4g}. Valid are {len(model)} "
            "finite values from 0 up, not all 0. Pass the mean share of every model gene."
        )
    is_frame = isinstance(var_names, pd.DataFrame)
    var: Any = var_names if is_frame else pd.DataFrame(index=_names.as_text(list(var_names)))
    is_gene, said = _names.find_genes(var)
    var, renamed = _names.named_by_column(var)
    names, column = resolve_var_names(var, model.tolist())
    model_species = _names.guess_species(model.tolist())
    foreign = _names.of_other_species(var.set_axis(names), model_species)
    names = names.where(is_gene & ~foreign, "")
    target, found, matched, hint = _match(names, _names.as_wanted(model), fold_case)
    messages = [*renamed, *said, *found]
    if n_foreign := int(foreign.sum()):
        messages.append(f"{counted(n_foreign, 'gene')} of another species' genome left out.")
    if column is not None:
        messages.insert(0, f"Gene names were taken from var[{column!r}], not from var_names.")
    species = _names.guess_species(matched.tolist()), model_species
    if _differ(*species):
        messages.append(
            f"The query looks like {species[0]} and the model like {species[1]}: genes of the same "
            "name are taken for the same gene."
        )
    alignment = alignment_of(target, model, share / total, column=column, messages=messages)
    report = alignment.report
    covered = (
        f"{report.n_measured:,} of the model's {report.n_model:,} genes are in the query "
        f"({report.coverage:.1%} of the reference's expression)."
    )
    is_refused = report.coverage < min_coverage or not report.n_measured
    if is_refused or report.coverage < warn_coverage:
        advice = _diagnose(names.tolist(), model.tolist(), species, report.n_measured, arguments)
        advice = f"{hint} {advice}".lstrip()
        if is_refused:
            raise GeneMatchError(covered, f"At least {min_coverage:.0%} is needed.", advice)
        text = f"{covered} Below {warn_coverage:.0%} labels are less certain. {advice}"
        warnings.warn(text, GeneCoverageWarning, stacklevel=2)
    return alignment


def gene_coverage(
    var: pd.DataFrame, genes: Sequence[str], weights: np.ndarray[Any, Any] | None = None
) -> float:
    """Return the share of a model's genes that a table of genes has, by their weights."""
    try:
        found = align_genes(var, genes, weights=weights, min_coverage=0.0, warn_coverage=0.0)
    except GeneMatchError:
        return 0.0
    return found.report.coverage


def _match(
    names: pd.Index, model: pd.Index, fold_case: bool
) -> tuple[Ints, list[str], pd.Index, str]:
    """Find the model gene of every column, -1 for none.

    Returns
    -------
    The genes; what was done beyond exact names; the names as they were matched last; and a change
    of all names that would match more, and was not made.
    """
    target = model.get_indexer(names).astype(np.int64)
    ours, theirs = names.map(_names.strip_version), model.map(_names.strip_version)
    found = {"after leaving out Ensembl versions": _add(target, ours, theirs)}
    if np.count_nonzero(target >= 0) < len(model):
        signs = ours.map(_names.one_punctuation), theirs.map(_names.one_punctuation)
        found["taking '-', '.', '_' and blanks for one another"] = _add(target, *signs)
    hint, n_found = "", len(np.unique(target[target >= 0]))
    if n_found < SYSTEMATIC * len(model):
        changes = [
            (_names.find_change(names, model), False),
            (_names.find_change(model, names), True),
        ]
        change, of_model = max(changes, key=lambda found: found[0].n if found[0] else 0)
        if change is not None and change.n > n_found:
            how = f"{change.how}{' of the model' if of_model else ''}"
            if change.n > max(2 * n_found, ENOUGH * len(model)):
                changed = change.names.map(_names.strip_version)
                ours, theirs = (ours, changed) if of_model else (changed, theirs)
                found[how] = _add(target, ours, theirs)
            elif change.n > 1.2 * n_found:  # endings such as '-AS1' always fit a few names
                hint = f"{counted(change.n, 'gene')} would match {how}."
    if np.count_nonzero(target >= 0) < len(model):
        ours = ours.map(_names.plain_name)
        how = "without blanks, quotes and characters that do not show or look alike"
        found[how] = _add(target, ours, theirs)
    if fold_case:
        found["regardless of case"] = _add(target, ours.map(str.upper), theirs.map(str.upper))
    said = [f"{counted(n, 'gene')} matched {how}." for how, n in found.items() if n]
    return target, said, ours, hint


def _add(target: Ints, names: pd.Index, model: pd.Index) -> int:
    """Match what is still open under new spellings; a spelling of two model genes matches none."""
    open_columns = np.flatnonzero(target < 0)
    open_genes = np.setdiff1d(np.arange(len(model)), target)
    spelled = model[open_genes]
    clear = ~spelled.duplicated(keep=False)
    hit = spelled[clear].get_indexer(names[open_columns])
    target[open_columns[hit >= 0]] = open_genes[clear][hit[hit >= 0]]
    return len(np.unique(hit[hit >= 0]))


def alignment_of(
    target: Ints,
    model: pd.Index,
    share: np.ndarray[Any, np.dtype[np.float64]] | None = None,
    *,
    column: str | None = None,
    messages: Sequence[str] = (),
) -> GeneAlignment:
    """Return the alignment in which every column carries the model gene of ``target``, or none.

    ``share`` is that of every gene in the expression, equal ones by default.
    """
    used = np.flatnonzero(target >= 0)
    source = np.full(len(model), -1, dtype=np.int64)
    source[target[used[::-1]]] = used[::-1]  # the first column wins
    measured = source >= 0
    share = np.full(len(model), 1 / max(1, len(model))) if share is None else share
    if duplicated := tuple(model[np.bincount(target[used], minlength=len(model)) > 1]):
        summed = f"Columns that carry the same gene are summed: {examples(duplicated)}."
        messages = [*messages, summed]
    report = GeneReport(
        n_model=len(model),
        n_query=len(target),
        n_measured=int(measured.sum()),
        coverage=min(1.0, float(share[measured].sum())),
        missing=tuple(model[~measured]),
        duplicated=duplicated,
        n_extra=int(np.count_nonzero(target < 0)),
        column=column,
        messages=tuple(messages),
    )
    return GeneAlignment(source=source, target=target, measured=measured, report=report)


def _differ(species: _names.Species, other: _names.Species) -> bool:
    return species != other and "unknown" not in (species, other)


def _diagnose(
    names: list[str],
    model: list[str],
    species: tuple[_names.Species, _names.Species],
    n_measured: int,
    arguments: Mapping[str, str],
) -> str:
    """Say what the names look like beside the model's, and what to do about it."""
    shown = (
        f"the query's names are like {examples(map(_names.visible, names), 2)}, the model's like "
        f"{examples(model, 2)}"
    )
    kind, model_kind = _names.identifier_kind(names), _names.identifier_kind(model)
    fold = f"pass {arguments['fold_case']}=True to " if "fold_case" in arguments else ""
    same = f", or {fold}take genes of the same name for the same gene" if fold else ""
    how = f"{fold}match them" if fold else "spell them as the model does"
    upper = pd.Index([name.upper() for name in names])
    n_folded = len(set(upper) & {name.upper() for name in model})
    folded = _names.find_change(upper, [name.upper() for name in model])
    n_changed = folded.n if folded is not None and folded.n > n_folded else 0
    changed = f"once they are taken {folded.how} " if folded is not None else ""
    cases = {
        f"The model's genes are numbers ({shown}), which say nothing of another file: train it on "
        "a reference whose var_names are gene names.": _names.is_numbered(model),
        f"The columns look like cells ({shown}): pass adata.T.": _names.share_barcodes(names) > 0.5,
        f"The columns have no gene names ({shown}): set adata.var_names to {model_kind} names.": (
            _names.is_numbered(names) or (kind == "unknown" and model_kind != "unknown")
        ),
        f"The query has {kind} names and the model {model_kind} names ({shown}): set "
        f"adata.var_names to {model_kind} names, or keep them in a column of adata.var.": (
            {kind, model_kind} == {"symbol", "ensembl"}
        ),
        f"The query looks like {species[0]} and the model like {species[1]} ({shown}): translate "
        f"the genes to {species[1]} orthologs first{same}.": _differ(*species),
        f"{n_changed:,} names differ only in case {changed}({shown}): rename them as the model's "
        "are.": n_changed > 2 * n_measured,
        f"{n_folded:,} names differ only in case ({shown}): {how}.": n_folded > 2 * n_measured,
    }
    otherwise = f"Check that the query and the model were made for the same genes ({shown})."
    return next((text for text, applies in cases.items() if applies), otherwise)
