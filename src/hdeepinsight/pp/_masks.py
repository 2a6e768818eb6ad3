"""Masks of observed entries: gene panels, single missing entries, and dropouts."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import pandas as pd
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans

from hdeepinsight import graph
from hdeepinsight._errors import batch_column, check_choice, check_number, examples, invalid
from hdeepinsight.data import DataLike, RowMatrix, Store, open_store

Mask: TypeAlias = "ArrayLike | sp.spmatrix | MissingEntries | DropoutMask | PanelMask"
Grouping = Literal["leiden", "vote"]

#: Rows per block that is read from a file or a dask array.
_ROWS = 4096
#: Numbers of clusters in the vote, and numbers of components and neighbours for the clustering.
_VOTERS, _N_COMPS, _NEIGHBORS = (4, 6, 8, 10, 12), 30, 15
#: Maximum number of entries of a mask of groups by genes (200 MB).
_LARGEST_MASK = 200_000_000


@dataclass(frozen=True, eq=False)
class MissingEntries:
    """Mask of single missing entries; all others are observed.

    Parameters
    ----------
    entries
        Sparse matrix, non-zero for missing entries, shape ``(n_cells, n_genes)``.

    Examples
    --------
    >>> import numpy as np
    >>> import scipy.sparse as sp
    >>> import hdeepinsight as hdi
    >>> values = np.array([[1.0, 2.0, np.nan], [2.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
    >>> missing = hdi.pp.MissingEntries(sp.csr_matrix(np.isnan(values)))
    >>> hdi.pp.corrected_gram(values, missing).rates.cells.round(2).tolist()
    [0.67, 1.0, 1.0]
    """

    entries: Any


@dataclass(frozen=True, eq=False)
class PanelMask:
    """Mask of groups of cells that were measured with different gene panels.

    Parameters
    ----------
    groups
        Panel of each cell, starting from 0, shape ``(n_cells,)``.
    measured
        Whether each gene is in a panel, shape ``(n_panels, n_genes)``.
    names
        Names of the panels, for errors.

    Examples
    --------
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> mask = hdi.pp.PanelMask(np.array([0, 1]), np.array([[1, 1, 0], [0, 1, 1]], dtype=bool))
    >>> mask.measured.sum(axis=1).tolist()
    [2, 2]
    """

    groups: NDArray[np.int64]
    measured: NDArray[np.bool_]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class DropoutMask:
    """Mask of groups of cells in which zeros of some genes are regarded as missing.

    Parameters
    ----------
    groups
        Group of each cell, starting from 0, shape ``(n_cells,)``.
    dropout
        Whether zeros of a gene are missing in a group, shape ``(n_groups, n_genes)``.
    names
        Names of the groups, for errors.

    Examples
    --------
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> mask = hdi.pp.DropoutMask(np.array([0, 0]), np.array([[True, False]]))
    >>> values = np.array([[0.0, 0.0], [1.0, 2.0]])
    >>> hdi.pp.corrected_gram(values, mask).rates.cells.tolist()
    [0.5, 1.0]
    """

    groups: NDArray[np.int64]
    dropout: NDArray[np.bool_]
    names: tuple[str, ...] = ()


def entry_mask(
    mask: Mask | None, shape: tuple[int, int], names: Sequence[pd.Index] = ()
) -> graph.EntryMask:
    """Convert a mask to the form that operators require.

    Parameters
    ----------
    mask
        Observed entries, in any form.
    shape, names
        Shape of the values, and the names of their cells and genes.

    Raises
    ------
    ValueError
        If its shape is wrong, it is a table of other cells or genes, or it contains values other
        than 0 and 1.
    """
    if isinstance(mask, pd.DataFrame):
        axes = zip((mask.index, mask.columns), names, strict=False)
        if any(not own.equals(pd.RangeIndex(len(own))) and not own.equals(n) for own, n in axes):
            expected = "a table of the same cells and genes in the same order"
            hint = "Pass mask.loc[adata.obs_names, adata.var_names]."
            raise invalid("mask", "one of others, or in another order", expected, hint)
    one_group = np.zeros(shape[0], dtype=np.int64)
    all_genes = np.ones((1, shape[1]), dtype=np.bool_)
    if mask is None:
        return graph.EntryMask(one_group, all_genes)
    if isinstance(mask, PanelMask | DropoutMask):
        panels = isinstance(mask, PanelMask)
        table = np.asarray(mask.measured if isinstance(mask, PanelMask) else ~mask.dropout, bool)
        groups = np.asarray(mask.groups)
        _check_shape((len(groups), table.shape[-1]), shape)
        if groups.dtype.kind not in "iu" or not 0 <= groups.min() <= groups.max() < len(table):
            raise invalid("groups", groups, f"whole numbers from 0 to {len(table) - 1}")
        return graph.EntryMask(groups, table, nonzeros_observed=not panels, names=mask.names)
    lists_missing = isinstance(mask, MissingEntries)
    given: Any = mask.entries if isinstance(mask, MissingEntries) else mask
    given = given if sp.issparse(given) else np.asarray(given)
    _check_shape(given.shape, shape)
    values = given.data if sp.issparse(given) else given
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        msg = "A mask must contain 1 for observed and 0 for missing entries, got other values."
        raise ValueError(f"{msg} Compute it by a comparison, such as ~np.isnan(Y).")
    if lists_missing or sp.issparse(given):
        given = sp.csr_matrix(given, dtype=np.float64, copy=True)
        given.eliminate_zeros()
    exceptions = -given if lists_missing else given
    return graph.EntryMask(one_group, all_genes == lists_missing, exceptions=exceptions)


def _check_shape(found: tuple[int, ...], shape: tuple[int, int]) -> None:
    if found != shape:
        hint = "Select the same cells and genes."
        raise invalid("The shape of the mask", found, f"{shape}, that of the values", hint)


def open_layer(
    data: DataLike, layer: str | None, argument: str = "layer"
) -> tuple[Store, RowMatrix]:
    """Open a matrix of cells by features of any kind, selected by an argument of the caller."""
    store = replace(open_store(data).all_columns(), arguments={"layer": argument})
    return store, store.matrix(layer, use_raw=False)


def reader(matrix: RowMatrix) -> graph.Reader:
    """Return a reader of a matrix, as a whole if it is in memory, else in blocks."""
    return partial(matrix.blocks, _ROWS if matrix.is_on_disk else max(matrix.shape[0], 1))


def panel_mask(
    adata: DataLike, *, batch_key: str, measured: Mapping[str, Iterable[str]] | None = None
) -> PanelMask:
    """Create a mask of the genes that were measured in each batch.

    Parameters
    ----------
    adata
        Cells: an AnnData, or the path of a file.
    batch_key
        Column of ``obs`` with the panel of each cell.
    measured
        Names of the genes in the panel of each batch. By default the genes with a non-zero value in
        the batch, with a warning: measured genes that no cell expresses are then regarded as
        missing.

    Raises
    ------
    KeyError
        If the column is missing.
    ValueError
        If a batch has no panel, or a panel has genes that are not in the data.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> obs = pd.DataFrame({"panel": ["a", "b"]}, index=["1", "2"])
    >>> cells = ad.AnnData(np.ones((2, 3)), obs, pd.DataFrame(index=["CD3D", "CD8A", "NKG7"]))
    >>> panels = {"a": ["CD3D", "CD8A"], "b": ["CD3D", "NKG7"]}
    >>> hdi.pp.panel_mask(cells, batch_key="panel", measured=panels).measured.tolist()
    [[True, True, False], [True, False, True]]
    """
    store, matrix = open_layer(adata, None)
    codes, names = _codes(batch_column(store.obs, batch_key))
    genes = pd.Index(store.var.index)
    table = np.zeros((len(names), len(genes)), dtype=np.bool_)
    if measured is None:
        warnings.warn(
            "Panels are inferred: genes with a non-zero value in a batch are regarded as measured. "
            "Pass measured={batch: genes} if the panels are known.",
            UserWarning,
            stacklevel=2,
        )
        table = _count(matrix, codes, len(names)) > 0
        return PanelMask(codes, table, names)
    for row, name in enumerate(names):
        if name not in measured:
            raise ValueError(
                f"Every batch must have a panel, got none for {name!r}, only for "
                f"{examples(list(measured))}. Add it to `measured`."
            )
        panel = list(measured[name])
        if unknown := [gene for gene in panel if gene not in genes]:
            raise ValueError(
                f"Panels must contain genes of the data, got {len(unknown)} other names for "
                f"{name!r}: {examples(unknown)}. Correct the names, or remove them."
            )
        table[row] = genes.isin(panel)
    return PanelMask(codes, table, names)


def estimate_dropout_mask(
    adata: DataLike,
    *,
    layer: str | None = None,
    groups_key: str | None = None,
    threshold: float = 0.85,
    method: Grouping = "leiden",
    random_state: int = 0,
) -> DropoutMask:
    """Estimate which zeros are dropouts: those of genes that most cells of a group express.

    .. warning::
       Such a mask depends on the values, because only zeros can be missing. This violates the
       assumption of the corrected products, and the groups used for the mask can reappear in the
       embedding. A benefit for UMI counts is unproven: compare with results without a mask, and
       with permuted groups.

    Parameters
    ----------
    adata
        Cells: an AnnData, or the path of a file.
    layer
        Layer with the log values; ``X`` by default.
    groups_key
        Column of ``obs`` with groups of cells; by default computed with `method`.
    threshold
        Zeros of a gene are true zeros in a group if at least this share of its cells has 0.
    method
        ``"leiden"`` clusters the graph of 15 neighbours, which requires the extra ``leiden``.
        ``"vote"`` uses the majority of k-means clusterings with 4, 6, 8, 10 and 12 clusters, as
        published {cite:p}`ling2021`.
    random_state
        Seed of the clustering.

    Raises
    ------
    KeyError
        If the column is missing.
    ValueError
        If `threshold` or `method` is invalid, or the vote gives too many groups.

    Examples
    --------
    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> import hdeepinsight as hdi
    >>> obs = pd.DataFrame({"type": list("aabb")}, index=list("1234"))
    >>> values = np.array([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    >>> hdi.pp.estimate_dropout_mask(ad.AnnData(values, obs), groups_key="type").dropout.tolist()
    [[True, False], [False, True]]
    """
    check_number("threshold", threshold, 0, 1, hint="Omit it to use 0.85.")
    check_choice("method", method, get_args(Grouping), "Omit it to use 'leiden'.")
    if groups_key is not None and (method != "leiden" or random_state):
        hint = "They select how groups are computed."
        raise invalid("groups_key", groups_key, "omitted with method or random_state", hint)
    store, matrix = open_layer(adata, layer)

    def dropouts(codes: NDArray[np.int64], n_groups: int) -> NDArray[np.bool_]:
        sizes = np.bincount(codes, minlength=n_groups)[:, None]
        return np.asarray((sizes - _count(matrix, codes, n_groups)) / sizes < threshold)

    if groups_key is not None:
        codes, names = _codes(batch_column(store.obs, groups_key))
        return DropoutMask(codes, dropouts(codes, len(names)), names)
    unmasked = entry_mask(None, matrix.shape)
    gram = graph.CorrectedGram(
        reader(matrix), unmasked, keep=not matrix.is_on_disk, drop_empty=True
    )
    n_comps = max(1, min(_N_COMPS, min(matrix.shape) - 1))
    values, vectors = graph.leading_eigenpairs(gram, n_comps, random_state=random_state)
    points = vectors * np.sqrt(np.maximum(values, 0.0))
    if method == "leiden":
        near = graph.knn_graph(points, k=min(_NEIGHBORS, len(points) - 1))
        codes = graph.leiden_communities(near, seed=random_state)
        return DropoutMask(codes, dropouts(codes, int(codes.max()) + 1))
    runs = [
        KMeans(min(k, len(points)), n_init=10, random_state=random_state).fit_predict(points)
        for k in _VOTERS
    ]
    signatures, joint = np.unique(np.column_stack(runs), axis=0, return_inverse=True)
    if signatures.shape[0] * matrix.shape[1] > _LARGEST_MASK:
        raise ValueError(
            f"The mask of the vote must have at most {_LARGEST_MASK:,} entries, got "
            f"{len(signatures):,} groups of {matrix.shape[1]:,} genes. Use method='leiden'."
        )
    votes = np.zeros((len(signatures), matrix.shape[1]))
    for run, column in zip(runs, signatures.T, strict=True):
        votes += dropouts(run.astype(np.int64), int(run.max()) + 1)[column]
    return DropoutMask(joint.ravel().astype(np.int64), votes > len(runs) / 2)


def _codes(column: pd.Series) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    codes, names = pd.factorize(column.astype(str), sort=True)
    return codes.astype(np.int64), tuple(map(str, names))


def _count(matrix: RowMatrix, codes: NDArray[np.int64], n_groups: int) -> NDArray[np.float64]:
    """Count the cells of each group with a non-zero value, ``(n_groups, n_genes)``."""
    counts = np.zeros((n_groups, matrix.shape[1]))
    for rows, block in reader(matrix)():
        present = sp.csr_matrix(block, dtype=np.float64, copy=True)
        present.data = np.nan_to_num(present.data) != 0
        place = codes[rows], np.arange(present.shape[0])
        members = sp.csr_matrix((np.ones(len(place[0])), place), (n_groups, present.shape[0]))
        counts += (members @ present).toarray()
    return counts
