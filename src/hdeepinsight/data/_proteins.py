"""Surface proteins: which one a name means, which genes encode it, and its counts."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from hdeepinsight._errors import ARGUMENTS, examples
from hdeepinsight.data._counts import open_counts
from hdeepinsight.data._genes import GeneAlignment, alignment_of
from hdeepinsight.data._inspect import inspect_store
from hdeepinsight.data._store import open_store

#: What vendors and pipelines put around the name of a protein.
_PREFIX = re.compile(
    r"(?:(?:anti|adt|ab|prot|protein|abseq|humsrt|hums|hu|ms)[-_. ]+(?:(?:human|hu)[-_. ]+)?"
    r"|[ABCD]0\d{3}[-_. ]+)",
    re.IGNORECASE,
)
_SUFFIX = re.compile(
    r"[-_. ]+(?:total[-_ ]?(?:seq)?[-_ ]?[ABCD]?|[ABCD]?0\d{3}|adt|prot|protein|abseq|pabo|ab"
    r"|antibody)$",
    re.IGNORECASE,
)
#: Where the name ends and clone, gene or barcode begin.
_END = re.compile(r"[_|:(\[\s]")
_COPY = re.compile(r"[-_.]\d$")
_PLAIN_CD = re.compile(r"CD\d+[A-Z]{0,2}")


def clean_protein_name(name: str) -> str:
    """Clean the name of a protein of what vendors and pipelines put around it.

    Clones and copies of a known protein lose their mark (``CD4-1``, ``CD45RA_HI100``).

    Parameters
    ----------
    name
        Name of a feature.

    Returns
    -------
    The name; unchanged if nothing would be left.

    Examples
    --------
    >>> from hdeepinsight.data import clean_protein_name
    >>> [clean_protein_name(name) for name in ("CD3_TotalSeqB", "ADT_anti-human CD56", "HLA-DR")]
    ['CD3', 'CD56', 'HLA-DR']
    >>> clean_protein_name("CD4:SK3|CD4|AHS0032|pAbO")
    'CD4'
    """
    cleaned, before = name.strip(), ""
    while cleaned and cleaned != before:
        before = cleaned
        cleaned = _PREFIX.sub("", cleaned, count=1) if _PREFIX.match(cleaned) else cleaned
        cleaned = _SUFFIX.sub("", cleaned)
    for shorter in (_END.split(cleaned, maxsplit=1)[0], _COPY.sub("", cleaned)):
        if _is_known(shorter):
            return _COPY.sub("", shorter) if _is_known(_COPY.sub("", shorter)) else shorter
    return cleaned or name


def protein_key(name: str) -> str:
    """Return the spelling under which a protein is matched: one for all of its names.

    Examples
    --------
    >>> from hdeepinsight.data import protein_key
    >>> {protein_key(name) for name in ("CD279", "anti-PD-1", "PDCD1", "PD1_TotalSeqC")}
    {'CD279'}
    """
    cleaned = clean_protein_name(name)
    key = _bare(cleaned) or cleaned
    return _table()[1].get(key, key)


def protein_genes(name: str, genes: Collection[str]) -> tuple[str, ...]:
    """Return those of the given genes that encode a protein.

    Parameters
    ----------
    name
        Name of the protein.
    genes
        Genes that may be named, such as those of a layout.

    Returns
    -------
    Genes, the one that stands for the protein first; empty where none is among ``genes``.

    Examples
    --------
    >>> from hdeepinsight.data import protein_genes
    >>> genes = ["CD3E", "CD3D", "FCGR3A", "PTPRC", "CD14"]
    >>> [protein_genes(name, genes) for name in ("CD3", "CD16", "CD45RA", "CD14", "IgG1")]
    [('CD3D', 'CD3E'), ('FCGR3A',), ('PTPRC',), ('CD14',), ()]
    """
    spelled = {_bare(gene): gene for gene in genes}
    key = protein_key(name)
    encoding = map(_bare, _table()[0].get(key, (key,)))
    return tuple(spelled[gene] for gene in encoding if gene in spelled)


def _bare(name: str) -> str:
    return re.sub(r"[^0-9A-Z]", "", name.upper())


def _is_known(name: str) -> bool:
    key = _bare(name)
    return key in _table()[1] or _PLAIN_CD.fullmatch(key) is not None


@cache
def _table() -> tuple[Mapping[str, tuple[str, ...]], Mapping[str, str]]:
    """Read the genes of every protein, and the first name of all other names.

    Of the genes the first stands for the protein; where it stands for it alone, it is one of its
    names. Proteins whose gene has their own name need no entry. Symbols as in HGNC.
    """
    text = (files("hdeepinsight.data") / "proteins.tsv").read_text(encoding="utf-8")
    genes: dict[str, tuple[str, ...]] = {}
    of_genes: dict[str, str] = {}
    of_names: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        protein, others, listed = line.split("\t")
        genes[protein] = tuple(listed.split())
        # PTPRC makes CD45, CD45RA, CD45RB and CD45RO: the gene's name says none of them but CD45.
        of_genes.setdefault(_bare(genes[protein][0]), protein)
        of_names |= dict.fromkeys((protein, *others.split()), protein)
    return genes, of_genes | of_names


class ProteinCoverageWarning(UserWarning):
    """A query has a protein modality, and nothing of it is of use to the model."""


@dataclass(frozen=True, eq=False)
class ProteinCounts:
    """Raw protein counts of cells in the order of a model.

    Parameters
    ----------
    counts
        Counts, float32, shape ``(n_cells, n_proteins)``; 0 where not measured.
    measured
        Whether the protein was measured in the cell, bool, shape ``(n_cells, n_proteins)``.
        Nothing is measured in a cell without a single protein count.
    message
        What was found, in a sentence.

    Examples
    --------
    >>> import numpy as np
    >>> from hdeepinsight.data import ProteinCounts
    >>> counts = np.array([[5, 0], [0, 0]], dtype=np.float32)
    >>> stained = np.array([[True, True], [False, False]])
    >>> found = ProteinCounts(counts, stained, "2 of 2 proteins measured, in 1 of 2 cells.")
    >>> len(found), found[:1].counts.tolist()
    (2, [[5.0, 0.0]])
    """

    counts: np.ndarray[Any, np.dtype[np.float32]]
    measured: np.ndarray[Any, np.dtype[np.bool_]]
    message: str

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, rows: Any) -> ProteinCounts:
        return ProteinCounts(self.counts[rows], self.measured[rows], self.message)

    @classmethod
    def none(cls, n_cells: int, n_proteins: int, message: str) -> ProteinCounts:
        """Return counts of cells in which no protein was measured.

        Examples
        --------
        >>> from hdeepinsight.data import ProteinCounts
        >>> bool(ProteinCounts.none(2, 3, "No proteins.").measured.any())
        False
        """
        nothing = np.zeros((n_cells, n_proteins), dtype=np.float32)
        return cls(nothing, nothing.astype(bool), message)


def protein_names(adata: AnnData) -> list[str]:
    """Return the proteins of a modality: cleaned names, each once, sorted by what they mean.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> from hdeepinsight.data import protein_names
    >>> var = pd.DataFrame(index=["CD56_TotalSeqB", "CD3_TotalSeqB"])
    >>> protein_names(ad.AnnData(np.ones((2, 2)), var=var))
    ['CD3', 'CD56']
    """
    by_key = {protein_key(name): clean_protein_name(name) for name in map(str, adata.var_names)}
    return [by_key[key] for key in sorted(by_key)]


def align_proteins(names: Sequence[str], proteins: Sequence[str]) -> GeneAlignment:
    """Match the proteins of a query to those of a model, by what their names mean.

    Parameters
    ----------
    names
        Names of the query's columns, shape ``(n_columns,)``.
    proteins
        Proteins of the model, shape ``(n_proteins,)``.

    Returns
    -------
    The map; columns of the same protein (two clones) are summed.

    Examples
    --------
    >>> from hdeepinsight.data import align_proteins
    >>> align_proteins(["NCAM1", "CD3_TotalSeqB"], ["CD3", "CD56", "CD4"]).source
    array([ 1,  0, -1])
    """
    position = {protein_key(protein): i for i, protein in enumerate(proteins)}
    target = np.array([position.get(protein_key(name), -1) for name in names], dtype=np.int64)
    return alignment_of(target, pd.Index(proteins, dtype=object))


def read_proteins(
    adata: AnnData,
    proteins: Sequence[str],
    *,
    layer: str | None = None,
    rows: np.ndarray[Any, np.dtype[np.int64]] | None = None,
    warn: bool = True,
    arguments: Mapping[str, str] = ARGUMENTS,
) -> ProteinCounts:
    """Read protein counts of a query in the order of a model.

    Parameters
    ----------
    adata
        Protein modality with raw counts, shape ``(n_obs, n_columns)``; only read.
    proteins
        Proteins of the model.
    layer
        Layer with the counts; ``X`` by default.
    rows
        Row of the modality that belongs to each cell, -1 for none, shape ``(n_cells,)``; by
        default the cells are those of the modality.
    warn
        Whether to warn of a modality that is of no use to the model.
    arguments
        By which name the caller takes ``layer``, if it does, for the advice in errors.

    Returns
    -------
    The counts; none at all, with a :class:`ProteinCoverageWarning`, if the modality is empty or no
    name matches.

    Raises
    ------
    InputError
        If the matrix does not hold counts, such as values that are centred already.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> from hdeepinsight.data import read_proteins
    >>> var = pd.DataFrame(index=["CD56_TotalSeqB", "CD3_TotalSeqB"])
    >>> cells = ad.AnnData(np.array([[7.0, 1.0], [0.0, 9.0]], dtype="float32"), var=var)
    >>> found = read_proteins(cells, ["CD3", "CD4", "CD56"])
    >>> found.counts.tolist()
    [[1.0, 0.0, 7.0], [9.0, 0.0, 0.0]]
    >>> found.message
    '2 of 3 proteins measured, in 2 of 2 cells.'
    """
    rows = np.arange(adata.n_obs) if rows is None else rows
    alignment = align_proteins(list(map(str, adata.var_names)), proteins)
    store, source, unusable = open_store(adata, genes_only=False), None, ""
    if not adata.n_obs or not adata.n_vars:
        unusable = f"The protein modality is empty ({adata.n_obs} × {adata.n_vars})."
    elif not alignment.measured.any():
        unusable = (
            f"None of the {adata.n_vars} proteins ({examples(adata.var_names.tolist(), 3)}) is one "
            f"of the model's {len(proteins)} ({examples(list(proteins), 3)})."
        )
    elif inspect_store(store, layer, False, arguments=arguments).scale == "empty":
        unusable = "The protein modality holds zeros only."
    else:
        source = open_counts(store, layer=layer, arguments=arguments, genes_only=False)
    if source is None:
        message = f"{unusable} The cells are annotated from their RNA alone."
        if warn:
            warnings.warn(message, ProteinCoverageWarning, stacklevel=2)
        return ProteinCounts.none(len(rows), len(proteins), message)
    # With a row of zeros behind the last, so that -1 means a cell without proteins.
    counts = np.zeros((adata.n_obs + 1, len(proteins)), dtype=np.float32)
    for place, chunk in source.chunks(alignment):
        counts[place] = chunk.toarray()
    counts = counts[rows]
    stained = counts.sum(axis=1) > 0
    message = (
        f"{alignment.report.n_measured} of {alignment.report.n_model} proteins measured, in "
        f"{int(stained.sum()):,} of {len(rows):,} cells."
    )
    return ProteinCounts(counts, stained[:, None] & alignment.measured, message)
