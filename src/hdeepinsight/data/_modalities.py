"""MuData at the door: the RNA, the proteins and the labels of the same cells."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from hdeepinsight._errors import InputError, invalid
from hdeepinsight.data._files import check_file
from hdeepinsight.data._genes import GeneAlignment
from hdeepinsight.data._proteins import ProteinCounts, read_proteins

if TYPE_CHECKING:
    from mudata import MuData

#: Usual names of the modalities, tried in this order where none is given.
USUAL_NAMES = {
    "rna": ("rna", "RNA", "gex", "GEX", "Gene Expression", "gene_expression"),
    "protein": ("protein", "proteins", "prot", "adt", "ADT", "PROT", "Antibody Capture"),
}

#: Arguments of ``setup_mudata`` that read a modality.
_ARGUMENTS = {
    "rna_layer": "rna",
    "protein_layer": "protein",
    "labels_key": "labels",
    "batch_key": "batch",
}

Rows = np.ndarray[Any, np.dtype[np.int64]]


def is_paired(data: Any) -> bool:
    """Return whether this is a MuData, or the path of an ``.h5mu`` file.

    Examples
    --------
    >>> import anndata as ad
    >>> from hdeepinsight.data import is_paired
    >>> is_paired("cells.h5mu"), is_paired(ad.AnnData())
    (True, False)
    """
    if isinstance(data, str | Path):
        if not os.path.isfile(data) or not h5py.is_hdf5(data):
            return Path(data).suffix == ".h5mu"
        with suppress(OSError), h5py.File(data, "r") as root:
            return "mod" in root
        return Path(data).suffix == ".h5mu"  # a damaged file, of which its reader says more
    # By name: mudata takes a second to import, and most data is AnnData.
    return any(kind.__module__.startswith("mudata") for kind in type(data).__mro__)


def open_paired(data: MuData | str | Path) -> MuData:
    """Return the MuData, read from its file where a path was given.

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
    if not isinstance(data, str | Path):
        return data
    from mudata import read_h5mu

    check_file(Path(data))
    try:
        with own_columns():
            found = read_h5mu(data)
    except (KeyError, TypeError):  # of mudata before 0.4, about a file that is not its own
        found = None
    if found is None or not found.mod:
        what, how = "Valid is a file that mudata wrote.", "If it is an AnnData, name it .h5ad."
        raise InputError(f"{data} holds no MuData.", what, how)
    return found


def own_columns() -> AbstractContextManager[Any]:
    """Leave columns in the modalities that they are in.

    Releases of mudata before 0.4 copy them to the whole object unless told otherwise, and warn;
    later ones have no such option.

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
    """Say in errors about a matrix which modality it is of; each has one called X.

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
    """Which modalities of a MuData are read; nothing is written to it.

    Parameters
    ----------
    rna
        Name of the RNA modality; by default a usual one (``"rna"``, ``"gex"``).
    protein
        Name of the protein modality; by default a usual one (``"protein"``, ``"prot"``,
        ``"adt"``).
    labels
        Modality whose ``obs`` has the labels; by default the MuData's own ``obs``, and the RNA
        modality's where that lacks the column.
    batch
        The same for the batch.

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

    rna: str | None = None
    protein: str | None = None
    labels: str | None = None
    batch: str | None = None

    @classmethod
    def from_setup(cls, modalities: Mapping[str, str] | None) -> Modalities:
        """Read from the form of scvi-tools: modality by argument of ``setup_mudata``.

        Raises
        ------
        ValueError
            If an argument is not one that has a modality.

        Examples
        --------
        >>> from hdeepinsight.data import Modalities
        >>> Modalities.from_setup({"rna_layer": "gex", "protein_layer": "prot"})
        Modalities(rna='gex', protein='prot', labels=None, batch=None)
        """
        given = dict(modalities or {})
        if set(given) - set(_ARGUMENTS):
            expected = f"a dictionary whose keys are among {', '.join(_ARGUMENTS)}"
            raise invalid("modalities", given, expected)
        return cls(**{_ARGUMENTS[argument]: name for argument, name in given.items()})

    def to_setup(self) -> dict[str, str]:
        """Return the form that :meth:`from_setup` reads.

        Examples
        --------
        >>> from hdeepinsight.data import Modalities
        >>> Modalities(rna="gex", labels="prot").to_setup()
        {'rna_layer': 'gex', 'labels_key': 'prot'}
        """
        names = {argument: getattr(self, field) for argument, field in _ARGUMENTS.items()}
        return {argument: name for argument, name in names.items() if name is not None}

    def of_reference(self, mdata: MuData) -> Modalities:
        """Return the names of the modalities of a reference, which has both.

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
        >>> Modalities().of_reference(mudata.MuData(parts)).protein
        'adt'
        """
        names = {kind: self.find(mdata, kind, required=True) for kind in ("rna", "protein")}
        if names["rna"] == names["protein"]:
            raise InputError(
                f"The modality {names['rna']!r} is named for both RNA and proteins.",
                f"The two must differ; there are {', '.join(map(repr, mdata.mod))}.",
                "Correct modalities=; for RNA alone use setup_anndata.",
            )
        found = replace(self, **names)
        lacking = int((~found.has_rna(mdata)).sum())
        if lacking:
            raise InputError(
                f"{lacking:,} of the {mdata.n_obs:,} cells have no RNA.",
                "A reference needs the RNA of every cell; proteins may be missing.",
                f"Keep the cells of mdata.mod[{found.rna!r}].",
            )
        return found

    def find(self, mdata: MuData, kind: str, *, required: bool = False) -> str | None:
        """Find the name of a modality of ``mdata``, where it has one.

        Parameters
        ----------
        mdata
            The object.
        kind
            ``"rna"`` or ``"protein"``.
        required
            Raise an error, with the modalities that there are, instead of returning ``None``.

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
        if not hasattr(mdata, "mod"):
            raise InputError(
                f"The data is a {type(mdata).__name__}.",
                "Valid is a MuData, which holds several modalities.",
                "Read a file with mudata.read_h5mu; for RNA alone use setup_anndata.",
            )
        names, asked = USUAL_NAMES[kind], getattr(self, kind)
        if asked is not None:
            names = (asked,) if required else (asked, *names)
        name = next((name for name in names if name in mdata.mod), None)
        if name is None and required:
            raise InputError(
                f"The MuData has no modality {' or '.join(map(repr, names))}.",
                f"It has: {', '.join(map(repr, mdata.mod)) or 'none'}.",
                f"Name one with modalities={{'{kind}_layer': ...}}.",
            )
        return name

    def rna_of(self, mdata: MuData) -> AnnData | None:
        """Return the RNA of all cells of ``mdata``, in its order; zeros for a cell that has none.

        Returns
        -------
        The modality itself where it has the same cells, else a new object; ``None`` without one.
        """
        name = self.find(mdata, "rna")
        if name is None:
            return None
        rna = mdata.mod[name]
        return rna if rna.obs_names.equals(mdata.obs_names) else _spread(rna, mdata.obs_names)

    def has_rna(self, mdata: MuData) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return whether each cell of ``mdata`` is in the RNA modality, shape ``(n_obs,)``."""
        name = self.find(mdata, "rna")
        if name is None:
            return np.zeros(mdata.n_obs, dtype=bool)
        return np.asarray(mdata.obs_names.isin(mdata.mod[name].obs_names), dtype=bool)

    def proteins_of(
        self, mdata: MuData, proteins: Sequence[str], *, layer: str | None = None, warn: bool = True
    ) -> ProteinCounts:
        """Read the protein counts of all cells of ``mdata``, in the order of a model.

        A query without the layer of the reference is read from ``X``.
        """
        name = self.find(mdata, "protein")
        if name is None:
            message = "No protein modality: the cells are annotated from their RNA alone."
            return ProteinCounts.none(mdata.n_obs, len(proteins), message)
        modality = mdata.mod[name]
        with errors_of(name):
            return read_proteins(
                modality,
                proteins,
                layer=layer if layer in modality.layers else None,
                rows=_rows(modality, mdata.obs_names),
                warn=warn,
                arguments={},
            )

    def columns_of(self, mdata: MuData, keys: Sequence[str], *, kind: str = "labels") -> AnnData:
        """Return columns of ``obs`` for all cells, in an AnnData without genes.

        Parameters
        ----------
        mdata
            The object.
        keys
            Names of the columns.
        kind
            ``"labels"`` or ``"batch"``: which of the modalities named here is looked at first.
        """
        first = getattr(self, kind)
        obs = self.obs_of(mdata)
        if first in mdata.mod:
            own = mdata.mod[first].obs.reindex(mdata.obs_names)
            obs = obs.assign(**{key: own[key] for key in keys if key in own})
        held = [key for key in keys if key in obs]
        return AnnData(obs=obs[held] if len(held) == len(keys) else obs)

    def obs_of(self, mdata: MuData) -> pd.DataFrame:
        """Return all columns of the cells of ``mdata``: its own, then those of its modalities."""
        obs = mdata.obs.copy()
        for name in (self.labels, self.batch, self.find(mdata, "rna")):
            if name in mdata.mod:
                further = mdata.mod[name].obs.reindex(mdata.obs_names)
                obs = obs.join(further[[key for key in further if key not in obs]])
        return obs


def pad(adata: AnnData, alignment: GeneAlignment, names: Sequence[str]) -> AnnData:
    """Copy a query with exactly the genes of a model, in its order.

    Genes that it lacks are 0 in ``X`` and all layers; ``var["measured"]`` tells which of them are
    real. ``obs``, ``obsm``, ``obsp``, ``uns`` and ``raw`` come along.

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
        rows = matrix.tocsr() if hasattr(matrix, "tocsr") else np.asarray(matrix)
        return alignment.apply(rows)

    padded = AnnData(
        X=None if adata.X is None else aligned(adata.X),
        obs=adata.obs.copy(),
        var=pd.DataFrame({"measured": alignment.measured}, index=pd.Index(names)),
        obsm={name: values.copy() for name, values in adata.obsm.items()},
        obsp={name: values.copy() for name, values in adata.obsp.items()},
        uns=deepcopy(dict(adata.uns)),
        # Newer versions of anndata list X among the layers, under the name None.
        layers={name: aligned(values) for name, values in adata.layers.items() if name},
    )
    if adata.raw is not None:
        padded.raw = adata.raw.to_adata()
    return padded


def _rows(modality: AnnData, obs_names: pd.Index) -> Rows:
    """Find the row of the modality that belongs to each cell; -1 where there is none."""
    if not modality.obs_names.is_unique:
        twice = modality.obs_names[modality.obs_names.duplicated()][0]
        raise InputError(
            f"The cell name {twice!r} occurs more than once in a modality.",
            "Cells of modalities are matched by name.",
            "Call obs_names_make_unique() on it.",
        )
    return np.asarray(modality.obs_names.get_indexer(obs_names), dtype=np.int64)


def _spread(rna: AnnData, obs_names: pd.Index) -> AnnData:
    """Return rows in another order, with zeros for cells that are not there."""
    rows = _rows(rna, obs_names)
    found = np.flatnonzero(rows >= 0)
    shape = (len(obs_names), rna.n_obs)
    choose = sp.csr_matrix((np.ones(len(found), "float32"), (found, rows[found])), shape=shape)
    source = rna.to_memory() if rna.isbacked else rna
    matrices = {name: sp.csr_matrix(choose @ source.layers[name]) for name in source.layers if name}
    matrix = None if source.X is None else sp.csr_matrix(choose @ source.X)
    return AnnData(matrix, obs=pd.DataFrame(index=obs_names), var=source.var, layers=matrices)
