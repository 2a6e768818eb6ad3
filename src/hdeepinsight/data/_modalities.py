"""Read RNA, proteins and labels from MuData, and match protein names."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from hdeepinsight._errors import ARGUMENTS, InputError, check_keywords, examples
from hdeepinsight.data._counts import open_counts
from hdeepinsight.data._files import check_file
from hdeepinsight.data._genes import GeneAlignment, alignment_of, is_numbered
from hdeepinsight.data._inspect import inspect_store
from hdeepinsight.data._store import open_store

if TYPE_CHECKING:
    from mudata import MuData

#: Prefixes and suffixes that vendors and pipelines add to protein names.
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
#: Separators between the name and a clone, gene or barcode.
_END = re.compile(r"[_|:(\[\s]")
_COPY = re.compile(r"[-_.]\d$")
_PLAIN_CD = re.compile(r"CD\d+[A-Z]{0,2}")


def clean_protein_name(name: str) -> str:
    """Remove prefixes and suffixes that vendors and pipelines add to protein names.

    Clones and copies of known proteins lose their suffix (``CD4-1``, ``CD45RA_HI100``).

    Parameters
    ----------
    name
        Name of a feature.

    Returns
    -------
    The cleaned name; the original name if nothing would be left.

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
    """Return the canonical name of a protein, by which it is matched.

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
    """Return the genes that encode a protein, among the given ones.

    Parameters
    ----------
    name
        Name of the protein.
    genes
        Candidate genes, such as those of a layout.

    Returns
    -------
    Genes, the main gene of the protein first; empty if none is among ``genes``.

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
    """Read the genes of each protein, and the canonical names of its synonyms.

    The first gene of a protein is also its synonym unless it encodes several proteins. Proteins
    with the name of their gene have no entry. Symbols are from HGNC.
    """
    text = (files("hdeepinsight.data") / "proteins.tsv").read_text(encoding="utf-8")
    genes: dict[str, tuple[str, ...]] = {}
    of_genes: dict[str, str] = {}
    of_names: dict[str, str] = {}
    for line in text.splitlines()[1:]:
        protein, others, listed = line.split("\t")
        genes[protein] = tuple(listed.split())
        # PTPRC encodes CD45, CD45RA, CD45RB and CD45RO; it is a synonym of the first one only.
        of_genes.setdefault(_bare(genes[protein][0]), protein)
        of_names |= dict.fromkeys((protein, *others.split()), protein)
    return genes, of_genes | of_names


class ProteinCoverageWarning(UserWarning):
    """Warning for a protein modality without any protein of the model."""


@dataclass(frozen=True, eq=False)
class ProteinCounts:
    """Raw protein counts of cells, with proteins in model order.

    Parameters
    ----------
    counts
        Counts, float32, shape ``(n_cells, n_proteins)``; 0 if not measured.
    measured
        Whether the protein was measured in the cell, bool, shape ``(n_cells, n_proteins)``. In
        cells without protein counts, no protein is measured.
    message
        Summary, one sentence.

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
        zeros = np.zeros((n_cells, n_proteins), dtype=np.float32)
        return cls(zeros, zeros.astype(bool), message)


def protein_names(adata: AnnData) -> list[str]:
    """Return the unique cleaned names of the proteins in a modality, sorted by canonical name.

    Raises
    ------
    InputError
        If the names are numbers, which cannot be matched to those of other datasets.

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
    names = open_store(adata).all_columns().genes(use_raw=False).index.astype(str).tolist()
    if is_numbered(names):
        found = f"The proteins are numbers ({examples(names)})."
        valid = "Expected their names, by which the proteins of a query are matched."
        raise InputError(found, valid, "Set var_names of the protein modality to protein names.")
    by_key = {protein_key(name): clean_protein_name(name) for name in names}
    return [by_key[key] for key in sorted(by_key)]


def align_proteins(names: Sequence[str], proteins: Sequence[str]) -> GeneAlignment:
    """Match the proteins of a query to those of a model by their canonical names.

    Parameters
    ----------
    names
        Names of the query's columns, shape ``(n_columns,)``.
    proteins
        Proteins of the model, shape ``(n_proteins,)``.

    Returns
    -------
    The alignment; columns of the same protein (such as two clones) are summed.

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
    """Read the protein counts of a query, with proteins in model order.

    Parameters
    ----------
    adata
        Protein modality with raw counts, shape ``(n_obs, n_columns)``; not modified.
    proteins
        Proteins of the model.
    layer
        Layer with the counts; ``X`` by default.
    rows
        Row of each cell in the modality, -1 for none, shape ``(n_cells,)``; by default the cells
        of the modality.
    warn
        Whether to warn if the modality has no protein of the model.
    arguments
        Name of ``layer`` in the calling function, if it has this argument, for errors.

    Returns
    -------
    The counts. If the modality is empty or no name matches, no protein is measured, and a
    :class:`ProteinCoverageWarning` is issued.

    Raises
    ------
    InputError
        If the matrix does not contain counts, for example normalised values.

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
    store = replace(open_store(adata).all_columns(), arguments=arguments)
    names = store.genes(use_raw=False).index.astype(str).tolist()
    alignment = align_proteins(names, proteins)
    unusable, n = "", len(proteins)
    if not adata.n_obs or not adata.n_vars:
        unusable = f"The protein modality is empty ({adata.n_obs} × {adata.n_vars})."
    elif not alignment.measured.any():
        own = f"{adata.n_vars} proteins ({examples(names)})"
        unusable = f"None of the {own} is one of the model's {n} ({examples(list(proteins))})."
    elif inspect_store(store, layer, False).scale == "empty":
        unusable = "All values of the protein modality are zero."
    if unusable:
        message = f"{unusable} The cells are annotated from their RNA alone."
        if warn:
            warnings.warn(message, ProteinCoverageWarning, stacklevel=2)
        return ProteinCounts.none(len(rows), n, message)
    source = open_counts(store, layer=layer, arguments=arguments)
    # With an additional row of zeros, for cells without proteins (row -1).
    counts = np.zeros((adata.n_obs + 1, n), dtype=np.float32)
    counts[:-1] = source.read(alignment).toarray()
    counts = counts[rows]
    stained, report = counts.sum(axis=1) > 0, alignment.report
    message = f"{report.n_measured} of {report.n_model} proteins measured, in "
    message += f"{int(stained.sum()):,} of {len(rows):,} cells."
    return ProteinCounts(counts, stained[:, None] & alignment.measured, message)


#: Common names of the modalities, in the order in which they are tried.
COMMON_NAMES = {
    "rna": ("rna", "RNA", "gex", "GEX", "Gene Expression", "gene_expression"),
    "protein": ("protein", "proteins", "prot", "adt", "ADT", "PROT", "Antibody Capture"),
}

Rows = np.ndarray[Any, np.dtype[np.int64]]


def is_paired(data: Any) -> bool:
    """Return whether data is a MuData, or the path of an ``.h5mu`` file or zarr store of one.

    Examples
    --------
    >>> import anndata as ad
    >>> from hdeepinsight.data import is_paired
    >>> is_paired("cells.h5mu"), is_paired(ad.AnnData())
    (True, False)
    """
    if isinstance(data, str | os.PathLike):
        if os.path.isdir(data):
            return os.path.isdir(os.path.join(data, "mod"))
        with suppress(OSError):  # damaged files raise a better error when they are read
            if os.path.isfile(data) and h5py.is_hdf5(data):
                with h5py.File(data, "r") as root:
                    return "mod" in root
        return Path(data).suffix == ".h5mu"
    # By name: mudata takes a second to import, and most data is AnnData.
    return any(kind.__module__.startswith("mudata") for kind in type(data).__mro__)


def open_paired(data: MuData | str | Path) -> MuData:
    """Return a MuData, reading it if the data is a path.

    Raises
    ------
    InputError
        If the file holds no MuData.

    Examples
    --------
    >>> import warnings
    >>> import anndata as ad
    >>> import mudata
    >>> import numpy as np
    >>> from hdeepinsight.data import open_paired
    >>> warnings.simplefilter("ignore", FutureWarning)  # of mudata before 0.4
    >>> mdata = mudata.MuData({"rna": ad.AnnData(np.ones((2, 3)))})
    >>> open_paired(mdata) is mdata
    True
    """
    if not isinstance(data, str | os.PathLike):
        return data
    from mudata import read_h5mu, read_zarr

    check_file(Path(data))
    found = None
    with suppress(KeyError, TypeError), own_columns():  # mudata before 0.4, for other files
        found = (read_zarr if os.path.isdir(data) else read_h5mu)(data)
    if found is None or not found.mod:
        expected, advice = "Expected a file written by mudata.", "Name AnnData files .h5ad."
        raise InputError(f"{data} holds no MuData.", expected, advice)
    return found


def own_columns() -> AbstractContextManager[Any]:
    """Keep columns of ``obs`` in their modalities.

    By default, mudata before 0.4 copies them to the MuData and warns; later releases do not.

    Examples
    --------
    >>> import anndata as ad
    >>> import mudata
    >>> import numpy as np
    >>> from hdeepinsight.data import own_columns
    >>> with own_columns():
    ...     mdata = mudata.MuData({"rna": ad.AnnData(np.ones((2, 3)))})
    >>> mdata.obs.columns.tolist()
    []
    """
    import mudata

    if not hasattr(mudata, "set_options"):
        return nullcontext()
    options: AbstractContextManager[Any] = mudata.set_options(pull_on_update=False)
    return options


@contextmanager
def errors_of(modality: str | None) -> Iterator[None]:
    """Add the modality to errors about a matrix, because each modality has an ``X``.

    Examples
    --------
    >>> from hdeepinsight.data import InputError, errors_of
    >>> try:
    ...     with errors_of("rna"):
    ...         raise InputError("X holds 3 NaN.", "Counts are whole.", "Remove those cells.")
    ... except InputError as error:
    ...     print(error.found)
    In the modality 'rna': X holds 3 NaN.
    """
    try:
        yield
    except InputError as error:
        found = f"In the modality {modality!r}: {error.found}"
        raise InputError(found, error.valid, error.do_next) from None


@dataclass(frozen=True)
class Modalities:
    """Names of the modalities of a MuData that are read, by argument of ``setup_mudata``.

    Parameters
    ----------
    rna_layer
        Name of the RNA modality; by default a common name (``"rna"``, ``"gex"``).
    protein_layer
        Name of the protein modality; by default a common name (``"protein"``, ``"prot"``,
        ``"adt"``).
    labels_key
        Modality whose ``obs`` has the labels; by default the ``obs`` of the MuData, or that of the
        RNA modality if the column is missing.
    batch_key
        Modality whose ``obs`` has the batch, with the same default.

    Examples
    --------
    >>> import warnings
    >>> import anndata as ad
    >>> import mudata
    >>> import numpy as np
    >>> import pandas as pd
    >>> from hdeepinsight.data import Modalities
    >>> warnings.simplefilter("ignore", FutureWarning)  # of mudata before 0.4
    >>> var = pd.DataFrame(index=["CD3_TotalSeqB", "CD19_TotalSeqB"])
    >>> parts = {"gex": ad.AnnData(np.ones((2, 3))), "prot": ad.AnnData(np.ones((2, 2)), var=var)}
    >>> mdata = mudata.MuData(parts)
    >>> Modalities().find(mdata, "rna"), Modalities().find(mdata, "protein")
    ('gex', 'prot')
    """

    rna_layer: str | None = None
    protein_layer: str | None = None
    labels_key: str | None = None
    batch_key: str | None = None

    @classmethod
    def from_setup(cls, modalities: Mapping[str, str] | None) -> Modalities:
        """Convert from the format of scvi-tools: modalities by argument of ``setup_mudata``.

        Raises
        ------
        TypeError
            If a key is not such an argument.

        Examples
        --------
        >>> from hdeepinsight.data import Modalities
        >>> Modalities.from_setup({"rna_layer": "gex"}).rna_layer
        'gex'
        """
        given = modalities or {}
        check_keywords("modalities", given, vars(cls()))
        return cls(**given)

    def of_reference(self, mdata: MuData) -> Modalities:
        """Return the names of the RNA and protein modalities of a reference.

        Raises
        ------
        InputError
            If one of them is missing, both are the same, or cells have no RNA.

        Examples
        --------
        >>> import warnings
        >>> import anndata as ad
        >>> import mudata
        >>> import numpy as np
        >>> import pandas as pd
        >>> from hdeepinsight.data import Modalities
        >>> warnings.simplefilter("ignore", FutureWarning)  # of mudata before 0.4
        >>> genes, proteins = (pd.DataFrame(index=[name]) for name in ("CD3D", "CD3"))
        >>> parts = {"gex": ad.AnnData(np.ones((2, 1)), var=genes)}
        >>> parts["adt"] = ad.AnnData(np.ones((2, 1)), var=proteins)
        >>> Modalities().of_reference(mudata.MuData(parts)).protein_layer
        'adt'
        """
        rna, protein = (self.find(mdata, kind, required=True) for kind in ("rna", "protein"))
        if rna == protein:
            found = f"The modality {rna!r} is given for both RNA and proteins."
            valid = f"They must differ; there are {', '.join(map(repr, mdata.mod))}."
            raise InputError(found, valid, "Correct modalities=; for RNA alone use setup_anndata.")
        resolved = replace(self, rna_layer=rna, protein_layer=protein)
        if lacking := int((~resolved.has_rna(mdata)).sum()):
            found = f"{lacking:,} of the {mdata.n_obs:,} cells have no RNA."
            valid = "A reference needs the RNA of all cells; proteins may be missing."
            raise InputError(found, valid, f"Keep the cells of mdata.mod[{rna!r}].")
        return resolved

    def find(self, mdata: MuData, kind: str, *, required: bool = False) -> str | None:
        """Find the name of a modality, if the MuData has it.

        Parameters
        ----------
        mdata
            The MuData.
        kind
            ``"rna"`` or ``"protein"``.
        required
            Raise an error instead of returning ``None``.

        Raises
        ------
        InputError
            If the modality is required, but not there.

        Examples
        --------
        >>> import warnings
        >>> import anndata as ad
        >>> import mudata
        >>> import numpy as np
        >>> from hdeepinsight.data import Modalities
        >>> warnings.simplefilter("ignore", FutureWarning)  # of mudata before 0.4
        >>> mdata = mudata.MuData({"gex": ad.AnnData(np.ones((2, 3)))})
        >>> Modalities().find(mdata, "rna"), Modalities().find(mdata, "protein") is None
        ('gex', True)
        """
        names, given = COMMON_NAMES[kind], getattr(self, f"{kind}_layer")
        if given is not None:
            names = (given,) if required else (given, *names)
        name = next((name for name in names if name in mdata.mod), None)
        if name is None and required:
            found = f"The MuData has no modality {' or '.join(map(repr, names))}."
            valid = f"It has: {', '.join(map(repr, mdata.mod)) or 'none'}."
            raise InputError(found, valid, f"Pass one as modalities={{'{kind}_layer': ...}}.")
        return name

    def rna_of(self, mdata: MuData) -> AnnData | None:
        """Return the RNA of all cells of ``mdata``, in its order; zeros for cells without RNA.

        Returns
        -------
        The modality itself if it has the same cells, otherwise a new object; ``None`` without RNA.
        """
        name = self.find(mdata, "rna")
        if name is None:
            return None
        rna = mdata.mod[name]
        return rna if rna.obs_names.equals(mdata.obs_names) else _reindex(rna, mdata.obs_names)

    def has_rna(self, mdata: MuData) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return whether each cell of ``mdata`` is in the RNA modality, shape ``(n_obs,)``."""
        name = self.find(mdata, "rna")
        if name is None:
            return np.zeros(mdata.n_obs, dtype=bool)
        return np.asarray(mdata.obs_names.isin(mdata.mod[name].obs_names), dtype=bool)

    def proteins_of(
        self, mdata: MuData, proteins: Sequence[str], *, layer: str | None = None, warn: bool = True
    ) -> ProteinCounts:
        """Read the protein counts of all cells of ``mdata``, with proteins in model order.

        If the query lacks the layer, ``X`` is read.
        """
        name = self.find(mdata, "protein")
        if name is None:
            message = "No protein modality: the cells are annotated from their RNA alone."
            return ProteinCounts.none(mdata.n_obs, len(proteins), message)
        modality = mdata.mod[name]
        layer = layer if layer in modality.layers else None
        with errors_of(name):
            rows = _rows(modality, mdata.obs_names)
            return read_proteins(
                modality, proteins, layer=layer, rows=rows, warn=warn, arguments={}
            )

    def obs_of(self, mdata: MuData, kind: str | None = None) -> pd.DataFrame:
        """Return the columns of ``mdata.obs``, and further ones of the named modalities.

        Those of each modality are also there with its name, as ``rna:cell_type``.

        Parameters
        ----------
        mdata
            The MuData.
        kind
            ``"labels"`` or ``"batch"``: the modality whose columns take precedence.
        """
        first, others = kind and getattr(self, f"{kind}_key"), (self.labels_key, self.batch_key)
        tables = {name: part.obs for name, part in mdata.mod.items()}
        named = {f"{name}:": table.add_prefix(f"{name}:") for name, table in tables.items()}
        tables |= named | {"": mdata.obs}
        obs = pd.DataFrame(index=mdata.obs_names)
        for name in (first, "", *others, self.find(mdata, "rna"), *named):
            if name in tables:
                further = tables[name].reindex(mdata.obs_names)
                obs = obs.join(further[[key for key in further if key not in obs]])
        return obs


def pad(adata: AnnData, alignment: GeneAlignment, names: Sequence[str]) -> AnnData:
    """Copy a query with exactly the genes of a model, in its order.

    Missing genes are 0 in ``X`` and all layers, and False in ``var["measured"]``. ``obs``,
    ``obsm``, ``obsp``, ``uns`` and ``raw`` are copied.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> from hdeepinsight.data import align_genes, pad
    >>> cells = ad.AnnData(np.ones((2, 3)), var=pd.DataFrame(index=["NKG7", "ACTB", "CD3D"]))
    >>> genes = ["CD3D", "MS4A1", "NKG7"]
    >>> pad(cells, align_genes(cells.var, genes), genes).var["measured"].tolist()
    [True, False, True]
    """

    def aligned(matrix: Any) -> Any:
        return alignment.apply(matrix.tocsr() if hasattr(matrix, "tocsr") else np.asarray(matrix))

    adata = adata.to_memory() if adata.isbacked else adata
    var = pd.DataFrame({"measured": alignment.measured}, index=pd.Index(names))
    padded = AnnData(
        X=None if adata.X is None else aligned(adata.X),
        obs=adata.obs.copy(),
        var=var,
        obsm={name: values.copy() for name, values in adata.obsm.items()},
        obsp={name: values.copy() for name, values in adata.obsp.items()},
        uns=deepcopy(dict(adata.uns)),
        # Recent versions of anndata list X among the layers, under the name None.
        layers={name: aligned(values) for name, values in adata.layers.items() if name},
    )
    if adata.raw is not None:
        padded.raw = adata.raw.to_adata()
    return padded


def _rows(modality: AnnData, obs_names: pd.Index) -> Rows:
    """Return the row of each cell in the modality; -1 if it is missing."""
    if not modality.obs_names.is_unique:
        twice = modality.obs_names[modality.obs_names.duplicated()][0]
        found = f"The cell name {twice!r} occurs more than once in a modality."
        valid = "Cells of modalities are matched by name."
        raise InputError(found, valid, "Call obs_names_make_unique() on it.")
    return np.asarray(modality.obs_names.get_indexer(obs_names), dtype=np.int64)


def _reindex(rna: AnnData, obs_names: pd.Index) -> AnnData:
    """Return the rows of the named cells, with zeros for missing cells."""
    rows = _rows(rna, obs_names)
    found = np.flatnonzero(rows >= 0)
    shape = (len(obs_names), rna.n_obs)
    select = sp.csr_matrix((np.ones(len(found), "float32"), (found, rows[found])), shape=shape)
    source = rna.to_memory() if rna.isbacked else rna
    matrices = {name: sp.csr_matrix(select @ source.layers[name]) for name in source.layers if name}
    matrix = None if source.X is None else sp.csr_matrix(select @ source.X)
    return AnnData(matrix, obs=pd.DataFrame(index=obs_names), var=source.var, layers=matrices)
