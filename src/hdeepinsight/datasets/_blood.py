"""Bundled labelled blood cells: PBMC 3k, and a small dataset for examples."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.model_selection import train_test_split

from hdeepinsight.data import recover_counts

#: Labels of each source and their names at each level; types without subtypes keep their names.
_LABELS: Final = pd.read_csv(Path(__file__).with_name("blood_labels.tsv"), sep="\t")
_HELD_OUT: Final = 0.3


def _label(adata: AnnData, labels: pd.Series, source: str) -> None:
    """Add one label column per level, with categories in the order of the table."""
    known = _LABELS[_LABELS["source"] == source].dropna(axis=1).set_index("label")
    for level in known.columns[1:]:
        names = known.loc[labels, level].to_numpy()
        adata.obs[level] = pd.Categorical(names, categories=known[level].unique())


def pbmc3k() -> AnnData:
    """Return PBMC 3k: 2,638 labelled blood cells bundled with the package.

    Returns
    -------
    anndata.AnnData
        Raw counts in ``X``, ``(2638, 13714)``, gene symbols in ``var_names``, and the labels of the
        Seurat tutorial in ``obs["lineage"]``, ``obs["cell_type"]`` and ``obs["subtype"]``.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> adata = hdi.datasets.pbmc3k()
    >>> adata.obs["cell_type"].value_counts().to_dict()
    {'CD4 T': 1180, 'Monocyte': 642, 'B': 344, 'CD8 T': 271, 'NK': 155, 'DC': 32, 'Platelet': 14}

    Notes
    -----
    Cells of one healthy donor, 10x 3' v1 (10x Genomics, CC BY 4.0; Zheng et al. 2017,
    doi:10.1038/ncomms14049). The labels are clusters annotated by markers, as distributed with
    clustifyr (MIT licence); the cluster "CD4 T naive" contains some naive CD8 T cells. The names
    and the three levels are ours. The licences are in ``pbmc3k.md`` next to the file.
    """
    with h5py.File(Path(__file__).with_name("pbmc3k.h5")) as file:
        counts = sparse.csr_matrix(file["counts"][()].T, dtype=np.float32)
        genes, cells, labels = (file[name].asstr()[()] for name in ("gene", "cell", "label"))
    adata = AnnData(counts, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes))
    _label(adata, pd.Series(labels), "pbmc3k")
    return adata


@dataclass(frozen=True, eq=False)
class DemoData:
    """Reference and query of `demo`, with raw counts and labels at two levels.

    Parameters
    ----------
    reference
        Training cells, ``(490, 765)``: raw counts in ``X``, and labels in ``obs["lineage"]`` and
        ``obs["cell_type"]``.
    query
        Held-out cells, ``(210, 765)``, with the same proportions of types.

    Attributes
    ----------
    levels
        Label columns, from coarse to fine.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> data = hdi.datasets.demo()
    >>> data.query.obs["lineage"].nunique(), data.query.obs["cell_type"].nunique()
    (5, 10)
    """

    reference: AnnData
    query: AnnData
    levels: ClassVar[list[str]] = ["lineage", "cell_type"]


def demo(seed: int = 0) -> DemoData:
    """Return 700 blood cells bundled with scanpy, split into a reference and a query.

    The dataset is small, for examples and tests. :func:`pbmc3k` has more cells, more genes and
    better labels.

    Parameters
    ----------
    seed
        Random seed of the split.

    Returns
    -------
    DemoData
        Counts recovered from ``scanpy.datasets.pbmc68k_reduced``, and labels at two levels.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> data = hdi.datasets.demo()
    >>> data.reference.shape, data.query.shape
    ((490, 765), (210, 765))

    Notes
    -----
    Zheng et al. (2017), doi:10.1038/ncomms14049. Labels are based on the correlation of each cell
    with sorted populations, and similar T cell subsets overlap. The two levels and the names are
    ours. All cells are from one donor, so the split is by cell.
    """
    import scanpy

    with warnings.catch_warnings():
        # anndata warns about the encoding of this file from 2018.
        warnings.simplefilter("ignore")
        adata = recover_counts(scanpy.datasets.pbmc68k_reduced(), use_raw=True)
    names = adata.obs["bulk_labels"].astype(str)
    _label(adata, names, "pbmc68k")
    rows = np.arange(adata.n_obs)
    parts = train_test_split(rows, test_size=_HELD_OUT, stratify=names, random_state=seed)
    train, test = (np.sort(part) for part in parts)
    return DemoData(adata[train].copy(), adata[test].copy())
